//! Applies the settings of one request, and restores the previous ones in a session.
//!
//! Guarantees: names of settings are checked and values are quoted, so that no part of a request can
//! become another statement.
//!
//! Not here: which settings exist. The engine answers with `UNKNOWN_SETTING`.

use serde::Deserialize;

use crate::exception::Exception;
use crate::ffi::Connection;
use crate::request::QueryRequest;

/// A session's database and settings before a request.
pub(crate) struct SettingsScope {
    database: Option<String>,
    settings: Vec<PreviousSetting>,
}

/// A previous setting: name, value, and whether it differed from the default.
#[derive(Deserialize)]
struct PreviousSetting(String, String, u8);

impl SettingsScope {
    /// Applies the request's database and settings to a connection that is closed after it.
    pub(crate) fn enter(
        connection: &mut Connection,
        request: &QueryRequest,
        log_comment: &str,
    ) -> Result<(), Exception> {
        if let Some(database) = &request.database {
            run(connection, &format!("USE {}", name(database)))?;
        }
        let mut sql = format!("SET log_comment = {}", literal(log_comment));
        for (setting, value) in &request.settings {
            check_setting(setting)?;
            for part in [", ", setting, " = ", &literal(value)] {
                sql.push_str(part);
            }
        }
        run(connection, &sql).map(drop)
    }

    /// Applies them to a connection that stays open, and remembers the previous ones. An error is
    /// returned with the result of restoring them.
    pub(crate) fn enter_session(
        connection: &mut Connection,
        request: &QueryRequest,
        log_comment: &str,
    ) -> Result<Self, (Exception, Result<(), Exception>)> {
        let scope = Self::remember(connection, request).map_err(|exception| (exception, Ok(())))?;
        match Self::enter(connection, request, log_comment) {
            Ok(()) => Ok(scope),
            Err(exception) => Err((exception, scope.leave(connection))),
        }
    }

    fn remember(connection: &mut Connection, request: &QueryRequest) -> Result<Self, Exception> {
        let mut scope = Self {
            database: None,
            settings: Vec::new(),
        };
        if request.database.is_some() {
            scope.database = Some(run(connection, "SELECT currentDatabase() FORMAT TSVRaw")?);
        }
        if !request.settings.is_empty() {
            let names: Vec<_> = request
                .settings
                .iter()
                .map(|(name, _)| literal(name))
                .collect();
            let sql = format!(
                "SELECT name, value, changed FROM system.settings WHERE name IN ({}) \
                 FORMAT JSONCompactEachRow",
                names.join(", ")
            );
            scope.settings = run(connection, &sql)?
                .lines()
                .map(serde_json::from_str)
                .collect::<Result<_, _>>()
                .map_err(|error| Exception::internal(format!("system.settings: {error}")))?;
        }
        Ok(scope)
    }

    /// Restores the previous database and settings.
    pub(crate) fn leave(self, connection: &mut Connection) -> Result<(), Exception> {
        if let Some(database) = self.database {
            let database = database.trim_end_matches('\n');
            run(connection, &format!("USE {}", name(database)))?;
        }
        for PreviousSetting(setting, value, changed) in self.settings {
            let value = if changed == 0 {
                "DEFAULT".to_owned()
            } else {
                literal(&value)
            };
            run(connection, &format!("SET {setting} = {value}"))?;
        }
        Ok(())
    }
}

fn run(connection: &mut Connection, sql: &str) -> Result<String, Exception> {
    connection
        .query(sql.as_bytes(), "TSVRaw", &[])
        .map(|answer| String::from_utf8_lossy(answer.as_ref()).into_owned())
        .map_err(|error| Exception::from_engine(&error))
}

fn check_setting(name: &str) -> Result<(), Exception> {
    let is_name = name
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
        && name.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_');
    if is_name {
        Ok(())
    } else {
        Err(Exception::new(
            115,
            "UNKNOWN_SETTING",
            format!("Unknown setting '{name}'"),
        ))
    }
}

fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\\', "\\\\").replace('\'', "\\'"))
}

fn name(text: &str) -> String {
    format!("`{}`", text.replace('\\', "\\\\").replace('`', "\\`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoting_escapes_every_delimiter() {
        assert_eq!(literal(r"a'b\c"), r"'a\'b\\c'");
        assert_eq!(name(r"a`b\"), r"`a\`b\\`");
    }

    #[test]
    fn invalid_setting_names_are_refused() {
        assert!(check_setting("max_threads").is_ok());
        for bad in ["", "a b", "a=1,b", "1a", "a;b", "a-b"] {
            assert!(check_setting(bad).is_err(), "{bad}");
        }
    }
}

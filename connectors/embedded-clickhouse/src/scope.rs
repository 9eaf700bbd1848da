//! What a request sets for itself alone, and how a session gets back what it had.
//!
//! Guarantees: names of settings are names, values are quoted; nothing a request carries can
//! become part of another statement.
//!
//! Deliberately not here: which settings exist. The engine answers with `UNKNOWN_SETTING`.

use serde::Deserialize;

use crate::exception::Exception;
use crate::ffi::Connection;
use crate::request::Ask;

/// What a session had before a request.
pub(crate) struct Scope {
    database: Option<String>,
    settings: Vec<Before>,
}

/// A setting as it was: name, value, and whether it differed from the default.
#[derive(Deserialize)]
struct Before(String, String, u8);

impl Scope {
    /// Applies the request's database and settings to a connection that is thrown away after it.
    pub(crate) fn enter(
        connection: &mut Connection,
        ask: &Ask,
        mark: &str,
    ) -> Result<(), Exception> {
        if let Some(database) = &ask.database {
            run(connection, &format!("USE {}", name(database)))?;
        }
        let mut sql = format!("SET log_comment = {}", literal(mark));
        for (setting, value) in &ask.settings {
            check_setting(setting)?;
            for part in [", ", setting, " = ", &literal(value)] {
                sql.push_str(part);
            }
        }
        run(connection, &sql).map(drop)
    }

    /// The same for a connection that lives on, remembering what to put back. A failure comes
    /// with how the way back went.
    pub(crate) fn enter_session(
        connection: &mut Connection,
        ask: &Ask,
        mark: &str,
    ) -> Result<Self, (Exception, Result<(), Exception>)> {
        let scope = Self::remember(connection, ask).map_err(|exception| (exception, Ok(())))?;
        match Self::enter(connection, ask, mark) {
            Ok(()) => Ok(scope),
            Err(exception) => Err((exception, scope.leave(connection))),
        }
    }

    fn remember(connection: &mut Connection, ask: &Ask) -> Result<Self, Exception> {
        let mut scope = Self {
            database: None,
            settings: Vec::new(),
        };
        if ask.database.is_some() {
            scope.database = Some(run(connection, "SELECT currentDatabase() FORMAT TSVRaw")?);
        }
        if !ask.settings.is_empty() {
            let names: Vec<_> = ask.settings.iter().map(|(name, _)| literal(name)).collect();
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

    /// Puts back what the request had set.
    pub(crate) fn leave(self, connection: &mut Connection) -> Result<(), Exception> {
        if let Some(database) = self.database {
            let database = database.trim_end_matches('\n');
            run(connection, &format!("USE {}", name(database)))?;
        }
        for Before(setting, value, changed) in self.settings {
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
    fn quoting_leaves_no_way_out() {
        assert_eq!(literal(r"a'b\c"), r"'a\'b\\c'");
        assert_eq!(name(r"a`b\"), r"`a\`b\\`");
    }

    #[test]
    fn setting_names_are_names() {
        assert!(check_setting("max_threads").is_ok());
        for bad in ["", "a b", "a=1,b", "1a", "a;b", "a-b"] {
            assert!(check_setting(bad).is_err(), "{bad}");
        }
    }
}

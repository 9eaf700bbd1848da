//! Reads what a request says beside its body: parameters of the URL, headers, credentials.
//!
//! Guarantees: a parameter is either one the HTTP interface defines
//! (`HTTPHandler.cpp`, `reserved_param_names`), a bound parameter `param_<name>`, or a setting;
//! what cannot be done is refused in words, and the few that have no effect are listed in
//! [`Ask::parameter`].
//!
//! Deliberately not here: the statement, and whether a setting exists (the engine says so).

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use hyper::header::{self, HeaderMap};
use hyper::{Method, http};

use crate::exception::Exception;
use crate::options::Credentials;

/// The longest a session may idle, as `max_session_timeout` of a server.
const MAX_SESSION_TIMEOUT: u64 = 3600;

/// How long a session may idle unless the client says otherwise.
const DEFAULT_SESSION_TIMEOUT: u64 = 60;

/// A session asked for with `session_id`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SessionAsk {
    /// Its name.
    pub(crate) id: String,
    /// How long it may idle.
    pub(crate) timeout: Duration,
    /// Whether it must exist already (`session_check=1`).
    pub(crate) must_exist: bool,
    /// Whether it ends with this request (`close_session=1`).
    pub(crate) close: bool,
}

/// Everything about a request but its body.
#[derive(Debug, Default)]
pub(crate) struct Ask {
    /// The text in `query`.
    pub(crate) query: String,
    /// The client's name for the request, or one made up.
    pub(crate) query_id: String,
    /// The database unqualified names belong to.
    pub(crate) database: Option<String>,
    /// The format of the answer when the text names none.
    pub(crate) format: Option<String>,
    /// Settings for this request, in the order given.
    pub(crate) settings: Vec<(String, String)>,
    /// Values for `{name:Type}` in the text.
    pub(crate) parameters: Vec<(String, String)>,
    /// The session it belongs to.
    pub(crate) session: Option<SessionAsk>,
    /// Whether it may change anything: `GET` may not, nor may `readonly=1` and `2`.
    pub(crate) read_only: bool,
    /// Whether the answer begins only when the statement has ended.
    pub(crate) wait_end: bool,
    /// The revision of the Native format the client can read; 0 is the plain one.
    pub(crate) native_revision: u64,
    /// `Content-Encoding` of the body.
    pub(crate) encoding: Option<String>,
    /// Credentials given, user first.
    pub(crate) user: Option<String>,
    pub(crate) password: Option<String>,
}

impl Ask {
    /// Reads a request's head.
    pub(crate) fn read(head: &http::request::Parts) -> Result<Self, Exception> {
        let mut ask = Self {
            read_only: matches!(head.method, Method::GET | Method::HEAD),
            encoding: text(&head.headers, header::CONTENT_ENCODING.as_str())?,
            ..Self::default()
        };
        ask.basic_auth(&head.headers)?;
        for (name, field) in [
            ("x-clickhouse-user", &mut ask.user),
            ("x-clickhouse-key", &mut ask.password),
            ("x-clickhouse-database", &mut ask.database),
            ("x-clickhouse-format", &mut ask.format),
        ] {
            if let Some(value) = text(&head.headers, name)? {
                *field = Some(value);
            }
        }
        let query = head.uri.query().unwrap_or_default();
        let mut session = SessionParameters::default();
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            ask.parameter(&name, value.into_owned(), &mut session)?;
        }
        ask.session = session.ask()?;
        if ask.query_id.is_empty() {
            ask.query_id = new_id();
        }
        Ok(ask)
    }

    /// Takes one parameter, from the URL or from a form.
    fn parameter(
        &mut self,
        name: &str,
        value: String,
        session: &mut SessionParameters,
    ) -> Result<(), Exception> {
        match name {
            "query" => self.query = value,
            "query_id" => self.query_id = value,
            "database" => self.database = Some(value).filter(|name| !name.is_empty()),
            "default_format" => self.format = Some(value).filter(|name| !name.is_empty()),
            "user" => self.user = Some(value),
            "password" => self.password = Some(value),
            "session_id" => session.id = Some(value),
            "session_timeout" => session.timeout = Some(value),
            "session_check" => session.check = is_on(&value),
            "close_session" => session.close = is_on(&value),
            "wait_end_of_query" | "http_wait_end_of_query" => self.wait_end = is_on(&value),
            "client_protocol_version" => {
                self.native_revision = value.parse().map_err(|_| {
                    Exception::bad_arguments("client_protocol_version must be a number")
                })?;
            }
            // Without effect here: there are no quotas, stack traces or buffers to choose, answers
            // leave uncompressed (every client accepts that), progress is not sent, and
            // `log_comment` is how the front finds a running statement.
            "buffer_size"
            | "quota_key"
            | "stacktrace"
            | "enable_http_compression"
            | "http_zlib_compression_level"
            | "send_progress_in_http_headers"
            | "http_headers_progress_interval_ms"
            | "log_comment"
            | "" => {}
            "compress" | "decompress" if !is_on(&value) => {}
            "compress" | "decompress" => {
                return Err(Exception::not_implemented(format!(
                    "{name}=1 (ClickHouse's own block compression) is not supported by the \
                     embedded server; turn compression off in the client, or use \
                     Content-Encoding"
                )));
            }
            "role" => {
                return Err(Exception::new(
                    511,
                    "UNKNOWN_ROLE",
                    format!("There is no role `{value}` in user directories"),
                ));
            }
            "readonly" => self.read_only |= value != "0",
            "extremes" | "output_format_json_array_of_rows" if is_on(&value) => {
                self.wait_end = true;
                self.settings.push((name.to_owned(), value));
            }
            _ => match name.strip_prefix("param_") {
                Some(parameter) => self.parameters.push((parameter.to_owned(), value)),
                None => self.settings.push((name.to_owned(), value)),
            },
        }
        Ok(())
    }

    /// Takes the fields of a `multipart/form-data` body, which stand for URL parameters.
    pub(crate) fn add_form(&mut self, fields: Vec<(String, String)>) -> Result<(), Exception> {
        let mut session = SessionParameters::default();
        for (name, value) in fields {
            self.parameter(&name, value, &mut session)?;
        }
        Ok(())
    }

    fn basic_auth(&mut self, headers: &HeaderMap) -> Result<(), Exception> {
        let Some(value) = text(headers, header::AUTHORIZATION.as_str())? else {
            return Ok(());
        };
        let broken = || {
            Exception::new(
                516,
                "AUTHENTICATION_FAILED",
                "Invalid authentication: the Authorization header must be 'Basic <base64>'",
            )
        };
        let (scheme, encoded) = value.split_once(' ').ok_or_else(broken)?;
        if !scheme.eq_ignore_ascii_case("basic") {
            return Err(broken());
        }
        let decoded = BASE64.decode(encoded.trim()).map_err(|_| broken())?;
        let decoded = String::from_utf8(decoded).map_err(|_| broken())?;
        let (user, password) = decoded.split_once(':').ok_or_else(broken)?;
        self.user = Some(user.to_owned());
        self.password = Some(password.to_owned());
        Ok(())
    }

    /// Lets the request in, or not. Without credentials of its own, the front lets the user
    /// `default` in without a password, as a fresh server does.
    pub(crate) fn authorize(&self, expected: Option<&Credentials>) -> Result<(), Exception> {
        let user = self.user.as_deref().filter(|user| !user.is_empty());
        let password = self.password.as_deref().unwrap_or_default();
        let passes = match expected {
            None => user.unwrap_or("default") == "default" && password.is_empty(),
            Some(_) if user.is_none() && password.is_empty() => {
                return Err(Exception::new(
                    194,
                    "REQUIRED_PASSWORD",
                    "Authentication is required: give user and password",
                ));
            }
            Some(expected) => {
                same(user.unwrap_or("default"), &expected.user) & same(password, &expected.password)
            }
        };
        if passes {
            Ok(())
        } else {
            Err(Exception::new(
                516,
                "AUTHENTICATION_FAILED",
                format!(
                    "{}: Authentication failed: password is incorrect, or there is no user with \
                     such name",
                    user.unwrap_or("default")
                ),
            ))
        }
    }

    /// The format of the answer when the text names none.
    pub(crate) fn default_format(&self) -> &str {
        self.format.as_deref().unwrap_or("TabSeparated")
    }
}

#[derive(Default)]
struct SessionParameters {
    id: Option<String>,
    timeout: Option<String>,
    check: bool,
    close: bool,
}

impl SessionParameters {
    fn ask(self) -> Result<Option<SessionAsk>, Exception> {
        let Some(id) = self.id.filter(|id| !id.is_empty()) else {
            return Ok(None);
        };
        let seconds = match self.timeout {
            None => DEFAULT_SESSION_TIMEOUT,
            Some(text) => text
                .parse()
                .ok()
                .filter(|seconds| *seconds <= MAX_SESSION_TIMEOUT)
                .ok_or_else(|| {
                    Exception::new(
                        374,
                        "INVALID_SESSION_TIMEOUT",
                        format!(
                            "Session timeout '{text}' is not a number of seconds up to \
                             {MAX_SESSION_TIMEOUT}"
                        ),
                    )
                })?,
        };
        Ok(Some(SessionAsk {
            id,
            timeout: Duration::from_secs(seconds),
            must_exist: self.check,
            close: self.close,
        }))
    }
}

fn text(headers: &HeaderMap, name: &str) -> Result<Option<String>, Exception> {
    headers
        .get(name)
        .map(|value| {
            value
                .to_str()
                .map(str::to_owned)
                .map_err(|_| Exception::bad_arguments(format!("Header {name} is not text")))
        })
        .transpose()
}

fn is_on(value: &str) -> bool {
    matches!(value, "1" | "true")
}

/// Compares without telling by its time where two texts differ.
fn same(given: &str, expected: &str) -> bool {
    given.len() == expected.len()
        && given
            .bytes()
            .zip(expected.bytes())
            .fold(0, |difference, (given, expected)| {
                difference | (given ^ expected)
            })
            == 0
}

/// A random UUID in text, the form of ClickHouse's query ids.
pub(crate) fn new_id() -> String {
    let bits: u128 = rand::random();
    let hex = format!("{bits:032x}");
    format!(
        "{}-{}-4{}-a{}-{}",
        &hex[..8],
        &hex[8..12],
        &hex[13..16],
        &hex[17..20],
        &hex[20..]
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use hyper::Request;

    fn read(uri: &str, headers: &[(&str, &str)]) -> Result<Ask, Exception> {
        let mut request = Request::builder().method(Method::POST).uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        Ask::read(&request.body(()).unwrap().into_parts().0)
    }

    fn credentials() -> Credentials {
        Credentials {
            user: "reader".to_owned(),
            password: "pass".to_owned().into(),
        }
    }

    #[test]
    fn parameters_settings_and_bound_values_are_told_apart() {
        let ask = read(
            "/?query=SELECT+1&database=d&default_format=Native&max_threads=2&param_x=a%20b",
            &[("X-ClickHouse-Database", "other")],
        )
        .unwrap();
        assert_eq!(ask.query, "SELECT 1");
        assert_eq!(ask.database.as_deref(), Some("d"));
        assert_eq!(ask.default_format(), "Native");
        assert_eq!(ask.settings, [("max_threads".to_owned(), "2".to_owned())]);
        assert_eq!(ask.parameters, [("x".to_owned(), "a b".to_owned())]);
        assert_eq!(ask.query_id.len(), 36);
        assert!(!ask.read_only);
    }

    #[test]
    fn credentials_come_from_url_basic_and_headers() {
        let expected = credentials();
        for (uri, headers) in [
            ("/?user=reader&password=pass", vec![]),
            ("/", vec![("Authorization", "Basic cmVhZGVyOnBhc3M=")]),
            (
                "/",
                vec![
                    ("X-ClickHouse-User", "reader"),
                    ("X-ClickHouse-Key", "pass"),
                ],
            ),
        ] {
            let ask = read(uri, &headers).unwrap();
            ask.authorize(Some(&expected)).unwrap();
            assert_eq!(ask.authorize(None).unwrap_err().code(), 516);
        }
    }

    #[test]
    fn wrong_and_missing_credentials_are_told_apart() {
        let expected = credentials();
        let code = |uri| {
            read(uri, &[])
                .unwrap()
                .authorize(Some(&expected))
                .unwrap_err()
                .code()
        };
        assert_eq!(code("/"), 194);
        assert_eq!(code("/?user=reader"), 516);
        assert_eq!(code("/?user=reader&password=pas"), 516);
        assert_eq!(code("/?user=rEader&password=pass"), 516);
        read("/?user=default", &[])
            .unwrap()
            .authorize(None)
            .unwrap();
    }

    #[test]
    fn sessions_have_a_bounded_timeout() {
        let session = read("/?session_id=s&session_timeout=5&session_check=1", &[])
            .unwrap()
            .session
            .unwrap();
        assert_eq!(session.timeout, Duration::from_secs(5));
        assert!(session.must_exist && !session.close);
        for timeout in ["3601", "x", "-1"] {
            let error = read(&format!("/?session_id=s&session_timeout={timeout}"), &[]);
            assert_eq!(error.unwrap_err().code(), 374);
        }
    }

    #[test]
    fn block_compression_is_refused_in_words() {
        assert_eq!(read("/?compress=1", &[]).unwrap_err().code(), 48);
        assert!(read("/?compress=0&decompress=0", &[]).is_ok());
    }
}

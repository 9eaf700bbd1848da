//! Reads a request without its body: parameters of the URL, headers, credentials.
//!
//! Guarantees: a parameter is either one the HTTP interface defines
//! (`HTTPHandler.cpp`, `reserved_param_names`), a bound parameter `param_<name>`, or a setting;
//! unsupported ones are refused, and the few without effect are listed in
//! [`QueryRequest::parameter`].
//!
//! Not here: the statement, and whether a setting exists (the engine checks).

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use hyper::header::{self, HeaderMap};
use hyper::{Method, http};

use crate::exception::Exception;
use crate::options::Credentials;

/// Maximum session timeout in seconds, like `max_session_timeout` of a server.
const MAX_SESSION_TIMEOUT: u64 = 3600;

/// Default session timeout in seconds.
const DEFAULT_SESSION_TIMEOUT: u64 = 60;

/// The session that a request belongs to, from `session_id`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SessionRequest {
    /// Its name.
    pub(crate) id: String,
    /// How long it may be idle.
    pub(crate) timeout: Duration,
    /// Whether it must exist already (`session_check=1`).
    pub(crate) must_exist: bool,
    /// Whether it ends with this request (`close_session=1`).
    pub(crate) close: bool,
}

/// Everything about a request but its body.
#[derive(Debug, Default)]
pub(crate) struct QueryRequest {
    /// The text in `query`.
    pub(crate) query: String,
    /// The client's id of the request, or a generated one.
    pub(crate) query_id: String,
    /// The database unqualified names belong to.
    pub(crate) database: Option<String>,
    /// The format of the response if the text names none.
    pub(crate) format: Option<String>,
    /// Settings of this request, in order.
    pub(crate) settings: Vec<(String, String)>,
    /// Values for `{name:Type}` in the text.
    pub(crate) parameters: Vec<(String, String)>,
    /// The session it belongs to.
    pub(crate) session: Option<SessionRequest>,
    /// Whether it may change anything: `GET` may not, nor may `readonly=1` and `2`.
    pub(crate) read_only: bool,
    /// Whether the response begins only after the statement has ended.
    pub(crate) wait_end: bool,
    /// The revision of the Native format the client can read; 0 is the plain one.
    pub(crate) native_revision: u64,
    /// `Content-Encoding` of the body.
    pub(crate) encoding: Option<String>,
    /// The user.
    pub(crate) user: Option<String>,
    /// The password.
    pub(crate) password: Option<String>,
}

impl QueryRequest {
    /// Reads a request's head.
    pub(crate) fn read(head: &http::request::Parts) -> Result<Self, Exception> {
        let mut request = Self {
            read_only: matches!(head.method, Method::GET | Method::HEAD),
            encoding: text(&head.headers, header::CONTENT_ENCODING.as_str())?,
            ..Self::default()
        };
        request.basic_auth(&head.headers)?;
        for (name, field) in [
            ("x-clickhouse-user", &mut request.user),
            ("x-clickhouse-key", &mut request.password),
            ("x-clickhouse-database", &mut request.database),
            ("x-clickhouse-format", &mut request.format),
        ] {
            if let Some(value) = text(&head.headers, name)? {
                *field = Some(value);
            }
        }
        let query = head.uri.query().unwrap_or_default();
        let mut session = SessionParameters::default();
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            request.parameter(&name, value.into_owned(), &mut session)?;
        }
        request.session = session.session_request()?;
        if request.query_id.is_empty() {
            request.query_id = new_id();
        }
        Ok(request)
    }

    /// Applies one parameter from the URL or a form.
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
            // Without effect here: there are no quotas, stack traces or buffers to select, responses are
            // not compressed (every client accepts that), progress is not sent, and the front uses
            // `log_comment` to find a running statement.
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

    /// Applies the fields of a `multipart/form-data` body, which are equivalent to URL parameters.
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

    /// Checks the request's credentials. Without required credentials, the front accepts the user
    /// `default` without a password, like a newly installed server.
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

    /// Returns the format of the response if the text names none.
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
    fn session_request(self) -> Result<Option<SessionRequest>, Exception> {
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
        Ok(Some(SessionRequest {
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

/// Compares two texts in constant time.
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

/// Returns a random UUID as text, the form of ClickHouse's query ids.
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

    fn read(uri: &str, headers: &[(&str, &str)]) -> Result<QueryRequest, Exception> {
        let mut request = Request::builder().method(Method::POST).uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        QueryRequest::read(&request.body(()).unwrap().into_parts().0)
    }

    fn credentials() -> Credentials {
        Credentials {
            user: "reader".to_owned(),
            password: "pass".to_owned().into(),
        }
    }

    #[test]
    fn parameters_settings_and_bound_values_are_distinguished() {
        let request = read(
            "/?query=SELECT+1&database=d&default_format=Native&max_threads=2&param_x=a%20b",
            &[("X-ClickHouse-Database", "other")],
        )
        .unwrap();
        assert_eq!(request.query, "SELECT 1");
        assert_eq!(request.database.as_deref(), Some("d"));
        assert_eq!(request.default_format(), "Native");
        assert_eq!(
            request.settings,
            [("max_threads".to_owned(), "2".to_owned())]
        );
        assert_eq!(request.parameters, [("x".to_owned(), "a b".to_owned())]);
        assert_eq!(request.query_id.len(), 36);
        assert!(!request.read_only);
    }

    #[test]
    fn credentials_are_read_from_url_basic_auth_and_headers() {
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
            let request = read(uri, &headers).unwrap();
            request.authorize(Some(&expected)).unwrap();
            assert_eq!(request.authorize(None).unwrap_err().code(), 516);
        }
    }

    #[test]
    fn wrong_and_missing_credentials_are_distinguished() {
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
    fn block_compression_is_refused() {
        assert_eq!(read("/?compress=1", &[]).unwrap_err().code(), 48);
        assert!(read("/?compress=0&decompress=0", &[]).is_ok());
    }
}

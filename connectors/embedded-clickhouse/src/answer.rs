//! HTTP responses: headers as ClickHouse sets them, and bodies that may be incomplete yet.
//!
//! Guarantees: an error before the first chunk has its own status and
//! `X-ClickHouse-Exception-Code`. A later error is written into the body between the tags that
//! `X-ClickHouse-Exception-Tag` announces (as servers do since 25.11); then the connection is closed,
//! so that the response cannot be mistaken for a complete one.
//!
//! Not here: running statements.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Frame, SizeHint};
use hyper::header::{self, HeaderValue};
use hyper::{Response, StatusCode};
use tokio::sync::mpsc;
use tokio::time::Sleep;

use crate::engine::Engine;
use crate::exception::Exception;
use crate::job::{ResponseChunk, ResponseStart};

/// Something that is dropped with the response.
pub(crate) type EndGuard = Box<dyn Send + Sync>;

/// A body of the available chunks and those to come.
pub(crate) struct ResponseBody {
    ready: VecDeque<Bytes>,
    rest: Option<mpsc::Receiver<ResponseChunk>>,
    tag: String,
    version: String,
    /// Set once the exception is written: a delay before the connection is closed.
    closing: Option<Pin<Box<Sleep>>>,
    _held: Option<EndGuard>,
}

/// Delay between an exception in the body and closing the connection. Closing at once would discard
/// unsent data, including the exception.
const CLOSING_DELAY: Duration = Duration::from_secs(1);

/// The statement failed in the middle of its answer.
#[derive(Debug, thiserror::Error)]
#[error("the statement failed in the middle of its answer")]
pub(crate) struct StatementFailed;

impl ResponseBody {
    fn whole(bytes: impl Into<Bytes>) -> Self {
        Self {
            ready: VecDeque::from([bytes.into()]),
            rest: None,
            tag: String::new(),
            version: String::new(),
            closing: None,
            _held: None,
        }
    }
}

impl hyper::body::Body for ResponseBody {
    type Data = Bytes;
    type Error = StatementFailed;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, StatementFailed>>> {
        if let Some(bytes) = self.ready.pop_front() {
            return Poll::Ready(Some(Ok(Frame::data(bytes))));
        }
        if let Some(closing) = &mut self.closing {
            ready!(closing.as_mut().poll(context));
            return Poll::Ready(Some(Err(StatementFailed)));
        }
        let Some(rest) = &mut self.rest else {
            return Poll::Ready(None);
        };
        Poll::Ready(match ready!(rest.poll_recv(context)) {
            None => {
                self.rest = None;
                None
            }
            Some(Ok(bytes)) => Some(Ok(Frame::data(bytes))),
            Some(Err(exception)) => {
                self.closing = Some(Box::pin(tokio::time::sleep(CLOSING_DELAY)));
                let message = exception.body(&self.version);
                let tagged = format!(
                    "\r\n__exception__\r\n{tag}\r\n{message}{length} {tag}\r\n__exception__\r\n",
                    tag = self.tag,
                    length = message.len(),
                );
                Some(Ok(Frame::data(Bytes::from(tagged))))
            }
        })
    }

    fn is_end_stream(&self) -> bool {
        self.ready.is_empty() && self.rest.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        let ready = self.ready.iter().map(|bytes| bytes.len() as u64).sum();
        if self.rest.is_none() {
            SizeHint::with_exact(ready)
        } else {
            let mut hint = SizeHint::new();
            hint.set_lower(ready);
            hint
        }
    }
}

/// Makes a response of plain text.
pub(crate) fn plain(status: StatusCode, text: impl Into<Bytes>) -> Response<ResponseBody> {
    let mut response = Response::new(ResponseBody::whole(text));
    *response.status_mut() = status;
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("text/plain; charset=UTF-8"),
    );
    response
}

/// Makes the response of a failed request.
pub(crate) fn failed(
    exception: &Exception,
    query_id: &str,
    engine: &Engine,
) -> Response<ResponseBody> {
    let mut response = plain(exception.status(), exception.body(engine.version()));
    common(&mut response, query_id, engine);
    set(
        &mut response,
        "x-clickhouse-exception-code",
        &exception.code().to_string(),
    );
    if exception.status() == StatusCode::UNAUTHORIZED {
        set(
            &mut response,
            "www-authenticate",
            "Basic realm=\"ClickHouse server HTTP API\"",
        );
    }
    response
}

/// Makes the response of a request that has succeeded or whose response has begun.
pub(crate) fn succeeded(
    reply: ResponseStart,
    query_id: &str,
    timezone: &str,
    engine: &Engine,
    held: EndGuard,
) -> Response<ResponseBody> {
    let tag: String = format!("{:016x}", rand::random::<u64>());
    let progress = reply.progress;
    let mut response = Response::new(ResponseBody {
        ready: reply.first.into(),
        rest: reply.rest,
        tag: tag.clone(),
        version: engine.version().to_owned(),
        closing: None,
        _held: Some(held),
    });
    common(&mut response, query_id, engine);
    // ClickHouse writes the numbers as strings.
    let summary = [
        ("read_rows", progress.read_rows),
        ("read_bytes", progress.read_bytes),
        ("written_rows", progress.written_rows),
        ("written_bytes", progress.written_bytes),
        ("total_rows_to_read", 0),
        (
            "result_rows",
            progress.result_rows.max(progress.written_rows),
        ),
        (
            "result_bytes",
            progress.result_bytes.max(progress.written_bytes),
        ),
        ("elapsed_ns", reply.elapsed.as_nanos() as u64),
    ]
    .map(|(name, number)| format!("\"{name}\":\"{number}\""))
    .join(",");
    set(
        &mut response,
        "x-clickhouse-summary",
        &format!("{{{summary}}}"),
    );
    set(&mut response, "x-clickhouse-format", &reply.format);
    set(&mut response, "x-clickhouse-timezone", timezone);
    set(&mut response, "x-clickhouse-exception-tag", &tag);
    set(&mut response, "content-type", content_type(&reply.format));
    response
}

fn common(response: &mut Response<ResponseBody>, query_id: &str, engine: &Engine) {
    set(response, "x-clickhouse-query-id", query_id);
    set(
        response,
        "x-clickhouse-server-display-name",
        engine.display_name(),
    );
}

/// Sets a header. Values can come from the client; an invalid one is omitted.
fn set(response: &mut Response<ResponseBody>, name: &'static str, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        response.headers_mut().insert(name, value);
    }
}

fn content_type(format: &str) -> &'static str {
    match format {
        "JSON" | "JSONCompact" | "JSONStrings" | "JSONCompactStrings" | "JSONColumns" => {
            "application/json; charset=UTF-8"
        }
        "JSONEachRow" | "JSONLines" | "NDJSON" | "JSONCompactEachRow" => {
            "application/x-ndjson; charset=UTF-8"
        }
        "TabSeparated"
        | "TSV"
        | "TabSeparatedRaw"
        | "TSVRaw"
        | "TabSeparatedWithNames"
        | "TSVWithNames"
        | "TabSeparatedWithNamesAndTypes"
        | "TSVWithNamesAndTypes" => "text/tab-separated-values; charset=UTF-8",
        "CSV" | "CSVWithNames" | "CSVWithNamesAndTypes" => "text/csv; charset=UTF-8; header=absent",
        "XML" => "application/xml; charset=UTF-8",
        "Native"
        | "RowBinary"
        | "RowBinaryWithNames"
        | "RowBinaryWithNamesAndTypes"
        | "Parquet"
        | "Arrow"
        | "ArrowStream"
        | "ORC"
        | "Avro" => "application/octet-stream",
        _ => "text/plain; charset=UTF-8",
    }
}

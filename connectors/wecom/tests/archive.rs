//! Tests the archive client against a server that fails in every documented way.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::error::Error as _;
use std::fmt::Write as _;
use std::time::Duration;

use chatledger_schemas::{Classified as _, FaultClass, Secret};
use chatledger_wecom::{Archive, ArchiveOptions, Error};
use serde_json::json;
use support::{SECRET, Server, ServerReply, TOKEN, archive, errcode, page};

const LONG_TIMEOUT: Duration = Duration::from_secs(30);

/// Starts a server that replies to the first `getchatdata` with `fault` and to later ones with a page.
async fn after(fault: fn() -> ServerReply) -> (Server, Error, support::CallLog) {
    let server = Server::start(move |call| match (call.api.as_str(), call.earlier) {
        ("gettoken", _) => ServerReply::Json(json!({})),
        (_, 0) => fault(),
        _ => page([7, 8]),
    })
    .await;
    let (archive, call_log) = archive(&server.base_url, 1000, LONG_TIMEOUT);
    let error = archive
        .page(6)
        .await
        .expect_err("the first response is a fault");
    let next = archive.page(6).await.unwrap();
    let seqs: Vec<_> = next.records.iter().map(|record| record.seq).collect();
    assert_eq!(seqs, [7, 8], "no record is lost after {error}");
    (server, error, call_log)
}

#[tokio::test]
async fn page_sends_the_documented_request_and_returns_records_with_their_corp() {
    let server = Server::start(|call| match call.api.as_str() {
        "gettoken" => ServerReply::Json(json!({})),
        _ => page([5, 6]),
    })
    .await;
    let base_url = format!("{}/gate/", server.base_url);
    let (archive, call_log) = archive(&base_url, 2, LONG_TIMEOUT);
    let got = archive.page(4).await.unwrap();
    assert_eq!((got.records.len(), got.requested), (2, 2));
    assert_eq!(got.records[0].corp_id.as_str(), "ww1");
    assert_eq!(&*got.records[1].msgid, "m6");

    let token = &server.calls("gettoken")[0].query;
    assert_eq!((&*token["corpid"], &*token["corpsecret"]), ("ww1", SECRET));
    let call = &server.calls("message/getchatdata")[0];
    assert_eq!(call.query["access_token"], format!("{TOKEN}-1"));
    assert_eq!(call.body, json!({"seq": 4, "limit": 2, "timeout": 29}));
    assert_eq!(
        *call_log.lock().unwrap(),
        [("gettoken", "ok"), ("message/getchatdata", "ok")]
    );
}

#[tokio::test]
async fn empty_pages_are_accepted() {
    for empty in [
        json!({"errcode": 0, "chatdata": []}),
        json!({"errcode": 0, "chatdata": null}),
        json!({"chatdata": []}),
    ] {
        let server = Server::start(move |_| {
            let mut reply = empty.clone();
            reply["access_token"] = json!("t");
            ServerReply::Json(reply)
        })
        .await;
        let (archive, _) = archive(&server.base_url, 1000, LONG_TIMEOUT);
        assert!(archive.page(u64::MAX).await.unwrap().records.is_empty());
    }
}

#[tokio::test]
async fn json_of_a_gateway_is_a_transient_fault_and_no_empty_page() {
    for foreign in [
        json!({"code": 500, "message": "upstream unavailable"}),
        json!({"code": 0, "data": {"errcode": 0, "chatdata": []}}),
        json!({}),
    ] {
        let server = Server::start(move |call| {
            ServerReply::Json(if call.api == "gettoken" {
                json!({})
            } else {
                foreign.clone()
            })
        })
        .await;
        // An empty answer to gettoken stands for a token here.
        let (archive, log) = archive(&server.base_url, 1000, LONG_TIMEOUT);
        let error = archive.page(7).await.unwrap_err();
        assert!(matches!(error, Error::NotAnAnswer { .. }), "{error}");
        assert_eq!(error.class(), FaultClass::Retry);
        assert_eq!(
            log.lock().unwrap().last(),
            Some(&("message/getchatdata", "retry"))
        );
    }
}

#[tokio::test]
async fn transient_faults_are_left_to_the_driver_to_retry() {
    let faults: [fn() -> ServerReply; 8] = [
        || errcode(-1),
        || errcode(987_654),
        || ServerReply::Raw(500, "oops".into()),
        || ServerReply::Raw(502, "<html>".into()),
        || ServerReply::Raw(200, "<html>".into()),
        || {
            ServerReply::Raw(
                200,
                r#"{"errcode":0,"chatdata":[{"seq":7,"msgid":"m"#.into(),
            )
        },
        || ServerReply::Truncated(5000, r#"{"errcode":0,"chatdata":[{"seq":7"#.into()),
        || ServerReply::Truncated(5000, String::new()),
    ];
    for fault in faults {
        let (_server, error, call_log) = after(fault).await;
        assert_eq!(error.class(), FaultClass::Retry, "{error}");
        assert_eq!(call_log.lock().unwrap()[1].1, "retry", "{error}");
        if let Error::Refused { code: 987_654, .. } = error {
            assert!(error.to_string().contains("987654"));
        }
    }
}

#[tokio::test]
async fn connection_that_closes_or_stalls_in_the_body_is_an_incomplete_response() {
    let (_server, error, _) =
        after(|| ServerReply::Truncated(5000, r#"{"errcode":0,"#.into())).await;
    assert!(matches!(error, Error::Receive { .. }), "{error:?}");

    let server = Server::start(|call| match call.api.as_str() {
        "gettoken" => ServerReply::Json(json!({})),
        _ => ServerReply::Stall(5000, r#"{"errcode":0,"#.into()),
    })
    .await;
    let (archive, _) = archive(&server.base_url, 1000, Duration::from_millis(300));
    let error = archive.page(0).await.unwrap_err();
    assert!(matches!(&error, Error::Receive { source, .. } if source.is_timeout()));
    assert_eq!(error.class(), FaultClass::Retry);
}

#[tokio::test]
async fn refused_calls_return_a_pause_or_the_class_stop() {
    let (_server, error, _) = after(|| errcode(45009)).await;
    assert_eq!(error.class(), FaultClass::SlowDown);
    let wait = error.retry_after().unwrap();
    assert!(wait > Duration::from_secs(1) && wait <= Duration::from_secs(61));

    let (_server, error, _) = after(|| errcode(45033)).await;
    assert_eq!(error.class(), FaultClass::SlowDown);
    assert_eq!(error.retry_after(), Some(Duration::from_secs(1)));

    let stops: [fn() -> ServerReply; 4] = [
        || errcode(301_042),
        || errcode(301_052),
        || ServerReply::Raw(403, json!({"errcode": 60020}).to_string()),
        || ServerReply::Raw(404, String::new()),
    ];
    for fault in stops {
        let (_server, error, call_log) = after(fault).await;
        assert_eq!(error.class(), FaultClass::Stop, "{error}");
        assert_eq!(call_log.lock().unwrap()[1].1, "stop");
    }
}

#[tokio::test]
async fn response_after_the_timeout_is_a_transient_fault() {
    let server = Server::start(|call| match (call.api.as_str(), call.earlier) {
        ("gettoken", _) => ServerReply::Json(json!({})),
        (_, 0) => ServerReply::Never,
        _ => page([1]),
    })
    .await;
    let (archive, _) = archive(&server.base_url, 1000, Duration::from_millis(300));
    let error = archive.page(0).await.unwrap_err();
    assert!(matches!(&error, Error::Send { source, .. } if source.is_timeout()));
    assert_eq!(error.class(), FaultClass::Retry);
    assert_eq!(archive.page(0).await.unwrap().records.len(), 1);
}

#[tokio::test]
async fn unreachable_peer_is_a_transient_fault() {
    let server = Server::start(|_| ServerReply::Never).await;
    let base_url = server.base_url.clone();
    drop(server);
    let (archive, call_log) = archive(&base_url, 1000, Duration::from_secs(2));
    let error = archive.page(0).await.unwrap_err();
    assert_eq!(error.class(), FaultClass::Retry);
    assert_eq!(*call_log.lock().unwrap(), [("gettoken", "retry")]);
}

#[tokio::test]
async fn token_that_expires_between_calls_is_renewed_within_the_call() {
    for expired in [40014, 42001, 41001] {
        let server = Server::start(move |call| match call.api.as_str() {
            "gettoken" => ServerReply::Json(json!({})),
            _ if call.query["access_token"].ends_with("-1") && call.earlier > 0 => errcode(expired),
            _ => page([call.body["seq"].as_u64().unwrap() + 1]),
        })
        .await;
        let (archive, call_log) = archive(&server.base_url, 1000, LONG_TIMEOUT);
        for seq in 0..3 {
            assert_eq!(archive.page(seq).await.unwrap().records[0].seq, seq + 1);
        }
        let results: Vec<_> = call_log
            .lock()
            .unwrap()
            .iter()
            .map(|(_, result)| *result)
            .collect();
        assert_eq!(results, ["ok", "ok", "refresh", "ok", "ok", "ok"]);
    }
}

#[tokio::test]
async fn token_is_renewed_only_once_for_each_call() {
    let server = Server::start(|call| match call.api.as_str() {
        "gettoken" => ServerReply::Json(json!({})),
        _ => errcode(42001),
    })
    .await;
    let (archive, _) = archive(&server.base_url, 1000, LONG_TIMEOUT);
    let error = archive.page(0).await.unwrap_err();
    assert!(matches!(error, Error::TokenRefused { code: 42001, .. }));
    assert_eq!(error.class(), FaultClass::Retry);
    assert_eq!(server.calls("gettoken").len(), 2);
    assert_eq!(server.calls("message/getchatdata").len(), 2);
}

#[tokio::test]
async fn wrong_secret_stops_and_is_not_sent_again() {
    let server = Server::start(|_| errcode(40001)).await;
    let (archive, call_log) = archive(&server.base_url, 1000, LONG_TIMEOUT);
    for _ in 0..5 {
        let error = archive.page(0).await.unwrap_err();
        assert_eq!(error.class(), FaultClass::Stop);
        assert_eq!(error.errcode(), Some(40001));
    }
    assert_eq!(server.calls("gettoken").len(), 1);
    assert_eq!(*call_log.lock().unwrap(), [("gettoken", "stop")]);
}

#[tokio::test]
async fn concurrent_callers_share_one_token() {
    let server = Server::start(|call| match call.api.as_str() {
        "gettoken" => ServerReply::Json(json!({})),
        _ if call.query["access_token"].ends_with("-1") => errcode(42001),
        _ => page([1]),
    })
    .await;
    let (archive, _) = archive(&server.base_url, 1000, LONG_TIMEOUT);
    let pages = futures::future::join_all((0..4).map(|_| archive.page(0))).await;
    assert!(pages.iter().all(Result::is_ok));
    assert_eq!(server.calls("gettoken").len(), 2);
}

#[tokio::test]
async fn response_too_large_halves_the_page_until_it_fits() {
    let server = Server::start(|call| match call.api.as_str() {
        "gettoken" => ServerReply::Json(json!({})),
        _ if call.body["limit"].as_u64().unwrap() > 300 => errcode(45029),
        _ => page([1]),
    })
    .await;
    let (archive, _) = archive(&server.base_url, 1000, LONG_TIMEOUT);
    for _ in 0..2 {
        let error = archive.page(0).await.unwrap_err();
        assert_eq!(error.class(), FaultClass::SlowDown);
        assert_eq!(error.retry_after(), Some(Duration::ZERO));
    }
    assert_eq!(archive.page(0).await.unwrap().requested, 250);
    let next = archive.page(0).await.unwrap().requested;
    assert!((251..300).contains(&next), "{next}");
}

#[tokio::test]
async fn single_record_too_large_stops() {
    let server = Server::start(|call| match call.api.as_str() {
        "gettoken" => ServerReply::Json(json!({})),
        _ => errcode(301_058),
    })
    .await;
    let (archive, _) = archive(&server.base_url, 2, LONG_TIMEOUT);
    assert_eq!(
        archive.page(0).await.unwrap_err().class(),
        FaultClass::SlowDown
    );
    let error = archive.page(0).await.unwrap_err();
    assert!(matches!(error, Error::RecordTooLarge { .. }));
    assert_eq!(error.class(), FaultClass::Stop);
}

#[tokio::test]
async fn response_that_announces_gigabytes_is_not_read() {
    let (_server, error, _) = after(|| ServerReply::Stall(9_000_000_000, "{".into())).await;
    assert!(matches!(error, Error::Oversize { .. }), "{error}");
    assert_eq!(error.class(), FaultClass::SlowDown);
}

#[tokio::test]
async fn invalid_options_are_rejected_immediately() {
    let make = |base_url: &str, limit| {
        Archive::new(ArchiveOptions {
            corp_id: "ww1".into(),
            base_url: base_url.into(),
            secret: Secret::new(SECRET.into()),
            limit,
            timeout: LONG_TIMEOUT,
            on_call: support::call_log().0,
        })
        .err()
        .map(|error| error.class())
    };
    assert_eq!(make("http://127.0.0.1:1", 1000), None);
    for (base_url, limit) in [
        ("http://127.0.0.1:1", 0),
        ("http://127.0.0.1:1", 1001),
        ("gate.example", 1000),
    ] {
        assert_eq!(make(base_url, limit), Some(FaultClass::Stop));
    }
}

#[tokio::test]
async fn no_error_contains_the_secret_or_the_token_in_any_form() {
    let faults: [fn() -> ServerReply; 7] = [
        || {
            ServerReply::Json(json!({"errcode": 301_042, "errmsg": format!(
                "bad call /cgi-bin/x?access_token={TOKEN}-1&corpsecret={SECRET} \
                 s3cr3t%2Fwith%2Bodd%3Dchars from ip: 10.1.2.3")}))
        },
        || ServerReply::Raw(500, format!("{TOKEN}-1 {SECRET}")),
        || ServerReply::Raw(200, format!("{{\"errcode\":\"{TOKEN}-1 {SECRET}\"}}")),
        || ServerReply::Raw(302, String::new()),
        || ServerReply::Truncated(100, format!("{TOKEN}-1 {SECRET}")),
        || errcode(42001),
        || ServerReply::Never,
    ];
    for faulty in ["gettoken", "message/getchatdata"] {
        for fault in faults {
            let server = Server::start(move |call| match call.api.as_str() {
                api if api == faulty => fault(),
                _ => ServerReply::Json(json!({})),
            })
            .await;
            let (archive, _) = archive(&server.base_url, 1000, Duration::from_millis(300));
            let error = archive.page(0).await.unwrap_err();
            let mut shown = format!("{error} {error:?} {error:#?}");
            let mut cause = error.source();
            while let Some(error) = cause {
                write!(shown, " {error} {error:?}").unwrap();
                cause = error.source();
            }
            for secret in ["s3cr3t", "tok-Zz9", "corpsecret=s", "http://"] {
                assert!(!shown.contains(secret), "{secret} in {shown}");
            }
        }
    }
}

#[tokio::test]
async fn record_of_a_hundred_megabytes_is_reduced_to_its_hash_and_its_neighbours_are_kept() {
    let server = Server::start(|call| {
        if call.api == "gettoken" {
            return ServerReply::Json(json!({}));
        }
        let field = "x".repeat(100 << 20);
        ServerReply::Raw(
            200,
            format!(
                r#"{{"errcode":0,"chatdata":[{{"seq":7,"msgid":"a"}},
                    {{"seq":8,"msgid":"b","encrypt_chat_msg":"{field}"}},
                    {{"seq":9,"msgid":"c"}}]}}"#
            ),
        )
    })
    .await;
    let (archive, _) = archive(&server.base_url, 1000, LONG_TIMEOUT);
    let records = archive.page(6).await.unwrap().records;
    let seqs: Vec<_> = records.iter().map(|record| record.seq).collect();
    assert_eq!(seqs, [7, 8, 9]);
    let kept = records[1].too_large().unwrap();
    assert!(kept.bytes > 100 << 20, "{kept:?}");
    assert!(records.iter().all(|record| record.json.len() < 300));
}

#[tokio::test]
async fn response_nested_ten_thousand_levels_deep_is_malformed_or_a_record() {
    let deep = || format!("{}{}", "[".repeat(10_000), "]".repeat(10_000));
    let server = Server::start(move |call| match (call.api.as_str(), call.earlier) {
        ("gettoken", _) => ServerReply::Json(json!({})),
        (_, 0) => ServerReply::Raw(200, deep()),
        (_, 1) => ServerReply::Raw(200, format!(r#"{{"errcode":{}}}"#, deep())),
        (_, 2) => ServerReply::Raw(200, format!(r#"{{"errmsg":{}}}"#, deep())),
        _ => ServerReply::Raw(
            200,
            format!(r#"{{"chatdata":[{{"seq":7,"x":{}}}]}}"#, deep()),
        ),
    })
    .await;
    let (archive, _) = archive(&server.base_url, 1000, LONG_TIMEOUT);
    for _ in 0..2 {
        let error = archive.page(6).await.unwrap_err();
        assert!(matches!(error, Error::Malformed { .. }), "{error:?}");
    }
    let _ = archive.page(6).await;
    assert_eq!(archive.page(6).await.unwrap().records[0].seq, 7);
}

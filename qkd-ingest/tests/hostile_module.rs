//! A module that answers badly: each case ends in an error, in time and in bounded memory.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::{fmt::Write as _, sync::Arc, time::Duration};

use common::{PATIENCE, Pki, came, is_unavailable, start};
use km_core::module::{ModuleError, ModuleSource};
use qkd_ingest::{Module, ModuleConfig};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::{sleep, timeout},
};
use transport::{ServerStream, ShutdownHandle};

const STATUS: &str = r#"{"source_KME_ID":"M","target_KME_ID":"N","master_SAE_ID":"a",
    "slave_SAE_ID":"b","key_size":256,"stored_key_count":100000,"max_key_count":100000,
    "max_key_per_request":128,"max_key_size":256,"min_key_size":256}"#;
const ID: &str = "0190163d-8694-739b-aea5-966c26f8ad91";

/// What the module sends to enc_keys and dec_keys.
#[derive(Clone)]
enum Answer {
    Body(String),
    /// Announced length, then what is sent before the connection ends.
    Cut(u64, &'static str),
    Chunks,
    OneByteAtATime,
    Head(usize),
    Nothing,
    /// Only dec_keys hangs.
    EncOnly(String),
}

/// Reads one request; its path, or none when the client left.
async fn request(stream: &mut ServerStream) -> Option<String> {
    let mut text = Vec::new();
    loop {
        let head = text.windows(4).position(|w| w == b"\r\n\r\n");
        if let Some(end) = head {
            let head = String::from_utf8_lossy(&text[..end]).to_ascii_lowercase();
            let length = head.split("content-length: ").nth(1);
            let length = length.and_then(|l| l.lines().next()?.parse().ok()).unwrap_or(0);
            if text.len() >= end + 4 + length {
                return head.split(' ').nth(1).map(str::to_owned);
            }
        }
        if stream.read_buf(&mut text).await.ok()? == 0 {
            return None;
        }
    }
}

async fn ok(stream: &mut ServerStream, body: &str) -> std::io::Result<()> {
    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(body.as_bytes()).await?;
    stream.flush().await
}

async fn send(stream: &mut ServerStream, answer: &Answer, path: &str) -> std::io::Result<()> {
    match answer {
        Answer::Body(body) => ok(stream, body).await,
        Answer::EncOnly(body) if path.ends_with("enc_keys") => ok(stream, body).await,
        Answer::EncOnly(_) | Answer::Nothing => std::future::pending().await,
        Answer::Cut(length, sent) => {
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{sent}");
            stream.write_all(head.as_bytes()).await?;
            stream.shutdown().await
        }
        Answer::Chunks => {
            stream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await?;
            let chunk = format!("100000\r\n{}\r\n", " ".repeat(1 << 20));
            loop {
                stream.write_all(chunk.as_bytes()).await?;
            }
        }
        Answer::OneByteAtATime => {
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n").await?;
            loop {
                stream.write_all(b" ").await?;
                stream.flush().await?;
                sleep(Duration::from_millis(20)).await;
            }
        }
        Answer::Head(bytes) => {
            let head = format!("HTTP/1.1 200 OK\r\nx: {}\r\n\r\n", "x".repeat(*bytes));
            stream.write_all(head.as_bytes()).await?;
            stream.flush().await
        }
    }
}

async fn module(
    pki: &Pki,
    case: usize,
    status: &str,
    answer: Answer,
) -> (Arc<Module>, ShutdownHandle) {
    let script = Arc::new((status.to_owned(), answer));
    let files = pki.server(&format!("module-{case}"));
    let (address, stop) = start(&files, move |mut stream, _, shutdown| {
        let script = script.clone();
        async move {
            let serve = async {
                while let Some(path) = request(&mut stream).await {
                    let sent = if path.ends_with("/status") {
                        ok(&mut stream, &script.0).await
                    } else {
                        send(&mut stream, &script.1, &path).await
                    };
                    if sent.is_err() {
                        return;
                    }
                }
            };
            tokio::select! {
                () = serve => {}
                () = shutdown.requested() => {}
            }
        }
    })
    .await;
    let config = ModuleConfig { request_timeout_ms: 2000, ..ModuleConfig::new(address, "a", "b") };
    (pki.module(&format!("km-{case}"), config), stop)
}

fn keys(entries: &[(&str, &str)]) -> String {
    let mut body = String::from(r#"{"keys":["#);
    for (index, (id, key)) in entries.iter().enumerate() {
        let comma = if index == 0 { "" } else { "," };
        write!(body, r#"{comma}{{"key_ID":"{id}","key":"{key}"}}"#).unwrap();
    }
    body + "]}"
}

fn zeros() -> String {
    format!("{}=", "A".repeat(43))
}

/// The most memory this process had so far, in MiB.
fn peak_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() / 1024
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_bad_answer_ends_in_an_error() {
    let many: Vec<String> = (0..10_000).map(|n| format!("id-{n}")).collect();
    let zeros = zeros();
    let many: Vec<_> = many.iter().map(|id| (id.as_str(), zeros.as_str())).collect();
    let (huge, bad64) = ("x".repeat(1 << 20), "!".repeat(44));
    let body = Answer::Body;
    let table = [
        ("a body announced too long", Answer::Cut(4_000_000_000, "{"), false),
        ("an endless body", Answer::Chunks, false),
        ("wrong base64", body(keys(&[(ID, &bad64)])), false),
        ("10,000 keys", body(keys(&many)), false),
        ("an ID of 1 MB", body(keys(&[(&huge, &zeros)])), false),
        ("text", body("<html>".into()), false),
        ("deep nesting", body(r#"{"keys":"#.to_owned() + &"[".repeat(100_000)), false),
        ("no keys member", body("{}".into()), false),
        ("a slow body", Answer::OneByteAtATime, true),
        ("an end in the body", Answer::Cut(1000, r#"{"keys":["#), true),
        ("an endless head", Answer::Head(1 << 20), true),
        ("no answer", Answer::Nothing, true),
    ];
    let pki = Pki::new();
    let before = peak_mib();
    for (case, (what, answer, unavailable)) in table.into_iter().enumerate() {
        let (module, _stop) = module(&pki, case, STATUS, answer).await;
        let wanted = [ID.to_owned()];
        let came = came();
        let both = async { tokio::join!(module.take(32), module.collect(&wanted, &came)) };
        let (taken, collected) = timeout(PATIENCE, both).await.expect(what);
        let fits = |error: &ModuleError| match error {
            ModuleError::Unavailable(_) => unavailable,
            ModuleError::Protocol(_) => !unavailable,
            // dec_keys without the key asked for.
            ModuleError::UnknownId => what == "an ID of 1 MB",
            ModuleError::Empty => false,
        };
        for error in [taken.unwrap_err(), collected.unwrap_err()] {
            assert!(fits(&error), "{what}: {error:?}");
            assert!(error.to_string().len() < 600, "{what}");
        }
    }
    let grown = peak_mib() - before;
    assert!(grown < 160, "grew by {grown} MiB");
}

#[tokio::test]
async fn every_bad_status_ends_in_an_error() {
    let pki = Pki::new();
    let table = [
        ("[]".to_owned(), "status"),
        (STATUS.replace("\"max_key_per_request\":128", "\"max_key_per_request\":0"), "is 0"),
        (STATUS.replace("\"max_key_size\":256", "\"max_key_size\":255"), "no key size"),
        (STATUS.replace(":100000", ":-1"), "status"),
        (format!("{STATUS}{}", " ".repeat(40 << 20)), "longer than"),
    ];
    for (case, (status, named)) in table.into_iter().enumerate() {
        let (module, _stop) = module(&pki, case, &status, Answer::Nothing).await;
        let Err(ModuleError::Protocol(text)) = module.take(32).await else { panic!("{named}") };
        assert!(text.contains(named), "{text}");
    }
}

#[tokio::test]
async fn unusable_keys_are_dropped_and_the_rest_used() {
    let pki = Pki::new();
    let zeros = zeros();
    let long = "x".repeat(65);
    let sent = keys(&[
        (ID, &zeros),
        (&long, &zeros),
        ("short", "AAAA"),
        (&ID.to_uppercase(), &zeros),
        ("other", &zeros),
    ]);
    let (module, _stop) = module(&pki, 0, STATUS, Answer::Body(sent)).await;
    let taken = module.take(5 * 32).await.unwrap();
    assert_eq!(common::ids(&taken), [ID, "other"]);
    let totals = module.counters().totals();
    assert!(totals.bad_keys >= 2 && totals.duplicates >= 1, "{totals:?}");
    // The same answer again: every identifier was seen.
    let again = module.take(32).await;
    assert!(matches!(again, Err(ModuleError::Protocol(_) | ModuleError::Unavailable(_))));
}

#[tokio::test]
async fn taking_does_not_wait_for_collecting() {
    let pki = Pki::new();
    let zeros = zeros();
    let (module, _stop) = module(&pki, 0, STATUS, Answer::EncOnly(keys(&[(ID, &zeros)]))).await;
    let wanted = [ID.to_owned()];
    let came = came();
    let mut collect = module.collect(&wanted, &came);
    tokio::select! {
        early = &mut collect => panic!("{early:?}"),
        taken = module.take(32) => assert_eq!(taken.unwrap().len(), 1),
    }
    assert!(is_unavailable(&collect.await));
}

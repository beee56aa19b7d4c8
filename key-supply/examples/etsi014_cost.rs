//! CPU time of the server for one key of 256 bits, beside a bare TLS echo of as many bytes.
//!
//! `cargo run --release -p key-supply --example etsi014_cost [REQUESTS]`. Both ends of the pool,
//! their stores and the software HSM count as server; the clients run in a thread of their own
//! that does not.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "../tests/common/mod.rs"]
mod common;

use std::{fs, sync::Arc, time::Instant};

use common::{Network, Sae, keys_of};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};
use transport::{Shutdown, TlsClientStream};

const CONNECTIONS: usize = 8;

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let requests = std::env::args().nth(1).map_or(20_000, |n| n.parse().expect("a number"));
    let network = Network::stocked(1 + requests / 500, 65_472).await;
    let (master, slave) = (network.sae("n1"), network.sae("s1"));
    let enc = vec![http("s1/enc_keys"); requests];
    let (enc_cost, answers) = measure(&master, None, enc).await;
    let ids = answers.iter().map(|answer| {
        let json = answer.split_once("\r\n\r\n").expect("an answer").1;
        keys_of(&serde_json::from_str(json).expect("JSON"))[0].0.clone()
    });
    let dec = ids.map(|id| http(&format!("n1/dec_keys?key_ID={id}"))).collect();
    let (dec_cost, answers) = measure(&slave, None, dec).await;
    assert!(answers.iter().all(|answer| answer.starts_with("HTTP/1.1 200")));
    let answer = answers[0].clone();
    let echo = echo_server(&network, answer.clone()).await;
    let asked = vec![http("s1/enc_keys"); requests];
    let (echo_cost, _) = measure(&master, Some(echo), asked).await;
    for (what, (cpu, rate)) in [("echo", echo_cost), ("enc_keys", enc_cost), ("dec_keys", dec_cost)]
    {
        let times = cpu / echo_cost.0;
        println!("{what:9} {cpu:6.1} us CPU, {times:4.1} x echo, {rate:7.0}/s on this machine");
    }
}

fn http(path: &str) -> String {
    format!("GET /api/v1/keys/{path} HTTP/1.1\r\nhost: kme\r\naccept: application/json\r\n\r\n")
}

/// Sends all requests over a few connections. Microseconds of server CPU for each, and the rate.
async fn measure(
    sae: &Sae,
    address: Option<String>,
    requests: Vec<String>,
) -> ((f64, f64), Vec<String>) {
    let mut streams = Vec::new();
    for _ in 0..CONNECTIONS {
        streams.push(sae.stream(address.as_deref()).await);
    }
    let (count, before, start) = (requests.len() as f64, process_nanos(), Instant::now());
    let (done, answers) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        let answers = converse_all(streams, requests);
        done.send((thread_nanos(), answers)).expect("heard");
    });
    let (of_client, answers) = answers.await.expect("answers");
    let cost = (process_nanos() - before - of_client) as f64 / 1000.0 / count;
    ((cost, count / start.elapsed().as_secs_f64()), answers)
}

fn converse_all(streams: Vec<TlsClientStream>, requests: Vec<String>) -> Vec<String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let requests = Arc::new(requests);
    let tasks = streams.into_iter().enumerate().map(|(place, mut stream)| {
        let requests = requests.clone();
        runtime.spawn(async move {
            let mut answers = Vec::new();
            for request in requests.iter().skip(place).step_by(CONNECTIONS) {
                answers.push(converse(&mut stream, request).await);
            }
            answers
        })
    });
    let tasks: Vec<_> = tasks.collect();
    runtime.block_on(async {
        let mut all = Vec::new();
        for task in tasks {
            all.extend(task.await.unwrap());
        }
        all
    })
}

async fn converse(stream: &mut TlsClientStream, request: &str) -> String {
    stream.write_all(request.as_bytes()).await.unwrap();
    let (mut answer, mut chunk) = (Vec::new(), [0; 4096]);
    while !answer.ends_with(b"}") {
        let read = stream.read(&mut chunk).await.unwrap();
        assert!(read > 0, "closed: {}", String::from_utf8_lossy(&answer));
        answer.extend_from_slice(&chunk[..read]);
    }
    String::from_utf8(answer).unwrap()
}

/// Answers every read with the same bytes.
async fn echo_server(network: &Network, answer: String) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (stop, shutdown) = Shutdown::pair();
    let handler = move |mut stream: transport::ServerStream, _peer| {
        let answer = answer.clone();
        async move {
            let mut chunk = [0; 4096];
            while let Ok(1..) = stream.read(&mut chunk).await {
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        }
    };
    let tls = network.server_tls();
    let limits = transport::ListenerLimits::default();
    tokio::spawn(async move {
        let _stop = stop;
        transport::serve(listener, tls, limits, Arc::default(), handler, shutdown).await;
    });
    address
}

/// CPU time of the whole process so far, threads that ended included.
fn process_nanos() -> u64 {
    const TICK: u64 = 10_000_000;
    let stat = fs::read_to_string("/proc/self/stat").unwrap();
    let fields = stat.rsplit_once(") ").unwrap().1.split(' ');
    fields.skip(11).take(2).map(|ticks| ticks.parse::<u64>().unwrap() * TICK).sum()
}

/// CPU time of this thread.
fn thread_nanos() -> u64 {
    let times = fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    times.split(' ').next().unwrap().parse().unwrap()
}

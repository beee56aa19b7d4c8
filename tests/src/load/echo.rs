//! The ceiling: a bare TLS server that reads requests of one size and answers with another.

use std::{sync::Arc, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};
use transport::{ListenerLimits, ListenerStats, Profile, Shutdown, TlsFiles, serve, server_config};

/// Serves until killed. Prints the address it listens on.
pub async fn run(files: TlsFiles, request: usize, response: usize) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    println!("{}", listener.local_addr().expect("bound"));
    let tls = server_config(&files, Profile::Front).expect("server certificate");
    let (_stop, shutdown) = Shutdown::pair();
    let limits = ListenerLimits { grace: Duration::ZERO, ..ListenerLimits::default() };
    let answer = Arc::new(vec![b'x'; response]);
    let handler = move |mut stream: transport::ServerStream, _| {
        let answer = answer.clone();
        async move {
            let mut buffer = vec![0; request];
            while stream.read_exact(&mut buffer).await.is_ok() {
                if stream.write_all(&answer).await.is_err() || stream.flush().await.is_err() {
                    return;
                }
            }
        }
    };
    serve(listener, tls, limits, Arc::new(ListenerStats::default()), handler, shutdown).await;
}

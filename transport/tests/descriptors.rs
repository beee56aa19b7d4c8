//! The accept loop when the process has no file descriptors left. Alone in its file: it takes the
//! whole process's descriptors away.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::{process::Stdio, sync::atomic::Ordering::Relaxed};

use common::{Pki, Server, eventually};
use tokio::{io::AsyncWriteExt, process::Command};
use transport::{ListenerLimits, Profile};

#[tokio::test]
async fn accept_survives_a_lack_of_descriptors() {
    let pki = Pki::new();
    let server =
        Server::start(&pki, Profile::Front, ListenerLimits::default(), |_, _, _| async {}).await;
    let port = server.address.rsplit(':').next().unwrap();
    // Another process connects: this one could not open the client's socket either.
    let script = format!(
        "prlimit --pid $PPID --nofile=3: && exec 3<>/dev/tcp/127.0.0.1/{port} && read && \
         prlimit --pid $PPID --nofile=1024: && read"
    );
    let mut other =
        Command::new("bash").args(["-c", &script]).stdin(Stdio::piped()).spawn().unwrap();
    eventually(|| server.stats.accept_errors.load(Relaxed) >= 2).await;
    assert_eq!(server.stats.accepted.load(Relaxed), 0);
    let input = other.stdin.as_mut().unwrap();
    input.write_all(b"\n").await.unwrap();
    eventually(|| server.stats.accepted.load(Relaxed) == 1).await;
    input.write_all(b"\n").await.unwrap();
    assert!(other.wait().await.unwrap().success());
    drop(server.connect(&pki.client, Profile::Front).await);
}

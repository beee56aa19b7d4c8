//! The engine of a cluster, and who can be cut off from it.

use std::{
    net::SocketAddr,
    path::Path,
    sync::{Arc, Mutex},
};

use tokio::sync::watch;

use super::etcd::Engine;
use crate::proxy::{IsCut, Proxy};

/// Members of the engine.
pub const MEMBERS: usize = 3;

/// An engine whose members reach each other through proxies that cut them off, or directly.
pub(super) async fn engine(
    cuts: Option<&watch::Sender<u64>>,
    proxies: &mut Vec<Proxy>,
    quota: u64,
) -> Engine {
    let pids: Arc<Mutex<Arc<Mutex<Vec<u32>>>>> = Arc::default();
    let mut ports = Vec::new();
    for member in 0..MEMBERS {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("a port").port();
        drop(listener);
        let Some(cuts) = cuts else {
            ports.push((port, port));
            continue;
        };
        let pids = pids.clone();
        let is_cut: IsCut = Arc::new(move |from, cuts| {
            if cuts == 0 {
                return false;
            }
            let pids = pids.lock().expect("no panic").lock().expect("no panic").clone();
            let source = owner(from, &pids);
            cuts & (1 << member) != 0 || source.is_some_and(|source| cuts & (1 << source) != 0)
        });
        let proxy = Proxy::to(port, cuts.subscribe(), is_cut).await;
        ports.push((port, proxy.port));
        proxies.push(proxy);
    }
    let engine = Engine::plan(ports, Some(quota));
    *pids.lock().expect("no panic") = engine.pids.clone();
    engine
}

/// Which of the processes has the connection that comes from this address of loopback.
fn owner(from: SocketAddr, pids: &[u32]) -> Option<usize> {
    let table = std::fs::read_to_string("/proc/net/tcp").ok()?;
    let local = format!("0100007F:{:04X}", from.port());
    let line = table.lines().find(|line| line.split_whitespace().nth(1) == Some(&local))?;
    let socket = format!("socket:[{}]", line.split_whitespace().nth(9)?);
    pids.iter().position(|pid| {
        let open = std::fs::read_dir(format!("/proc/{pid}/fd"));
        let open =
            open.into_iter().flatten().filter_map(|entry| entry.ok()?.path().read_link().ok());
        open.into_iter().any(|target| target.as_os_str() == socket.as_str())
    })
}

/// Has a KM reach the engine at other places.
pub(super) fn through(config: &Path, engine: &[String], ends: &[String]) {
    let text = std::fs::read_to_string(config).expect("a configuration");
    let (before, after) = (format!("endpoints = {engine:?}"), format!("endpoints = {ends:?}"));
    assert!(text.contains(&before), "{before}");
    std::fs::write(config, text.replace(&before, &after)).expect("a configuration");
}

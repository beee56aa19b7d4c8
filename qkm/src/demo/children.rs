//! The processes of a demonstration. Enter through [`Children::start`]. Each child watches a pipe
//! from this process and stops when it closes, so none outlives us, however we end.

use std::{
    fs::File,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    process::Child,
};

use super::layout::Layout;
use crate::fault::{Code, Failure};

/// How long a child may take to stop in order.
const STOP_WITHIN: Duration = Duration::from_secs(20);
const ASK_EVERY: Duration = Duration::from_millis(100);
/// Metrics are the longest.
const LONGEST_ANSWER: u64 = 1 << 20;
/// Lines of a log shown when its process ended.
const LAST_LINES: usize = 5;

pub(super) struct Children(Vec<Running>);

struct Running {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Children {
    /// Starts the simulated link and both key managers.
    pub(super) fn start(layout: &Layout) -> Result<Self, Failure> {
        let mut children = Self::none();
        children.add("sim", layout.sim_command(), &layout.dir)?;
        for site in layout.sites() {
            children.add(&site.name, layout.serve_command(site), &layout.dir)?;
        }
        Ok(children)
    }

    pub(super) fn none() -> Self {
        Self(Vec::new())
    }

    /// Starts one; what it says goes to `name.log` in `dir`.
    pub(super) fn add(
        &mut self,
        name: &str,
        mut command: Command,
        dir: &Path,
    ) -> Result<(), Failure> {
        let log = dir.join(format!("{name}.log"));
        let failed = |e: std::io::Error| Failure::new(Code::D001, format!("starting {name}: {e}"));
        let file = File::options().create(true).append(true).open(&log).map_err(failed)?;
        command.stdout(file.try_clone().map_err(failed)?).stderr(file);
        let mut command = tokio::process::Command::from(command);
        // A terminal's Ctrl-C goes to us alone; we stop the children in order.
        let child = command.process_group(0).kill_on_drop(true).spawn().map_err(failed)?;
        self.0.push(Running { name: name.to_owned(), child, log });
        Ok(())
    }

    /// The process of one that runs, as far as is known.
    pub(super) fn pid(&self, name: &str) -> Option<u32> {
        self.0.iter().find(|running| running.name == name)?.child.id()
    }

    /// Waits until one of them ends, and forgets it: its name.
    pub(super) async fn next_end(&mut self) -> String {
        loop {
            let ended = |running: &mut Running| matches!(running.child.try_wait(), Ok(Some(_)));
            if let Some(at) = self.0.iter_mut().position(ended) {
                return self.0.remove(at).name;
            }
            tokio::time::sleep(ASK_EVERY).await;
        }
    }

    /// Kills one, as a crash would.
    pub(super) async fn kill(&mut self, name: &str) {
        if let Some(at) = self.0.iter().position(|running| running.name == name) {
            let _ = self.0.remove(at).child.kill().await;
        }
    }

    /// Waits until one of them ends, which none should.
    pub(super) async fn one_ended(&mut self) -> Failure {
        loop {
            for running in &mut self.0 {
                if let Ok(Some(status)) = running.child.try_wait() {
                    let text =
                        format!("{} ended ({status})\n{}", running.name, running.last_words());
                    return Failure::new(Code::D002, text.trim_end());
                }
            }
            tokio::time::sleep(ASK_EVERY).await;
        }
    }

    /// Stops all, fronts first, and waits for them.
    pub(super) async fn stop(mut self) {
        for running in self.0.iter_mut().rev() {
            drop(running.child.stdin.take());
        }
        for running in &mut self.0 {
            if tokio::time::timeout(STOP_WITHIN, running.child.wait()).await.is_err() {
                eprintln!("warning: {} did not stop in time and is killed", running.name);
                let _ = running.child.kill().await;
            }
        }
    }
}

impl Running {
    fn last_words(&self) -> String {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(LAST_LINES)..].join("\n")
    }
}

/// Returns when `/readyz` at `monitor` answers 200.
pub(super) async fn ready(monitor: SocketAddr) {
    while asked(monitor, "/readyz").await.is_none_or(|answer| !answer.starts_with("HTTP/1.1 200")) {
        tokio::time::sleep(ASK_EVERY).await;
    }
}

/// The answer of a monitor, with its head.
pub(super) async fn asked(monitor: SocketAddr, path: &str) -> Option<String> {
    let mut socket = TcpStream::connect(monitor).await.ok()?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: qkm\r\nConnection: close\r\n\r\n");
    socket.write_all(request.as_bytes()).await.ok()?;
    let mut answer = Vec::new();
    let mut bounded = socket.take(LONGEST_ANSWER);
    let read = bounded.read_to_end(&mut answer);
    tokio::time::timeout(Duration::from_secs(2), read).await.ok()?.ok()?;
    String::from_utf8(answer).ok()
}

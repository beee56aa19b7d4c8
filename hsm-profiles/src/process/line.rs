//! The KM's end of one running worker: many requests under way at once. Enter through
//! [`Line::send`].
//!
//! Callers add frames to one buffer; a task writes all that came together at once, another reads
//! all answers that came together at once. Under load few system calls are spent on hand-over.

use std::collections::HashMap;
use std::io::{self, Write};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use km_core::hsm::HsmError;
use tokio::io::AsyncReadExt;
use tokio::sync::{Notify, oneshot};

use super::{Ask, Seen, Told, now_us};
use crate::request::{Request, Response};
use crate::wire::{Inbox, Outbox};

const MAX_WAITING: usize = 1024;
/// Bounds the memory of messages under way.
const MAX_BYTES: usize = 32 << 20;

/// Where an answer comes; an error there says that the worker ended before it answered.
pub(crate) type Coming = oneshot::Receiver<Result<Response, HsmError>>;

/// Why the answers of a worker are read no further.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Broken {
    #[error("its worker process does not make sense: {0}")]
    Nonsense(String),
    /// The worker itself says so.
    #[error("a call of its PKCS#11 library does not come back: check the device and its service")]
    Hangs,
}

/// Why a request did not leave.
pub(crate) enum NotSent {
    /// The worker has ended; another may take it.
    Ended,
    Refused(HsmError),
}

struct Waiting {
    reply: oneshot::Sender<Result<Response, HsmError>>,
    bytes: usize,
}

#[derive(Default)]
struct Pending {
    waiting: HashMap<u64, Waiting>,
    bytes: usize,
    next: u64,
    ended: bool,
}

pub(crate) struct Line {
    out: Mutex<Outbox>,
    flush: Notify,
    pending: Mutex<Pending>,
    started: Instant,
    answered_ms: AtomicU64,
}

impl Line {
    pub(crate) fn new() -> Self {
        Self {
            out: Mutex::default(),
            flush: Notify::new(),
            pending: Mutex::default(),
            started: Instant::now(),
            answered_ms: AtomicU64::new(0),
        }
    }

    fn pending(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn out(&self) -> MutexGuard<'_, Outbox> {
        self.out.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends `request`, to be begun within `within`.
    pub(crate) fn send(&self, request: &Request, within: Duration) -> Result<Coming, NotSent> {
        let (reply, coming) = oneshot::channel();
        let id = self.enlist(Waiting { reply, bytes: request.bytes() })?;
        let within_us = u64::try_from(within.as_micros()).unwrap_or(u64::MAX);
        let until_us = now_us().saturating_add(within_us);
        let pushed = self.out().push(&Ask::Do { id, until_us, request });
        if let Err(error) = pushed {
            drop(self.delist(id));
            return Err(NotSent::Refused(HsmError::Unsupported(error.to_string())));
        }
        self.flush.notify_one();
        Ok(coming)
    }

    fn enlist(&self, waiting: Waiting) -> Result<u64, NotSent> {
        let mut pending = self.pending();
        if pending.ended {
            return Err(NotSent::Ended);
        }
        let count = pending.waiting.len();
        if count >= MAX_WAITING || pending.bytes + waiting.bytes > MAX_BYTES {
            return Err(NotSent::Refused(HsmError::Unavailable(format!(
                "{count} requests are waiting for the HSM already: send fewer at once, or raise \
                 hsm.sessions"
            ))));
        }
        pending.next += 1;
        let id = pending.next;
        pending.bytes += waiting.bytes;
        pending.waiting.insert(id, waiting);
        Ok(id)
    }

    fn delist(&self, id: u64) -> Option<Waiting> {
        let mut pending = self.pending();
        let waiting = pending.waiting.remove(&id)?;
        pending.bytes -= waiting.bytes;
        Some(waiting)
    }

    /// Whether the worker answered nothing at all within the last `period`.
    pub(crate) fn silent_for(&self, period: Duration) -> bool {
        let last = Duration::from_millis(self.answered_ms.load(Ordering::Relaxed));
        self.started.elapsed().saturating_sub(last) >= period
    }

    fn answered(&self) {
        let now = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.answered_ms.store(now, Ordering::Relaxed);
    }

    /// Nothing will be answered any more: lets everybody who waits know.
    pub(crate) fn end(&self) {
        let waiting = {
            let mut pending = self.pending();
            pending.ended = true;
            pending.bytes = 0;
            std::mem::take(&mut pending.waiting)
        };
        drop(waiting);
    }

    /// Writes what is sent, until the socket breaks. It must not block.
    pub(crate) async fn write(&self, socket: UnixStream) -> io::Result<()> {
        let mut sending = Outbox::default();
        loop {
            self.flush.notified().await;
            loop {
                std::mem::swap(&mut *self.out(), &mut sending);
                if sending.waiting().is_empty() {
                    break;
                }
                while !sending.waiting().is_empty() {
                    let count = write_some(&socket, sending.waiting()).await?;
                    sending.sent(count);
                }
            }
        }
    }

    /// Hands out answers, and changes to `changed`, until the socket closes. An error says that the worker
    /// is to be ended.
    pub(crate) async fn read(
        &self,
        mut socket: tokio::net::UnixStream,
        mut inbox: Inbox,
        changed: impl Fn(Seen),
    ) -> Result<(), Broken> {
        let wrong = |what: &dyn ToString| Broken::Nonsense(what.to_string());
        loop {
            while let Some(told) = inbox.next().map_err(|e| wrong(&e))? {
                match told {
                    Told::Answer { id, answer } => {
                        let Some(waiting) = self.delist(id) else {
                            return Err(wrong(&"it answered what was not asked"));
                        };
                        // A caller that left loses nothing but the answer.
                        drop(waiting.reply.send(answer));
                    }
                    Told::Changed(seen) => changed(seen),
                    Told::Hangs => return Err(Broken::Hangs),
                    Told::Opened(_) | Told::NotOpened { .. } => {
                        return Err(wrong(&"it opened the token a second time"));
                    }
                }
            }
            let room = inbox.room().map_err(|e| wrong(&e))?;
            match socket.read(room).await.map_err(|e| wrong(&e))? {
                0 => return Ok(()),
                count => inbox.filled(count),
            }
            self.answered();
        }
    }
}

/// The runtime looks at the socket only while it is full: the kernel tells of room in a local socket
/// at each reading at the other end, and every request would wake a thread here once more.
async fn write_some(mut socket: &UnixStream, bytes: &[u8]) -> io::Result<usize> {
    loop {
        match socket.write(bytes) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                tokio::net::UnixStream::from_std(socket.try_clone()?)?.writable().await?;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            done => return done,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_under_way_is_bounded_and_told_of_the_end() {
        let line = Line::new();
        let within = Duration::from_secs(1);
        let mut coming: Vec<_> =
            (0..MAX_WAITING).map(|_| line.send(&Request::Probe, within).ok().unwrap()).collect();
        assert!(matches!(line.send(&Request::Probe, within), Err(NotSent::Refused(_))));
        line.end();
        assert!(coming.iter_mut().all(|coming| coming.try_recv().is_err()));
        assert!(matches!(line.send(&Request::Probe, within), Err(NotSent::Ended)));
        assert_eq!(line.pending().waiting.len(), 0);
    }
}

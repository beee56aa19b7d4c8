//! The KM's end of one running worker: many requests under way at once. Enter through
//! [`Line::send`].
//!
//! A request that finds none before it is written at once. The others add frames to one buffer; a task
//! writes all that came together, another reads all answers that came together: under load few system
//! calls are spent on hand-over.

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
use crate::request::Request;
use crate::response::Response;
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

/// What is to be written.
#[derive(Default)]
struct Out {
    frames: Outbox,
    /// The task that writes has frames that were added before these.
    task_writes: bool,
}

pub(crate) struct Line {
    /// Where requests go; it does not block.
    socket: UnixStream,
    out: Mutex<Out>,
    flush: Notify,
    pending: Mutex<Pending>,
    started: Instant,
    answered_ms: AtomicU64,
}

impl Line {
    /// A line to the worker that reads `socket`, which must not block.
    pub(crate) fn new(socket: UnixStream) -> Self {
        Self {
            socket,
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

    fn out(&self) -> MutexGuard<'_, Out> {
        self.out.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends `request`, to be begun within `within`.
    pub(crate) fn send(&self, request: &Request, within: Duration) -> Result<Coming, NotSent> {
        let (reply, coming) = oneshot::channel();
        let (id, alone) = self.enlist(Waiting { reply, bytes: request.bytes() })?;
        let within_us = u64::try_from(within.as_micros()).unwrap_or(u64::MAX);
        let until_us = now_us().saturating_add(within_us);
        let mut out = self.out();
        if let Err(error) = out.frames.push(&Ask::Do { id, until_us, request }) {
            drop(out);
            drop(self.delist(id));
            return Err(NotSent::Refused(HsmError::Unsupported(error.to_string())));
        }
        if alone && !out.task_writes {
            // Nothing to share the system call with. What goes wrong, the task finds as well.
            let count = write_now(&self.socket, out.frames.waiting()).unwrap_or(0);
            out.frames.sent(count);
        }
        let is_left = !out.frames.waiting().is_empty();
        drop(out);
        if is_left {
            self.flush.notify_one();
        }
        Ok(coming)
    }

    /// Gives its number, and whether no other request waits for its answer.
    fn enlist(&self, waiting: Waiting) -> Result<(u64, bool), NotSent> {
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
        Ok((id, count == 0))
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

    /// Writes what is sent, until the socket breaks.
    pub(crate) async fn write(&self) -> io::Result<()> {
        let mut sending = Outbox::default();
        loop {
            self.flush.notified().await;
            while self.take(&mut sending) {
                while !sending.waiting().is_empty() {
                    let count = self.write_some(sending.waiting()).await?;
                    sending.sent(count);
                }
            }
        }
    }

    /// Moves what is to be written into `sending`, which is empty; whether there is any.
    fn take(&self, sending: &mut Outbox) -> bool {
        let mut out = self.out();
        std::mem::swap(&mut out.frames, sending);
        out.task_writes = !sending.waiting().is_empty();
        out.task_writes
    }

    /// The runtime looks at the socket only while it is full: the kernel tells of room in a local socket
    /// at each reading at the other end, and every request would wake a thread here once more.
    async fn write_some(&self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            match write_now(&self.socket, bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    tokio::net::UnixStream::from_std(self.socket.try_clone()?)?.writable().await?;
                }
                done => return done,
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

fn write_now(mut socket: &UnixStream, bytes: &[u8]) -> io::Result<usize> {
    loop {
        match socket.write(bytes) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            done => return done,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::sync::Arc;

    use km_core::material::ClearBytes;

    use super::*;
    use crate::process::Asked;

    /// A line, and the worker's end of its socket.
    fn line() -> (Arc<Line>, UnixStream) {
        let (here, there) = UnixStream::pair().unwrap();
        here.set_nonblocking(true).unwrap();
        (Arc::new(Line::new(here)), there)
    }

    /// Reads `count` requests; their numbers.
    fn numbers(mut socket: UnixStream, count: usize) -> Vec<u64> {
        let (mut inbox, mut numbers) = (Inbox::default(), Vec::new());
        while numbers.len() < count {
            let len = socket.read(inbox.room().unwrap()).unwrap();
            assert_ne!(len, 0);
            inbox.filled(len);
            while let Some(asked) = inbox.next().unwrap() {
                let Asked::Do { id, .. } = asked else { panic!() };
                numbers.push(id);
            }
        }
        numbers
    }

    #[test]
    fn a_request_that_is_alone_needs_no_task_to_leave() {
        let (line, there) = line();
        let _coming = line.send(&Request::Probe, Duration::from_secs(1)).ok().unwrap();
        assert_eq!(numbers(there, 1), [1]);
    }

    #[tokio::test]
    async fn requests_leave_in_order_though_the_socket_is_full() {
        let (line, there) = line();
        let writes = Arc::clone(&line);
        let writer = tokio::spawn(async move { writes.write().await });
        let mut coming = Vec::new();
        // The first is longer than the socket takes at once.
        for len in [1 << 20, 1, 100_000, 1].into_iter().cycle().take(40) {
            let clear = ClearBytes::from_vec(vec![7; len]);
            let request = Request::Seal { aad: Vec::new(), clear };
            coming.push(line.send(&request, Duration::from_secs(9)).ok().unwrap());
            tokio::task::yield_now().await;
        }
        let read = tokio::task::spawn_blocking(move || numbers(there, 40)).await.unwrap();
        assert_eq!(read, (1..=40).collect::<Vec<u64>>());
        writer.abort();
    }

    #[test]
    fn what_is_under_way_is_bounded_and_told_of_the_end() {
        let (line, _there) = line();
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

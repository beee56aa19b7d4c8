//! One deadline per connection, moved by what happens on it.
//!
//! Setting it is one atomic store; the connection's only timer follows ([`crate::Deadline`]).

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU8, AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::Duration,
};

use hyper::rt::{Read, ReadBufCursor, Write};
use tokio::time::Instant;

const IDLE: u8 = 0;
const HEAD: u8 = 1;
const BUSY: u8 = 2;

/// Where a connection is, and until when it may stay there.
pub(crate) struct Clock {
    start: Instant,
    /// Milliseconds after `start`.
    deadline: AtomicU64,
    phase: AtomicU8,
    head: Duration,
    request: Duration,
    idle: Duration,
}

impl Clock {
    /// A fresh connection: the first head is due.
    pub(crate) fn start(head: Duration, request: Duration, idle: Duration) -> Arc<Self> {
        let clock = Self {
            start: Instant::now(),
            deadline: AtomicU64::new(0),
            phase: AtomicU8::new(HEAD),
            head,
            request,
            idle,
        };
        clock.due(head);
        Arc::new(clock)
    }

    fn due(&self, after: Duration) {
        let at = self.start.elapsed() + after;
        self.deadline.store(u64::try_from(at.as_millis()).unwrap_or(u64::MAX), Relaxed);
    }

    /// The moment the connection must have moved on by.
    pub(crate) fn deadline(&self) -> Instant {
        self.start + Duration::from_millis(self.deadline.load(Relaxed))
    }

    fn bytes_in(&self) {
        if self.phase.load(Relaxed) == IDLE {
            self.phase.store(HEAD, Relaxed);
            self.due(self.head);
        }
    }

    /// A head is complete; body and answer are due.
    pub(crate) fn head_done(&self) {
        self.phase.store(BUSY, Relaxed);
        self.due(self.request);
    }

    /// The answer is ready; it must be taken and the next request begun within the idle time.
    pub(crate) fn answered(&self) {
        self.phase.store(IDLE, Relaxed);
        self.due(self.idle);
    }

    /// What the connection was waiting for, for the log.
    pub(crate) fn waiting_for(&self) -> &'static str {
        match self.phase.load(Relaxed) {
            IDLE => "next request",
            HEAD => "request head",
            _ => "request body or answer",
        }
    }
}

/// Tells the clock when bytes arrive; otherwise transparent.
pub(crate) struct ClockedIo<I> {
    io: I,
    clock: Arc<Clock>,
}

impl<I> ClockedIo<I> {
    pub(crate) fn new(io: I, clock: Arc<Clock>) -> Self {
        Self { io, clock }
    }
}

impl<I: Read + Unpin> Read for ClockedIo<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.io).poll_read(cx, buffer);
        if result.is_ready() {
            self.clock.bytes_in();
        }
        result
    }
}

impl<I: Write + Unpin> Write for ClockedIo<I> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bytes)
    }
}

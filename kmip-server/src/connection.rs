//! The socket loop: frames in, answers out, in order, each step under its deadline.
//!
//! Requests may be pipelined; they wait in the receive buffer until it is their turn. Both
//! directions go through buffers that are overwritten after use.

mod turned;

use std::{io, pin::Pin};

use kmip::ttlv;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use transport::{Deadline, Shutdown};
use wiped::{Wiped, wipe};

pub(crate) use turned::Turned;

use crate::{
    Limits, Server,
    batch::{self, Reply},
    caller::Client,
};

/// Room for what comes, once it is more than [`WAITING`].
const ROOM: usize = 16 * 1024;
/// Most room that is kept for what comes, and as much for answers, while requests follow one another.
const KEPT: usize = 64 * 1024;
/// Room a connection keeps while it waits: enough for most requests.
const WAITING: usize = 512;
/// How long a connection that pauses keeps more than that.
const PAUSE: std::time::Duration = std::time::Duration::from_secs(2);
/// What is read and dropped of a client that is being closed, so that it sees the last answer.
const DRAIN: usize = 4 << 20;
const DRAIN_TIME: std::time::Duration = std::time::Duration::from_secs(1);

/// Why the loop waits no more for a frame.
enum End {
    /// The client went away, was too slow, or the server stops.
    Gone,
    /// What comes is no frame this server takes.
    Refused(ttlv::Error),
}

/// Serves one connection until it ends.
pub(crate) async fn serve<S>(server: &Server, mut stream: S, client: Client, shutdown: Shutdown)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut deadline = Deadline::new();
    let stop = shutdown.requested();
    tokio::pin!(stop);
    let mut inbox = Inbox::new();
    let limits = &server.limits;
    // Who will be refused anyway gets no big buffer.
    let cap = if client.is_stranger() { limits.frame.min(ROOM) } else { limits.frame };
    let mut outbox = Outbox::default();
    loop {
        let waited = tokio::select! {
            biased;
            waited = inbox.next_frame(&mut stream, &mut deadline, limits, cap, &mut outbox) => waited,
            () = &mut stop => return close(&mut stream, &mut deadline).await,
        };
        let reply = match waited {
            Ok(len) => {
                // In a box: a connection that waits must not hold the room of all operations.
                let (frame, buffer) = (inbox.frame(len), outbox.take());
                let reply = boxed(|| batch::answer(server, &client, frame, buffer)).await;
                inbox.done(len);
                reply
            }
            Err(End::Refused(error)) => batch::too_long(server, inbox.received(), &error),
            Err(End::Gone) => Reply::Close,
        };
        let (bytes, last, turned) = match reply {
            Reply::Send(bytes) => (bytes, shutdown.is_requested(), None),
            Reply::Turn(bytes, turned) => (bytes, shutdown.is_requested(), Some(turned)),
            Reply::Last(bytes) => (bytes, true, None),
            Reply::Close => return close(&mut stream, &mut deadline).await,
        };
        let sent = async {
            stream.write_all(&bytes).await?;
            stream.flush().await
        };
        if !matches!(deadline.run(limits.answer_time, sent).await, Some(Ok(()))) {
            return;
        }
        outbox.put_back(bytes);
        if last {
            return close(&mut stream, &mut deadline).await;
        }
        let Some(turned) = turned else { continue };
        let bounds = (limits, &mut deadline);
        let asking = turned::run(&server.notices, &turned, &mut stream, &mut inbox, bounds);
        let goes_on = tokio::select! {
            biased;
            () = &mut stop => false,
            goes_on = Box::pin(asking) => goes_on,
        };
        if !goes_on {
            return close(&mut stream, &mut deadline).await;
        }
    }
}

/// As `Box::pin`, but the future is made where it stays: it is 16 KiB, of which little is set at first, and a
/// move copies all.
#[inline(always)]
fn boxed<F: Future>(make: impl FnOnce() -> F) -> Pin<Box<F>> {
    Box::into_pin(Box::write(Box::new_uninit(), make()))
}

/// Ends the connection so that the last answer arrives: closing with unread bytes would reset it.
async fn close<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S, deadline: &mut Deadline) {
    let ending = async {
        stream.shutdown().await?;
        let mut sink = Wiped::zeros(4096);
        let mut left = DRAIN;
        while left > 0 {
            match stream.read(&mut sink).await? {
                0 => break,
                n => left = left.saturating_sub(n),
            }
        }
        io::Result::Ok(())
    };
    // Whatever comes of it, the connection is over.
    let _ = deadline.run(DRAIN_TIME, ending).await;
}

/// The buffer answers are written into, empty and overwritten between answers.
#[derive(Default)]
struct Outbox(Wiped);

impl Outbox {
    fn take(&mut self) -> Wiped {
        std::mem::take(&mut self.0)
    }

    /// Overwrites what was sent; a buffer that grew big is not kept.
    fn put_back(&mut self, mut bytes: Wiped) {
        if bytes.capacity() <= KEPT {
            bytes.clear();
            self.0 = bytes;
        }
    }
}

/// Bytes received and not answered yet. Invariant: `filled <= bytes.len()`.
struct Inbox {
    bytes: Wiped,
    filled: usize,
}

impl Inbox {
    fn new() -> Self {
        Self { bytes: Wiped::zeros(WAITING), filled: 0 }
    }

    fn received(&self) -> &[u8] {
        self.bytes.get(..self.filled).unwrap_or_default()
    }

    fn frame(&self, len: usize) -> &[u8] {
        self.received().get(..len).unwrap_or_default()
    }

    /// Waits until a whole frame is here and gives its length. Nothing is lost when dropped.
    async fn next_frame<S: AsyncRead + Unpin>(
        &mut self,
        stream: &mut S,
        deadline: &mut Deadline,
        limits: &Limits,
        cap: usize,
        outbox: &mut Outbox,
    ) -> Result<usize, End> {
        if self.filled == 0 {
            let pause = PAUSE.min(limits.idle);
            let first = match deadline.run(pause, self.receive(stream)).await {
                None => {
                    self.resize(WAITING);
                    drop(outbox.take());
                    deadline.run(limits.idle - pause, self.receive(stream)).await
                }
                came => came,
            };
            if !matches!(first, Some(Ok(()))) {
                return Err(End::Gone);
            }
        }
        let whole = self.complete(stream, cap);
        deadline.run(limits.frame_time, whole).await.unwrap_or(Err(End::Gone))
    }

    async fn complete<S: AsyncRead + Unpin>(
        &mut self,
        stream: &mut S,
        cap: usize,
    ) -> Result<usize, End> {
        loop {
            let len = ttlv::frame_len(self.received(), cap).map_err(End::Refused)?;
            match len {
                Some(len) if len <= self.filled => return Ok(len),
                Some(len) => self.make_room(len),
                None => {}
            }
            self.receive(stream).await.map_err(|_| End::Gone)?;
        }
    }

    async fn receive<S: AsyncRead + Unpin>(&mut self, stream: &mut S) -> io::Result<()> {
        let free = self.bytes.get_mut(self.filled..).unwrap_or_default();
        match stream.read(free).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            n => {
                self.filled += n;
                Ok(())
            }
        }
    }

    /// Grows as bytes come: a header that promises much does not reserve much.
    fn make_room(&mut self, len: usize) {
        if self.filled == self.bytes.len() {
            self.resize(len.min(2 * self.bytes.len()).max(ROOM));
        }
    }

    /// The old buffer is overwritten when it is dropped.
    fn resize(&mut self, len: usize) {
        if self.bytes.len() == len {
            return;
        }
        self.filled = self.filled.min(len);
        let mut other = Wiped::with_capacity(len);
        other.append(self.received());
        other.grow_to(len);
        self.bytes = other;
    }

    /// Overwrites a frame that was answered and moves what follows it to the front.
    fn done(&mut self, len: usize) {
        let len = len.min(self.filled);
        self.bytes.copy_within(len..self.filled, 0);
        let left = self.filled - len;
        if let Some(used) = self.bytes.get_mut(left..self.filled) {
            wipe(used);
        }
        self.filled = left;
        if self.bytes.len() > KEPT && left <= ROOM {
            self.resize(ROOM);
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::DuplexStream;

    use super::*;

    /// The size of the futures that `start` gives.
    fn size<S, F>(_: impl Fn(&'static Server, S, Client, Shutdown) -> F) -> usize {
        size_of::<F>()
    }

    #[test]
    fn a_connection_that_waits_takes_little_room() {
        let size = size(|server, stream: DuplexStream, client, shutdown| {
            serve(server, stream, client, shutdown)
        });
        assert!(size < 2048, "{size} bytes");
    }
}

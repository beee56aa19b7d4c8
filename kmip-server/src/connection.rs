//! The socket loop: frames in, answers out, in order, each step under its deadline.
//!
//! Requests may be pipelined: each waits until those before it are answered, but for those that only use keys,
//! which are under way two [`abreast`]. Both directions go through buffers that are overwritten after use.

mod abreast;
mod turned;

use std::{io, pin::Pin};

use kmip::ttlv;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use transport::{Deadline, Shutdown};
use wiped::{Wiped, wipe};

pub(crate) use turned::Turned;

use crate::{
    Limits, Server,
    batch::{self, Reply, Request},
    caller::Client,
};
use abreast::Over;

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

/// A request, or what is said of what came in its place.
type Came = Result<Request, Reply>;

/// One end of a connection and what is kept for it.
struct Line<'a, S> {
    server: &'a Server,
    client: &'a Client,
    stream: S,
    inbox: Inbox,
    outbox: Outbox,
    deadline: Deadline,
    shutdown: &'a Shutdown,
}

/// Serves one connection until it ends.
pub(crate) async fn serve<S>(server: &Server, stream: S, client: Client, shutdown: Shutdown)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let stop = shutdown.requested();
    tokio::pin!(stop);
    let mut line = Line {
        server,
        client: &client,
        stream,
        inbox: Inbox::new(),
        outbox: Outbox::default(),
        deadline: Deadline::new(),
        shutdown: &shutdown,
    };
    let mut held: Option<Box<Came>> = None;
    loop {
        let came = match held.take() {
            Some(came) => *came,
            None => tokio::select! {
                biased;
                came = line.next() => came,
                () = &mut stop => return line.close().await,
            },
        };
        let reply = match came {
            // In boxes: a connection that waits must not hold the room of all operations.
            Ok(request) if line.takes_abreast(&request) => {
                match boxed(|| abreast::answer(&mut line, request)).await {
                    Ok(then) => held = then,
                    Err(Over::Close) => return line.close().await,
                    Err(Over::Gone) => return,
                }
                continue;
            }
            Ok(request) => {
                let buffer = line.outbox.take();
                boxed(|| batch::answer(server, &client, request, buffer)).await
            }
            Err(reply) => reply,
        };
        let (bytes, last, turned) = match reply {
            Reply::Send(bytes) => (bytes, shutdown.is_requested(), None),
            Reply::Turn(bytes, turned) => (bytes, shutdown.is_requested(), Some(turned)),
            Reply::Last(bytes) => (bytes, true, None),
            Reply::Close => return line.close().await,
        };
        if !line.send(bytes).await {
            return;
        }
        if last {
            return line.close().await;
        }
        let Some(turned) = turned else { continue };
        let bounds = (&server.limits, &mut line.deadline);
        let asking =
            turned::run(&server.notices, &turned, &mut line.stream, &mut line.inbox, bounds);
        let goes_on = tokio::select! {
            biased;
            () = &mut stop => false,
            goes_on = Box::pin(asking) => goes_on,
        };
        if !goes_on {
            return line.close().await;
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Line<'_, S> {
    /// Most that is taken for one frame. Who will be refused anyway gets no big buffer.
    fn cap(&self) -> usize {
        let most = self.server.limits.frame;
        if self.client.is_stranger() { most.min(ROOM) } else { most }
    }

    /// Whether a request may be under way together with another one. None begins so once the server stops.
    fn takes_abreast(&self, request: &Request) -> bool {
        request.only_uses() && !self.client.is_paced() && !self.shutdown.is_requested()
    }

    /// The next request, for as long as a connection may wait. Nothing is lost when dropped.
    async fn next(&mut self) -> Came {
        let (limits, cap) = (&self.server.limits, self.cap());
        let Self { inbox, stream, deadline, outbox, .. } = self;
        let waited = inbox.next_frame(stream, deadline, limits, cap, outbox).await;
        self.read(waited)
    }

    /// The same while another request is under way, however long that takes.
    async fn next_beside(&mut self) -> Came {
        let (limits, cap) = (&self.server.limits, self.cap());
        let Self { inbox, stream, deadline, .. } = self;
        let waited = async {
            if inbox.filled == 0 {
                inbox.receive(stream).await.map_err(|_| End::Gone)?;
            }
            let whole = inbox.complete(stream, cap);
            deadline.run(limits.frame_time, whole).await.unwrap_or(Err(End::Gone))
        };
        let waited = waited.await;
        self.read(waited)
    }

    fn read(&mut self, waited: Result<usize, End>) -> Came {
        match waited {
            Ok(len) => {
                let request = Request::read(self.server, self.inbox.frame(len));
                self.inbox.done(len);
                request
            }
            Err(End::Refused(error)) => {
                Err(batch::too_long(self.server, self.inbox.received(), &error))
            }
            Err(End::Gone) => Err(Reply::Close),
        }
    }

    /// Sends an answer in time; `false` when the connection is over.
    async fn send(&mut self, bytes: Wiped) -> bool {
        let sent = async {
            self.stream.write_all(&bytes).await?;
            self.stream.flush().await
        };
        let sent = self.deadline.run(self.server.limits.answer_time, sent).await;
        self.outbox.put_back(bytes);
        matches!(sent, Some(Ok(())))
    }

    /// Ends the connection so that the last answer arrives: closing with unread bytes would reset it.
    async fn close(&mut self) {
        let ending = async {
            self.stream.shutdown().await?;
            let mut sink = Wiped::zeros(4096);
            let mut left = DRAIN;
            while left > 0 {
                match self.stream.read(&mut sink).await? {
                    0 => break,
                    n => left = left.saturating_sub(n),
                }
            }
            io::Result::Ok(())
        };
        // Whatever comes of it, the connection is over.
        let _ = self.deadline.run(DRAIN_TIME, ending).await;
    }
}

/// As `Box::pin`, but the future is made where it stays: it is 16 KiB, of which little is set at first, and a
/// move copies all.
#[inline(always)]
fn boxed<F: Future>(make: impl FnOnce() -> F) -> Pin<Box<F>> {
    Box::into_pin(Box::write(Box::new_uninit(), make()))
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

/// Bytes received and not read as requests yet. Invariant: `filled <= bytes.len()`.
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

    /// Overwrites a frame that was read and moves what follows it to the front.
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

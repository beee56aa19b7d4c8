//! Requests of one connection that only use keys, two under way at a time: while the token works for one, the
//! next is read and made ready. Answers go out in the order of the requests. What has begun is finished
//! though its answer cannot be sent.

use std::{
    future::poll_fn,
    pin::{Pin, pin},
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncWrite};
use wiped::Wiped;

use super::{Came, Line, boxed};
use crate::batch::{self, Reply, Request};

/// Why nothing more is answered.
pub(super) enum Over {
    /// That was the last answer.
    Close,
    /// The client did not take one.
    Gone,
}

/// Answers `first`, and what follows it for as long as that only uses keys too. Gives what came then and has
/// to wait until now.
pub(super) async fn answer<S: AsyncRead + AsyncWrite + Unpin>(
    line: &mut Line<'_, S>,
    first: Request,
) -> Result<Option<Box<Came>>, Over> {
    let (server, client, shutdown) = (line.server, line.client, line.shutdown);
    let begin = |request, buffer| Begun::new(|| batch::answer(server, client, request, buffer));
    let mut first = begin(first, line.outbox.take());
    let (mut second, mut held) = (None, None);
    loop {
        while second.is_none() && held.is_none() && !shutdown.is_requested() {
            tokio::select! {
                biased;
                () = first.finish() => break,
                came = line.next_beside() => match came {
                    Ok(request) if line.takes_abreast(&request) => {
                        second = Some(begin(request, line.outbox.take()));
                    }
                    other => held = Some(other),
                },
            }
        }
        beside(&mut second, first.finish()).await;
        let (bytes, last) = match first.reply {
            Some(Reply::Send(bytes) | Reply::Turn(bytes, _)) => (bytes, false),
            Some(Reply::Last(bytes)) => (bytes, true),
            Some(Reply::Close) | None => (Wiped::default(), true),
        };
        let over = match beside(&mut second, line.send(bytes)).await {
            false => Some(Over::Gone),
            true => last.then_some(Over::Close),
        };
        match (second.take(), over) {
            (Some(mut next), Some(over)) => {
                next.finish().await;
                return Err(over);
            }
            (Some(next), None) => first = next,
            (None, Some(over)) => return Err(over),
            (None, None) if shutdown.is_requested() => return Err(Over::Close),
            (None, None) => return Ok(held.map(Box::new)),
        }
    }
}

/// A request under way, which keeps its answer until that is its turn.
struct Begun<F> {
    // In a box: a connection that waits must not hold the room of all operations.
    running: Pin<Box<F>>,
    reply: Option<Reply>,
}

impl<F: Future<Output = Reply>> Begun<F> {
    fn new(make: impl FnOnce() -> F) -> Self {
        Self { running: boxed(make), reply: None }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.reply.is_none() {
            self.reply = Some(std::task::ready!(self.running.as_mut().poll(cx)));
        }
        Poll::Ready(())
    }

    async fn finish(&mut self) {
        poll_fn(|cx| self.poll(cx)).await
    }
}

/// Runs `step`, and what is under way beside it while `step` waits.
async fn beside<F: Future<Output = Reply>, T>(
    other: &mut Option<Begun<F>>,
    step: impl Future<Output = T>,
) -> T {
    let mut step = pin!(step);
    poll_fn(|cx| {
        let done = step.as_mut().poll(cx);
        if done.is_pending()
            && let Some(other) = other
        {
            let _ = other.poll(cx);
        }
        done
    })
    .await
}

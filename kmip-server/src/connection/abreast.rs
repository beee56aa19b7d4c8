//! Requests of one connection that only use keys, two under way at a time: while the token works for one, the
//! next is read and made ready. Answers go out in the order of the requests. What has begun is finished
//! though its answer cannot be sent.

use std::{
    future::poll_fn,
    pin::{Pin, pin},
};

use futures_util::future::maybe_done;
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
    // In a box: a connection that waits must not hold the room of all operations.
    let begin =
        |request, buffer| maybe_done(boxed(|| batch::answer(server, client, request, buffer)));
    let mut first = begin(first, line.outbox.take());
    let (mut second, mut held) = (None, None);
    loop {
        while second.is_none() && held.is_none() && !shutdown.is_requested() {
            tokio::select! {
                biased;
                () = &mut first => break,
                came = line.next_beside() => match came {
                    Ok(request) if line.takes_abreast(&request) => {
                        second = Some(begin(request, line.outbox.take()));
                    }
                    other => held = Some(other),
                },
            }
        }
        beside(&mut second, &mut first).await;
        let (bytes, last) = match Pin::new(&mut first).take_output() {
            Some(Reply::Send(bytes) | Reply::Turn(bytes, _)) => (bytes, false),
            Some(Reply::Last(bytes)) => (bytes, true),
            Some(Reply::Close) | None => (Wiped::default(), true),
        };
        let over = match beside(&mut second, line.send(bytes)).await {
            false => Some(Over::Gone),
            true => last.then_some(Over::Close),
        };
        match (second.take(), over) {
            (Some(next), Some(over)) => {
                next.await;
                return Err(over);
            }
            (Some(next), None) => first = next,
            (None, Some(over)) => return Err(over),
            (None, None) if shutdown.is_requested() => return Err(Over::Close),
            (None, None) => return Ok(held.map(Box::new)),
        }
    }
}

/// Runs `step`, and what is under way beside it while `step` waits.
async fn beside<T>(
    other: &mut Option<impl Future<Output = ()> + Unpin>,
    step: impl Future<Output = T>,
) -> T {
    let mut step = pin!(step);
    poll_fn(|cx| {
        let done = step.as_mut().poll(cx);
        if done.is_pending()
            && let Some(other) = other
        {
            let _ = Pin::new(other).poll(cx);
        }
        done
    })
    .await
}

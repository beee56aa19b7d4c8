//! A connection whose roles changed (Set Endpoint Role): this server asks, and the application answers.
//! It lasts until there was nothing to say for as long as a connection may wait, which gives the roles
//! back, or until the application asks something itself.

use std::sync::Arc;

use kmip::{
    RequestMessage, Version,
    enums::EndpointRole,
    message::{RequestHeader, RequestItem},
    op::set_endpoint_role,
    tag::Tag,
};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use transport::Deadline;

use super::Inbox;
use crate::{
    Limits,
    caller::Caller,
    notices::{ANSWER, Lent, Notices, Order, is_taken},
};

/// The roles that a request changed.
pub(crate) struct Turned {
    pub(crate) caller: Arc<Caller>,
    pub(crate) version: Version,
}

/// Sends what there is to tell the application; `false` when the connection is over.
pub(super) async fn run<S: AsyncRead + AsyncWrite + Unpin>(
    notices: &Notices,
    turned: &Turned,
    stream: &mut S,
    inbox: &mut Inbox,
    (limits, deadline): (&Limits, &mut Deadline),
) -> bool {
    let (lent, mut orders) = Lent::pair(turned.version);
    let application = turned.caller.application();
    tracing::debug!(%application, "told over a connection of its own");
    notices.lend(&turned.caller, lent);
    let mut line = Line { stream, inbox, limits, deadline };
    loop {
        let next = tokio::select! {
            biased;
            order = orders.recv() => order,
            came = line.inbox.complete(line.stream, limits.frame) => return came.is_ok(),
            () = tokio::time::sleep(limits.idle) => None,
        };
        // Another connection of the application is there for it, or there is nothing to say.
        let Some(Order { frame, answer }) = next else { break };
        match line.exchange(&frame).await {
            // Whoever asked may have given up.
            Some(Came::Answer(bytes)) => drop(answer.send(bytes)),
            Some(Came::Request) => return true,
            None => return false,
        }
    }
    drop(orders);
    line.give_back(turned.version).await
}

/// What came while an answer was expected.
enum Came {
    Answer(Vec<u8>),
    /// Left where it is.
    Request,
}

struct Line<'a, S> {
    stream: &'a mut S,
    inbox: &'a mut Inbox,
    limits: &'a Limits,
    deadline: &'a mut Deadline,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Line<'_, S> {
    async fn exchange(&mut self, frame: &[u8]) -> Option<Came> {
        let sent = async {
            self.stream.write_all(frame).await?;
            self.stream.flush().await
        };
        self.deadline.run(self.limits.answer_time, sent).await?.ok()?;
        let answer = self.inbox.complete(self.stream, self.limits.frame);
        let len = self.deadline.run(ANSWER, answer).await?.ok()?;
        let bytes = self.inbox.frame(len);
        if bytes.get(..3) == Tag::RequestMessage.number().to_be_bytes().get(1..) {
            return Some(Came::Request);
        }
        let bytes = bytes.to_vec();
        self.inbox.done(len);
        Some(Came::Answer(bytes))
    }

    /// Asks the application to ask again; `false` when it does not.
    async fn give_back(&mut self, version: Version) -> bool {
        let role = EndpointRole::Client;
        let items = vec![RequestItem::new(set_endpoint_role::Request { role }.into())];
        let request = RequestMessage { version, header: RequestHeader::new(version), items };
        let Ok(frame) = request.encode() else { return false };
        match self.exchange(&frame).await {
            Some(Came::Answer(answer)) => is_taken(&answer) == Ok(true),
            Some(Came::Request) => true,
            None => false,
        }
    }
}

//! One frame in, one answer out. No sockets: whoever holds the connection carries the bytes. What an item
//! comes to is a matter of `item`.

use std::collections::VecDeque;

use km_core::clock::now_ms;
use kmip::{
    DateTime, RequestMessage, ResponseWriter, Version,
    enums::{BatchErrorContinuationOption, CredentialType, ResultReason},
    message::{DecodeError, Outcome, RequestHeader, ResponseHeader, ResponseItem, error_response},
    ttlv::Limits,
};
use tokio::time::Instant;
use wiped::Wiped;

use crate::{
    Counters, Server,
    caller::{Authorized, Client, Nobody, Unchecked},
    connection::Turned,
    context::{Context, Roles},
    error::OpError,
    item::{Done, do_item, outcome},
    later,
    together::Together,
    undo::Undo,
};

/// What the connection does next.
pub(crate) enum Reply {
    /// Send and go on.
    Send(Wiped),
    /// Send, and from then on ask where the other end answers.
    Turn(Wiped, Turned),
    /// Send and close.
    Last(Wiped),
    /// Close: nobody could read an answer.
    Close,
}

/// A request as it came.
pub(crate) struct Request {
    message: Unchecked,
    /// That it took.
    bytes: usize,
}

impl Request {
    /// Reads the request in `frame`, or gives what is said of it.
    pub(crate) fn read(server: &Server, frame: &[u8]) -> Result<Self, Reply> {
        Counters::add(&server.counters.requests);
        let limits = Limits { frame: server.limits.frame, ..Limits::default() };
        match RequestMessage::decode_within(frame, &limits) {
            Ok(message) => Ok(Self { message: Unchecked::new(message), bytes: frame.len() }),
            Err(error) => Err(unreadable(server, &error)),
        }
    }

    /// Whether it may be under way together with others of its connection of which that is true as well.
    pub(crate) fn only_uses(&self) -> bool {
        self.message.only_uses()
    }
}

/// Answers the request in `frame`.
pub(crate) async fn answer_frame(server: &Server, client: &Client, frame: &[u8]) -> Reply {
    match Request::read(server, frame) {
        Ok(request) => answer(server, client, request, Wiped::default()).await,
        Err(reply) => reply,
    }
}

/// Answers a request in the memory of `buffer`.
pub(crate) async fn answer(
    server: &Server,
    client: &Client,
    Request { message, bytes }: Request,
    buffer: Wiped,
) -> Reply {
    let version = message.version();
    let request = match message.authorize(server, client).await {
        Ok(request) => request,
        Err(nobody) => {
            Counters::add(&server.counters.unauthenticated);
            let reason = match nobody {
                Nobody::TooMany => ResultReason::ServerLimitExceeded,
                Nobody::Stranger | Nobody::Login(_) => ResultReason::AuthenticationNotSuccessful,
                Nobody::Ticket | Nobody::OtherTenant => ResultReason::InvalidTicket,
            };
            let reason = reason.in_version(version);
            return Reply::Last(error_response(version, now(), reason, nobody.text()));
        }
    };
    if let Err((reason, text)) = check_header(server, &request) {
        Counters::add(&server.counters.refused);
        return Reply::Send(error_response(version, now(), reason, text));
    }
    if !request.wait().await {
        Counters::add(&server.counters.refused);
        let text = "this client asks for more operations a second than it may; ask more slowly";
        let reason = ResultReason::ServerLimitExceeded;
        return Reply::Send(error_response(version, now(), reason, text));
    }
    let turned = Turned { caller: request.caller.clone(), version };
    let roles = match request.items.len() {
        1 if client.has_roles() => Roles::Open,
        _ => Roles::Fixed,
    };
    match run(server, (request, bytes), roles, buffer).await {
        (bytes, Roles::Turned) => Reply::Turn(bytes, turned),
        (bytes, _) => Reply::Send(bytes),
    }
}

/// The answer to a frame that is no request. Closes when even the version is not readable.
fn unreadable(server: &Server, error: &DecodeError) -> Reply {
    Counters::add(&server.counters.malformed);
    tracing::debug!(%error, "unreadable request");
    if matches!(error, DecodeError::Frame { version: None, .. }) {
        return Reply::Close;
    }
    let reason = match error {
        // Versions before 2.0 get Invalid Message in its place.
        DecodeError::Version(_) => ResultReason::UnsupportedProtocolVersion,
        DecodeError::Frame { .. } => error.reason(),
    };
    Reply::Send(error_response(error.answer_version(), now(), reason, error.to_string()))
}

fn now() -> DateTime {
    DateTime(i64::try_from(now_ms() / 1000).unwrap_or(i64::MAX))
}

fn check_header(server: &Server, request: &Authorized) -> Result<(), (ResultReason, String)> {
    let Authorized { header, items, .. } = request;
    let most = server.limits.batch_items;
    if items.is_empty() {
        let text = "the request has no batch item";
        return Err((ResultReason::InvalidMessage, text.to_owned()));
    }
    if items.len() > most {
        let text = format!("{} batch items; this server takes at most {most}", items.len());
        return Err((ResultReason::ServerLimitExceeded, text));
    }
    // Who sends them wants them judged.
    let judged = |kind| matches!(kind, CredentialType::Device | CredentialType::Attestation);
    let mut credentials = header.authentication.iter().flat_map(|all| &all.credentials);
    if credentials.any(|credential| judged(credential.kind())) {
        let text = "device and attestation credentials are not judged here; leave them out, the \
                    certificate says who asks";
        return Err((ResultReason::AuthenticationNotSuccessful, text.to_owned()));
    }
    if let Some(text) = later::refused(header, items) {
        return Err((ResultReason::FeatureNotSupported, text.to_owned()));
    }
    Ok(())
}

/// Does the items in order, whether the client asked for order or not, until their time is up; those
/// that depend on no other at the same time. The request came in so many bytes.
async fn run(
    server: &Server,
    (request, bytes): (Authorized, usize),
    roles: Roles,
    buffer: Wiped,
) -> (Wiped, Roles) {
    let Authorized { caller, delegate, version, mut header, mut items } = request;
    let now = now();
    let cap = response_cap(server, &header);
    let mut response_header = ResponseHeader::new(version, now);
    response_header.client_correlation_value = header.client_correlation_value.take();
    // Clients that send none may not read one either.
    if response_header.client_correlation_value.is_some() {
        let ours = server.correlation();
        tracing::debug!(caller = %caller.application(), correlation = ours, "request");
        response_header.server_correlation_value = Some(ours);
    }
    let mut response = ResponseWriter::over(buffer, version, response_header);
    if later::is_wanted(&header, &items) {
        let first = items.first().map(|item| (item.code, item.id.clone()));
        let items = std::mem::take(&mut items);
        let who = (&caller, delegate);
        let submitted = later::submit(server, who, version, &header, (items, bytes));
        match Box::pin(submitted).await {
            Ok(pending) => pending.iter().for_each(|item| response.item(item)),
            Err(error) => {
                Counters::add(&server.counters.refused);
                let (code, id) = first.unzip();
                let (reason, id) = (error.reason(version), id.flatten());
                response.item(&ResponseItem::failed(code, id, reason, error.to_string()));
            }
        }
        return (response.finish(), Roles::Fixed);
    }
    let after_error = header.batch_error_continuation;
    let go_on = after_error == Some(BatchErrorContinuationOption::Continue);
    let undo = after_error == Some(BatchErrorContinuationOption::Undo) && items.len() > 1;
    let staged = undo.then(|| server.objects.staged());
    let objects = staged.as_ref().map_or(&server.objects, |(objects, _)| objects);
    let mut undo = staged.clone().map(|(objects, stage)| Undo::of(objects, stage));
    let until = Instant::now() + server.limits.request_time;
    let context = |staged| {
        let who = (&*caller, delegate.clone());
        Context::new(server, objects, staged, who, version, now.0).by(until)
    };
    let mut cx = context(undo.is_some());
    cx.roles = roles;
    let start = response.checkpoint();
    let mut items = VecDeque::from(items);
    let mut together = (undo.is_none() && items.len() > 1).then(|| Together::new(until));
    loop {
        let next = match &mut together {
            Some(together) => {
                Box::pin(together.begin(|| context(false), &mut items)).await;
                together.next().await
            }
            None => None,
        };
        let was_together = next.is_some();
        let (code, id, mut done) = match next {
            Some(done) => done,
            None => {
                let Some(item) = items.pop_front() else { break };
                let (code, id) = (item.code, item.id.clone());
                // Never cut an item short: nobody would know how far it came.
                let done = match Instant::now() < until {
                    true => do_item(&mut cx, item).await,
                    false => Err(OpError::OutOfTime),
                };
                (code, id, done)
            }
        };
        let told = match &mut done {
            Ok(Done::Told(_, _, place)) => place.take(),
            _ => None,
        };
        let item = outcome(&cx, code, id, done);
        let (item, left) = write(&mut response, &cx, cap, item);
        if let Some(place) = told {
            server.later.settle(place, left);
        }
        let failed = matches!(item.outcome, Outcome::Failed(_));
        if failed {
            cx.roles = Roles::Fixed;
        }
        if let Some(undo) = &mut undo {
            undo.wrote(item);
        }
        if failed && !go_on {
            break;
        }
        if let Some(together) = together.as_ref().filter(|_| was_together) {
            together.answered();
        }
    }
    if let Some(undo) = undo
        && Box::pin(undo.settle(&mut response, start)).await
    {
        Box::pin(cx.tell()).await;
    }
    (response.finish(), cx.roles)
}

/// The smaller of what the client and this server take.
fn response_cap(server: &Server, header: &RequestHeader) -> usize {
    let asked = header.maximum_response_size.and_then(|most| usize::try_from(most).ok());
    asked.unwrap_or(usize::MAX).min(server.limits.frame)
}

/// Writes an item, or that it is too long; gives what was written, and what was not.
fn write(
    response: &mut ResponseWriter,
    cx: &Context<'_>,
    cap: usize,
    item: ResponseItem,
) -> (ResponseItem, Option<Outcome>) {
    let counters = &cx.server.counters;
    let before = response.checkpoint();
    response.item(&item);
    let failed = matches!(item.outcome, Outcome::Failed(_));
    if failed || response.len() <= cap {
        Counters::add(if failed { &counters.refused } else { &counters.done });
        return (item, None);
    }
    response.rollback(before);
    let text = format!("the answer takes more than {cap} bytes; ask for less");
    let reason = ResultReason::ResponseTooLarge;
    let failed = ResponseItem::failed(item.code, item.id, reason, text);
    Counters::add(&counters.refused);
    response.item(&failed);
    (failed, Some(item.outcome))
}

/// In which version a client would understand that it sent too much, as far as `start` tells.
pub(crate) fn version_of(start: &[u8]) -> Option<Version> {
    match RequestMessage::decode(start) {
        Err(DecodeError::Frame { version, .. }) => version,
        Err(error @ DecodeError::Version(_)) => Some(error.answer_version()),
        Ok(message) => Some(message.version),
    }
}

/// The last word to a client whose frame is longer than this server takes.
pub(crate) fn too_long(server: &Server, start: &[u8], error: &kmip::ttlv::Error) -> Reply {
    Counters::add(&server.counters.malformed);
    match version_of(start) {
        Some(version) => {
            let reason = ResultReason::InvalidMessage;
            Reply::Last(error_response(version, now(), reason, error.to_string()))
        }
        None => Reply::Close,
    }
}

//! One case: its requests in order, every answer compared.

use kmip::{
    Answer, client,
    enums::RevocationReasonCode,
    tag::Tag,
    ttlv::{Limits, Value, Writer, parse},
};
use wiped::Wiped;

use super::{compare::Comparison, scope::Scope, xml};
use crate::clients::{Kmip, KmipHttps};

/// How messages travel.
pub(super) enum Way<'a> {
    /// On the socket of KMIP.
    Socket(&'a Kmip),
    /// Over HTTPS.
    Https(Box<KmipHttps>),
}

impl Way<'_> {
    async fn exchange(&self, request: &[u8]) -> Result<Wiped, String> {
        match self {
            Self::Socket(client) => client.exchange(request).await,
            Self::Https(client) => client.exchange(request).await,
        }
    }
}

/// Runs a case; the error says at which message it differs, and how. `made` says whether the
/// server made keys in the cases before it in its family, and is kept up.
pub(super) async fn case(
    way: &Way<'_>,
    messages: &[(Tag, xml::Template)],
    made: &mut bool,
) -> Result<(), String> {
    let mut scope = Scope::default();
    let mut comparison = Comparison::of(messages, *made);
    *made = comparison.makes();
    let mut answer = None;
    for (number, (tag, template)) in messages.iter().enumerate() {
        let done = match *tag {
            Tag::RequestMessage => {
                send(way, &mut scope, template, &mut comparison).await.map(|got| answer = got)
            }
            Tag::ResponseMessage => match answer.take() {
                Some(found) => comparison.check(&mut scope, template, &found),
                None => Err("an answer is expected that nobody asked for".to_owned()),
            },
            other => Err(format!("{other} is no message")),
        };
        done.map_err(|why| format!("message {number}: {why}"))?;
    }
    Ok(())
}

async fn send(
    way: &Way<'_>,
    scope: &mut Scope,
    template: &xml::Template,
    comparison: &mut Comparison,
) -> Result<Option<Value>, String> {
    let mut request = template.fill(&mut |variable: &xml::Variable| scope.value(variable))?;
    scope.adapt(&mut request);
    comparison.asked(&request);
    let mut w = Writer::default();
    request.encode(&mut w, Tag::RequestMessage);
    let frame = way.exchange(&w.finish()).await?;
    let root = parse(&frame, &Limits::default()).map_err(|error| error.to_string())?;
    if root.tag() != Tag::ResponseMessage {
        return Err(format!("answered with {}", root.tag()));
    }
    Value::from_item(&root).map(Some).map_err(|error| error.to_string())
}

/// Destroys what is left, so that the next case finds nothing of it.
pub(super) async fn tidy(client: &Kmip) -> Result<(), String> {
    loop {
        let left = match client.ask(client::locate([])).await? {
            Answer::Locate(found) => found.ids,
            other => return Err(format!("Locate answered {other:?}")),
        };
        if left.is_empty() {
            return Ok(());
        }
        for id in left {
            client.ask(client::revoke(&id, RevocationReasonCode::KeyCompromise)).await.ok();
            client.ask(client::destroy(&id)).await.map_err(|e| format!("tidying {id}: {e}"))?;
        }
    }
}

//! Data in parts: Init Indicator, Correlation Value, Final Indicator (KMIP 1.3). Enter through
//! [`begin`].
//!
//! What came so far is kept, in memory that is overwritten, until the last part comes or nobody
//! sends one for a minute. A part that fails ends its stream. Each part asks anew whether the key
//! may be used.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use km_core::{ids::SaeId, material::ClearBytes};
use kmip::{
    attribute::{CryptographicParameters, UniqueIdentifier},
    enums::{OperationCode, ResultReason},
};
use wiped::Wiped;

use crate::{
    context::Context,
    error::OpError,
    swept::{Swept, Waiting},
};

/// Most parts of a stream: ciphers that authenticate start from the beginning with each.
const MOST_PARTS: usize = 64;
/// Most streams of one client at a time, those in another's name included.
const MOST_OF_ONE: usize = 8;
/// Most streams at a time. Each keeps at most as much as one frame holds.
const MOST: usize = 64;
/// How long a stream waits for its next part.
const PATIENCE: Duration = Duration::from_secs(60);

type Id = [u8; 16];

/// How often those that waited too long are looked for.
const SWEEP: Duration = Duration::from_secs(5);

/// Whose a stream is: who asks, and in whose name.
#[derive(Clone, PartialEq, Eq)]
struct Owner {
    payer: SaeId,
    caller: SaeId,
}

impl Owner {
    fn of(cx: &Context<'_>) -> Self {
        Self { payer: cx.payer().application().clone(), caller: cx.caller.application().clone() }
    }
}

#[derive(Default)]
pub(crate) struct Open {
    /// With their owners; of [`None`] a part is worked on.
    streams: HashMap<Id, (Owner, Option<Stream>)>,
}

impl Waiting for Open {
    fn drop_late(&mut self) {
        let in_time = |stream: &Stream| stream.touched.elapsed() < PATIENCE;
        self.streams.retain(|_, (_, waiting)| waiting.as_ref().is_none_or(in_time));
    }

    fn is_empty(&self) -> bool {
        self.streams.is_empty()
    }
}

/// The streams that are open, waiting or worked on.
pub(crate) type Streams = Swept<Open>;

/// The place of a stream of which a part is worked on; free again when dropped, unless the stream
/// waits there.
struct Place {
    id: Id,
    streams: Streams,
    waits: bool,
}

impl Drop for Place {
    fn drop(&mut self) {
        if !self.waits {
            self.streams.lock().streams.remove(&self.id);
        }
    }
}

struct Stream {
    operation: OperationCode,
    said: Said,
    data: Wiped,
    given: usize,
    parts: usize,
    touched: Instant,
}

/// Where in its stream a part stands, as the request says.
pub(crate) struct Marks {
    pub(crate) correlation: Option<Vec<u8>>,
    pub(crate) init: Option<bool>,
    pub(crate) last: Option<bool>,
}

/// What a request says besides data; what the first part says holds for all.
#[derive(Clone, Default)]
pub(crate) struct Said {
    pub(crate) key: Option<String>,
    /// In a box, as [`Input`] says.
    pub(crate) parameters: Option<Box<CryptographicParameters>>,
    pub(crate) iv: Option<Vec<u8>>,
    pub(crate) aad: Option<Vec<u8>>,
    /// A signature, MAC or tag that is to be verified.
    pub(crate) proof: Option<Vec<u8>>,
}

impl Said {
    fn or(self, first: &Said) -> Said {
        Said {
            key: self.key.or_else(|| first.key.clone()),
            parameters: self.parameters.or_else(|| first.parameters.clone()),
            iv: self.iv.or_else(|| first.iv.clone()),
            aad: self.aad.or_else(|| first.aad.clone()),
            proof: self.proof.or_else(|| first.proof.clone()),
        }
    }
}

/// The data of a request with all that came before it in its stream. It passes through many hands, so what is
/// large and seldom looked at is in boxes.
pub(crate) struct Input {
    pub(crate) said: Said,
    /// Bytes of the result that earlier answers gave.
    pub(crate) given: usize,
    /// Bytes that came with this part.
    pub(crate) fresh: usize,
    stream: Option<Box<(Place, Stream)>>,
    ends: bool,
    data: Wiped,
}

impl Input {
    /// Whether nothing comes after it.
    pub(crate) fn ends(&self) -> bool {
        self.ends
    }

    pub(crate) fn len(&self) -> usize {
        self.data.len()
    }

    /// The key, as the requests name it.
    pub(crate) fn key(&self) -> Option<UniqueIdentifier> {
        self.said.key.as_deref().map(UniqueIdentifier::from)
    }

    /// The first `len` bytes.
    pub(crate) fn start(&self, len: usize) -> ClearBytes {
        ClearBytes::copy_from(self.data.get(..len).unwrap_or(&self.data))
    }

    /// The first `len` bytes; those of a last part are not needed again.
    pub(crate) fn take(&mut self, len: usize) -> ClearBytes {
        match self.ends && len == self.data.len() {
            true => std::mem::take(&mut self.data).into(),
            false => self.start(len),
        }
    }

    /// All bytes, of the last part.
    pub(crate) fn whole(mut self) -> ClearBytes {
        std::mem::take(&mut self.data).into()
    }

    /// Waits for the next part, of which the answer tells the Correlation Value; `given` bytes of
    /// the result were given by now. `None` when this was the last.
    pub(crate) fn keep(self, cx: &Context<'_>, given: usize) -> Option<Vec<u8>> {
        let (mut place, mut stream) = *self.stream.filter(|_| !self.ends)?;
        stream.said = self.said;
        stream.data = self.data;
        stream.given = given;
        stream.touched = Instant::now();
        place.waits = true;
        cx.server.streams.lock().streams.insert(place.id, (Owner::of(cx), Some(stream)));
        Some(place.id.to_vec())
    }
}

/// Takes the part that a request brings.
pub(crate) async fn begin(
    cx: &Context<'_>,
    operation: OperationCode,
    marks: Marks,
    said: Said,
    data: Option<Wiped>,
) -> Result<Input, OpError> {
    let (init, ends) = (marks.init == Some(true), marks.last == Some(true));
    let fresh = data.as_ref().map_or(0, |data| data.len());
    match marks.correlation {
        Some(_) if init => Err(OpError::Invalid(
            "the first part of a stream has no Correlation Value yet".to_owned(),
        )),
        Some(id) => {
            let (place, mut stream) = cx.server.streams.take(cx, operation, &id)?;
            let said = said.or(&stream.said);
            if said.key != stream.said.key {
                return Err(OpError::Invalid("all parts of a stream are for one key".to_owned()));
            }
            let mut all = std::mem::take(&mut stream.data);
            stream.parts += 1;
            if stream.parts > MOST_PARTS || all.len() + fresh > cx.server.limits.frame {
                let most = cx.server.limits.frame;
                let text = format!("a stream has at most {MOST_PARTS} parts and {most} bytes");
                return Err(OpError::TooMuch(text));
            }
            all.append(data.as_deref().unwrap_or_default());
            let given = stream.given;
            let stream = Some(Box::new((place, stream)));
            Ok(Input { said, given, fresh, stream, ends, data: all })
        }
        None if init && !ends => {
            let place = cx.server.streams.open(cx).await?;
            let stream = Stream {
                operation,
                said: said.clone(),
                data: Wiped::default(),
                given: 0,
                parts: 1,
                touched: Instant::now(),
            };
            let data = data.unwrap_or_default();
            let stream = Some(Box::new((place, stream)));
            Ok(Input { said, given: 0, fresh, stream, ends, data })
        }
        None if ends && !init => {
            Err(OpError::Missing("the last part of a stream needs its Correlation Value"))
        }
        None => {
            let data = data.ok_or(OpError::Missing("Data is missing"))?;
            Ok(Input { said, given: 0, fresh, stream: None, ends: true, data })
        }
    }
}

/// The key a request names; later parts may leave it out.
pub(crate) fn named(
    cx: &Context<'_>,
    id: Option<UniqueIdentifier>,
    marks: &Marks,
) -> Result<Option<String>, OpError> {
    match (&id, &marks.correlation) {
        (None, Some(_)) => Ok(None),
        _ => cx.resolve(id).map(Some),
    }
}

impl Streams {
    fn place(&self, id: Id) -> Place {
        Place { id, streams: self.clone(), waits: false }
    }

    /// A place for a new stream, when there may be one more.
    async fn open(&self, cx: &Context<'_>) -> Result<Place, OpError> {
        let random = cx.objects().vault().random().bytes(size_of::<Id>()).await?;
        let mut id = Id::default();
        random.expose(|bytes| id.copy_from_slice(bytes));
        let place = self.reserve(id, Owner::of(cx))?;
        self.sweep(SWEEP);
        Ok(place)
    }

    fn reserve(&self, id: Id, owner: Owner) -> Result<Place, OpError> {
        let mut open = self.lock();
        let streams = &mut open.streams;
        let own = streams.values().filter(|(other, _)| other.payer == owner.payer).count();
        if own >= MOST_OF_ONE || streams.len() >= MOST {
            let text = "too many streams are open; end some, or wait a minute".to_owned();
            return Err(OpError::TooMuch(text));
        }
        streams.insert(id, (owner, None));
        Ok(self.place(id))
    }

    /// Takes a stream out, which keeps its place: nobody else adds to it meanwhile.
    fn take(
        &self,
        cx: &Context<'_>,
        operation: OperationCode,
        id: &[u8],
    ) -> Result<(Place, Stream), OpError> {
        let unknown = || {
            let text = "no stream has this Correlation Value; it ended, failed or waited too long";
            OpError::Check(ResultReason::InvalidCorrelationValue, text.to_owned())
        };
        let id = Id::try_from(id).map_err(|_| unknown())?;
        let mut open = self.lock();
        let (owner, waiting) = open.streams.get_mut(&id).ok_or_else(unknown)?;
        let own = *owner == Owner::of(cx);
        let stream = waiting.take_if(|stream| own && stream.operation == operation);
        let stream = stream.ok_or_else(unknown)?;
        Ok((self.place(id), stream))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner(name: &str) -> Owner {
        let name = SaeId::parse(name).unwrap();
        Owner { payer: name.clone(), caller: name }
    }

    #[tokio::test]
    async fn what_waits_too_long_goes_though_nobody_comes() {
        let streams = Streams::default();
        let late = Stream {
            operation: OperationCode::Encrypt,
            said: Said::default(),
            data: Wiped::new(vec![1; 100]),
            given: 0,
            parts: 1,
            touched: Instant::now().checked_sub(PATIENCE).unwrap(),
        };
        let owner = owner("app");
        streams.0.lock().unwrap().streams.insert([2; 16], (owner.clone(), None));
        streams.sweep(Duration::from_millis(1));
        streams.0.lock().unwrap().streams.insert([1; 16], (owner, Some(late)));
        let held = || streams.0.lock().unwrap().streams.len();
        while held() > 1 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert!(streams.0.lock().unwrap().swept, "one is worked on");
        streams.0.lock().unwrap().streams.clear();
        while streams.0.lock().unwrap().swept {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    #[test]
    fn streams_that_are_worked_on_have_their_place() {
        let streams = Streams::default();
        let reserve =
            |n: usize, of: usize| streams.reserve([n as u8; 16], owner(&format!("app-{of}")));
        let mut own: Vec<_> = (0..MOST_OF_ONE).map(|n| reserve(n, 0).unwrap()).collect();
        assert!(matches!(reserve(100, 0), Err(OpError::TooMuch(_))));
        own.pop();
        own.push(reserve(100, 0).unwrap());
        let of = |n: usize| n / MOST_OF_ONE;
        let _others: Vec<_> = (MOST_OF_ONE..MOST).map(|n| reserve(n, of(n)).unwrap()).collect();
        assert!(matches!(reserve(200, 100), Err(OpError::TooMuch(_))));
    }
}

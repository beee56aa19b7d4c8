//! Which KMs a cluster has, and how each says it is. Enter through [`Roster::tell`] and
//! [`Roster::list`].
//!
//! Each KM keeps a card in the store, and a session with it: a KM whose session ended is away, whatever
//! its card says. Nothing rests on cards; they are for people.

use std::{ops::Bound, time::Duration};

use km_core::{
    clock::now_ms,
    records::{RecordError, Records},
    store::{Commit, MAX_RANGE, Outcome, SessionId, StoreError},
};
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;

use crate::lead::{self, Seat};

const CARDS: &[u8] = b"node/";
/// How long a KM that tells nothing counts as there.
const TTL: Duration = Duration::from_secs(10);

/// What a KM says of itself. KMs of other builds may say more, or less.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Condition {
    /// Version of its program.
    pub build: String,
    /// When it started, in milliseconds since 1970.
    pub started_ms: u64,
    /// Why it is not ready; empty when it is.
    pub troubles: Vec<String>,
    /// It is to leave the work to others, and has nothing left to do: it can be stopped.
    pub drained: bool,
    /// SHA-256 of the certificate that it shows to the others, in hexadecimal.
    pub certificate: String,
    /// That of the certificate it shows to other clusters, if it has any.
    pub link_certificate: Option<String>,
    /// How long its last write to the store took, in milliseconds; `None`: it failed.
    pub store_ms: Option<u64>,
    /// How long it keeps the lead when it says nothing, as the engine granted it, in milliseconds; `None`
    /// before it led.
    pub lease_ms: Option<u64>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Card {
    seat: Seat,
    session: u64,
    told_ms: u64,
    /// By the names of its fields: while a cluster is upgraded, builds read each other's.
    #[serde(with = "named")]
    condition: Condition,
}

/// JSON within a record.
mod named {
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de, ser};

    use super::Condition;

    pub(super) fn serialize<S: Serializer>(it: &Condition, to: S) -> Result<S::Ok, S::Error> {
        serde_json::to_string(it).map_err(ser::Error::custom)?.serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Condition, D::Error> {
        serde_json::from_str(&String::deserialize(from)?).map_err(de::Error::custom)
    }
}

/// A KM as the store has it.
#[derive(Clone, Debug, Serialize)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// `host:port` of its desk.
    pub desk: String,
    /// Whether it told something within the last seconds.
    pub alive: bool,
    /// Whether it has the lead, and its lease lasts.
    pub leads: bool,
    /// When it told its condition, by its own clock, in milliseconds since 1970.
    pub told_ms: u64,
    /// What it told.
    #[serde(flatten)]
    pub condition: Condition,
}

/// The cards of a cluster, and this KM's among them.
pub struct Roster {
    records: Records,
    me: Seat,
    session: Mutex<Option<SessionId>>,
}

impl Roster {
    /// For the KM at `me`.
    pub fn new(records: Records, me: Seat) -> Self {
        Self { records, me, session: Mutex::default() }
    }

    /// Tells the others; to be repeated at least every few seconds.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn tell(&self, condition: Condition) -> Result<(), RecordError> {
        let (store, mut session) = (self.records.store(), self.session.lock().await);
        let live = match *session {
            Some(known) if store.keep_alive(known).await? => known,
            _ => *session.insert(store.session(TTL).await?.id),
        };
        let key = [CARDS, self.me.node.as_bytes()].concat();
        let card = Card { seat: self.me.clone(), session: live.0, told_ms: now_ms(), condition };
        let commit = Commit::new().put(key.clone(), self.records.encode(&key, &card));
        match store.commit(commit.fenced(live)).await? {
            Outcome::Committed(_) => Ok(()),
            outcome => {
                *session = None;
                let why = format!("the card of this key manager was not written ({outcome:?})");
                Err(StoreError::Unavailable(why).into())
            }
        }
    }

    /// This KM goes; its card stays.
    ///
    /// # Errors
    /// Those of the store. Then it counts as there for some seconds.
    pub async fn leave(&self) -> Result<(), RecordError> {
        match self.session.lock().await.take() {
            Some(session) => Ok(self.records.store().end_session(session).await?),
            None => Ok(()),
        }
    }

    /// All that ever told something, by name.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn list(&self) -> Result<Vec<Node>, RecordError> {
        let store = self.records.store();
        let leader = lead::holder(&self.records).await?;
        let mut nodes = Vec::new();
        for found in store.range(CARDS, Bound::Unbounded, MAX_RANGE).await? {
            let card: Card = self.records.decode(&found.key, &found.value)?;
            let Seat { node: name, desk } = card.seat;
            nodes.push(Node {
                leads: leader.as_ref().is_some_and(|seat| seat.node == name),
                alive: lead::lives(store, SessionId(card.session)).await?,
                name,
                desk,
                told_ms: card.told_ms,
                condition: card.condition,
            });
        }
        Ok(nodes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cards_of_other_builds_are_read() {
        let condition = |text: &str| serde_json::from_str::<Condition>(text).unwrap();
        let newer = condition(r#"{"build":"2","drained":true,"mood":["new"]}"#);
        assert_eq!(newer, Condition { build: "2".into(), drained: true, ..Condition::default() });
        let here = Condition { store_ms: Some(3), troubles: vec!["slow".into()], ..newer };
        let seat = Seat { node: "north-1".into(), desk: "localhost:1".into() };
        let card = Card { seat, session: 1, told_ms: 2, condition: here.clone() };
        let read: Card = postcard::from_bytes(&postcard::to_stdvec(&card).unwrap()).unwrap();
        assert_eq!((read.condition, read.told_ms), (here, 2));
    }
}

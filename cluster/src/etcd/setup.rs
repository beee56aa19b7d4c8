//! What must hold before the store is used: the engine's release, and the form of what is in it.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use km_core::store::StoreError;
use transport::TlsClient;

use super::{
    Engine,
    channel::{CallError, Channel},
    client::{is_verdict, refused},
    proto::{
        Compare, PutRequest, RangeRequest, Request, RequestOp, StatusRequest, StatusResponse,
        TxnRequest, TxnResponse,
    },
};

/// The form this build writes.
const FORMAT: u32 = 1;
/// The first releases of each maintained line in which users with rights to a prefix cannot read
/// elsewhere.
const MAINTAINED: [(u32, u32, u32); 2] = [(3, 5, 30), (3, 6, 11)];
/// Bytes of a database that is not worth to be defragmented.
const WORTH_IT: u64 = 64 << 20;
const ASK_WITHIN: Duration = Duration::from_secs(2);
/// How long a start waits for the engine, which may be starting too, or choosing its leader.
pub(super) const START_WAIT: Duration = Duration::from_secs(10);
const LOOK_AGAIN: Duration = Duration::from_millis(250);

/// One member of the engine, as it sees itself.
#[derive(Clone, Debug)]
pub struct Member {
    /// `host:port`.
    pub address: String,
    /// What it said, or why it did not.
    pub state: Result<MemberState, String>,
}

/// What a member says of itself.
#[derive(Clone, Debug)]
pub struct MemberState {
    /// Its release.
    pub version: String,
    /// Bytes of its database.
    pub db_bytes: u64,
    /// Of these, in use: the rest is what compactions left, and comes back with `etcdctl defrag`.
    pub used_bytes: u64,
    /// Whether it knows a leader.
    pub has_leader: bool,
    /// Whether it is that leader.
    pub leads: bool,
    /// How far it has come in the engine's log.
    pub applied: u64,
}

impl MemberState {
    fn said(said: StatusResponse) -> Self {
        let itself = said.header.map(|header| header.member_id);
        Self {
            version: said.version,
            db_bytes: said.db_size.unsigned_abs(),
            used_bytes: said.db_size_in_use.unsigned_abs(),
            has_leader: said.leader != 0,
            leads: said.leader != 0 && itself == Some(said.leader),
            applied: said.raft_applied_index,
        }
    }

    /// What an operator should see to, if anything.
    pub fn advice(&self) -> Option<String> {
        if !self.has_leader {
            return Some("it knows no leader".to_owned());
        }
        // The engine counts all of it against its quota.
        let free = self.db_bytes.saturating_sub(self.used_bytes);
        (self.db_bytes >= WORTH_IT && free > self.db_bytes / 2).then(|| {
            format!(
                "{free} of the {} bytes of its database are free: `etcdctl defrag`, one member after \
                 the other",
                self.db_bytes
            )
        })
    }
}

impl Engine {
    /// Asks all members at once how they are; from then on requests go to the one that leads.
    pub(super) async fn members(&self) -> Vec<Member> {
        let asked = join_all(self.client.members().iter().map(ask)).await;
        let (mut members, mut leading) = (Vec::new(), Vec::new());
        for (at, (tls, answer)) in self.client.members().iter().zip(asked).enumerate() {
            let state = answer.map(|(channel, state)| {
                if state.leads {
                    leading.push((at, channel));
                }
                state
            });
            members.push(Member { address: tls.address().to_owned(), state });
        }
        // A member that was cut off may still take itself for the leader.
        if let (Some((at, channel)), true) = (leading.pop(), leading.is_empty()) {
            self.client.prefer(at, channel).await;
        }
        members
    }

    /// As [`Engine::members`], once one of them answers or none did until then.
    async fn first_look(&self, until: Instant) -> Vec<Member> {
        let mut told = false;
        loop {
            let members = self.members().await;
            let answered = members.iter().any(|member| member.state.is_ok());
            if answered || Instant::now() >= until {
                return members;
            }
            if !std::mem::replace(&mut told, true) {
                let said: Vec<_> = members.iter().map(|m| (&m.address, &m.state)).collect();
                tracing::info!(?said, wait = ?START_WAIT, "no member of etcd answers yet");
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// Members that are away are not judged; one at least must answer until then.
    pub(super) async fn check_engine(
        &self,
        allow_unmaintained: bool,
        until: Instant,
    ) -> Result<(), StoreError> {
        let mut answered = false;
        let mut last = String::new();
        for Member { address, state } in self.first_look(until).await {
            match state {
                Ok(state) => {
                    answered = true;
                    let unmaintained = !is_maintained(&state.version);
                    if unmaintained && !allow_unmaintained {
                        return Err(StoreError::Unavailable(format!(
                            "etcd {} at {address} is not a maintained release; install 3.5.30, \
                             3.6.11 or later",
                            state.version
                        )));
                    }
                    if unmaintained {
                        tracing::warn!(%address, version = state.version, alarm = "engine-unmaintained",
                            "this release of etcd gets no fixes; it is accepted for tests");
                    }
                }
                Err(why) => last = format!("{address}: {why}"),
            }
        }
        match answered {
            true => Ok(()),
            false => Err(StoreError::Unavailable(format!("no member of etcd answers; {last}"))),
        }
    }

    /// Before the engine has a leader it answers nothing of this; after `until` that is final.
    pub(super) async fn check_format(&self, until: Instant) -> Result<(), StoreError> {
        let key = self.keys.format();
        let path = String::from_utf8_lossy(&key).into_owned();
        let mut told = false;
        let value = loop {
            match self.format_there(&key).await {
                Ok(value) => break value,
                Err(error) if is_verdict(&error) || Instant::now() >= until => {
                    return Err(refused(error));
                }
                Err(error) => {
                    if !std::mem::replace(&mut told, true) {
                        tracing::info!(?error, wait = ?START_WAIT, "etcd cannot be read yet");
                    }
                    tokio::time::sleep(LOOK_AGAIN).await;
                }
            }
        };
        match std::str::from_utf8(&value).ok().and_then(|text| text.parse::<u32>().ok()) {
            Some(FORMAT) => Ok(()),
            Some(found) if found > FORMAT => {
                Err(StoreError::NewerFormat { path, found, known: FORMAT })
            }
            _ => Err(StoreError::Damaged(format!("{path} in etcd is not written by qkm"))),
        }
    }

    /// What stands under `key`: the form this build writes, where nothing did.
    async fn format_there(&self, key: &[u8]) -> Result<Vec<u8>, CallError> {
        let key = key.to_owned();
        let put = PutRequest { key: key.clone(), value: FORMAT.to_string().into(), lease: 0 };
        let request = TxnRequest {
            compare: vec![Compare::absent(key.clone())],
            success: vec![RequestOp { request: Some(Request::Put(put)) }],
            ..Default::default()
        };
        let found = RangeRequest { key, ..Default::default() };
        if self.client.read(&found).await?.kvs.is_empty() {
            // Carried out twice it does the same.
            let _: TxnResponse = self.client.call("KV/Txn", &request, true).await?;
        }
        let there = self.client.read(&found).await?.kvs.into_iter().next();
        Ok(there.map(|pair| pair.value).unwrap_or_default())
    }
}

async fn ask(tls: &TlsClient) -> Result<(Arc<Channel>, MemberState), String> {
    let asked = async {
        let channel = Channel::connect(tls).await?;
        let said = channel.unary("Maintenance/Status", &StatusRequest {}).await?;
        Ok((channel, MemberState::said(said)))
    };
    match tokio::time::timeout(ASK_WITHIN, asked).await {
        Ok(answer) => answer.map_err(|error| match error {
            CallError::NotSent(why) | CallError::Broken(why) => why,
            CallError::Status { text, .. } => text,
            CallError::SetBack => "an older copy of it was put back".into(),
        }),
        Err(_) => Err(format!("no answer within {ASK_WITHIN:?}")),
    }
}

fn is_maintained(version: &str) -> bool {
    let mut numbers = version.split(['.', '-']).map(|part| part.parse::<u32>());
    let (Some(Ok(major)), Some(Ok(minor)), Some(Ok(patch))) =
        (numbers.next(), numbers.next(), numbers.next())
    else {
        return false;
    };
    let newest = MAINTAINED.last().is_some_and(|line| (major, minor) > (line.0, line.1));
    newest || MAINTAINED.iter().any(|line| (major, minor) == (line.0, line.1) && patch >= line.2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_without_fixes_are_told_apart() {
        for version in ["3.5.30", "3.5.31", "3.6.11", "3.7.0", "4.0.0", "3.6.12-rc.0"] {
            assert!(is_maintained(version), "{version}");
        }
        for version in ["3.4.23", "3.4.45", "3.5.29", "3.6.10", "2.3.8", "", "3.5", "a.b.c"] {
            assert!(!is_maintained(version), "{version}");
        }
    }
}

//! Asks whoever leads. Enter through [`Client::new`].

use std::{
    collections::BTreeSet,
    io::ErrorKind,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use async_trait::async_trait;
use km_core::{
    ids::SaeId,
    key_id::KeyId,
    peer::Fingerprint,
    pool::SuppliedKey,
    supply::{Desk, Level, SupplyError},
};
use tokio::{net::TcpStream, sync::watch, time::timeout};
use transport::{
    ClientConfig, IdentityRule,
    http::{ClientError, ClientLimits, HttpClient},
};

use super::wire::{self, Answer, KIND, MAX_ANSWER, MORE, Request};
use crate::lead::{Pulse, Seat};

/// Connections to the one that leads; requests beyond wait for each other.
const CONNECTIONS: usize = 8;
const CONNECT_WITHIN: Duration = Duration::from_millis(500);
/// Connections that are refused before nobody is there.
const REFUSALS: u32 = 3;
const BETWEEN: Duration = Duration::from_millis(60);
const ANSWER_WITHIN: Duration = Duration::from_secs(6);

type Lines = Arc<Vec<HttpClient>>;

/// The end that asks.
pub struct Client {
    tls: Arc<ClientConfig>,
    members: IdentityRule,
    leader: OnceLock<watch::Receiver<Option<Seat>>>,
    gone: watch::Receiver<BTreeSet<Fingerprint>>,
    lines: Mutex<Option<(String, Lines)>>,
    next: AtomicUsize,
}

impl Client {
    /// For KMs whose certificates match `members`, and are not `gone`.
    pub fn new(
        tls: Arc<ClientConfig>,
        members: IdentityRule,
        gone: watch::Receiver<BTreeSet<Fingerprint>>,
    ) -> Arc<Self> {
        let (leader, lines, next) = Default::default();
        Arc::new(Self { tls, members, leader, gone, lines, next })
    }

    /// Who leads is told here; before, nobody does. Once.
    pub fn follow(&self, leader: watch::Receiver<Option<Seat>>) {
        let _ = self.leader.set(leader);
    }

    fn lines(&self) -> Result<Lines, SupplyError> {
        let seat = self.leader.get().and_then(|leader| leader.borrow().clone());
        let seat = seat.ok_or_else(|| SupplyError::NotLed("nobody does".to_owned()))?;
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, lines)) = lines.as_ref().filter(|(desk, _)| *desk == seat.desk) {
            return Ok(lines.clone());
        }
        let limits = ClientLimits {
            connect: CONNECT_WITHIN,
            request: ANSWER_WITHIN,
            response_bytes: MAX_ANSWER,
            ..ClientLimits::default()
        };
        let line = |_| {
            let client = HttpClient::new(&seat.desk, None, self.tls.clone(), limits.clone());
            let expecting = |client: HttpClient| client.expecting(self.members.clone());
            client.map(|client| expecting(client).refusing(self.gone.clone()))
        };
        let made = (0..CONNECTIONS).map(line).collect::<Result<Vec<_>, _>>();
        let made = Arc::new(made.map_err(|error| SupplyError::NotLed(error.to_string()))?);
        *lines = Some((seat.desk, made.clone()));
        Ok(made)
    }

    async fn led_by_another(&self, desk: &str) {
        let leader = self.leader.get().cloned();
        let moved = |seat: &Option<Seat>| seat.as_ref().is_some_and(|seat| seat.desk != desk);
        if let Some(mut leader) = leader
            && leader.wait_for(moved).await.is_ok()
        {
            return;
        }
        std::future::pending().await
    }

    /// `repeatable`: asking again does no harm though it may have been done.
    async fn ask(&self, request: &Request, repeatable: bool) -> Result<Answer, SupplyError> {
        let lines = self.lines()?;
        let next = self.next.fetch_add(1, Relaxed) % CONNECTIONS;
        let line = lines.get(next).ok_or_else(|| SupplyError::NotLed("no line".to_owned()))?;
        // One that is paused keeps the connection and says nothing: whoever took its place does.
        let said = tokio::select! {
            said = line.post_as(MORE, KIND, request.encode()) => said,
            () = self.led_by_another(line.address()) => {
                let text = "another key manager took the lead meanwhile".to_owned();
                return Err(match repeatable {
                    true => SupplyError::NotLed(text),
                    false => SupplyError::Unavailable(text),
                });
            }
        };
        let said = said.map_err(|error| match (&error, repeatable) {
            (ClientError::Connect(_), _) | (ClientError::Broken { .. }, true) => {
                SupplyError::NotLed(error.to_string())
            }
            _ => SupplyError::Unavailable(error.to_string()),
        });
        let (status, body) = said?;
        let answer = (status == 200).then(|| wire::decode(&body)).flatten();
        answer.unwrap_or_else(|| {
            let text = format!("{} answered {status} and nothing that makes sense", line.address());
            Err(SupplyError::Unavailable(text))
        })
    }

    async fn keys(&self, request: &Request, again: bool) -> Result<Vec<SuppliedKey>, SupplyError> {
        match self.ask(request, again).await? {
            Answer::Keys(keys) => Ok(keys),
            _ => Err(other_answer()),
        }
    }
}

fn other_answer() -> SupplyError {
    SupplyError::Unavailable("the desk answered something else".to_owned())
}

#[async_trait]
impl Desk for Client {
    async fn issue(
        &self,
        master: &SaeId,
        slaves: &[SaeId],
        size: u32,
        count: u32,
    ) -> Result<Vec<SuppliedKey>, SupplyError> {
        let (master, slaves) = (master.clone(), slaves.to_vec());
        // Keys issued to nobody are burned.
        self.keys(&Request::Issue { master, slaves, size, count }, true).await
    }

    async fn collect(
        &self,
        slave: &SaeId,
        master: Option<&SaeId>,
        ids: &[KeyId],
    ) -> Result<Vec<SuppliedKey>, SupplyError> {
        let ids = ids.iter().map(|id| id.uuid()).collect();
        let request = Request::Collect { slave: slave.clone(), master: master.cloned(), ids };
        self.keys(&request, false).await
    }

    async fn bring(&self, slave: &SaeId, owner: &SaeId, id: KeyId) -> Result<(), SupplyError> {
        let (slave, owner, id) = (slave.clone(), owner.clone(), id.uuid());
        let request = Request::Bring { slave, owner, id };
        // A second time it finds what the first one made.
        match self.ask(&request, true).await? {
            Answer::Brought => Ok(()),
            _ => Err(other_answer()),
        }
    }

    async fn level(&self, master: &SaeId, slave: &SaeId) -> Result<Level, SupplyError> {
        let request = Request::Level { master: master.clone(), slave: slave.clone() };
        match self.ask(&request, true).await? {
            Answer::Level(level) => Ok(level),
            _ => Err(other_answer()),
        }
    }
}

#[async_trait]
impl Pulse for Client {
    /// A machine that refuses the connection runs, and nobody listens there any more.
    async fn is_gone(&self, seat: &Seat) -> bool {
        nobody_listens(&seat.desk).await
    }
}

/// Refused again and again: once may be a queue that was full for a moment.
async fn nobody_listens(desk: &str) -> bool {
    for _ in 0..REFUSALS {
        let connected = timeout(CONNECT_WITHIN, TcpStream::connect(desk)).await;
        let refused =
            matches!(connected, Ok(Err(error)) if error.kind() == ErrorKind::ConnectionRefused);
        if !refused {
            return false;
        }
        tokio::time::sleep(BETWEEN).await;
    }
    true
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn one_refused_connection_is_no_death() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        assert!(nobody_listens(&address.to_string()).await);
        let asked = tokio::spawn(async move { nobody_listens(&address.to_string()).await });
        tokio::time::sleep(BETWEEN / 2).await;
        let _listener = TcpListener::bind(address).await.unwrap();
        assert!(!asked.await.unwrap(), "it listens again");
    }
}

//! The connections to an application. Notices go out in order; one that is not taken is
//! tried again a few times and then given up, which is counted and logged.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use kmip::{
    Field,
    enums::ResultStatus,
    tag::Tag,
    ttlv::{self, HEADER, frame_len},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::{mpsc, watch},
};
use transport::{ClientConfig, TlsClient, TlsClientStream};
use wiped::Wiped;

use super::{Notice, lent::Lent, message};
use crate::{Counters, Server, caller::Caller, policy::Endpoint};

/// Pauses before each try.
const PAUSES: [Duration; 5] = [
    Duration::ZERO,
    Duration::from_secs(1),
    Duration::from_secs(4),
    Duration::from_secs(15),
    Duration::from_secs(60),
];
/// Time to connect, and to take a message and answer it.
const CONNECT: Duration = Duration::from_secs(10);
pub(crate) const ANSWER: Duration = Duration::from_secs(10);
/// How long a connection waits for more to tell.
const IDLE: Duration = Duration::from_secs(5);
/// Most bytes of an answer.
const LONGEST: usize = 64 << 10;

/// Why a notice was not taken.
#[derive(Debug, thiserror::Error)]
pub(super) enum Untold {
    #[error(transparent)]
    Connect(#[from] transport::ConnectError),
    #[error("the certificate of the endpoint is not one of the application alone")]
    Somebody,
    #[error("the connection broke: {0}")]
    Io(#[from] std::io::Error),
    #[error("no answer in time")]
    Late,
    #[error("the answer cannot be read: {0}")]
    Answer(#[from] ttlv::Error),
    #[error("the application refused it")]
    Refused,
    #[error("its connection ended, or it asks there itself")]
    Away,
}

/// Tells `caller` what comes in over `line`, as long as there is a server.
pub(super) async fn run(
    server: Weak<Server>,
    caller: Arc<Caller>,
    mut line: Line,
    mut inbox: mpsc::Receiver<Notice>,
) {
    while let Some(notice) = inbox.recv().await {
        let mut next = Some(notice);
        while let Some(notice) = next.take() {
            // Waits without holding the server.
            if !line.is_there().await {
                return;
            }
            let Some(server) = server.upgrade() else { return };
            let over = line.tell(&server, &caller, &notice).await;
            drop(server);
            next = match over {
                true => tokio::time::timeout(IDLE, inbox.recv()).await.ok().flatten(),
                false => Some(notice),
            };
        }
        line.stream = None;
    }
}

/// The connections to an application: one of its own on which it answers, else one to its endpoint.
pub(super) struct Line {
    endpoint: Endpoint,
    /// None where it has no address.
    client: Option<TlsClient>,
    /// To the endpoint, when there is one.
    stream: Option<TlsClientStream>,
    lent: watch::Receiver<Option<Arc<Lent>>>,
}

impl Line {
    pub(super) fn new(
        endpoint: Endpoint,
        tls: &Arc<ClientConfig>,
        lent: watch::Receiver<Option<Arc<Lent>>>,
    ) -> Result<Self, transport::ConnectError> {
        let client = endpoint.address.as_ref();
        let client = client.map(|address| TlsClient::new(address, None, tls.clone()));
        Ok(Self { endpoint, client: client.transpose()?, stream: None, lent })
    }

    /// Its own connection, as long as it answers on one.
    fn lent(&self) -> Option<Arc<Lent>> {
        self.lent.borrow().clone().filter(|lent| lent.is_open())
    }

    /// Waits until there is a way to tell it; `false` when there is no server any more.
    async fn is_there(&mut self) -> bool {
        if self.client.is_some() {
            return true;
        }
        let open = |lent: &Option<Arc<Lent>>| lent.as_ref().is_some_and(|lent| lent.is_open());
        self.lent.wait_for(open).await.is_ok()
    }

    /// Whether that is over: told or given up, or `false` when there is no way to tell it now.
    async fn tell(&mut self, server: &Arc<Server>, caller: &Arc<Caller>, notice: &Notice) -> bool {
        let application = caller.application();
        let mut why = None;
        for pause in PAUSES {
            tokio::time::sleep(pause).await;
            match self.try_to(server, caller, notice).await {
                Ok(said) => {
                    if said {
                        Counters::add(&server.counters.told);
                    }
                    return true;
                }
                Err(error) => {
                    tracing::debug!(%application, object = notice.uid, %error, "not told yet");
                    self.stream = None;
                    why = Some(error);
                }
            }
            if self.client.is_none() && self.lent().is_none() {
                return false;
            }
        }
        Counters::add(&server.counters.untold);
        let why = why.map(|error| error.to_string());
        tracing::warn!(%application, object = notice.uid, why, "not told, and given up");
        true
    }

    /// `false` when there was nothing to say.
    async fn try_to(
        &mut self,
        server: &Arc<Server>,
        caller: &Arc<Caller>,
        notice: &Notice,
    ) -> Result<bool, Untold> {
        let lent = self.lent();
        let version = lent.as_ref().map_or(self.endpoint.version, |lent| lent.version);
        // Read anew for each try: key bytes do not wait.
        let frames = message::frames(server, caller, (version, self.endpoint.sent), notice).await;
        let some = !frames.is_empty();
        for frame in frames {
            let answer = match &lent {
                Some(lent) => lent.exchange(frame).await.ok_or(Untold::Away)?,
                None => self.dialled(server, caller, &frame).await?,
            };
            if !is_taken(&answer)? {
                return Err(Untold::Refused);
            }
        }
        Ok(some)
    }

    /// The answer of its endpoint.
    async fn dialled(
        &mut self,
        server: &Arc<Server>,
        caller: &Arc<Caller>,
        frame: &Wiped,
    ) -> Result<Vec<u8>, Untold> {
        let stream = match &mut self.stream {
            Some(stream) => stream,
            None => {
                let client = self.client.as_ref().ok_or(Untold::Away)?;
                let (stream, peer) = client.connect(CONNECT).await?;
                // One that several applications share is nobody's here: no login tells them apart.
                if server.applications.find(&peer) != Some(caller.application()) {
                    return Err(Untold::Somebody);
                }
                self.stream.insert(stream)
            }
        };
        tokio::time::timeout(ANSWER, exchange(stream, frame)).await.map_err(|_| Untold::Late)?
    }
}

async fn exchange(stream: &mut TlsClientStream, frame: &Wiped) -> Result<Vec<u8>, Untold> {
    stream.write_all(frame).await?;
    stream.flush().await?;
    let mut answer = vec![0; HEADER];
    stream.read_exact(&mut answer).await?;
    let len = frame_len(&answer, LONGEST)?.unwrap_or(HEADER);
    answer.resize(len, 0);
    stream.read_exact(answer.get_mut(HEADER..).unwrap_or_default()).await?;
    Ok(answer)
}

/// Whether every item of an answer says Success. Clients may leave the empty payload out.
pub(crate) fn is_taken(answer: &[u8]) -> Result<bool, ttlv::Error> {
    let answer = ttlv::parse(answer, &ttlv::Limits::default())?;
    let mut items = 0;
    for child in answer.children()?.filter(|child| child.tag() == Tag::BatchItem) {
        items += 1;
        let status: ResultStatus = Field::read(&child.required(Tag::ResultStatus)?)?;
        if status != ResultStatus::Success {
            return Ok(false);
        }
    }
    Ok(items > 0)
}

#[cfg(test)]
mod tests {
    use kmip::ttlv::Writer;

    use super::*;

    #[test]
    fn an_answer_counts_when_all_of_it_is_success() {
        let answer = |statuses: &[u32]| {
            let mut w = Writer::default();
            w.structure(Tag::ResponseMessage, |w| {
                for status in statuses {
                    w.structure(Tag::BatchItem, |w| w.enumeration(Tag::ResultStatus, *status));
                }
            });
            is_taken(&w.finish())
        };
        assert_eq!(answer(&[0]), Ok(true));
        assert_eq!(answer(&[0, 1]), Ok(false));
        assert_eq!(answer(&[]), Ok(false));
        assert!(is_taken(b"HTTP/1.1 200 OK\r\n").is_err());
    }
}

//! One connection to a KMIP server.

use std::time::Duration;

use kmip::{
    Answer, Operation,
    client::{Client, ClientError},
    ttlv::{HEADER, frame_len},
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use transport::{Profile, TlsClient, TlsClientStream, TlsFiles, client_config};
use wiped::Wiped;

use super::{Server, password};
use crate::fault::{Code, Failure};

/// For the handshake, and for each answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// Largest answer taken, in bytes.
const MAX_ANSWER: usize = 1 << 20;

pub(super) struct Line {
    client: Client,
    stream: TlsClientStream,
}

/// The answer to another question.
pub(super) fn odd() -> Failure {
    Failure::new(Code::K001, "the server answered another operation than was asked")
}

impl Line {
    pub(super) async fn open(server: &Server) -> Result<Self, Failure> {
        let files = TlsFiles {
            certificate: server.certificate.clone(),
            key: server.key.clone(),
            ca: server.ca.clone(),
        };
        let tls = client_config(&files, Profile::Front).map_err(|e| Failure::new(Code::T001, e))?;
        let away = |error| Failure::new(Code::K001, error);
        let tls =
            TlsClient::new(&server.server, server.server_name.as_deref(), tls).map_err(away)?;
        let (stream, _) = tls.connect(PATIENCE).await.map_err(away)?;
        let mut client = Client::new(server.kmip);
        if let Some((user, file)) = server.user.as_ref().zip(server.password_file.as_ref()) {
            client = client.with_login(user, password::read(file)?);
        }
        Ok(Self { client, stream })
    }

    pub(super) async fn ask(&mut self, question: impl Into<Operation>) -> Result<Answer, Failure> {
        let frame = self.client.request(question).map_err(|e| Failure::new(Code::K002, e))?;
        let answer = tokio::time::timeout(PATIENCE, self.exchange(&frame)).await;
        let answer = answer
            .map_err(|_| Failure::new(Code::K001, format!("no answer in {PATIENCE:?}")))?
            .map_err(|error| Failure::new(Code::K001, format!("the connection broke: {error}")))?;
        self.client.answer(&answer).map_err(|error| match error {
            ClientError::Refused { .. } => Failure::new(Code::K002, error),
            other => Failure::new(Code::K001, other),
        })
    }

    async fn exchange(&mut self, frame: &[u8]) -> std::io::Result<Wiped> {
        self.stream.write_all(frame).await?;
        self.stream.flush().await?;
        let mut start = [0; HEADER];
        self.stream.read_exact(&mut start).await?;
        let bad = |what: String| std::io::Error::new(std::io::ErrorKind::InvalidData, what);
        let len = frame_len(&start, MAX_ANSWER).map_err(|error| bad(error.to_string()))?;
        let len = len.ok_or_else(|| bad("half a header".to_owned()))?;
        let mut answer = Wiped::zeros(len);
        let (head, body) = answer.split_at_mut(HEADER);
        head.copy_from_slice(&start);
        self.stream.read_exact(body).await?;
        Ok(answer)
    }
}

//! One keep-alive connection over mutual TLS that knows just enough framing to find the end of
//! an answer.

use std::{sync::Arc, time::Duration};

use rustls::{ClientConfig, client::Resumption};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use transport::{Profile, TlsClient, TlsClientStream, TlsFiles, client_config};

const CONNECT: Duration = Duration::from_secs(10);
const ANSWER: Duration = Duration::from_secs(20);

/// How an answer's end is found.
#[derive(Clone, Copy, Debug)]
pub enum Framing {
    /// HTTP/1.1 with Content-Length.
    Http,
    /// KMIP TTLV: length in bytes 4 to 7.
    Kmip,
    /// A fixed number of bytes.
    Fixed(usize),
}

/// A server and the certificate to meet it with.
#[derive(Clone)]
pub struct Target {
    address: String,
    config: Arc<ClientConfig>,
    client: TlsClient,
    framing: Framing,
}

impl Target {
    pub fn new(address: &str, files: &TlsFiles, framing: Framing) -> Self {
        let config = client_config(files, Profile::Front).expect("client certificate");
        Self::with(address, config, framing)
    }

    fn with(address: &str, config: Arc<ClientConfig>, framing: Framing) -> Self {
        let client = TlsClient::new(address, None, config.clone()).expect("address");
        Self { address: address.to_owned(), config, client, framing }
    }

    /// The same, with a full handshake for each connection.
    pub fn without_resumption(&self) -> Self {
        let mut config = ClientConfig::clone(&self.config);
        config.resumption = Resumption::disabled();
        Self::with(&self.address, Arc::new(config), self.framing)
    }

    pub async fn connect(&self) -> Connection {
        self.try_connect().await.expect("the server answers")
    }

    /// A connection, if the server gives one.
    pub async fn try_connect(&self) -> Result<Connection, String> {
        let (stream, _) = self.client.connect(CONNECT).await.map_err(|e| e.to_string())?;
        Ok(Connection { stream, framing: self.framing, buffer: Vec::new(), taken: 0 })
    }

    pub async fn connect_many(&self, count: usize) -> Vec<Connection> {
        let mut connections = Vec::with_capacity(count);
        for _ in 0..count {
            connections.push(self.connect().await);
        }
        connections
    }
}

pub struct Connection {
    stream: TlsClientStream,
    framing: Framing,
    buffer: Vec<u8>,
    /// Bytes of the answer that was given last.
    taken: usize,
}

/// An answer, borrowed from the connection's buffer.
pub struct Answer<'a> {
    /// HTTP status; 0 for other framings.
    pub status: u16,
    pub body: &'a [u8],
}

impl Connection {
    /// Sends one request and reads its answer, both in time.
    pub async fn ask(&mut self, request: &[u8]) -> Result<Answer<'_>, String> {
        self.send(request).await?;
        self.receive().await
    }

    /// Sends a request, whether those before it are answered or not.
    pub async fn send(&mut self, request: &[u8]) -> Result<(), String> {
        let sent = async {
            self.stream.write_all(request).await?;
            self.stream.flush().await
        };
        in_time(sent).await?.map_err(|error| format!("write: {error}"))
    }

    /// Reads the next answer.
    pub async fn receive(&mut self) -> Result<Answer<'_>, String> {
        self.buffer.drain(..self.taken);
        self.taken = 0;
        let (status, start, end) = in_time(self.whole()).await??;
        self.taken = end;
        Ok(Answer { status, body: &self.buffer[start..end] })
    }

    async fn whole(&mut self) -> Result<(u16, usize, usize), String> {
        loop {
            if let Some(answer) = end_of(self.framing, &self.buffer)? {
                return Ok(answer);
            }
            let count = self.stream.read_buf(&mut self.buffer).await;
            if count.map_err(|error| format!("read: {error}"))? == 0 {
                return Err("the server closed the connection".to_owned());
            }
        }
    }
}

async fn in_time<T>(step: impl Future<Output = T>) -> Result<T, String> {
    tokio::time::timeout(ANSWER, step).await.map_err(|_| "no answer in time".to_owned())
}

/// Status, and where the body starts and ends, once all of it is there.
fn end_of(framing: Framing, bytes: &[u8]) -> Result<Option<(u16, usize, usize)>, String> {
    let whole = |start: usize, len: usize, status| {
        (bytes.len() >= start + len).then_some((status, start, start + len))
    };
    match framing {
        Framing::Fixed(len) => Ok(whole(0, len, 0)),
        Framing::Kmip => Ok(bytes.first_chunk::<8>().and_then(|head| {
            let len = u32::from_be_bytes([head[4], head[5], head[6], head[7]]) as usize;
            whole(0, 8 + len, 0)
        })),
        Framing::Http => {
            let Some(head) = bytes.windows(4).position(|w| w == b"\r\n\r\n") else {
                return Ok(None);
            };
            let text = std::str::from_utf8(&bytes[..head]).map_err(|e| e.to_string())?;
            let status = text.get(9..12).and_then(|code| code.parse().ok()).unwrap_or(0);
            let len = text
                .split("\r\n")
                .filter_map(|line| line.split_once(':'))
                .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
                .and_then(|(_, value)| value.trim().parse().ok())
                .ok_or("an answer without Content-Length")?;
            Ok(whole(head + 4, len, status))
        }
    }
}

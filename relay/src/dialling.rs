//! The end that dials: one connection after the other, over one classical channel or another.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use km_core::peer::Fingerprint;
use transport::{ConnectError, Shutdown, TlsClient};

use crate::{hop::link_key::Exported, peer::Peer};

const DIAL_WITHIN: Duration = Duration::from_secs(5);
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// Of a cluster of several KMs another one may answer at any moment.
const LONGEST_PAUSE_OF_MANY: Duration = Duration::from_millis(400);
/// Where a connection that ended lasted so long, another channel is tried at once.
const LASTED: Duration = Duration::from_secs(1);

/// Keeps the link to `peer` up until `shutdown`.
pub(crate) async fn keep_up(peer: Arc<Peer>, tls: Arc<rustls::ClientConfig>, shutdown: Shutdown) {
    let mut pause = FIRST_PAUSE;
    let longest = match peer.config.addresses.len() {
        0 | 1 => LONGEST_PAUSE,
        _ => LONGEST_PAUSE_OF_MANY,
    };
    while !shutdown.is_requested() {
        let channel = peer.channels.current();
        let (mut was_up, began) = (false, Instant::now());
        match dial(&peer, channel, &tls).await {
            Ok((stream, shown)) => {
                peer.channels.works(channel);
                // A peer that takes the connection and refuses us is not asked ten times a second.
                let exported = Exported::of(stream.get_ref().1, true);
                was_up = peer.serve(stream, (shown, exported), &shutdown).await;
                if was_up {
                    pause = FIRST_PAUSE;
                }
            }
            Err(error) => {
                tracing::info!(peer = %peer.config.cluster, channel, %error, "cannot dial");
                if error.shows_tampering() {
                    peer.tampered("who answers at the peer's address is not the peer");
                }
            }
        }
        // A connection that ended says nothing good of its channel: the other is tried, at once unless
        // they all end soon.
        if !shutdown.is_requested() && peer.channels.failed(channel) && was_up {
            let (peer, next) = (&peer.config.cluster, peer.channels.current());
            tracing::warn!(%peer, from = channel, to = next, alarm = "channel-changed",
                "another classical channel takes over");
            if began.elapsed() >= LASTED {
                continue;
            }
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = shutdown.requested() => return,
        }
        pause = (pause * 2).min(longest);
    }
}

#[derive(Debug, thiserror::Error)]
enum DialError {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error("no `address` is configured for this peer, and this KM is the one to dial")]
    NoAddress,
    #[error("the certificate at {0} is not the one configured as `identity` of this peer")]
    WrongIdentity(String),
    #[error("who answers at {0} was taken out of its cluster")]
    TakenOut(String),
}

impl DialError {
    /// Somebody answered who could not prove to be the peer. What is only silent or closed may be a
    /// peer that is starting.
    fn shows_tampering(&self) -> bool {
        match self {
            Self::WrongIdentity(_) => true,
            Self::Connect(ConnectError::Tls { source, .. }) => altered(source),
            Self::Connect(_) | Self::NoAddress | Self::TakenOut(_) => false,
        }
    }
}

/// Whether TLS says that what it read was not made by the peer: nothing it answered itself, no
/// certificate out of its time, and no other version or setting.
pub(crate) fn altered(error: &std::io::Error) -> bool {
    use rustls::CertificateError::{Expired, ExpiredContext, NotValidYet, NotValidYetContext};
    use rustls::Error::{AlertReceived, InvalidCertificate, PeerIncompatible};
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    inner.is_some_and(|error| match error {
        AlertReceived(_) | PeerIncompatible(_) => false,
        InvalidCertificate(why) => !matches!(
            why,
            Expired | ExpiredContext { .. } | NotValidYet | NotValidYetContext { .. }
        ),
        _ => true,
    })
}

async fn dial(
    peer: &Peer,
    channel: usize,
    tls: &Arc<rustls::ClientConfig>,
) -> Result<(transport::TlsClientStream, Fingerprint), DialError> {
    let address = peer.config.addresses.get(channel).ok_or(DialError::NoAddress)?;
    let client = TlsClient::new(address, None, tls.clone())?;
    let (stream, identity) = client.connect(DIAL_WITHIN).await?;
    if !identity.matches(&peer.config.identity) {
        return Err(DialError::WrongIdentity(address.clone()));
    }
    match peer.pool.is_barred(identity.sha256()) {
        true => Err(DialError::TakenOut(address.clone())),
        false => Ok((stream, *identity.sha256())),
    }
}

//! The tasks beside a connection that use ML-KEM, in the token where it has it. Each reports to the
//! connection when it is through; an exchange that fails is begun anew by the session.

use std::sync::{Arc, Mutex, PoisonError};

use km_core::usage::kem::{Encapsulated, KemPair, KemSet};
use tokio::sync::mpsc::UnboundedSender;

use crate::{peer::Peer, session::Event, work::Done};

/// The pair of the exchange under way, for whoever opens the answer.
pub(crate) type Pair = Arc<Mutex<Option<(u64, KemPair)>>>;

/// Takes the pair out that `which` says.
fn take(pair: &Pair, which: impl FnOnce(u64) -> bool) -> Option<KemPair> {
    let mut held = pair.lock().unwrap_or_else(PoisonError::into_inner);
    held.take_if(|(id, _)| which(*id)).map(|(_, made)| made)
}

/// Keeps the newer pair; the other one is to be destroyed.
fn keep(pair: &Pair, id: u64, made: KemPair) -> Option<KemPair> {
    let mut held = pair.lock().unwrap_or_else(PoisonError::into_inner);
    if held.as_ref().is_some_and(|(newer, _)| *newer > id) {
        return Some(made);
    }
    held.replace((id, made)).map(|(_, old)| old)
}

/// Destroys the pair of an exchange that will not be answered any more.
pub(crate) async fn forget(peer: &Peer, pair: &Pair) {
    if let Some(made) = take(pair, |_| true) {
        peer.pool.vault().kem_forget(made).await;
    }
}

/// Makes a pair.
pub(crate) async fn make(
    peer: Arc<Peer>,
    pair: Pair,
    done: UnboundedSender<Done>,
    id: u64,
    set: KemSet,
) {
    match peer.pool.vault().kem_key_pair(set).await {
        Ok(made) => {
            let public = made.public.clone();
            if let Some(old) = keep(&pair, id, made) {
                peer.pool.vault().kem_forget(old).await;
            }
            let _ = done.send(Done::Event(Event::KemMade { id, public }));
        }
        Err(error) => failed(&peer, &error),
    }
}

/// Makes a secret for the other end's key.
pub(crate) async fn seal(
    peer: Arc<Peer>,
    done: UnboundedSender<Done>,
    id: u64,
    set: KemSet,
    public: Vec<u8>,
) {
    match peer.pool.vault().kem_encapsulate(set, &public).await {
        Ok(Encapsulated { ciphertext, secret, custody }) => {
            let sealed = Event::KemSealed { id, public, ciphertext, secret, custody };
            let _ = done.send(Done::Event(sealed));
        }
        Err(error) => failed(&peer, &error),
    }
}

/// Opens the answer; the pair is destroyed.
pub(crate) async fn open(
    peer: Arc<Peer>,
    pair: Pair,
    done: UnboundedSender<Done>,
    id: u64,
    ciphertext: Vec<u8>,
) {
    let Some(made) = take(&pair, |of| of == id) else { return };
    let opened = peer.pool.vault().kem_decapsulate(&made, &ciphertext).await;
    let custody = made.custody();
    peer.pool.vault().kem_forget(made).await;
    match opened {
        Ok(secret) => drop(done.send(Done::Event(Event::KemOpened { id, secret, custody }))),
        Err(error) => failed(&peer, &error),
    }
}

fn failed(peer: &Peer, error: &dyn std::fmt::Display) {
    tracing::error!(peer = %peer.config.cluster, %error, alarm = "ml-kem",
        "no ML-KEM exchange with the peer; it is tried again");
}

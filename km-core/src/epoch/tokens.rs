//! The tokens of this KM as KEKs come to them: how each takes those of others, and what waits for it in the
//! store. Enter through [`Epochs::take_waiting`].
//!
//! A KEK that this KM made waits in the store for its own other tokens as well, from the commit of its epoch on: it
//! can be wrapped only while it is made, so what the process alone knew would be lost with it. One whose epoch
//! was not committed is passed over when a token lacks it.

use std::{
    sync::atomic::Ordering::Relaxed,
    time::{Duration, Instant},
};

use super::{
    EpochError, Epochs,
    receivers::{
        check_tokens, keep_places, km, parcel_key, place, put_receiver, receive, receivers, waiting,
    },
};
use crate::hsm::{HsmError, KekInfo, KekReceiver};

/// How long after a token was away it is asked again how it takes KEKs.
const AGAIN: Duration = Duration::from_secs(10);

/// How the tokens of this KM take KEKs: those that take any.
#[derive(Default)]
pub(super) struct Own {
    /// By the names of the tokens; `None` of one that was away.
    tokens: Vec<(String, Option<KekReceiver>)>,
    asked: Option<Instant>,
}

impl Own {
    fn is_due(&self) -> bool {
        let away = self.tokens.iter().any(|(_, receiver)| receiver.is_none());
        self.asked.is_none_or(|asked| away && asked.elapsed() >= AGAIN)
    }

    /// What was known of a token that is away stays.
    fn learn(&mut self, told: Vec<(String, Option<KekReceiver>)>) {
        let before = std::mem::replace(&mut self.tokens, told);
        for (token, receiver) in self.tokens.iter_mut().filter(|(_, receiver)| receiver.is_none()) {
            let known = before.iter().find(|(name, _)| name == token);
            *receiver = known.and_then(|(_, receiver)| receiver.clone());
        }
        self.asked = Some(Instant::now());
    }

    fn known(&self) -> impl Iterator<Item = (&str, &KekReceiver)> {
        self.tokens.iter().filter_map(|(token, at)| Some((token.as_str(), at.as_ref()?)))
    }
}

impl Epochs {
    /// Tells the others how the tokens of this KM take KEKs; whether any does.
    pub(super) async fn register(&self) -> Result<bool, EpochError> {
        let Some(share) = &self.share else { return Ok(false) };
        if share.own.lock().await.is_due() {
            // Nobody waits for a token that takes its time.
            let told = match self.hsm.kek_receivers().await {
                Ok(told) => told,
                Err(HsmError::Unsupported(why)) => {
                    tracing::warn!(%why, "this key manager takes no KEK of another");
                    Vec::new()
                }
                Err(error) => return Err(error.into()),
            };
            share.own.lock().await.learn(told);
            keep_places(&self.records, &share.me, &self.hsm.tokens()).await?;
        }
        let own = share.own.lock().await;
        check_tokens(own.known())?;
        for (token, receiver) in own.known() {
            put_receiver(&self.records, &place(&share.me, token), receiver).await?;
        }
        Ok(own.known().next().is_some())
    }

    /// The tokens of other KMs, each with its place.
    pub(super) async fn others(&self) -> Result<Vec<(String, KekReceiver)>, EpochError> {
        let Some(share) = &self.share else { return Ok(Vec::new()) };
        let own = share.own.lock().await;
        let mut others = receivers(&self.records).await?;
        others.retain(|(place, at)| km(place) != share.me && own.known().all(|(_, own)| own != at));
        Ok(others)
    }

    /// The KM that tokens are of here; of a store of its own it has no name.
    fn me(&self) -> &str {
        self.share.as_ref().map_or("", |share| &share.me)
    }

    /// Takes what waits for the tokens of this KM.
    pub(super) async fn take_waiting(&self) -> Result<bool, EpochError> {
        Ok(receive(self.hsm.as_ref(), &self.records, self.me()).await? > 0)
    }

    /// The same where no other KM brings anything, so only while something may wait; it is tried again at the
    /// next call.
    pub(super) async fn take_own(&self) {
        if self.share.is_some() || !self.waits.load(Relaxed) {
            return;
        }
        let _changing = self.changing.lock().await;
        let left = async {
            self.take_waiting().await?;
            Ok::<_, EpochError>(waiting(&self.records, self.me()).await?.len())
        };
        match left.await {
            Ok(0) => self.waits.store(false, Relaxed),
            Ok(left) => tracing::debug!(left, "KEKs wait for a token"),
            Err(error) => tracing::warn!(%error, "the KEKs that wait for a token were not taken"),
        }
    }

    /// Records of `kek` for the tokens of this KM that are to take it.
    pub(super) fn untaken(&self, kek: &KekInfo) -> Vec<(Vec<u8>, Vec<u8>)> {
        let mut puts = Vec::new();
        for (token, parcel) in self.hsm.keks_waiting() {
            if parcel.number == kek.number {
                let key = parcel_key(&place(self.me(), &token), parcel.number);
                let value = self.records.encode(&key, &parcel);
                puts.push((key, value));
                self.waits.store(true, Relaxed);
            }
        }
        puts
    }
}

//! New KEKs with several tokens: the one that makes them wraps them for each of the others, which takes
//! them, unless the HSM has brought them there by its own means. Enter through
//! [`Members::create_kek_for`].

use std::collections::BTreeMap;
use std::sync::{MutexGuard, PoisonError};
use std::time::Instant;

use km_core::hsm::{HsmError, KekInfo, KekParcel, KekReceiver};
use tracing::{error, info};

use super::Members;
use crate::config::TokenConfig;
use crate::parcels;
use crate::profile::Profile;
use crate::request::{Request, Response};

/// Tokens of one configuration open what the others sealed, and take their KEKs.
pub(super) fn check_alike(config: &TokenConfig) -> Result<(), HsmError> {
    let first = Profile::load(&config.profile)?;
    for (name, member) in config.members() {
        let profile = Profile::load(&member.profile)?;
        if profile.seal.usage() != first.seal.usage() {
            return Err(HsmError::Setup(format!(
                "HSM configuration: the KEK of the profile {} is to {}, that of {} for the token \
                 {name:?} to {}: tokens that share KEKs need profiles that seal alike",
                first.name,
                first.seal.usage(),
                profile.name,
                profile.seal.usage()
            )));
        }
    }
    Ok(())
}

/// Of several tokens, those whose profile takes no KEK of another, and why: a new KEK comes into them by
/// the HSM's own means only.
///
/// # Errors
/// [`HsmError::Setup`] when a profile cannot be read.
pub fn take_no_keks(config: &TokenConfig) -> Result<Vec<(String, String)>, HsmError> {
    let mut none = Vec::new();
    for (name, member) in config.members().into_iter().filter(|_| !config.member.is_empty()) {
        if let Err(error) = parcels::check(&Profile::load(&member.profile)?) {
            none.push((name, error.to_string()));
        }
    }
    Ok(none)
}

impl Members {
    /// Makes the keys of a new epoch, of a number not below `from`, in one token, and has the others take
    /// them; wrapped for `receivers` as well. Only while all tokens work that take KEKs at all: one that
    /// is away would lack them for good.
    pub(crate) async fn create_kek_for(
        &self,
        from: u64,
        receivers: &[KekReceiver],
    ) -> Result<(KekInfo, Vec<KekParcel>), HsmError> {
        let usable = self.all.iter().position(|member| member.usable(None).is_some());
        let maker = usable.ok_or_else(|| HsmError::Unavailable(self.troubles()))?;
        let takers = self.takers(maker).await?;
        let theirs = takers.iter().filter_map(|(_, receiver)| receiver.clone());
        let all: Vec<KekReceiver> = receivers.iter().cloned().chain(theirs).collect();
        let request = match all.is_empty() && from == 0 {
            true => Request::CreateKek,
            false => Request::CreateKekFor { from, receivers: all },
        };
        let made = self.ask_one(maker, &request, Instant::now() + self.deadline).await?;
        let (kek, mut parcels) = match request {
            Request::CreateKek => (made.kek()?, Vec::new()),
            _ => made.kek_made()?,
        };
        let mut for_takers = parcels.split_off(receivers.len().min(parcels.len())).into_iter();
        for (n, receiver) in takers {
            let parcel = receiver.and_then(|_| for_takers.next());
            self.bring(n, &kek, parcel).await;
        }
        Ok((kek, parcels))
    }

    /// The other tokens, each with how it takes KEKs; none where it takes none.
    async fn takers(&self, maker: usize) -> Result<Vec<(usize, Option<KekReceiver>)>, HsmError> {
        let mut takers = Vec::new();
        for (n, member) in self.all.iter().enumerate().filter(|(n, _)| *n != maker) {
            let works = member.usable(None).is_some() || member.lacks_current();
            let answer = match member.check_takes_keks() {
                Err(none) => Err(none),
                Ok(()) if !works => Err(HsmError::Unavailable(member.status().status.detail)),
                Ok(()) => {
                    let until = Instant::now() + self.deadline;
                    self.ask_one(n, &Request::KekReceiver, until).await
                }
            };
            match answer.and_then(Response::receiver) {
                Ok(receiver) => takers.push((n, Some(receiver))),
                Err(HsmError::Unsupported(why)) => {
                    info!(token = member.name, why, "it takes no KEK of another token");
                    takers.push((n, None));
                }
                Err(error) => {
                    return Err(HsmError::Unavailable(format!(
                        "a new KEK is made only while every token can take it, and {} cannot \
                         ({error}): try again when all work, or take it out of hsm.member",
                        member.name
                    )));
                }
            }
        }
        Ok(takers)
    }

    /// Sees to it that a token holds the KEK that was just made.
    async fn bring(&self, n: usize, kek: &KekInfo, parcel: Option<KekParcel>) {
        let Some(member) = self.all.get(n) else { return };
        let looked = Instant::now() + self.deadline;
        let keks = self.ask_one(n, &Request::Keks, looked).await.and_then(Response::keks);
        if keks.is_ok_and(|keks| keks.contains(kek)) {
            return;
        }
        let Some(parcel) = parcel else {
            error!(token = member.name, kek = %kek.id.0, alarm = "kek-not-shared",
                "it does not show the new KEK: unless its HSM brings it there by itself, copy it");
            return;
        };
        self.waiting().insert(n, parcel);
        self.bring_waiting(n).await;
    }

    /// Has a token take what waits for it. What fails is tried again at the next probe.
    pub(super) async fn bring_waiting(&self, n: usize) {
        let (Some(member), Some(parcel)) = (self.all.get(n), self.waiting().get(&n).cloned())
        else {
            return;
        };
        let request = Request::TakeKek { parcel: parcel.clone() };
        match self.ask_one(n, &request, Instant::now() + self.deadline).await {
            Ok(_) => {
                let mut waiting = self.waiting();
                if waiting.get(&n) == Some(&parcel) {
                    waiting.remove(&n);
                }
            }
            Err(error) => {
                error!(token = member.name, number = parcel.number, %error, alarm = "kek-not-shared",
                    "it did not take the new KEK; it is tried again, until this KM ends");
            }
        }
    }

    fn waiting(&self) -> MutexGuard<'_, BTreeMap<usize, KekParcel>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

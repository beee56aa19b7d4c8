//! New KEKs with several tokens: the one that makes them wraps them for each of the others, which takes
//! them, unless the HSM has brought them there by its own means. Enter through
//! [`Members::create_kek_for`].

use std::collections::BTreeMap;
use std::sync::{MutexGuard, PoisonError};
use std::time::Instant;

use km_core::hsm::{HsmError, KekInfo, KekParcel, KekReceiver};
use km_core::material::ClearBytes;
use tracing::{error, info, warn};

use super::Members;
use crate::config::TokenConfig;
use crate::parcels;
use crate::profile::Profile;
use crate::request::Request;
use crate::response::Response;

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
    /// Makes the keys of a new epoch, of a number not below `from`, in one token; wrapped for `receivers` as
    /// well. What the other tokens are to take waits for [`Members::bring_kek`]. Only while all tokens work
    /// that take KEKs at all: one that is away would lack them for good.
    pub(crate) async fn create_kek_for(
        &self,
        from: u64,
        receivers: &[KekReceiver],
        seed: &ClearBytes,
    ) -> Result<(KekInfo, Vec<KekParcel>), HsmError> {
        let usable = self.all.iter().position(|member| member.usable(None).is_some());
        let maker = usable.ok_or_else(|| HsmError::Unavailable(self.troubles()))?;
        let takers = self.takers(maker).await?;
        let theirs = takers.iter().filter_map(|(_, receiver)| receiver.clone());
        let all: Vec<KekReceiver> = receivers.iter().cloned().chain(theirs).collect();
        let alone = receivers.is_empty() && from == 0;
        let (kek, mut parcels) = match self.make_kek(maker, from, all, seed).await {
            // Its tokens may come to it by the HSM's own means, as they did before.
            Err(HsmError::Unsupported(why)) if alone => {
                warn!(why, "a new KEK is made for one token alone");
                self.make_kek(maker, from, Vec::new(), seed).await?
            }
            made => made?,
        };
        // Kept before anything else is waited for: no parcel can be made again.
        let mut for_takers = parcels.split_off(receivers.len().min(parcels.len())).into_iter();
        for (n, receiver) in &takers {
            if let Some(parcel) = receiver.as_ref().and_then(|_| for_takers.next()) {
                self.waiting().insert((*n, parcel.number), Parcel { parcel, told: false });
            }
        }
        Ok((kek, parcels))
    }

    /// Has the other tokens take a KEK that was made in one; none of them knows of it before.
    pub(crate) async fn bring_kek(&self, kek: &KekInfo) {
        for n in 0..self.all.len() {
            self.bring(n, kek).await;
        }
    }

    /// How each token takes KEKs that another KM made; see [`Hsm::kek_receivers`](km_core::hsm::Hsm).
    pub(crate) async fn kek_receivers(
        &self,
    ) -> Result<Vec<(String, Option<KekReceiver>)>, HsmError> {
        let mut all = Vec::new();
        for (n, member) in self.all.iter().enumerate() {
            let until = Instant::now() + self.deadline;
            let answer = match member.check_takes_keks() {
                Err(none) => Err(none),
                Ok(()) => self.ask_one(n, &Request::KekReceiver, until).await,
            };
            match answer.and_then(Response::receiver) {
                Ok(receiver) => all.push((self.name_of(n), Some(receiver))),
                Err(HsmError::Unsupported(why)) => {
                    info!(token = member.name, why, "it takes no KEK of another token");
                }
                Err(HsmError::Unavailable(why)) => {
                    info!(token = member.name, why, "it is asked later how it takes KEKs");
                    all.push((self.name_of(n), None));
                }
                Err(error) => return Err(error),
            }
        }
        Ok(all)
    }

    /// Takes a KEK that another KM made, in the token of this name.
    pub(crate) async fn take_kek_in(
        &self,
        token: &str,
        parcel: &KekParcel,
    ) -> Result<KekInfo, HsmError> {
        let unknown =
            || HsmError::Unsupported(format!("a KEK waits for {token:?}, which is no token here"));
        let n = (0..self.all.len()).find(|n| self.name_of(*n) == token).ok_or_else(unknown)?;
        let request = Request::TakeKek { parcel: parcel.clone() };
        self.ask_one(n, &request, Instant::now() + self.deadline).await?.kek()
    }

    /// The names of all tokens, as [`Members::take_kek_in`] knows them.
    pub(crate) fn names_of_all(&self) -> Vec<String> {
        (0..self.all.len()).map(|n| self.name_of(n)).collect()
    }

    /// The KEKs that any token holds, of those that answer.
    pub(crate) async fn keks_anywhere(&self) -> Result<Vec<KekInfo>, HsmError> {
        let (mut all, mut failed) = (None, None);
        for answer in self.ask_each(&Request::Keks).await {
            match answer.and_then(Response::keks) {
                Ok(keks) => all.get_or_insert_with(Vec::new).extend(keks),
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        let away = || failed.unwrap_or_else(|| HsmError::Unavailable(self.troubles()));
        let mut all: Vec<KekInfo> = all.ok_or_else(away)?;
        all.sort_by(|one, other| (one.number, &one.id.0).cmp(&(other.number, &other.id.0)));
        all.dedup();
        Ok(all)
    }

    /// Whether a token that takes KEKs answers and lacks this one.
    pub(crate) async fn lacks_kek(&self, kek: &KekInfo) -> bool {
        let answers = self.ask_each(&Request::Keks).await;
        self.all.iter().zip(answers).any(|(member, answer)| {
            let lacks = answer.and_then(Response::keks).is_ok_and(|keks| !keks.contains(kek));
            lacks && member.check_takes_keks().is_ok()
        })
    }

    /// By what other KMs know a token: the first one has no name, whatever else there is.
    fn name_of(&self, n: usize) -> String {
        match self.all.get(n) {
            Some(member) if n > 0 => member.name.clone(),
            _ => String::new(),
        }
    }

    /// Destroys a KEK in every token; none takes it afterwards. Not while one is away: whoever asks a token
    /// that has destroyed it could not tell that another holds it still.
    pub(crate) async fn destroy_kek(&self, kek: &KekInfo) -> Result<(), HsmError> {
        // One whose worker lives may be away all the same.
        if let Some(away) = self.all.iter().find(|member| !member.answers()) {
            return Err(HsmError::Unavailable(format!(
                "no token destroys it, as {} is away ({}): try again when all work",
                away.name,
                away.status().status.detail
            )));
        }
        self.waiting().retain(|(_, number), _| *number != kek.number);
        self.ask(Request::DestroyKek { kek: kek.clone() }).await?.done()
    }

    /// What tokens did not take when it was made.
    pub(crate) fn keks_waiting(&self) -> Vec<(String, KekParcel)> {
        let waiting = self.waiting();
        waiting.iter().map(|((n, _), one)| (self.name_of(*n), one.parcel.clone())).collect()
    }

    async fn make_kek(
        &self,
        maker: usize,
        from: u64,
        receivers: Vec<KekReceiver>,
        seed: &ClearBytes,
    ) -> Result<(KekInfo, Vec<KekParcel>), HsmError> {
        let until = Instant::now() + self.deadline;
        if receivers.is_empty() && from == 0 {
            let made = self.ask_one(maker, &Request::CreateKek, until).await?;
            return Ok((made.kek()?, Vec::new()));
        }
        let request =
            Request::CreateKekFor { from, receivers, seed: seed.expose(ClearBytes::copy_from) };
        self.ask_one(maker, &request, until).await?.kek_made()
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

    /// Sees to it that a token holds the KEK that was made.
    async fn bring(&self, n: usize, kek: &KekInfo) {
        let Some(member) = self.all.get(n) else { return };
        let looked = Instant::now() + self.deadline;
        let keks = self.ask_one(n, &Request::Keks, looked).await.and_then(Response::keks);
        if keks.is_ok_and(|keks| keks.contains(kek)) {
            self.waiting().remove(&(n, kek.number));
            return;
        }
        if !self.waiting().contains_key(&(n, kek.number)) {
            error!(token = member.name, kek = %kek.id.0, alarm = "kek-not-shared",
                "it does not show the new KEK: unless its HSM brings it there by itself, copy it");
        }
        self.bring_waiting(n).await;
    }

    /// Has a token take what waits for it, the oldest first. What fails is tried again at the next probe.
    pub(super) async fn bring_waiting(&self, n: usize) {
        let Some(member) = self.all.get(n) else { return };
        let of_token = (n, 0)..=(n, u64::MAX);
        let places: Vec<(usize, u64)> =
            self.waiting().range(of_token).map(|(place, _)| *place).collect();
        for place in places {
            // Its KEK may have been destroyed while another was brought.
            let parcel = self.waiting().get(&place).map(|one| one.parcel.clone());
            let Some(parcel) = parcel else { continue };
            let request = Request::TakeKek { parcel };
            match self.ask_one(n, &request, Instant::now() + self.deadline).await {
                Ok(_) => drop(self.waiting().remove(&place)),
                Err(error) => {
                    let mut waiting = self.waiting();
                    let Some(one) = waiting.get_mut(&place).filter(|one| !one.told) else { return };
                    one.told = true;
                    error!(token = member.name, number = place.1, %error, alarm = "kek-not-shared",
                        "it did not take the new KEK; it is tried again");
                    return;
                }
            }
        }
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// KEKs that tokens did not take when they were made, by token and number.
pub(super) type Waiting = BTreeMap<(usize, u64), Parcel>;

/// One of them.
pub(super) struct Parcel {
    parcel: KekParcel,
    /// An alarm told of it.
    told: bool,
}

//! The KEKs of the token, and their changes. Enter through [`Link::create_kek`].

use std::sync::PoisonError;

use cryptoki::session::Session;
use km_core::hsm::{HsmError, KekId, KekInfo, KekParcel, KekReceiver};
use km_core::material::ClearBytes;
use tracing::info;

use super::{Link, State};
use crate::kek::{self, KEK_ID_BYTES, KekSet, SealCounts};
use crate::lane::{Lane, OpError, check_login};
use crate::library::Held;
use crate::parcels::{self, Place};

impl Link {
    /// Makes a KEK, which becomes the current one. `begun`: the one an earlier try of the same request was
    /// to make. A token that answered it with an error may have made it all the same, and a second KEK of
    /// one number would end all sealing.
    pub(crate) fn create_kek(
        &self,
        lane: &Lane,
        begun: &mut Option<(u64, Vec<u8>)>,
    ) -> Result<KekInfo, OpError> {
        let info = |number, id: &[u8]| KekInfo { id: KekId(hex::encode(id)), number };
        let made = self.change_keks(lane, |session, keks| {
            if let Some((number, id)) = &begun
                && !kek::kept(session, id)?.is_empty()
            {
                return Ok(info(*number, id));
            }
            let prefix = &self.config.kek_label;
            // Another KM that shares the token may have made one since.
            let number = kek::free_number(session, prefix, keks.next_number())?;
            kek::ensure_wrapping(session, prefix, number, &self.profile)?;
            let (_, id) = begun.insert((number, session.generate_random_vec(KEK_ID_BYTES)?));
            kek::generate(session, prefix, (number, id), &self.profile)?;
            Ok(info(number, id))
        })?;
        info!(kek = %made.id.0, number = made.number, "KEK created");
        Ok(made)
    }

    /// As [`Link::create_kek`], with a number not below `from`; the keys of the new epoch come wrapped for
    /// each receiver, with what is random of it made of the seed. `begun` names what the tries before may have
    /// left.
    pub(crate) fn create_kek_for(
        &self,
        lane: &Lane,
        from: u64,
        (receivers, seed): (&[KekReceiver], &ClearBytes),
        begun: &mut Vec<Vec<u8>>,
    ) -> Result<(KekInfo, Vec<KekParcel>), OpError> {
        let made = self.change_keks(lane, |session, keks| {
            parcels::take_back(session, begun)?;
            let (number, prefix) = (keks.next_number().max(from), &self.config.kek_label);
            parcels::give(session, &self.profile, (prefix, number), (receivers, seed), begun)
        })?;
        let (kek, count) = (&made.0, receivers.len());
        info!(kek = %kek.id.0, number = kek.number, receivers = count, "KEK created");
        Ok(made)
    }

    /// What other tokens need to wrap a KEK for this one.
    pub(crate) fn kek_receiver(&self, lane: &Lane) -> Result<KekReceiver, OpError> {
        lane.connection.anchored(|session| self.place(session).receiver().map_err(OpError::Answer))
    }

    /// Takes the keys of an epoch that another token made.
    pub(crate) fn take_kek(&self, lane: &Lane, parcel: &KekParcel) -> Result<KekInfo, OpError> {
        let taken = self.change_keks(lane, |session, _| {
            self.place(session).take(parcel).map_err(OpError::Answer)
        })?;
        info!(kek = %taken.id.0, number = taken.number, "KEK of another token taken");
        Ok(taken)
    }

    fn place<'a>(&'a self, session: &'a Session) -> Place<'a> {
        Place { session, profile: &self.profile, prefix: &self.config.kek_label }
    }

    /// Destroys a KEK with its copies, unless it is the one that seals.
    pub(crate) fn destroy_kek(&self, lane: &Lane, kek: &KekInfo) -> Result<(), OpError> {
        self.change_keks(lane, |session, keks| {
            if keks.current().is_some_and(|current| current.id == kek.id) {
                return Err(OpError::Answer(HsmError::Unsupported(format!(
                    "KEK {} seals new data: make a newer one first",
                    kek.id.0
                ))));
            }
            kek::destroy(session, &self.config.kek_label, kek)
        })?;
        info!(kek = %kek.id.0, number = kek.number, "KEK destroyed");
        Ok(())
    }

    /// Changes the keys in the token and publishes what it then holds.
    fn change_keks<T>(
        &self,
        lane: &Lane,
        change: impl FnOnce(&Session, &KekSet) -> Result<T, OpError>,
    ) -> Result<T, OpError> {
        let connection = &lane.connection;
        let mut state = self.lock();
        let (keks, done);
        {
            // The anchor lasts as long as the login, and copies of KEKs as long as their session.
            let anchor = connection.anchor.lock().unwrap_or_else(PoisonError::into_inner);
            let session = anchor.get()?;
            // Not those of the lane: another thread may have changed them since.
            let known = state.connection.as_ref().map_or(&connection.keks, |now| &now.keks);
            done = change(session, known)?;
            // Asked again it would be done twice.
            keks = self.find_keks(session, &mut state.counts).map_err(|error| match error {
                OpError::Token(error) => {
                    OpError::Close(self.explain("the token does not list its keys", &error))
                }
                told => told,
            })?;
        }
        self.publish(&mut state, |generation| connection.with(generation, keks));
        Ok(done)
    }

    /// Looks for KEKs once more: another KM, or another token of a cluster, may have made one. Those that
    /// are there now.
    pub(crate) fn find_again(&self, lane: &Lane) -> Result<Vec<KekInfo>, OpError> {
        let connection = &lane.connection;
        let mut state = self.lock();
        let keks = {
            let anchor = connection.anchor.lock().unwrap_or_else(PoisonError::into_inner);
            self.find_keks(anchor.get()?, &mut state.counts)?
        };
        let list = keks.list();
        if list != connection.keks.list() {
            info!("the token holds other KEKs than before");
            self.publish(&mut state, |generation| connection.with(generation, keks));
        }
        Ok(list)
    }

    /// The KEKs of a token that was just logged in to; the first is made here when it has none.
    pub(super) fn keks(&self, anchor: &Held, state: &mut State) -> Result<KekSet, HsmError> {
        let prefix = &self.config.kek_label;
        let session = anchor.get().map_err(|e| self.explain("the anchor session", &e))?;
        let told = |what: &str, error: OpError| match error {
            OpError::Token(error) => self.explain(what, &error),
            OpError::Answer(error) | OpError::Close(error) => error,
        };
        let find = |counts: &mut SealCounts| {
            self.find_keks(session, counts).map_err(|e| told("the token does not list its keys", e))
        };
        let wraps = |number: u64| {
            let what = "the token does not make the key that wraps keys of applications; correct \
                        [[wrap]] and [keys] in a copy of the profile, or leave [[wrap]] out";
            kek::ensure_wrapping(session, prefix, number, &self.profile).map_err(|e| told(what, e))
        };
        let keks = find(&mut state.counts)?;
        let is_first = self.current_kek().0.is_empty();
        if let Some(current) = keks.current() {
            // What was there once and is gone is for the operator to restore.
            if is_first {
                wraps(current.number)?;
            }
            return Ok(keks);
        }
        if !self.config.create_kek || !is_first {
            return Err(HsmError::Setup(format!(
                "the token with {} holds no KEK labelled {prefix:?} and a number that may {}, as \
                 the profile {} seals: restore it from the HSM's backup, or set hsm.create_kek = \
                 true for a new KM that has no data yet, or for one whose profile was changed",
                self.config.token,
                self.profile.seal.usage(),
                self.profile.name
            )));
        }
        wraps(keks.next_number())?;
        let number = keks.next_number();
        // Done or not, after an error the next connection looks first.
        let made = session.generate_random_vec(KEK_ID_BYTES).and_then(|id| {
            kek::generate(session, prefix, (number, &id), &self.profile).map(|()| id)
        });
        let id = made.map_err(|e| self.explain("the token does not generate a KEK", &e))?;
        info!(kek = hex::encode(id), number, "first KEK created");
        find(&mut state.counts)
    }

    pub(super) fn find_keks(
        &self,
        session: &Session,
        counts: &mut SealCounts,
    ) -> Result<KekSet, OpError> {
        let found = KekSet::find(session, &self.config.kek_label, &self.profile.seal, counts);
        // Logged out, it sees none.
        check_login(session, &self.profile)?;
        found
    }
}

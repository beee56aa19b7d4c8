//! Managed objects under a new KEK.

use super::{OBJECT, Object, ObjectError, Objects, guarded, object_key};
use crate::{
    epoch::Moved,
    hsm::KekId,
    store::{Commit, Outcome, Record, Version},
    vault::{Kind, SealedObject},
};

impl Objects {
    /// Where the objects are in the store.
    pub(crate) const PREFIX: &'static [u8] = OBJECT;

    /// Seals one object anew when its KEK is one of `retiring`, in one commit and only if nobody
    /// changes it meanwhile. Gives that KEK and what became of it.
    pub(crate) async fn reseal(
        &self,
        record: &Record,
        retiring: impl Fn(&KekId) -> bool,
    ) -> Result<Option<(KekId, Moved)>, ObjectError> {
        let object: Object = self.records.decode(&record.key, &record.value)?;
        let under = |sealed: &SealedObject| sealed.kek().cloned().filter(|kek| retiring(kek));
        let Some((old, kek)) = object.sealed.as_ref().and_then(|old| Some((old, under(old)?)))
        else {
            return Ok(None);
        };
        let (uid, owner) = (&object.uid, object.owner.as_str());
        let sealed = match self.vault.reseal_object(uid, owner, old).await {
            Ok(sealed) => sealed,
            Err(error) => {
                let moved = Moved::failed(&self.vault, Kind::Object, uid, error)?;
                return Ok(Some((kek, moved)));
            }
        };
        let key = object_key(uid, &object.owner);
        let new = Object { sealed: Some(sealed), ..object };
        let value = self.records.encode(&key, &new);
        let commit = Commit::new().unchanged(key.clone(), record.version).put(key, value);
        let moved = match self.commit(guarded(&new, commit)).await? {
            Outcome::Committed(_) => Moved::Done,
            Outcome::Conflict | Outcome::Unknown => Moved::Changed,
        };
        Ok(Some((kek, moved)))
    }

    /// What to write instead when `old` was only sealed anew since it was read.
    pub(super) async fn only_resealed(
        &self,
        old: &Object,
        new: &Object,
    ) -> Result<Option<(Object, Version, Object)>, ObjectError> {
        let (now, version) = self.get(&old.owner, &old.uid).await?;
        if (Object { sealed: old.sealed.clone(), ..now.clone() }) != *old {
            return Ok(None);
        }
        let kept = new.sealed == old.sealed;
        let sealed = if kept { now.sealed.clone() } else { new.sealed.clone() };
        Ok(Some((now, version, Object { sealed, ..new.clone() })))
    }
}

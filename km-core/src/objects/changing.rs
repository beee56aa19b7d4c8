//! Changes of objects that exist: written back where nobody else changed them meanwhile.

use super::{
    NewObject, Object, ObjectError, ObjectStep, Objects, guarded,
    object::{check_attributes, check_terms, object_key, sealing},
};
use crate::{
    ids::SaeId,
    material::ClearBytes,
    store::{Commit, Outcome, Version},
    vault::SealedObject,
};

impl Objects {
    /// Writes a changed object back if nobody else did since `version`; durable on return.
    /// Its identifier and owner must be as read.
    pub async fn update(
        &self,
        old: &Object,
        version: Version,
        new: &Object,
    ) -> Result<(), ObjectError> {
        let place = self.place_to_grow(old, new).await?;
        let done = self.change(old, version, new).await;
        self.settle(&done, vec![place]);
        done
    }

    /// As [`Objects::update`], whatever the quota.
    async fn change(
        &self,
        old: &Object,
        version: Version,
        new: &Object,
    ) -> Result<(), ObjectError> {
        check_attributes(&new.attributes)?;
        check_terms(&new.terms)?;
        match self.write(old, version, new).await {
            Err(ObjectError::Conflict(uid)) => match self.only_resealed(old, new).await? {
                Some((old, version, new)) => self.write(&old, version, &new).await?,
                None => return Err(ObjectError::Conflict(uid)),
            },
            done => done?,
        }
        self.discard_replaced(old, new).await;
        Ok(())
    }

    async fn write(&self, old: &Object, version: Version, new: &Object) -> Result<(), ObjectError> {
        let commit = self.rewrite(old, version, new);
        match self.commit(commit).await? {
            Outcome::Committed(_) => Ok(()),
            Outcome::Conflict => {
                self.unless_closed(&[new]).await?;
                Err(ObjectError::Conflict(new.uid.clone()))
            }
            Outcome::Unknown => Err(ObjectError::Unknown(new.uid.clone())),
        }
    }

    /// The commit that writes `new` in the place of `old`.
    fn rewrite(&self, old: &Object, version: Version, new: &Object) -> Commit {
        let key = object_key(&new.uid, &new.owner);
        let value = self.records.encode(&key, new);
        let mut commit = Commit::new().unchanged(key.clone(), version).put(key, value);
        let before: Vec<Vec<u8>> = old.index_keys().collect();
        let after: Vec<Vec<u8>> = new.index_keys().collect();
        for key in before.iter().filter(|key| !after.contains(key)) {
            commit = commit.delete(key.clone());
        }
        for key in after.iter().filter(|key| !before.contains(key)) {
            let value = self.records.encode(key, &());
            commit = commit.put(key.clone(), value);
        }
        guarded(new, commit)
    }

    /// Creates an object, whose bytes are sealed already, and writes back another that it takes
    /// something over from, in one commit; durable on return. `old` is as read at `version`, `changed` has its identifier and owner.
    pub async fn supersede(
        &self,
        new: NewObject,
        sealed: SealedObject,
        (old, version): (&Object, Version),
        changed: &Object,
    ) -> Result<Object, ObjectError> {
        let checked = new
            .check()
            .and_then(|()| check_attributes(&changed.attributes))
            .and_then(|()| check_terms(&changed.terms));
        let place = match checked {
            Ok(()) => self.place_for(&new, sealed.stored_len()).await,
            Err(refused) => Err(refused),
        };
        let (object, puts) = self.record(new, sealed);
        let mut commit = self.rewrite(old, version, changed);
        commit = guarded(&object, commit.absent(object_key(&object.uid, &object.owner)));
        commit.puts.extend(puts.into_iter().filter_map(|(key, value)| Some((key, value?))));
        let done = match place {
            Ok(place) => {
                let mut done = self.commit(commit).await.and_then(|outcome| match outcome {
                    Outcome::Committed(_) => Ok(()),
                    Outcome::Conflict => Err(ObjectError::Conflict(changed.uid.clone())),
                    Outcome::Unknown => Err(ObjectError::Unknown(changed.uid.clone())),
                });
                if matches!(done, Err(ObjectError::Conflict(_))) {
                    done = self.unless_closed(&[&object]).await.and(done);
                }
                self.settle(&done, vec![place]);
                done
            }
            Err(refused) => Err(refused),
        };
        self.discard_unless(done, object.sealed.as_ref()).await?;
        Ok(object)
    }

    /// Puts an object with bytes of its own in the place of `old`, read at `version`, in one
    /// commit; durable on return. `new` has its identifier and owner, and stands where it stood, so that
    /// no search misses it; what replaces a destroyed one is new.
    pub async fn replace(
        &self,
        new: NewObject,
        clear: &ClearBytes,
        (old, version): (&Object, Version),
    ) -> Result<Object, ObjectError> {
        new.check()?;
        let (mut object, _) = self.sealed_record(new, clear).await?;
        if !old.state.is_destroyed() {
            object.created_ms = old.created_ms;
        }
        let done = self.update(old, version, &object).await;
        self.discard_unless(done, object.sealed.as_ref()).await?;
        Ok(object)
    }

    /// Takes one step of the state machine and writes it; a Destroy erases the sealed bytes in
    /// the same commit. `change` may adjust the metadata. No quota stands in the way: whoever has
    /// no more room must still be able to revoke and destroy.
    pub async fn step(
        &self,
        owner: &SaeId,
        uid: &str,
        step: ObjectStep,
        change: impl FnOnce(&mut Object),
    ) -> Result<Object, ObjectError> {
        let (old, version) = self.get(owner, uid).await?;
        let mut new = old.clone();
        new.state = old.state.after(step)?;
        if new.state.is_destroyed() {
            new.sealed = None;
        }
        change(&mut new);
        self.change(&old, version, &new).await?;
        if let Some(sealed) = old.sealed.as_ref().filter(|_| new.sealed.is_none()) {
            self.freed(&old, &new);
            self.vault.forget(&sealing(&old, sealed)).await;
        }
        Ok(new)
    }
}

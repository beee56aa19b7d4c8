//! New objects: sealed first, then stored under their owner's quota.

use super::{
    NewObject, Object, ObjectError, Objects, Place, Puts, guarded, hanging, object::object_key,
};
use crate::{
    clock::now_ms,
    material::ClearBytes,
    store::{Commit, Outcome},
    vault::SealedObject,
};

impl Objects {
    /// Seals the object and gives the records that make it exist, for a commit of the caller's, who
    /// says [`Place::keep`] when it is made.
    pub async fn prepare(
        &self,
        new: NewObject,
        clear: &ClearBytes,
    ) -> Result<(Object, Puts, Place), ObjectError> {
        new.check()?;
        let place = self.place_for(&new, clear.len()).await?;
        let (object, puts) = self.sealed_record(new, clear).await?;
        Ok((object, puts, place))
    }

    pub(super) async fn sealed_record(
        &self,
        new: NewObject,
        clear: &ClearBytes,
    ) -> Result<(Object, Puts), ObjectError> {
        let sealed = self.seal(&new.uid, &new.owner, clear).await?;
        Ok(self.record(new, sealed))
    }

    /// The places stay taken where the objects are stored, or may be.
    pub(super) fn settle(&self, done: &Result<(), ObjectError>, places: Vec<Place>) {
        if matches!(done, Ok(()) | Err(ObjectError::Unknown(_))) {
            self.keep(places);
        }
    }

    /// Of a stage, whoever publishes it says whether the places are kept.
    fn keep(&self, places: Vec<Place>) {
        match &self.staged {
            Some(staged) => hanging(staged).places.extend(places),
            None => places.into_iter().for_each(Place::keep),
        }
    }

    pub(super) fn record(&self, new: NewObject, sealed: SealedObject) -> (Object, Puts) {
        if let Some(staged) = &self.staged {
            hanging(staged).pins.push(sealed.pin());
        }
        let object = Object {
            uid: new.uid,
            owner: new.owner,
            state: new.state,
            sealed: Some(sealed),
            provenance: new.provenance,
            created_ms: now_ms(),
            attributes: new.attributes,
            terms: new.terms,
        };
        let key = object_key(&object.uid, &object.owner);
        let mut puts = vec![(key.clone(), Some(self.records.encode(&key, &object)))];
        for key in object.index_keys() {
            let value = self.records.encode(&key, &());
            puts.push((key, Some(value)));
        }
        (object, puts)
    }

    /// Creates an object; durable on return.
    pub async fn create(&self, new: NewObject, clear: &ClearBytes) -> Result<Object, ObjectError> {
        new.check()?;
        let place = self.place_for(&new, clear.len()).await?;
        self.create_in(place, new, clear).await
    }

    /// The same in a place that was taken ahead.
    pub async fn create_in(
        &self,
        place: Place,
        new: NewObject,
        clear: &ClearBytes,
    ) -> Result<Object, ObjectError> {
        new.check()?;
        let (object, puts) = self.sealed_record(new, clear).await?;
        let done = self.store_new(&[&object], puts).await;
        self.settle(&done, vec![place]);
        self.discard_unless(done, object.sealed.as_ref()).await?;
        Ok(object)
    }

    /// Creates objects whose bytes are sealed already, all or none; durable on return.
    pub async fn create_sealed(
        &self,
        new: Vec<(NewObject, SealedObject)>,
    ) -> Result<(), ObjectError> {
        let places = self.places_for(&new).await;
        let (mut objects, mut puts) = (Vec::new(), Vec::new());
        for (new, sealed) in new {
            let (object, more) = self.record(new, sealed);
            objects.push(object);
            puts.extend(more);
        }
        let done = match places {
            Ok(places) => {
                let done = self.store_new(&objects.iter().collect::<Vec<_>>(), puts).await;
                self.settle(&done, places);
                done
            }
            Err(refused) => Err(refused),
        };
        let sealed = objects.iter().filter_map(|object| object.sealed.as_ref());
        self.discard_unless(done, sealed).await
    }

    async fn places_for(
        &self,
        new: &[(NewObject, SealedObject)],
    ) -> Result<Vec<Place>, ObjectError> {
        new.iter().try_for_each(|(new, _)| new.check())?;
        let mut places = Vec::with_capacity(new.len());
        for (new, sealed) in new {
            places.push(self.place_for(new, sealed.stored_len()).await?);
        }
        Ok(places)
    }

    async fn store_new(&self, objects: &[&Object], puts: Puts) -> Result<(), ObjectError> {
        let key = |object: &&Object| object_key(&object.uid, &object.owner);
        let mut commit = objects.iter().map(key).fold(Commit::new(), Commit::absent);
        commit.puts = puts.into_iter().filter_map(|(k, v)| Some((k, v?))).collect();
        commit = objects.iter().fold(commit, |commit, object| guarded(object, commit));
        commit.within_limits().map_err(|error| ObjectError::TooLarge(error.to_string()))?;
        let first = || objects.first().map(|object| object.uid.clone()).unwrap_or_default();
        match self.commit(commit).await? {
            Outcome::Committed(_) => Ok(()),
            Outcome::Conflict => {
                self.unless_closed(objects).await?;
                Err(ObjectError::Exists(first()))
            }
            Outcome::Unknown => Err(ObjectError::Unknown(first())),
        }
    }
}

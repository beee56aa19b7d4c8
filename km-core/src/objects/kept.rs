//! Managed objects whose bytes are kept inside the token: made before the commit that names them,
//! destroyed after the one that erases them, or when the one that names them is refused or undone.
//! What a crash leaves in between, or a token that was away, has no record, and is removed. Enter
//! through [`Objects::sweep`].

use std::collections::BTreeSet;

use super::{Hanging, Object, ObjectError, Objects, Place, hanging};
use crate::{hsm::HsmError, ids::SaeId, material::ClearBytes, vault::SealedObject};

impl Objects {
    /// New objects of these applications are kept inside the token, but for keys that never leave it:
    /// those are wrapped there.
    pub fn kept_in_token(self, owners: BTreeSet<SaeId>) -> Self {
        Self { inside: owners.into(), ..self }
    }

    /// Of these applications each new object may be kept inside the token or not, as its client asks.
    pub fn kept_as_asked(self, owners: BTreeSet<SaeId>) -> Self {
        Self { as_asked: owners.into(), ..self }
    }

    /// The same objects, of which new ones are kept inside the token, whoever's they are.
    pub fn kept_inside(&self) -> Self {
        Self { all_inside: true, ..self.clone() }
    }

    /// Whether new objects of `owner` may be kept inside the token when its client asks for that.
    pub fn may_keep_inside(&self, owner: &SaeId) -> bool {
        self.as_asked.contains(owner) && self.vault.cabinet().is_ok()
    }

    /// Whether new objects of `owner` are kept inside the token.
    pub fn keeps_inside(&self, owner: &SaeId) -> bool {
        self.all_inside || self.inside.contains(owner)
    }

    /// Seals the bytes of an object to be, or keeps them in the token, as its owner's are; to be
    /// stored with [`Objects::create_sealed`].
    ///
    /// # Errors
    /// [`HsmError::Full`] when the token has no room for another: nothing is kept elsewhere instead.
    pub async fn seal(
        &self,
        uid: &str,
        owner: &SaeId,
        clear: &ClearBytes,
    ) -> Result<SealedObject, HsmError> {
        if !self.keeps_inside(owner) {
            return self.vault.seal_object(uid, owner.as_str(), clear).await;
        }
        let sealed = self.vault.keep_object(uid, owner.as_str(), clear).await?;
        if let Some(staged) = &self.staged {
            hanging(staged).made.extend(sealed.kept().map(str::to_owned));
        }
        Ok(sealed)
    }

    /// Refuses `count` more objects of `owner` when they are to be in the token and do not fit.
    /// Whoever spends keys on objects asks first.
    ///
    /// # Errors
    /// [`HsmError::Full`].
    pub fn check_room(&self, owner: &SaeId, count: u64) -> Result<(), HsmError> {
        match self.keeps_inside(owner) {
            true => self.vault.cabinet()?.check_room(count),
            false => Ok(()),
        }
    }

    /// Counts what the token keeps, and removes what no record names. Call it once, before anybody
    /// makes objects.
    ///
    /// # Errors
    /// When token or store do not answer; then nothing more was removed.
    pub async fn compare_with_token(&self) -> Result<(), ObjectError> {
        let names = self.names_kept().await?;
        for name in self.unnamed(names).await? {
            self.remove(&name).await?;
        }
        Ok(())
    }

    /// Counts what the token keeps. Of several KMs another one may be making what no record names yet: only
    /// sweeps remove.
    ///
    /// # Errors
    /// When the token does not answer.
    pub async fn count_kept(&self) -> Result<(), ObjectError> {
        Ok(self.names_kept().await.map(drop)?)
    }

    /// Counts what the token keeps, and removes what no record names now and none did at the last look,
    /// `before`; gives those that only this look found, for the next one. Leave more time between two
    /// than a request may take.
    ///
    /// # Errors
    /// As [`Objects::compare_with_token`].
    pub async fn sweep(&self, before: &BTreeSet<String>) -> Result<BTreeSet<String>, ObjectError> {
        let names = self.names_kept().await?;
        let (left, new): (BTreeSet<_>, BTreeSet<_>) =
            self.unnamed(names).await?.into_iter().partition(|name| before.contains(name));
        for name in left {
            self.remove(&name).await?;
        }
        Ok(new)
    }

    /// What the token keeps of managed objects. One that keeps no objects has none.
    async fn names_kept(&self) -> Result<Vec<String>, HsmError> {
        let found = match self.vault.cabinet() {
            Ok(cabinet) => cabinet.objects(self.vault.hsm()).await,
            Err(none) => Err(none),
        };
        match found {
            Err(HsmError::Unsupported(_)) => Ok(Vec::new()),
            found => found,
        }
    }

    async fn remove(&self, name: &str) -> Result<(), HsmError> {
        tracing::info!(%name, "removing an object in the token that no record names");
        self.vault.discard(name).await
    }

    async fn unnamed(&self, names: Vec<String>) -> Result<Vec<String>, ObjectError> {
        let mut unnamed = Vec::new();
        for name in names {
            let uid = self.vault.cabinet()?.uid_of(&name);
            let holders = self.inspect(&uid.unwrap_or_default()).await?;
            let is_named = |object: &Object| kept(object) == Some(&name);
            if !holders.iter().any(is_named) {
                unnamed.push(name);
            }
        }
        Ok(unnamed)
    }

    /// Destroys in the token what `new` no longer names, once that is durable.
    pub(super) async fn discard_replaced(&self, old: &Object, new: &Object) {
        let Some(name) = kept(old).filter(|name| kept(new) != Some(name)) else { return };
        match &self.staged {
            Some(staged) => hanging(staged).replaced.push(name.to_owned()),
            None => self.discard([name.to_owned()]).await,
        }
    }

    /// Destroys in the token what is kept for objects that did not come to be. Of a stage, whoever
    /// publishes it says what became of it.
    pub(super) async fn discard_unless(
        &self,
        done: Result<(), ObjectError>,
        sealed: impl IntoIterator<Item = &SealedObject>,
    ) -> Result<(), ObjectError> {
        let is_certain = !matches!(done, Ok(()) | Err(ObjectError::Unknown(_)));
        if is_certain && self.staged.is_none() {
            let names: Vec<_> = sealed.into_iter().filter_map(SealedObject::kept).collect();
            self.discard(names.into_iter().map(str::to_owned)).await;
        }
        done
    }

    /// The stage that these objects are over was published: destroys in the token what it replaced.
    pub async fn published(&self) {
        let Some(staged) = &self.staged else { return };
        let Hanging { replaced, places, .. } = std::mem::take(&mut *hanging(staged));
        places.into_iter().for_each(Place::keep);
        self.discard(replaced).await;
    }

    /// The stage that these objects are over is forgotten: destroys what was kept in the token for
    /// it. Not to be called while it may yet turn out to be stored.
    pub async fn undone(&self) {
        let Some(staged) = &self.staged else { return };
        let made = std::mem::take(&mut *hanging(staged)).made;
        self.discard(made).await;
    }

    /// Ends at the first that is not destroyed: a token that is away would keep the caller waiting.
    async fn discard(&self, names: impl IntoIterator<Item = String>) {
        for name in names {
            if let Err(error) = self.vault.discard(&name).await {
                tracing::warn!(name, %error, alarm = "token-object-left",
                    "a managed object in the token is not destroyed yet; the next sweep tries again");
                return;
            }
        }
    }
}

fn kept(object: &Object) -> Option<&str> {
    object.sealed.as_ref()?.kept()
}

//! What this key manager keeps inside the token, counted. Enter through [`Cabinet`].
//!
//! Every object has a name that is used once: pool and block number, or identifier and owner, and
//! random digits. So a record says exactly which object is its own, and what no record names is left
//! from a crash and removed.
//!
//! The count follows what this KM makes and destroys; each look at the token sets it right, since other
//! KMs may use the same token. On doubt too much is counted.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
};

use crate::{
    hsm::{Hsm, HsmError, TokenRoom},
    ids::{BlockId, ClusterId, PoolTag},
    material::ClearBytes,
    usage::Hash,
};

/// An alarm is raised when no more than one part in so many is left.
const PARTS: u64 = 10;
/// Of the hash of an owner's name, in the name of an object.
const OWNER_BYTES: usize = 8;

/// The objects of one key manager in the token.
#[derive(Debug)]
pub struct Cabinet {
    here: ClusterId,
    most: u64,
    counts: Mutex<Counts>,
    failed_removals: AtomicU64,
    room: Mutex<TokenRoom>,
    warned: AtomicBool,
}

#[derive(Debug, Default)]
struct Counts {
    /// By what names begin with: those of a pool, and those of managed objects.
    groups: BTreeMap<String, Group>,
    /// Places taken for objects that are on their way.
    coming: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Group {
    kept: u64,
    /// How many this process made so far: a look that began before may have missed them.
    made: u64,
}

impl Counts {
    fn held(&self) -> u64 {
        self.groups.values().map(|group| group.kept).sum::<u64>() + self.coming
    }

    fn group(&mut self, group: &str) -> &mut Group {
        self.groups.entry(group.to_owned()).or_default()
    }
}

/// A [`Cabinet`] as an operator sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct CabinetView {
    /// Objects kept.
    pub held: u64,
    /// Most objects allowed.
    pub most: u64,
    /// What the token says of its memory.
    pub room: TokenRoom,
}

impl CabinetView {
    /// Why the token is nearly full, for a person; none when it is not.
    pub fn nearly_full(&self) -> Option<String> {
        let Self { held, most, room } = self;
        if *held > 0 && most.saturating_sub(*held) <= most / PARTS {
            return Some(format!(
                "{held} objects are kept in the token of {most} allowed: keep less in it, or raise \
                 token_objects"
            ));
        }
        let (free, total) = room.free_bytes.zip(room.total_bytes)?;
        (total > 0 && free <= total / PARTS).then(|| {
            format!("{free} of {total} bytes are free in the token: destroy objects in it")
        })
    }
}

impl Cabinet {
    /// For at most `most` objects of the cluster `here`.
    pub fn new(here: ClusterId, most: u64) -> Self {
        let (failed_removals, warned) = (AtomicU64::new(0), AtomicBool::new(false));
        let (counts, room) = (Mutex::default(), Mutex::default());
        Self { here, most, counts, failed_removals, room, warned }
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether another object may be kept.
    pub fn has_room(&self) -> bool {
        self.counts().held() < self.most
    }

    /// Refuses `count` more objects when they are not allowed.
    pub(crate) fn check_room(&self, count: u64) -> Result<(), HsmError> {
        match self.counts().held().saturating_add(count) <= self.most {
            true => Ok(()),
            false => Err(self.full()),
        }
    }

    fn full(&self) -> HsmError {
        HsmError::Full(format!("no more than {} objects may be kept in it", self.most))
    }

    /// How often an object was not destroyed when it should have been, since the start. It is tried
    /// again, each time counted.
    pub fn failed_removals(&self) -> u64 {
        self.failed_removals.load(Relaxed)
    }

    /// How full it is.
    pub fn view(&self) -> CabinetView {
        let room = *self.room.lock().unwrap_or_else(PoisonError::into_inner);
        CabinetView { held: self.counts().held(), most: self.most, room }
    }

    /// Asks the token for its room, and raises an alarm when it becomes nearly full; call it at
    /// intervals.
    pub async fn look(&self, hsm: &dyn Hsm) {
        // One that does not answer now tells nothing new; its trouble is told elsewhere.
        if let Ok(room) = hsm.room().await {
            *self.room.lock().unwrap_or_else(PoisonError::into_inner) = room;
        }
        let why = self.view().nearly_full();
        let warned = self.warned.swap(why.is_some(), Relaxed);
        if let Some(why) = why.filter(|_| !warned) {
            tracing::warn!(alarm = "token-nearly-full", why);
        }
    }

    /// What the names of all objects of the cluster `here` begin with.
    pub fn prefix_of(here: &ClusterId) -> String {
        format!("qkm-{here}-")
    }

    /// What the names of objects of `pool` begin with.
    fn pool_prefix(&self, pool: PoolTag) -> String {
        format!("{}{:06x}-", Self::prefix_of(&self.here), pool.bits())
    }

    fn prefix(&self, id: BlockId) -> String {
        format!("{}{}-", self.pool_prefix(id.pool), id.number)
    }

    /// Whether `name` was given to an object of that block.
    pub(crate) fn is_of(&self, id: BlockId, name: &str) -> bool {
        name.strip_prefix(&self.prefix(id)).is_some()
    }

    /// The names of all objects of `pool` in the token.
    pub(crate) async fn find(&self, hsm: &dyn Hsm, pool: PoolTag) -> Result<Vec<String>, HsmError> {
        let prefix = self.pool_prefix(pool);
        self.counts().group(&prefix);
        self.look_at(hsm, &prefix).await
    }

    /// The names in the token that begin with `prefix`. Those of managed objects, and of pools that this KM
    /// has or had, are counted anew.
    async fn look_at(&self, hsm: &dyn Hsm, prefix: &str) -> Result<Vec<String>, HsmError> {
        let before = self.counts().groups.clone();
        let names = hsm.object_names(prefix).await?;
        let mut found: BTreeMap<&str, u64> = BTreeMap::new();
        for group in names.iter().filter_map(|name| self.group_of(name)) {
            *found.entry(group).or_default() += 1;
        }
        let mut counts = self.counts();
        for (name, group) in counts.groups.iter_mut().filter(|(name, _)| name.starts_with(prefix)) {
            let made = before.get(name).map_or(0, |before| before.made);
            let found = found.get(name.as_str()).copied().unwrap_or_default();
            group.kept = found + (group.made - made);
        }
        Ok(names)
    }

    /// What the name of an object begins with: that of its pool, or of all managed objects.
    fn group_of<'a>(&self, name: &'a str) -> Option<&'a str> {
        let rest = name.strip_prefix(&Self::prefix_of(&self.here))?;
        let end = name.len() - rest.len() + rest.find('-')? + 1;
        name.get(..end)
    }

    /// What the names of all that is kept of managed objects begin with. No pool has this prefix:
    /// its digits are hexadecimal.
    fn objects_prefix(&self) -> String {
        format!("{}object-", Self::prefix_of(&self.here))
    }

    fn object_prefix(&self, (uid, owner): (&str, &str)) -> String {
        let owner = Hash::Sha256.of(owner.as_bytes());
        let owner = owner.get(..OWNER_BYTES).unwrap_or_default();
        format!("{}{}-{}-", self.objects_prefix(), hex(uid.as_bytes()), hex(owner))
    }

    /// Whether `name` was given to what is kept of that object.
    pub(crate) fn is_of_object(&self, object: (&str, &str), name: &str) -> bool {
        name.strip_prefix(&self.object_prefix(object)).is_some()
    }

    /// The identifier of the managed object for which `name` was given.
    pub(crate) fn uid_of(&self, name: &str) -> Option<String> {
        let (uid, _) = name.strip_prefix(&self.objects_prefix())?.split_once('-')?;
        String::from_utf8(unhex(uid)?).ok()
    }

    /// The names of all that is kept of managed objects. Blocks are counted too: another KM may have
    /// changed what is kept of a pool since this one led.
    pub(crate) async fn objects(&self, hsm: &dyn Hsm) -> Result<Vec<String>, HsmError> {
        let prefix = self.objects_prefix();
        self.counts().group(&prefix);
        let mut names = self.look_at(hsm, &Self::prefix_of(&self.here)).await?;
        names.retain(|name| name.starts_with(&prefix));
        Ok(names)
    }

    /// Keeps the bytes of a managed object; the name it gives is for its record.
    pub(crate) async fn keep_object(
        &self,
        hsm: &dyn Hsm,
        object: (&str, &str),
        clear: &ClearBytes,
    ) -> Result<String, HsmError> {
        self.keep_as(hsm, self.object_prefix(object), clear).await
    }

    /// Keeps the bits of a block; the name it gives is for its record.
    pub(crate) async fn keep(
        &self,
        hsm: &dyn Hsm,
        id: BlockId,
        clear: &ClearBytes,
    ) -> Result<String, HsmError> {
        self.keep_as(hsm, self.prefix(id), clear).await
    }

    async fn keep_as(
        &self,
        hsm: &dyn Hsm,
        prefix: String,
        clear: &ClearBytes,
    ) -> Result<String, HsmError> {
        let place = self.take_place()?;
        let digits = uuid::Uuid::new_v4().simple().to_string();
        let name = format!("{prefix}{digits}");
        // Whether it is there after an error is not known: to remove it does no harm.
        let kept = hsm.store_object(&name, clear).await;
        if kept.is_err() {
            drop(hsm.delete_object(&name).await);
        }
        kept?;
        place.stays(&name);
        Ok(name)
    }

    /// Destroys an object; what is not there is no error.
    pub(crate) async fn remove(&self, hsm: &dyn Hsm, name: &str) -> Result<(), HsmError> {
        if let Err(error) = hsm.delete_object(name).await {
            self.failed_removals.fetch_add(1, Relaxed);
            return Err(error);
        }
        if let Some(group) = self.group_of(name) {
            let mut counts = self.counts();
            let group = counts.group(group);
            group.kept = group.kept.saturating_sub(1);
        }
        Ok(())
    }

    fn take_place(&self) -> Result<Place<'_>, HsmError> {
        let mut counts = self.counts();
        if counts.held() >= self.most {
            return Err(self.full());
        }
        counts.coming += 1;
        Ok(Place(Some(self)))
    }
}

/// A place taken for an object that may not come to be.
struct Place<'a>(Option<&'a Cabinet>);

impl Place<'_> {
    /// It came to be, under this name.
    fn stays(mut self, name: &str) {
        let Some(cabinet) = self.0.take() else { return };
        let mut counts = cabinet.counts();
        counts.coming -= 1;
        if let Some(group) = cabinet.group_of(name) {
            let group = counts.group(group);
            group.kept += 1;
            group.made += 1;
        }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if let Some(cabinet) = self.0 {
            cabinet.counts().coming -= 1;
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(digits: &str) -> Option<Vec<u8>> {
    let pairs = digits.as_bytes().chunks(2);
    pairs.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()).collect()
}

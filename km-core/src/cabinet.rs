//! What this key manager keeps inside the token, counted. Enter through [`Cabinet`].
//!
//! Every object has a name that is used once: pool and block number, or identifier and owner, and
//! random digits. So a record says exactly which object is its own, and what no record names is left
//! from a crash and removed.

use std::sync::{
    Mutex, PoisonError,
    atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
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
    held: AtomicU64,
    failed_removals: AtomicU64,
    room: Mutex<TokenRoom>,
    warned: AtomicBool,
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
        let (held, failed_removals) = (AtomicU64::new(0), AtomicU64::new(0));
        let warned = AtomicBool::new(false);
        Self { here, most, held, failed_removals, room: Mutex::default(), warned }
    }

    /// Whether another object may be kept.
    pub fn has_room(&self) -> bool {
        self.held.load(Relaxed) < self.most
    }

    /// Refuses `count` more objects when they are not allowed.
    pub(crate) fn check_room(&self, count: u64) -> Result<(), HsmError> {
        match self.held.load(Relaxed).saturating_add(count) <= self.most {
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
        CabinetView { held: self.held.load(Relaxed), most: self.most, room }
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

    /// The names of all objects of `pool` in the token, which count from now on.
    pub(crate) async fn find(&self, hsm: &dyn Hsm, pool: PoolTag) -> Result<Vec<String>, HsmError> {
        let names = hsm.object_names(&self.pool_prefix(pool)).await?;
        self.found(names.len());
        Ok(names)
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

    /// The names of all that is kept of managed objects.
    pub(crate) async fn objects(&self, hsm: &dyn Hsm) -> Result<Vec<String>, HsmError> {
        hsm.object_names(&self.objects_prefix()).await
    }

    /// Counts what was found at the start.
    pub(crate) fn found(&self, count: usize) {
        self.held.fetch_add(count as u64, Relaxed);
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
        place.stays();
        Ok(name)
    }

    /// Destroys an object; what is not there is no error.
    pub(crate) async fn remove(&self, hsm: &dyn Hsm, name: &str) -> Result<(), HsmError> {
        if let Err(error) = hsm.delete_object(name).await {
            self.failed_removals.fetch_add(1, Relaxed);
            return Err(error);
        }
        let less = |held: u64| Some(held.saturating_sub(1));
        let _ = self.held.fetch_update(Relaxed, Relaxed, less);
        Ok(())
    }

    fn take_place(&self) -> Result<Place<'_>, HsmError> {
        let one_more = |held: u64| (held < self.most).then_some(held + 1);
        self.held.fetch_update(Relaxed, Relaxed, one_more).map_err(|_| self.full())?;
        Ok(Place(Some(&self.held)))
    }
}

/// A place taken for an object that may not come to be.
struct Place<'a>(Option<&'a AtomicU64>);

impl Place<'_> {
    fn stays(mut self) {
        self.0 = None;
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if let Some(held) = self.0 {
            held.fetch_sub(1, Relaxed);
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

//! Everything in one store moves into another: from an embedded one to etcd, or back. Enter through
//! [`migrate`]. No key manager may run on either.
//!
//! The target is filled first, and marked as arriving until the end; the source, complete and usable until
//! then, is marked as moved before the target's mark goes. A store with a mark is not opened by a key
//! manager ([`refuse_marked`]), so never are both in use. Broken off before the source is marked, the source
//! is as it was; after it, the same command again does the rest.
//!
//! Nothing is burned beyond what every start burns: nobody changes the source while it is copied, and what
//! arrived is compared with it.

use std::{ops::Bound, path::Path, sync::Arc};

use cluster::{lead::Lease, roster::Roster};
use km_core::{
    anchor::Anchor,
    journal::Fence,
    records::Records,
    store::{
        Claim, Commit, MAX_COMMIT_BYTES, MAX_OPS, Outcome, Record, Store, StoreError, Version,
    },
    vault::{RECORD_KEY, Vault},
};
use tracing::warn;

use crate::{
    config::Config,
    fault::{Code, Failure},
    restore::sole_leader,
    serve::{make_folder, of_anchor, of_record, of_store, of_vault, open_store, open_token},
};

/// Where the records of this store went.
const MOVED: &[u8] = b"move/to";
/// That the records of another store are on their way here.
const ARRIVING: &[u8] = b"move/from";
/// What belongs to the running of a store and not to what is in it.
const LEFT_BEHIND: [&[u8]; 4] = [b"lead", b"node/", b"move/", b"meta/health"];
/// The counts of generations.
const COUNTS: &[u8] = b"meta/generation/";
/// Records read at once: blocks take 64 KiB each.
const PAGE: usize = 64;
/// How often a commit is sent whose outcome is not known.
const TRIES: usize = 20;

/// What was done.
pub(crate) struct Migrated {
    pub(crate) records: u64,
    pub(crate) bytes: u64,
}

/// What each mark says, and what to do.
const MARKS: [(&[u8], &str, &str); 2] = [
    (MOVED, "its records were moved to another store", "use the configuration of that one"),
    (ARRIVING, "records are being moved into it", "run the same `qkm store migrate` again"),
];

/// A store with a mark is left alone.
///
/// # Errors
/// When its records moved away, or are arriving.
pub(crate) async fn refuse_marked(config: &Config, store: &dyn Store) -> Result<(), Failure> {
    let path = config.store_file();
    for (mark, what, help) in MARKS {
        if let Some(found) = store.get(mark).await.map_err(|e| of_store(&path, &e))? {
            return Err(of_mark(&path, what, &found).help(help));
        }
    }
    Ok(())
}

/// The same before a backup takes the place of a store, which may be damaged. It would be used beside the
/// other one.
///
/// # Errors
/// As [`refuse_marked`].
pub(crate) fn refuse_replacing(path: &Path, place: &Claim) -> Result<(), Failure> {
    for (mark, what, help) in MARKS {
        match place.get(mark) {
            Ok(None) => {}
            Ok(Some(found)) => {
                let aside = path.with_file_name("").display().to_string();
                return Err(of_mark(path, what, &found).help(format!(
                    "{help}; only if that other store is lost for good, put {aside} aside, and restore again"
                )));
            }
            Err(error) => warn!(%error, "the store that is to be replaced cannot be read"),
        }
    }
    Ok(())
}

fn of_mark(path: &Path, what: &str, mark: &Record) -> Failure {
    let place = String::from_utf8_lossy(&mark.value);
    Failure::new(Code::S011, format!("store {}: {what}: {place}", path.display()))
}

/// One of the two stores.
struct End<'a> {
    config: &'a Config,
    store: Arc<dyn Store>,
    name: String,
}

impl<'a> End<'a> {
    async fn open(config: &'a Config) -> Result<Self, Failure> {
        if config.shared.is_none() {
            make_folder(config)?;
        }
        let path = config.store_file();
        let (store, _) = open_store(config).await.map_err(|e| of_store(&path, &e))?;
        Ok(Self { config, store, name: path.display().to_string() })
    }

    fn failed(&self, error: &StoreError) -> Failure {
        of_store(&self.config.store_file(), error)
    }

    async fn get(&self, key: &[u8]) -> Result<Option<Record>, Failure> {
        self.store.get(key).await.map_err(|e| self.failed(&e))
    }

    async fn page(&self, after: &[u8]) -> Result<Vec<Record>, Failure> {
        let after = Bound::Excluded(after.to_vec());
        self.store.range(b"", after, PAGE).await.map_err(|e| self.failed(&e))
    }

    /// Until it is certainly done: `commit` may happen twice.
    async fn write(&self, commit: &Commit) -> Result<Version, Failure> {
        for _ in 0..TRIES {
            match self.store.commit(commit.clone()).await.map_err(|e| self.failed(&e))? {
                Outcome::Committed(version) => return Ok(version),
                Outcome::Conflict => {
                    let text = format!("store {}: somebody else changes it", self.name);
                    return Err(Failure::new(Code::S011, text).help("stop what uses it"));
                }
                Outcome::Unknown => {}
            }
        }
        let text = format!("store {}: it is not known whether a write is durable", self.name);
        Err(Failure::new(Code::S001, text))
    }
}

/// Moves all records of the store of `from` into that of `to`.
///
/// # Errors
/// When one of them is in use, the target has records of its own, or a store does not do it. One of the two
/// is usable then, or the same command again makes the target so.
pub(crate) async fn migrate(from: &Config, to: &Config) -> Result<Migrated, Failure> {
    check(from, to)?;
    let token = open_token(from).await?;
    let (source, target) = (End::open(from).await?, End::open(to).await?);
    let Some(_) = source.get(RECORD_KEY).await? else {
        return Err(Failure::new(Code::S011, format!("store {} is empty", source.name)));
    };
    let (arriving, used) = (target.get(ARRIVING).await?, target.get(RECORD_KEY).await?);
    if arriving.is_none() && used.is_some() && source.get(MOVED).await?.is_none() {
        return Err(occupied(&target));
    }
    let key = Vault::new(token.clone()).record_key(source.store.as_ref()).await;
    let key = key.map_err(|e| of_vault(&from.store_file(), &e))?;
    let records = |end: &End<'_>| Records::new(end.store.clone(), &key);
    // Of both, so that no key manager that shares one begins anything.
    let leases = [lead(&source, &records(&source)).await?, lead(&target, &records(&target)).await?];
    nobody_runs(&source, &records(&source)).await?;
    nobody_runs(&target, &records(&target)).await?;
    let [over_source, over_target] =
        leases.each_ref().map(|lease| lease.as_ref().map(Lease::fence));
    let keeper = from.keeper_of_generations();
    let counted = Anchor::read(token.clone(), records(&source), &keeper).await;
    let counted = counted.map_err(|e| of_anchor(from, &e))?;
    let done = match source.get(MOVED).await? {
        Some(mark) => finished(&source, &target, &mark).await?,
        None => {
            // Refuses an older copy.
            let opened = Anchor::open(token.clone(), records(&source), &keeper, false).await;
            opened.map_err(|e| of_anchor(from, &e))?;
            let done = fill(&source, &target, over_target.as_ref()).await?;
            let mark = Commit::new().put(MOVED, target.name.as_bytes());
            source.write(&still_led(mark, over_source.as_ref())).await?;
            done
        }
    };
    // A copy of the source from before the mark is older than this token knows, whichever of the KMs that
    // count in it starts there.
    counted.condemn_all().await.map_err(|e| of_anchor(from, &e))?;
    let anchor = Anchor::read(token, records(&target), &to.keeper_of_generations()).await;
    let anchor = anchor.map_err(|e| of_anchor(to, &e))?;
    anchor.pardon_others().await.map_err(|e| of_anchor(to, &e))?;
    anchor.surpass().await.map_err(|e| of_anchor(to, &e))?;
    anchor.follow().await.map_err(|e| of_anchor(to, &e))?;
    target.write(&still_led(Commit::new().delete(ARRIVING), over_target.as_ref())).await?;
    for lease in leases.into_iter().flatten() {
        lease.give_up().await;
    }
    Ok(done)
}

fn check(from: &Config, to: &Config) -> Result<(), Failure> {
    let wrong = |text: &str| Err(Failure::new(Code::S011, text));
    match (&from.shared, &to.shared) {
        _ if from.cluster != to.cluster => {
            wrong("the two configurations are of different clusters")
        }
        (None, Some(_)) | (Some(_), None) => Ok(()),
        _ => wrong("one of the configurations must have an embedded store and the other one etcd"),
    }
}

/// The lead over a store that several may share, so that none does now.
async fn lead(end: &End<'_>, records: &Records) -> Result<Option<Lease>, Failure> {
    match &end.config.shared {
        Some(shared) => sole_leader(shared, records, "qkm store migrate").await.map(Some),
        None => Ok(None),
    }
}

/// A key manager that runs follows whoever leads, but changes objects by itself.
async fn nobody_runs(end: &End<'_>, records: &Records) -> Result<(), Failure> {
    let Some(shared) = &end.config.shared else { return Ok(()) };
    let nodes = Roster::new(records.clone(), shared.seat.clone()).list().await;
    let nodes = nodes.map_err(|e| of_record(&end.config.store_file(), &e))?;
    let alive: Vec<_> = nodes.into_iter().filter(|node| node.alive).map(|node| node.name).collect();
    match alive.is_empty() {
        true => Ok(()),
        false => {
            let text = format!("store {}: still in use by {}", end.name, alive.join(", "));
            Err(Failure::new(Code::S011, text).help(
                "stop all key managers of the cluster, and wait ten seconds if one was killed",
            ))
        }
    }
}

/// `commit`, unless somebody else took the lead meanwhile.
fn still_led(commit: Commit, fence: Option<&Fence>) -> Commit {
    match fence {
        Some(fence) => commit.unchanged(fence.key.clone(), fence.version),
        None => commit,
    }
}

/// The source was marked by an earlier try: the target is complete.
async fn finished(source: &End<'_>, target: &End<'_>, mark: &Record) -> Result<Migrated, Failure> {
    let arriving = target.get(ARRIVING).await?;
    let of_this = arriving.is_some_and(|found| found.value == source.name.as_bytes());
    if mark.value == target.name.as_bytes() && of_this {
        return compare(source, target).await;
    }
    let place = String::from_utf8_lossy(&mark.value);
    let text = format!("store {}: its records were moved to {place}", source.name);
    Err(Failure::new(Code::S011, text).help("use the configuration of that one"))
}

async fn fill(
    source: &End<'_>,
    target: &End<'_>,
    led: Option<&Fence>,
) -> Result<Migrated, Failure> {
    let mut put = Commit::new().put(ARRIVING, source.name.as_bytes());
    match (target.get(ARRIVING).await?, target.get(RECORD_KEY).await?) {
        (Some(mark), _) if mark.value == source.name.as_bytes() => {
            // The rest of an earlier try, older than the source by now; its mark stays.
            clear(target).await?;
            put = put.unchanged(ARRIVING, mark.version);
        }
        (None, None) => put = put.absent(ARRIVING).absent(RECORD_KEY),
        _ => {
            return Err(occupied(target));
        }
    }
    let mark =
        match target.store.commit(still_led(put, led)).await.map_err(|e| target.failed(&e))? {
            Outcome::Committed(version) => version,
            outcome => {
                let text = format!("store {} could not be marked ({outcome:?})", target.name);
                return Err(Failure::new(Code::S011, text).help("run the same command again"));
            }
        };
    let mut after = Vec::new();
    let marked = || Commit::new().unchanged(ARRIVING, mark);
    let mut commit = marked();
    loop {
        let page = source.page(&after).await?;
        let Some(last) = page.last() else { break };
        after = last.key.clone();
        for Record { key, value, .. } in page.into_iter().filter(moves) {
            let bytes = commit.bytes() + key.len() + value.len();
            if commit.ops() == MAX_OPS || bytes > MAX_COMMIT_BYTES {
                target.write(&std::mem::replace(&mut commit, marked())).await?;
            }
            commit = commit.put(key, value);
        }
    }
    target.write(&commit).await?;
    compare(source, target).await
}

fn occupied(target: &End<'_>) -> Failure {
    Failure::new(Code::S011, format!("store {} has records already", target.name))
        .help("name an empty directory or another prefix of etcd; nothing was changed")
}

/// Removes what an earlier try brought.
async fn clear(target: &End<'_>) -> Result<(), Failure> {
    let mut after = Vec::new();
    loop {
        let page = target.page(&after).await?;
        let Some(last) = page.last() else { return Ok(()) };
        after = last.key.clone();
        let gone = page.into_iter().filter(moves);
        target.write(&gone.fold(Commit::new(), |commit, record| commit.delete(record.key))).await?;
    }
}

fn moves(record: &Record) -> bool {
    !LEFT_BEHIND.iter().any(|prefix| record.key.starts_with(prefix))
}

/// Both have the same records.
async fn compare(source: &End<'_>, target: &End<'_>) -> Result<Migrated, Failure> {
    let (mut one, mut other) = (Walk::over(source), Walk::over(target));
    let mut done = Migrated { records: 0, bytes: 0 };
    loop {
        match (one.next().await?, other.next().await?) {
            (None, None) => return Ok(done),
            (Some(a), Some(b)) if a.key == b.key && a.value == b.value => {
                done.records += 1;
                done.bytes += (a.key.len() + a.value.len()) as u64;
            }
            (a, b) => {
                let at = a.or(b).map(|record| String::from_utf8_lossy(&record.key).into_owned());
                let at = at.unwrap_or_default();
                let text = format!("{} and {} differ at {at}", source.name, target.name);
                return Err(Failure::new(Code::S011, text)
                    .help("stop all that use either, and run the same command again"));
            }
        }
    }
}

/// All records that move, in their order, but for the counts of generations, which change at the end.
struct Walk<'a> {
    end: &'a End<'a>,
    after: Vec<u8>,
    page: std::vec::IntoIter<Record>,
}

impl<'a> Walk<'a> {
    fn over(end: &'a End<'a>) -> Self {
        Self { end, after: Vec::new(), page: Vec::new().into_iter() }
    }

    async fn next(&mut self) -> Result<Option<Record>, Failure> {
        loop {
            let counts = |record: &Record| record.key.starts_with(COUNTS);
            if let Some(record) = self.page.find(|record| moves(record) && !counts(record)) {
                return Ok(Some(record));
            }
            let page = self.end.page(&self.after).await?;
            let Some(last) = page.last() else { return Ok(None) };
            self.after = last.key.clone();
            self.page = page.into_iter();
        }
    }
}

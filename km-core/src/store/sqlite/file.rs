//! The database file: its lock, its format, how it is made and opened. Enter through [`open`].
//!
//! A file at the store's path is always complete: it is made under another name, synced, and
//! renamed. So an empty or foreign file there is damage, never a fresh start.

use std::{
    ffi::OsString,
    fs::{self, File, OpenOptions, Permissions, TryLockError},
    io::Read,
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rusqlite::{Connection, OpenFlags};

use super::error::{map, map_io};
use crate::store::StoreError;

/// "qkm1" in the SQLite header's application field.
const APPLICATION: u32 = 0x716b_6d31;
/// The format this build writes, in the SQLite header's user version.
pub(super) const FORMAT: u32 = 2;
/// Where the SQLite header keeps its application field.
const APPLICATION_AT: usize = 68;

// Long values have a table of their own. SQLite compares a key with a record that does not fit its
// page only after copying the whole of it, value included, so one block of 64 KiB on the way down
// the tree would cost every search 20 us. Without rowid, because small records dominate: 0.88 of the
// CPU of a rowid table per 96-byte write.
const SCHEMA: &str = "
    CREATE TABLE record (
        key BLOB NOT NULL PRIMARY KEY, version INTEGER NOT NULL, value BLOB, long INTEGER,
        CHECK ((value IS NULL) <> (long IS NULL))
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE long_value (id INTEGER PRIMARY KEY, value BLOB NOT NULL) STRICT;
    CREATE TABLE meta (
        one INTEGER PRIMARY KEY CHECK (one = 1), version INTEGER NOT NULL, epoch INTEGER NOT NULL
    ) STRICT;
    INSERT INTO meta VALUES (1, 0, 0);";

/// A record of at most so many bytes, key and value, fits a page of the tree whole: SQLite's bound
/// for pages of 4 KiB is 1,002 bytes, of which it needs a few itself.
pub(super) const MAX_SHORT: usize = 960;

/// The store's path, held by this process alone.
pub(super) struct Held {
    /// Where the database is.
    pub(super) path: PathBuf,
    // A file of its own: SQLite's locks on the database would be lost if we closed it here.
    _lock: File,
}

/// `path` with `suffix` appended to its last component.
pub(super) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    name.into()
}

/// Locks the path, makes the database when there is none, refuses what is not ours.
pub(super) fn open(path: &Path) -> Result<Held, StoreError> {
    let held = Held { path: path.to_owned(), _lock: lock(path)? };
    let there = path.try_exists().map_err(|e| map_io("looking for", path, &e))?;
    if there {
        recognise(path)?;
    } else {
        create(path)?;
    }
    Ok(held)
}

fn lock(path: &Path) -> Result<File, StoreError> {
    let name = beside(path, ".lock");
    let file = private(&name, OpenOptions::new().write(true).create(true).truncate(false))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(StoreError::Unavailable(format!(
            "{} is in use by another process; stop it first, a store has one owner",
            path.display()
        ))),
        Err(TryLockError::Error(e)) => Err(map_io("locking", &name, &e)),
    }
}

fn private(path: &Path, options: &mut OpenOptions) -> Result<File, StoreError> {
    options.mode(0o600).open(path).map_err(|e| map_io("opening", path, &e))
}

/// Looks at the file before SQLite does, so that a foreign database is never touched.
fn recognise(path: &Path) -> Result<(), StoreError> {
    let foreign = |why: &str| {
        let path = path.display();
        Err(StoreError::Damaged(format!("{path} {why}; put it aside or name another path")))
    };
    let mut header = [0; 100];
    let mut file = File::open(path).map_err(|e| map_io("opening", path, &e))?;
    match file.read_exact(&mut header) {
        Ok(()) => {}
        Err(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => {
            return foreign("is too short to be a store");
        }
        Err(e) => return Err(map_io("reading", path, &e)),
    }
    if !header.starts_with(b"SQLite format 3\0") {
        return foreign("is not a database");
    }
    if header[APPLICATION_AT..APPLICATION_AT + 4] != APPLICATION.to_be_bytes() {
        return foreign("is a database of another application");
    }
    fs::set_permissions(path, Permissions::from_mode(0o600))
        .map_err(|e| map_io("restricting access to", path, &e))
}

fn create(path: &Path) -> Result<(), StoreError> {
    let log = beside(path, "-wal");
    if log.exists() {
        let (log, path) = (log.display(), path.display());
        return Err(StoreError::Damaged(format!(
            "{log} is there but {path} is not; put the database back, or remove the log"
        )));
    }
    let draft = beside(path, ".new");
    remove_if_there(&draft)?;
    remove_if_there(&beside(&draft, "-journal"))?;
    drop(private(&draft, OpenOptions::new().write(true).create_new(true))?);
    let made = Connection::open_with_flags(&draft, flags()).map_err(map)?;
    made.pragma_update(None, "application_id", APPLICATION).map_err(map)?;
    made.pragma_update(None, "user_version", FORMAT).map_err(map)?;
    made.execute_batch(SCHEMA).map_err(map)?;
    made.close().map_err(|(_, e)| map(e))?;
    sync(&draft)?;
    fs::rename(&draft, path).map_err(|e| map_io("creating", path, &e))?;
    sync_parent(path)
}

fn remove_if_there(path: &Path) -> Result<(), StoreError> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(map_io("removing", path, &e)),
        _ => Ok(()),
    }
}

/// Makes the file's bytes durable.
pub(super) fn sync(path: &Path) -> Result<(), StoreError> {
    File::open(path).and_then(|f| f.sync_all()).map_err(|e| map_io("syncing", path, &e))
}

/// Makes the file's name durable.
pub(super) fn sync_parent(path: &Path) -> Result<(), StoreError> {
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    sync(parent)
}

fn flags() -> OpenFlags {
    // Each connection is used by one thread at a time, so SQLite need not lock it again.
    OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX
}

impl Held {
    /// The format is checked on the open database: the newest header may still be in the log.
    pub(super) fn check_format(&self, db: &Connection) -> Result<(), StoreError> {
        let found: u32 = db.query_row("PRAGMA user_version", [], |row| row.get(0)).map_err(map)?;
        match found {
            FORMAT => Ok(()),
            newer if newer > FORMAT => Err(StoreError::NewerFormat {
                path: self.path.display().to_string(),
                found: newer,
                known: FORMAT,
            }),
            _ => Err(StoreError::Damaged(format!(
                "{} is in format {found}, which no release of qkm wrote; put it aside or name another path",
                self.path.display()
            ))),
        }
    }

    /// A connection that may write. Checkpoints are ours to run, not SQLite's.
    pub(super) fn connect(&self) -> Result<Connection, StoreError> {
        let db = Connection::open_with_flags(&self.path, flags()).map_err(map)?;
        self.check_format(&db)?;
        self.prepare(&db).map_err(map)?;
        Ok(db)
    }

    fn prepare(&self, db: &Connection) -> Result<(), rusqlite::Error> {
        db.busy_timeout(Duration::from_secs(5))?;
        let mode: String = db.query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0))?;
        if mode != "wal" {
            tracing::error!(mode, "the file system does not support a shared write-ahead log");
            return Err(rusqlite::Error::SqliteFailure(
                rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CANTOPEN),
                Some("the file system cannot hold a write-ahead log; use a local disk".into()),
            ));
        }
        db.pragma_update(None, "synchronous", "FULL")?;
        db.query_row("PRAGMA secure_delete = ON", [], |_| Ok(()))?;
        db.query_row("PRAGMA wal_autocheckpoint = 0", [], |_| Ok(()))?;
        db.query_row("PRAGMA journal_size_limit = 8388608", [], |_| Ok(()))?;
        db.pragma_update(None, "cache_size", -8192)?;
        Ok(())
    }

    /// A connection that cannot write.
    pub(super) fn connect_reader(&self) -> Result<Connection, StoreError> {
        let db = Connection::open_with_flags(&self.path, flags()).map_err(map)?;
        db.busy_timeout(Duration::from_secs(5)).map_err(map)?;
        db.pragma_update(None, "query_only", true).map_err(map)?;
        db.pragma_update(None, "cache_size", -4096).map_err(map)?;
        Ok(db)
    }
}

/// What the store at `path` is called once it is replaced: by when its file was last written, so that a
/// try that broke off half-way is continued under the same name, and no other store has it.
fn name_for_replaced(path: &Path) -> Result<PathBuf, StoreError> {
    let written = match path.metadata().and_then(|meta| meta.modified()) {
        Ok(written) => written,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => SystemTime::now(),
        Err(e) => return Err(map_io("looking at", path, &e)),
    };
    let mut ms = written.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
    loop {
        let name = beside(path, &format!(".replaced-{ms}"));
        if name.symlink_metadata().is_err() {
            return Ok(name);
        }
        ms += 1;
    }
}

/// The path of a store that nobody opens meanwhile.
pub(super) fn claim(path: &Path) -> Result<Held, StoreError> {
    Ok(Held { path: path.to_owned(), _lock: lock(path)? })
}

/// Puts the store `draft`, closed since its path is held, in the place of the one at the path held,
/// if any, which is kept beside it under another name. `None` when there was none.
pub(super) fn replace(held: &Held, draft: &Held) -> Result<Option<PathBuf>, StoreError> {
    let (path, draft) = (held.path.as_path(), draft.path.as_path());
    let moved = |from: &Path, to: &Path| match fs::rename(from, to) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(map_io("renaming", from, &e)),
    };
    let log = beside(draft, "-wal");
    if log.metadata().is_ok_and(|log| log.len() > 0) {
        let log = log.display();
        return Err(StoreError::Unavailable(format!("{log} was not emptied; try again")));
    }
    let old = name_for_replaced(path)?;
    // A log left beside another database would be taken for its own.
    moved(&beside(path, "-wal"), &beside(&old, "-wal"))?;
    remove_if_there(&beside(path, "-shm"))?;
    let there = moved(path, &old)?;
    sync_parent(path)?;
    fs::rename(draft, path).map_err(|e| map_io("renaming", draft, &e))?;
    sync_parent(path)?;
    remove_if_there(&beside(draft, ".lock"))?;
    Ok(there.then_some(old))
}

/// Writes a consistent copy to `to`: complete under another name first, then linked to its own.
pub(super) fn copy(held: &Held, to: &Path) -> Result<(), StoreError> {
    static COPIES: AtomicU64 = AtomicU64::new(0);
    let taken = || StoreError::Unavailable(format!("{} exists; name another file", to.display()));
    if to.symlink_metadata().is_ok() {
        return Err(taken());
    }
    let copy = COPIES.fetch_add(1, Ordering::Relaxed);
    let draft = beside(to, &format!(".{}-{copy}.partial", std::process::id()));
    let written = write_copy(held, &draft).and_then(|()| {
        fs::hard_link(&draft, to).map_err(|e| match e.kind() {
            std::io::ErrorKind::AlreadyExists => taken(),
            _ => map_io("creating", to, &e),
        })
    });
    let removed = remove_if_there(&draft);
    written.and(removed)?;
    sync_parent(to)
}

fn write_copy(held: &Held, draft: &Path) -> Result<(), StoreError> {
    let name = draft.to_str().ok_or_else(|| {
        StoreError::Unavailable(format!("{} is not UTF-8; name another file", draft.display()))
    })?;
    drop(private(draft, OpenOptions::new().write(true).create_new(true))?);
    held.connect()?.execute("VACUUM INTO ?1", [name]).map_err(map)?;
    sync(draft)
}

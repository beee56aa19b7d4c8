//! One commit inside the writer's transaction. Enter through [`Statements`].

use rusqlite::{Connection, OptionalExtension, Statement};

use super::{error::map, file::MAX_SHORT, watch::Change};
use crate::store::{Check, Commit, StoreError, Version};

/// Counts this opening, durably. Gives the newest version and the opening's number.
pub(super) fn begin_epoch(db: &Connection) -> Result<(Version, u32), StoreError> {
    let sql = "UPDATE meta SET epoch = epoch + 1 RETURNING version, epoch";
    let (version, epoch): (i64, u32) =
        db.query_row(sql, [], |row| Ok((row.get(0)?, row.get(1)?))).map_err(map)?;
    Ok((version_from(version)?, epoch))
}

/// SQLite's integers are signed; ours start at one and count up.
pub(super) fn version_from(stored: i64) -> Result<Version, StoreError> {
    u64::try_from(stored).map(Version).map_err(|_| {
        StoreError::Damaged(format!(
            "version {stored}; put this store aside and start with an empty one"
        ))
    })
}

fn stored(version: Version) -> i64 {
    // 2^63 commits at a million a second take 292,000 years.
    i64::try_from(version.0).unwrap_or(i64::MAX)
}

/// The writer's statements, prepared once.
pub(super) struct Statements<'db> {
    db: &'db Connection,
    begin: Statement<'db>,
    end: Statement<'db>,
    version: Statement<'db>,
    insert: Statement<'db>,
    long: Statement<'db>,
    update: Statement<'db>,
    insert_long: Statement<'db>,
    delete_long: Statement<'db>,
    delete: Statement<'db>,
    advance: Statement<'db>,
}

impl<'db> Statements<'db> {
    pub(super) fn prepare(db: &'db Connection) -> Result<Self, rusqlite::Error> {
        Ok(Self {
            db,
            begin: db.prepare("BEGIN IMMEDIATE")?,
            end: db.prepare("COMMIT")?,
            version: db.prepare("SELECT version FROM record WHERE key = ?1")?,
            insert: db.prepare(
                "INSERT INTO record (key, version, value, long) VALUES (?1, ?2, ?3, ?4) \
                 ON CONFLICT (key) DO NOTHING",
            )?,
            long: db.prepare("SELECT long FROM record WHERE key = ?1")?,
            update: db
                .prepare("UPDATE record SET version = ?2, value = ?3, long = ?4 WHERE key = ?1")?,
            insert_long: db.prepare("INSERT INTO long_value (value) VALUES (?1)")?,
            delete_long: db.prepare("DELETE FROM long_value WHERE id = ?1")?,
            delete: db.prepare("DELETE FROM record WHERE key = ?1")?,
            advance: db.prepare("UPDATE meta SET version = ?1")?,
        })
    }

    pub(super) fn begin(&mut self) -> Result<(), rusqlite::Error> {
        self.begin.execute([]).map(drop)
    }

    /// Sets the version counter, which becomes durable with the transaction.
    pub(super) fn advance(&mut self, newest: Version) -> Result<(), rusqlite::Error> {
        self.advance.execute([stored(newest)]).map(drop)
    }

    pub(super) fn end(&mut self) -> Result<(), rusqlite::Error> {
        self.end.execute([]).map(drop)
    }

    /// Undoes the transaction; `false` when even that failed.
    pub(super) fn undo(&self) -> bool {
        self.db.is_autocommit() || self.db.execute_batch("ROLLBACK").is_ok()
    }

    /// Whether every check holds in the state inside the transaction.
    fn holds(&mut self, checks: &[Check]) -> Result<bool, rusqlite::Error> {
        for check in checks {
            let found: Option<i64> =
                self.version.query_row([check.key()], |row| row.get(0)).optional()?;
            let holds = match check {
                Check::Absent(_) => found.is_none(),
                Check::Is(_, version) => found == i64::try_from(version.0).ok(),
            };
            if !holds || (found.is_none() && matches!(check, Check::Is(..))) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Does what `commit` says if its checks hold, and says whether they did. Deletes of absent
    /// keys are left out of `commit`, so what remains in it is what changed.
    pub(super) fn apply(
        &mut self,
        commit: &mut Commit,
        version: Version,
    ) -> Result<bool, rusqlite::Error> {
        let mut puts = commit.puts.iter();
        let holds = match (commit.checks.as_slice(), commit.puts.first()) {
            // Inserting a record looks by itself whether it is new.
            ([Check::Absent(key)], Some((put, value))) if key == put => {
                puts.next();
                self.insert(put, version, value)?
            }
            (checks, _) => self.holds(checks)?,
        };
        if !holds {
            return Ok(false);
        }
        for (key, value) in puts {
            if !self.insert(key, version, value)? {
                self.replace(key, version, value)?;
            }
        }
        let mut failed = None;
        commit.deletes.retain(|key| {
            self.remove(key).unwrap_or_else(|error| {
                failed.get_or_insert(error);
                false
            })
        });
        failed.map_or(Ok(true), Err)
    }

    /// Whether there was no such record, and is one now.
    fn insert(
        &mut self,
        key: &[u8],
        version: Version,
        value: &[u8],
    ) -> Result<bool, rusqlite::Error> {
        if is_short(key, value) {
            return Ok(self.insert.execute((key, stored(version), value, None::<i64>))? > 0);
        }
        let long = self.insert_long.insert([value])?;
        let inserted = self.insert.execute((key, stored(version), None::<&[u8]>, long))? > 0;
        if !inserted {
            self.delete_long.execute([long])?;
        }
        Ok(inserted)
    }

    /// Writes over a record that is there.
    fn replace(
        &mut self,
        key: &[u8],
        version: Version,
        value: &[u8],
    ) -> Result<(), rusqlite::Error> {
        self.remove_long(key)?;
        let (short, long) = match is_short(key, value) {
            true => (Some(value), None),
            false => (None, Some(self.insert_long.insert([value])?)),
        };
        self.update.execute((key, stored(version), short, long)).map(drop)
    }

    /// Whether there was such a record.
    fn remove(&mut self, key: &[u8]) -> Result<bool, rusqlite::Error> {
        self.remove_long(key)?;
        Ok(self.delete.execute([key])? > 0)
    }

    fn remove_long(&mut self, key: &[u8]) -> Result<(), rusqlite::Error> {
        let long: Option<Option<i64>> = self.long.query_row([key], |row| row.get(0)).optional()?;
        match long.flatten() {
            Some(id) => self.delete_long.execute([id]).map(drop),
            None => Ok(()),
        }
    }
}

/// Whether the value stands in the record itself.
fn is_short(key: &[u8], value: &[u8]) -> bool {
    key.len() + value.len() <= MAX_SHORT
}

/// What a commit changed, in the order watchers see it.
pub(super) fn changes(commit: Commit) -> Vec<Change> {
    let puts = commit.puts.into_iter().map(|(key, value)| (key, Some(value)));
    puts.chain(commit.deletes.into_iter().map(|key| (key, None))).collect()
}

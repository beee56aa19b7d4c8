//! What is durable is always a prefix of what happened, at any commit, under concurrency.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::{collections::BTreeMap, ops::Bound, sync::Arc, time::Duration};

use common::{Life, Machine, random, start_journal};
use km_core::{
    journal::{Account, Change, Fence, Journal, MAX_CHANGE, Over},
    ledger::Ledger,
    material::ClearBytes,
    records::Records,
    store::{Commit, MAX_COMMIT_BYTES, MAX_OPS, Outcome, Store, Version, faulty::Fault},
};

const PATIENCE: Duration = Duration::from_secs(30);

fn records(life: Arc<Life>) -> Records {
    Records::new(life, &ClearBytes::from_vec(vec![7; 32]))
}

fn put(key: String, value: Vec<u8>) -> Change {
    let ledger = Ledger { absorbed: 1, ..Ledger::default() };
    Change { records: vec![(key.into_bytes(), Some(value))], ledger }
}

async fn rows(machine: &Machine) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let rows = machine.disk.range(b"r/", Bound::Unbounded, 1000).await.unwrap();
    rows.into_iter().map(|row| (row.key, row.value)).collect()
}

async fn account(records: &Records) -> u64 {
    let ledger: Option<Ledger> = records.get(b"ledger/test").await.unwrap();
    ledger.unwrap_or_default().absorbed
}

/// Many tasks append under one lock; the store dies after some commits. What is there is exactly
/// the first so many changes, and the account says how many.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_at_any_commit_leaves_a_prefix() {
    for commits in 0..8 {
        let machine = Machine::new();
        let life = Arc::new(Life::new(machine.disk.clone()));
        life.die_after(commits);
        let records = records(life.clone());
        let journal = start_journal(&records);
        let history = Arc::new(tokio::sync::Mutex::new(0u32));
        let start = |_| tokio::spawn(append(journal.clone(), history.clone()));
        let tasks: Vec<_> = (0..4).map(start).collect();
        for task in tasks {
            task.await.unwrap();
        }
        let settled = journal.settled();
        let all = tokio::time::timeout(Duration::from_millis(100), settled).await;
        life.kill().await;
        let durable = account(&records).await as u32;
        assert!(all.is_err() || durable == 400);
        let mut expected = BTreeMap::new();
        for change in 0..durable {
            // Every change writes its place into one of ten records.
            expected
                .insert(format!("r/{}", change % 10).into_bytes(), change.to_be_bytes().to_vec());
        }
        assert_eq!(rows(&machine).await, expected, "after {commits} commits");
    }
}

async fn append(journal: Arc<Journal>, history: Arc<tokio::sync::Mutex<u32>>) {
    for _ in 0..100 {
        let mut next = history.lock().await;
        journal.append(put(format!("r/{}", *next % 10), next.to_be_bytes().to_vec()));
        *next += 1;
        drop(next);
        tokio::task::yield_now().await;
    }
}

/// Changes are put together as far as one commit allows in operations and in bytes, never split.
#[tokio::test]
async fn commits_stay_within_the_limits_of_the_store() {
    let machine = Machine::new();
    let life = Arc::new(Life::new(machine.disk.clone()));
    let records = records(life);
    let journal = start_journal(&records);
    for i in 0..3 * MAX_OPS {
        journal.append(put(format!("r/{i:04}"), vec![1; 10]));
    }
    let large = MAX_COMMIT_BYTES / 3;
    for i in 0..7 {
        journal.append(put(format!("r/large{i}"), random(large)));
    }
    // As many operations as fit beside the account.
    let full = (0..MAX_CHANGE).map(|i| (format!("r/full{i}").into_bytes(), Some(vec![2])));
    journal.append(Change { records: full.collect(), ledger: Ledger::default() });
    journal.settled().await.unwrap();
    assert_eq!(rows(&machine).await.len(), 3 * MAX_OPS + 7 + MAX_CHANGE);
    assert_eq!(account(&records).await, 3 * MAX_OPS as u64 + 7);
}

/// Whatever the store answers, a ticket is durable only when the change is there.
#[tokio::test]
async fn no_answer_of_the_store_loses_or_doubles_a_change() {
    let faults = [
        Fault::Unavailable,
        Fault::UnknownDropped,
        Fault::UnknownApplied,
        Fault::Full,
        Fault::Conflict,
    ];
    let machine = Machine::new();
    let life = Arc::new(Life::new(machine.disk.clone()));
    let records = records(life);
    let journal = start_journal(&records);
    for (count, fault) in faults.into_iter().enumerate() {
        machine.disk.inject([fault]);
        let ticket = journal.append(put(format!("r/{count}"), vec![count as u8]));
        journal.durable(ticket).await.unwrap();
        assert_eq!(machine.disk.waiting(), 0, "{fault:?} did not take effect");
        assert_eq!(rows(&machine).await.len(), count + 1, "{fault:?}");
        assert_eq!(account(&records).await, count as u64 + 1, "{fault:?} counted twice or not");
    }
}

/// A record written and deleted within one commit ends as the last change says.
#[tokio::test]
async fn the_last_change_of_a_record_in_a_commit_wins() {
    let machine = Machine::new();
    let life = Arc::new(Life::new(machine.disk.clone()));
    let records = records(life);
    let journal = start_journal(&records);
    let delete = |key: &str| Change {
        records: vec![(key.as_bytes().to_vec(), None)],
        ledger: Ledger::default(),
    };
    machine.disk.set_down(true);
    journal.append(put("r/gone".into(), vec![1]));
    journal.append(put("r/back".into(), vec![1]));
    journal.append(delete("r/gone"));
    journal.append(delete("r/back"));
    journal.append(put("r/back".into(), vec![2]));
    machine.disk.set_down(false);
    journal.settled().await.unwrap();
    assert_eq!(rows(&machine).await, BTreeMap::from([(b"r/back".to_vec(), vec![2])]));
}

/// Two KMs have the same journal open; only the one that leads gets anything into the store, however
/// late the other wakes up, and the other learns it.
#[tokio::test]
async fn a_journal_whose_km_no_longer_leads_writes_nothing_and_says_so() {
    let machine = Machine::new();
    let life = Arc::new(Life::new(machine.disk.clone()));
    let records = records(life);
    let lead = |name: &str| records.store().commit(Commit::new().put("lead", name));
    let start = async |version| {
        let fence = Fence { key: b"lead".to_vec(), version };
        let account = records.store().get(b"ledger/test").await.unwrap();
        let ledger =
            account.as_ref().map(|found| records.decode(&found.key, &found.value).unwrap());
        let account = Account {
            ledger: ledger.unwrap_or_default(),
            version: account.map(|found| found.version),
        };
        Journal::start(records.clone(), b"ledger/test".to_vec(), account, Some(fence))
    };
    let Outcome::Committed(first) = lead("one").await.unwrap() else { panic!() };
    let one = start(first).await;
    one.durable(one.append(put("r/1".into(), vec![1]))).await.unwrap();
    let Outcome::Committed(second) = lead("two").await.unwrap() else { panic!() };
    let two = start(second).await;
    two.durable(two.append(put("r/2".into(), vec![2]))).await.unwrap();
    let late = one.append(put("r/2".into(), vec![9]));
    assert_eq!(one.durable(late).await, Err(Over::Deposed));
    assert_eq!(one.over().await, Over::Deposed);
    // What it lost stays lost; what was durable stays so.
    assert_eq!(one.durable(one.append(put("r/3".into(), vec![9]))).await, Err(Over::Deposed));
    two.durable(two.append(put("r/4".into(), vec![4]))).await.unwrap();
    let kept: Vec<Vec<u8>> = rows(&machine).await.into_values().collect();
    assert_eq!(kept, [vec![1], vec![2], vec![4]]);
    assert_eq!(account(&records).await, 3);
}

/// The account in the store is older than what this journal left there: an older copy was put back.
#[tokio::test]
async fn a_store_that_was_set_back_gets_nothing_more() {
    let machine = Machine::new();
    let records = records(Arc::new(Life::new(machine.disk.clone())));
    let account = Account { version: Some(Version(u64::MAX)), ..Account::default() };
    let journal = Journal::start(records.clone(), b"ledger/test".to_vec(), account, None);
    let late = journal.append(put("r/1".into(), vec![1]));
    assert_eq!(journal.over().await, Over::SetBack);
    assert_eq!(journal.durable(late).await, Err(Over::SetBack));
    assert!(rows(&machine).await.is_empty());
}

/// A KM that was taken out does not go on asking a store that will never write for it again.
#[tokio::test]
async fn a_journal_of_a_key_manager_that_was_taken_out_ends_and_lets_go_of_the_store() {
    let machine = Machine::new();
    let life = Arc::new(Life::new(machine.disk.clone()));
    let records = records(life.clone());
    let journal = start_journal(&records);
    journal.durable(journal.append(put("r/1".into(), vec![1]))).await.unwrap();
    machine.disk.inject([Fault::Unavailable, Fault::Barred]);
    let late = journal.append(put("r/2".into(), vec![2]));
    let over = tokio::time::timeout(PATIENCE, journal.over()).await;
    assert_eq!(over.expect("it does not ask for ever"), Over::Barred);
    assert_eq!(journal.durable(late).await, Err(Over::Barred));
    let kept: Vec<Vec<u8>> = rows(&machine).await.into_values().collect();
    assert_eq!((machine.disk.waiting(), kept), (0, vec![vec![1]]));
    drop((journal, records));
    let released = async {
        while Arc::strong_count(&life) > 1 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, released).await.expect("nobody holds the store");
}

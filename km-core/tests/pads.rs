//! Bytes set apart for the relay: never twice, equal at both ends, and accounted for alike, over
//! crashes at every commit and messages that are lost, repeated and late.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use common::{Chaos, End, FORMS, NORTH, Pair, SOUTH};
use km_core::{
    ledger::Ledger,
    pad::{PadSpan, PadUse},
    payload::Storage,
    pool::{Pool, PoolError},
    run::RunId,
};
use tokio::sync::mpsc;

/// Lends until it fails, uses part of each span, and now and then leaves one open.
async fn lend(here: Arc<Pool>, there: Arc<Pool>, done: mpsc::UnboundedSender<(PadSpan, Vec<u8>)>) {
    for turn in 0u16.. {
        let Ok(pad) = here.lend(100 + turn % 7 * 50).await else { return };
        let bytes = pad.bytes.expose(<[u8]>::to_vec);
        if let Ok(far) = there.open_pad(pad.span).await {
            assert!(far.bytes.expose(|far| far == bytes), "the ends hold different pad");
        }
        done.send((pad.span, bytes)).unwrap();
        if turn % 5 < 4 {
            here.pad_used(PadUse { span: pad.span, pad: turn % 60, tag: 32 });
        }
    }
}

/// Every byte of a span, by its place.
fn note(seen: &mut BTreeMap<(RunId, u32), u8>, span: PadSpan, bytes: &[u8]) {
    let block = RunId { block: span.id.block, offset: 0 };
    for (at, byte) in (u32::from(span.id.offset)..).zip(bytes) {
        assert!(seen.insert((block, at), *byte).is_none(), "a byte of pad was lent twice");
    }
}

async fn until(what: &str, holds: impl Fn() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < Duration::from_secs(10), "waited in vain: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Nothing is lost any more: what is said now is heard, and every block is used up.
async fn wind_up(pair: &Pair) -> [Ledger; 2] {
    for end in &pair.ends {
        end.wire.set_chaos(Chaos::default());
        end.wire.deliver_late();
    }
    pair.greet();
    for at in [NORTH, SOUTH] {
        loop {
            match pair.ends[at].pool.lend(u16::MAX).await {
                Ok(pad) => pair.ends[at].pool.pad_used(PadUse::burned(pad.span)),
                Err(PoolError::NoKeys) => break,
                Err(_) => {}
            }
        }
    }
    pair.greet();
    let all_told = |end: &End| end.pool.pads_untold() == 0;
    until("everything is told", || pair.ends.iter().all(all_told)).await;
    pair.assert_settled_and_balanced().await;
    [NORTH, SOUTH].map(|at| pair.ends[at].pool.view().ledger)
}

async fn dies_at_every_commit(storage: Storage) {
    let mut pair = Pair::kept_in(storage).await;
    let mut seen = BTreeMap::new();
    for round in 0..24 {
        pair.admit_random(round % 2, 4096).await;
        let victim = (round / 2) % 2;
        pair.ends[victim].life.die_after((round / 2) as i64);
        let (done, mut heard) = mpsc::unbounded_channel();
        let (north, south) = (pair.north().pool.clone(), pair.south().pool.clone());
        let tasks = [
            tokio::spawn(lend(north.clone(), south.clone(), done.clone())),
            tokio::spawn(lend(south, north, done)),
        ];
        tokio::time::sleep(Duration::from_millis(15)).await;
        tasks.iter().for_each(tokio::task::JoinHandle::abort);
        for task in tasks {
            let _ = task.await;
        }
        // The other end notices that the connection is gone.
        pair.crash(victim).await;
        let survivor = &pair.ends[1 - victim].pool;
        while let Ok((span, bytes)) = heard.try_recv() {
            note(&mut seen, span, &bytes);
            survivor.pad_used(PadUse::burned(span));
        }
        pair.assert_balanced();
    }
    assert!(seen.len() > 5000, "hardly anything was lent: {} bytes", seen.len());
    // What was lent and not heard of by the test is open still; a restart burns it.
    for at in [NORTH, SOUTH] {
        pair.crash(at).await;
    }
    let [north, south] = wind_up(&pair).await;
    assert_eq!(north, south, "the ends account differently");
    assert!(north.pad > 0 && north.tag > 0 && north.burned > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pad_is_never_lent_twice_whatever_dies_and_the_accounts_agree_to_the_bit() {
    dies_at_every_commit(FORMS[0]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_for_blocks_kept_in_the_token() {
    dies_at_every_commit(FORMS[2]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lost_repeated_and_late_messages_leave_the_accounts_alike() {
    let mut pair = Pair::new().await;
    let mut seen = BTreeMap::new();
    for seed in 0..12 {
        for end in &pair.ends {
            end.wire.set_chaos(Chaos { lose: 15, repeat: 20, delay: 20, seed });
        }
        pair.admit_random(seed as usize % 2, 4096).await;
        let (done, mut heard) = mpsc::unbounded_channel();
        let (north, south) = (pair.north().pool.clone(), pair.south().pool.clone());
        lend(north.clone(), south.clone(), done.clone()).await;
        lend(south, north, done).await;
        while let Ok((span, bytes)) = heard.try_recv() {
            note(&mut seen, span, &bytes);
            pair.ends.iter().for_each(|end| end.pool.pad_used(PadUse::burned(span)));
        }
        pair.ends.iter().for_each(|end| end.wire.deliver_late());
        pair.greet();
        pair.assert_balanced();
    }
    let [north, south] = wind_up(&pair).await;
    assert_eq!(north, south, "the ends account differently");
    assert!(north.pad > 0 && north.burned > 0 && seen.len() > 2000);
}

/// An alarm is news once, not with every account that the peer tells.
#[tokio::test]
async fn that_the_ends_differ_is_told_once_and_so_that_they_agree_again() {
    let mut pair = Pair::new().await;
    pair.admit_random(NORTH, 1024).await;
    let (north, south) = (pair.north().pool.clone(), pair.south().pool.clone());
    let span = north.lend(256).await.unwrap().span;
    let theirs = south.account();
    assert_eq!(north.peer_account(theirs), None, "a span is in use: nobody can say");
    north.pad_used(PadUse { span, pad: 200, tag: 32 });
    until("both know", || north.pads_untold() == 0 && south.account().pad == 8 * 200).await;
    let theirs = south.account();
    assert_eq!(north.peer_account(theirs), None);
    assert_eq!(north.view().ends_agree, Some(true));
    let wrong = Ledger { pad: theirs.pad + 8, ..theirs };
    assert_eq!(north.peer_account(wrong), Some(false));
    assert_eq!(north.peer_account(wrong), None);
    assert_eq!(north.view().ends_agree, Some(false));
    assert_eq!(north.peer_account(theirs), Some(true));
    assert_eq!(north.peer_account(theirs), None);
}

/// What the peer lends must be its own, fresh, and of this pool.
#[tokio::test]
async fn a_peer_lends_only_what_it_may() {
    let mut pair = Pair::new().await;
    let number = pair.admit_random(NORTH, 1024).await;
    let pad = pair.north().pool.lend(256).await.unwrap();
    let south = &pair.south().pool;
    let passed = south.borrow_pad(pad.span).err();
    assert_eq!(passed, Some(PoolError::Passed(number, 256)));
    let reaching = PadSpan { id: RunId { offset: 900, ..pad.span.id }, len: 200 };
    let stranger = pad.span.id.block.number + 7;
    let lacking =
        RunId { block: km_core::ids::BlockId { number: stranger, ..pad.span.id.block }, offset: 0 };
    for span in [reaching, PadSpan { id: lacking, len: 8 }, PadSpan { len: 0, ..pad.span }] {
        assert!(south.borrow_pad(span).is_err(), "{span:?}");
    }
    // Not the owner's.
    assert!(
        pair.north()
            .pool
            .borrow_pad(PadSpan { id: RunId { offset: 512, ..pad.span.id }, len: 8 })
            .is_err()
    );
    // More used than there was: not believed.
    pair.north().pool.pad_used(PadUse { span: pad.span, pad: 250, tag: 32 });
    assert_eq!(pair.north().pool.view().ledger.pad, 0);
}

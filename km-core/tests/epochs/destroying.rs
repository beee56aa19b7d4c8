//! Destruction by two operators, and what stays of a copy of the store from before.

use std::time::Duration;

use km_core::{
    audit::{self, Deed},
    epoch::{Destruction, EpochError, EpochPolicy, EpochState},
    hsm::Hsm,
    vault::{Vault, VaultError},
};

use crate::{
    common::{Machine, SOUTH, ids_of, sae},
    destroy, is_empty, lone, open, put_back, rotated, rows, view,
};

#[tokio::test]
async fn after_a_destruction_it_starts_again_and_opens_everything() {
    let (mut pair, keys, objects) = rotated().await;
    while !is_empty(pair.south(), 1) {
        pair.south().keeper.pass().await.unwrap();
    }
    destroy(&pair.south().keeper, 1).await;
    pair.crash(SOUTH).await;
    let south = pair.south();
    assert_eq!(view(south, 1).0, EpochState::Destroyed);
    south.supply.collect(&sae("s1"), None, &ids_of(&keys)).await.unwrap();
    for (uid, bytes) in &objects {
        assert_eq!(open(&south.objects, uid).await, *bytes);
    }
}

/// Copies of the store from each moment before the destruction: at rotation, half-way through,
/// and when the old epoch was just empty.
#[tokio::test]
async fn a_backup_from_before_the_destruction_cannot_be_opened() {
    let (pair, _, _) = rotated().await;
    let (south, disk) = (pair.south(), &pair.machines[SOUTH]);
    let at_rotation = rows(disk, b"").await;
    let kek = disk.hsm.keks().await.unwrap()[0].id.clone();
    // The record key is under the new epoch already, the rest is not.
    let mut half_way = at_rotation.clone();
    while !is_empty(south, 1) {
        south.keeper.pass().await.unwrap();
    }
    let moved = rows(disk, b"meta/record-key").await.remove(0);
    half_way.iter_mut().filter(|row| row.key == moved.key).for_each(|row| *row = moved.clone());
    let emptied = rows(disk, b"").await;
    destroy(&south.keeper, 1).await;

    let restored = Machine::with(disk.hsm.clone());
    put_back(&restored, &at_rotation).await;
    let refused = Vault::new(disk.hsm.clone()).record_key(restored.disk.as_ref()).await;
    assert!(matches!(&refused, Err(VaultError::Foreign(_))), "{refused:?}");
    assert!(refused.unwrap_err().to_string().contains("copy made before its KEK epoch"));
    assert_eq!(rows(&restored, b"").await.len(), at_rotation.len(), "nothing is made anew");

    for copy in [&half_way, &emptied] {
        let restored = Machine::with(disk.hsm.clone());
        put_back(&restored, copy).await;
        let refused = restored.unlock(restored.disk.clone(), EpochPolicy::default()).await;
        let error = refused.err().unwrap();
        assert_eq!(error, EpochError::Missing { number: 1 });
        assert!(error.to_string().contains("a copy made before the epoch was destroyed"));
    }
    // Nor does a single blob of the copy open by itself.
    let mut tried = 0;
    for row in at_rotation.iter().filter(|row| row.key.starts_with(b"block/")) {
        let block: km_core::block::SealedBlock =
            south.records.decode(&row.key, &row.value).unwrap();
        let refused = south.vault.open_block(&block).await;
        assert!(refused.is_err_and(|error| error.to_string().contains("epoch 1")));
        tried += 1;
    }
    for row in at_rotation.iter().filter(|row| row.key.starts_with(b"object/")) {
        let object: km_core::objects::Object = south.records.decode(&row.key, &row.value).unwrap();
        let sealed = object.sealed.unwrap();
        let refused = south.vault.open_object(&object.uid, object.owner.as_str(), &sealed).await;
        assert!(refused.is_err_and(|error| error.to_string().contains("epoch 1")));
        tried += 1;
    }
    assert_eq!(tried, 5);
    assert!(!disk.hsm.keks().await.unwrap().iter().any(|held| held.id == kek));
}

#[tokio::test]
async fn one_operator_alone_destroys_nothing_and_two_are_on_record() {
    let (pair, _, _) = rotated().await;
    let (south, keeper) = (pair.south(), &pair.south().keeper);
    let active = keeper.destroy(2, "cn:ada").await;
    assert!(matches!(active, Err(EpochError::Step(_))), "{active:?}");
    assert_eq!(keeper.destroy(9, "cn:ada").await, Err(EpochError::NoSuch(9)));
    let full = keeper.destroy(1, "cn:ada").await;
    assert!(matches!(full, Err(EpochError::NotEmpty { number: 1, .. })), "{full:?}");
    // That look moved everything.
    assert!(matches!(keeper.destroy(1, "cn:ada").await, Ok(Destruction::Approved { .. })));
    let again = keeper.destroy(1, "cn:ada").await;
    assert_eq!(again, Err(EpochError::SameOperator { operator: "cn:ada".into() }));
    assert_eq!(pair.machines[SOUTH].hsm.keks().await.unwrap().len(), 2);
    let done = keeper.destroy(1, "cn:bob").await.unwrap();
    let Destruction::Done(epoch) = done else { panic!("{done:?}") };
    let operators: Vec<&str> = epoch.approvals.iter().map(|a| a.operator.as_str()).collect();
    assert_eq!(operators, ["cn:ada", "cn:bob"]);
    let deeds = audit::list(&south.records, 100).await.unwrap();
    let said: Vec<(&str, &Deed)> = deeds.iter().map(|e| (e.who.as_str(), &e.what)).collect();
    assert_eq!(
        said,
        [
            ("start", &Deed::EpochMade(1)),
            ("cn:ada", &Deed::EpochMade(2)),
            ("cn:ada", &Deed::EpochDestructionApproved(1)),
            ("cn:bob", &Deed::EpochDestructionDecided(1)),
            ("cn:ada and cn:bob", &Deed::EpochDestroyed(1)),
        ]
    );
    assert!(deeds.is_sorted_by_key(|entry| entry.at_ms) && deeds[0].at_ms > 0);
    let over = keeper.destroy(1, "cn:ada").await;
    assert!(matches!(over, Err(EpochError::Step(_))), "{over:?}");
}

#[tokio::test]
async fn an_approval_that_waited_too_long_counts_no_more() {
    let machine = Machine::new();
    let approval_window = Duration::from_millis(50);
    let policy = EpochPolicy { approval_window, ..EpochPolicy::default() };
    let (_, keeper) = lone(&machine, policy).await;
    keeper.epochs().rotate("cn:ada").await.unwrap();
    keeper.pass().await.unwrap();
    keeper.destroy(1, "cn:ada").await.unwrap();
    tokio::time::sleep(Duration::from_millis(80)).await;
    let late = keeper.destroy(1, "cn:bob").await.unwrap();
    assert!(matches!(late, Destruction::Approved { by, .. } if by.operator == "cn:bob"));
    assert_eq!(machine.hsm.keks().await.unwrap().len(), 2);
}

#[tokio::test]
async fn an_approval_outlives_a_restart() {
    let (mut pair, _, _) = rotated().await;
    pair.south().keeper.pass().await.unwrap();
    pair.south().keeper.destroy(1, "cn:ada").await.unwrap();
    pair.crash(SOUTH).await;
    let keeper = &pair.south().keeper;
    let again = keeper.destroy(1, "cn:ada").await;
    assert!(matches!(again, Err(EpochError::SameOperator { .. })), "{again:?}");
    assert!(matches!(keeper.destroy(1, "cn:bob").await, Ok(Destruction::Done(_))));
}

/// At whatever write of the destruction the KM dies, the KEK is either whole and undecided, or
/// destroyed after the next start.
#[tokio::test]
async fn a_destruction_that_was_decided_is_ended_by_the_next_start() {
    for commits in 0..3 {
        let (mut pair, _, _) = rotated().await;
        while !is_empty(pair.south(), 1) {
            pair.south().keeper.pass().await.unwrap();
        }
        pair.south().keeper.destroy(1, "cn:ada").await.unwrap();
        pair.south().life.die_after(commits);
        let keeper = pair.south().keeper.clone();
        let task = tokio::spawn(async move { keeper.destroy(1, "cn:bob").await });
        tokio::time::sleep(Duration::from_millis(100)).await;
        task.abort();
        pair.crash(SOUTH).await;
        let destroyed = pair.machines[SOUTH].hsm.keks().await.unwrap().len() == 1;
        assert_eq!(destroyed, commits > 0, "after {commits} commits");
        let expected = if destroyed { EpochState::Destroyed } else { EpochState::Retiring };
        assert_eq!(view(pair.south(), 1).0, expected);
    }
}

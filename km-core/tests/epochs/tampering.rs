//! Records and sealed blobs that somebody changed, removed or moved.

use km_core::{
    epoch::{EpochError, EpochPolicy},
    hsm::{Hsm, KekId, Sealed},
    material::ClearBytes,
    objects::Object,
    store::{Commit, Store},
    usage::{Action, Cipher, KeyKind},
    vault::Kind,
};

use crate::{
    common::{NORTH, Pair, SOUTH, bytes_of, ids_of, sae, single_keys},
    destroy, is_empty, rotated, rows,
};

/// A store whose epochs were deleted, or set back, is not taken for a new one.
#[tokio::test]
async fn epoch_records_cannot_be_removed_or_changed_unnoticed() {
    let (pair, _, _) = rotated().await;
    let machine = &pair.machines[SOUTH];
    let all = rows(machine, b"epoch/").await;
    for byte in 0..all[0].value.len() {
        let mut changed = all[0].value.clone();
        changed[byte] ^= 4;
        let commit = Commit::new().put(all[0].key.clone(), changed);
        machine.disk.commit(commit).await.unwrap();
        assert!(machine.unlock(machine.disk.clone(), EpochPolicy::default()).await.is_err());
    }
    machine.disk.purge(b"epoch/").await.unwrap();
    let refused = machine.unlock(machine.disk.clone(), EpochPolicy::default()).await.err();
    assert!(refused.unwrap().to_string().contains("epochs are missing"));
}

/// What a sealed blob can be made to be by who has the record key but not the KEK.
#[tokio::test]
async fn foreign_blobs_are_refused_and_counted() {
    let (pair, keys, _) = rotated().await;
    let (south, disk) = (pair.south(), &pair.machines[SOUTH].disk);
    let kek2 = pair.machines[SOUTH].hsm.current_kek();
    let (a, _) = south.objects.get(&sae("n1"), "a").await.unwrap();
    let sealed = |object: &km_core::objects::Object| {
        let bytes = postcard::to_allocvec(object.sealed.as_ref().unwrap()).unwrap();
        // After the byte that tells the form.
        postcard::from_bytes::<km_core::hsm::Sealed>(&bytes[1..]).unwrap()
    };
    let good = sealed(&a);
    let (b, _) = south.objects.get(&sae("n1"), "b").await.unwrap();
    let mut flipped = good.clone();
    flipped.ciphertext[3] ^= 1;
    let mut cut = good.clone();
    cut.ciphertext.pop();
    let other_epoch = km_core::hsm::Sealed { kek: kek2.clone(), ..good.clone() };
    let unknown = km_core::hsm::Sealed { kek: km_core::hsm::KekId("77".into()), ..good.clone() };
    let mut refusals = 0;
    for blob in [sealed(&b), flipped, cut, other_epoch, unknown] {
        // In the form of bytes that are sealed.
        let bytes = postcard::to_allocvec(&(0u8, &blob)).unwrap();
        let forged = km_core::objects::Object {
            sealed: Some(postcard::from_bytes(&bytes).unwrap()),
            ..a.clone()
        };
        let refused = south.objects.open(&forged).await;
        // As stored, it opens: who has an old reading gets what is there now.
        assert_eq!(refused.unwrap().len(), 32);
        let key = b"object/a\0n1".as_slice();
        let kept = disk.get(key).await.unwrap().unwrap();
        disk.commit(Commit::new().put(key, south.records.encode(key, &forged))).await.unwrap();
        let refused = south.objects.open(&forged).await.unwrap_err();
        assert!(refused.to_string().contains("refused by the HSM"), "{refused}");
        refusals += 1;
        assert_eq!(south.vault.refusals().of(Kind::Object), refusals);
        disk.commit(Commit::new().put(key, kept.value)).await.unwrap();
    }
    // Blocks: a flipped bit under a good record tag, and a block relabelled to the other epoch.
    let row = rows(&pair.machines[SOUTH], b"block/").await.remove(0);
    let block: km_core::block::SealedBlock = south.records.decode(&row.key, &row.value).unwrap();
    let bytes = postcard::to_allocvec(&block).unwrap();
    let kek1 = pair.machines[SOUTH].hsm.keks().await.unwrap()[0].id.0.clone();
    let at = bytes.windows(kek1.len()).position(|w| w == kek1.as_bytes()).unwrap();
    let mut relabelled = bytes.clone();
    relabelled[at..at + kek1.len()].copy_from_slice(kek2.0.as_bytes());
    let mut flipped = bytes.clone();
    *flipped.last_mut().unwrap() ^= 1;
    for (count, forged) in [(1, relabelled), (2, flipped)] {
        let forged: km_core::block::SealedBlock = postcard::from_bytes(&forged).unwrap();
        let forged = south.records.encode(&row.key, &forged);
        disk.commit(Commit::new().put(row.key.clone(), forged)).await.unwrap();
        let refused = south.supply.collect(&sae("s1"), None, &ids_of(&keys)).await;
        assert!(refused.unwrap_err().to_string().contains("refused by the HSM"));
        assert_eq!(south.vault.refusals().of(Kind::Block), count);
    }
    // A blob no KEK opens is left alone, and does not keep an epoch from being empty.
    let tally = south.keeper.pass().await.unwrap();
    assert_eq!((tally.found, tally.moved, tally.refused), (6, 5, 1));
    assert_eq!(south.keeper.pass().await.unwrap().found, 1);
    assert!(is_empty(south, 1));
    disk.commit(Commit::new().put(row.key, row.value)).await.unwrap();
    assert!(matches!(south.keeper.destroy(1, "cn:ada").await, Err(EpochError::NotEmpty { .. })));
}

/// A key that was made in the token says under which KEK it is wrapped, as sealed bytes do.
#[tokio::test]
async fn a_wrapped_key_under_a_kek_of_no_epoch_is_refused_and_counted() {
    let (pair, _, _) = rotated().await;
    let (south, disk) = (pair.south(), &pair.machines[SOUTH].disk);
    let (a, _) = south.objects.get(&sae("n1"), "a").await.unwrap();
    let bytes = postcard::to_allocvec(a.sealed.as_ref().unwrap()).unwrap();
    // After the byte that tells the form.
    let old: Sealed = postcard::from_bytes(&bytes[1..]).unwrap();
    while south.keeper.pass().await.unwrap().found > 0 {}
    destroy(&south.keeper, 1).await;
    let unknown = Sealed { kek: KekId("77".into()), ..old.clone() };
    let good = Sealed { kek: pair.machines[SOUTH].hsm.current_kek(), ..old.clone() };
    let used = [
        // This token uses no keys inside: that is no refusal.
        (good, "does not use keys inside", 0),
        (old, "epoch 1, which was destroyed", 1),
        (unknown, "of no epoch here", 2),
    ];
    for (blob, expected, refusals) in used {
        let wrapped = postcard::to_allocvec(&(1u8, &blob)).unwrap();
        let forged = Object { sealed: Some(postcard::from_bytes(&wrapped).unwrap()), ..a.clone() };
        let key = b"object/a\0n1".as_slice();
        disk.commit(Commit::new().put(key, south.records.encode(key, &forged))).await.unwrap();
        let (action, input) =
            (Action::Encrypt(Cipher::Ecb { padded: false }), ClearBytes::copy_from(&[7; 16]));
        let refused = south.objects.use_key(&forged, KeyKind::Aes, &action, &input).await;
        let said = refused.unwrap_err().to_string();
        assert!(said.contains(expected), "{said}");
        assert_eq!(south.vault.refusals().of(Kind::Object), refusals, "{said}");
    }
}

/// Of a block sealed slice by slice, a slice that does not open stays behind alone.
#[tokio::test]
async fn a_slice_that_does_not_open_takes_no_other_with_it() {
    let mut pair = Pair::kept_in(km_core::payload::Storage::Each(32)).await;
    pair.admit_random(NORTH, 640).await;
    let keys = single_keys(pair.north(), 20).await.unwrap();
    let south = pair.south();
    let row = rows(&pair.machines[SOUTH], b"block/").await.remove(0);
    let block: km_core::block::SealedBlock = south.records.decode(&row.key, &row.value).unwrap();
    let mut bytes = postcard::to_allocvec(&block).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    let forged: km_core::block::SealedBlock = postcard::from_bytes(&bytes).unwrap();
    let forged = south.records.encode(&row.key, &forged);
    let disk = &pair.machines[SOUTH].disk;
    disk.commit(Commit::new().put(row.key.clone(), forged)).await.unwrap();
    south.keeper.epochs().rotate("cn:ada").await.unwrap();
    assert_eq!(south.keeper.pass().await.unwrap().moved, 2);
    let tally = south.keeper.pass().await.unwrap();
    assert_eq!((tally.found, tally.moved, tally.refused), (1, 0, 1));
    destroy(&south.keeper, 1).await;
    let (last, good) = keys.split_last().unwrap();
    let got = south.supply.collect(&sae("s1"), None, &ids_of(good)).await.unwrap();
    let bytes = |keys: &[km_core::pool::SuppliedKey]| keys.iter().map(bytes_of).collect::<Vec<_>>();
    assert_eq!(bytes(&got), bytes(good));
    let lost = south.supply.collect(&sae("s1"), None, &[last.id]).await;
    assert!(lost.unwrap_err().to_string().contains("epoch 1, which was destroyed"));
}

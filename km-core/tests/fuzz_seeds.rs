//! Seeds of the fuzz targets `record` and `block_header`, as a pool writes them.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::{fs, ops::Bound, path::PathBuf};

use common::{NORTH, Pair, SOUTH, sae};
use km_core::{
    block::{BlockHeader, BlockState, SealedBlock},
    objects::{NewObject, Object, ObjectState, Objects},
    provenance::{Origin, Provenance},
    records::{RECORD_FORMAT, parse_unauthenticated},
    run::RunRecord,
    store::Store,
};

const TAG: usize = 16;

fn corpus(kind: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus").join(kind)
}

async fn write_all() {
    let mut pair = Pair::new().await;
    pair.admit_random(NORTH, 96).await;
    let pool = &pair.north().pool;
    let run = pool.lease(&sae("n1"), &[sae("s1"), sae("s2")], 16, 4).await.unwrap();
    let objects = Objects::new(pair.south().records.clone(), pair.south().vault.clone());
    let new = NewObject {
        uid: "u1".into(),
        owner: sae("s1"),
        state: ObjectState::Active,
        provenance: Provenance::local(Origin::HsmRng),
        attributes: b"attributes".to_vec(),
        terms: vec!["name:a".into()],
    };
    objects.create(new, &pair.south().vault.random().bytes(32).await.unwrap()).await.unwrap();
    for end in &pair.ends {
        end.pool.settled().await.unwrap();
    }
    fs::create_dir_all(corpus("record")).unwrap();
    fs::create_dir_all(corpus("block_header")).unwrap();
    let kinds = [
        (NORTH, "run/", "run_issuer"),
        (SOUTH, "run/", "run_collector"),
        (NORTH, "state/", "block_state"),
        (NORTH, "block/", "sealed_block"),
        (SOUTH, "object/", "object"),
    ];
    for (at, prefix, name) in kinds {
        let disk = &pair.machines[at].disk;
        let rows = disk.range(prefix.as_bytes(), Bound::Unbounded, 1).await.unwrap();
        let value = &rows[0].value;
        fs::write(corpus("record").join(name), &value[..value.len() - TAG]).unwrap();
        if name == "sealed_block" {
            let block: SealedBlock = parse_unauthenticated(value).unwrap();
            let header = postcard::to_extend(block.header(), vec![RECORD_FORMAT]).unwrap();
            fs::write(corpus("block_header").join("direct"), header).unwrap();
        }
    }
    pool.end_run(run);
}

/// With `QKM_WRITE_SEEDS=1` they are written anew; do so when a record's form changed.
#[tokio::test]
async fn saved_records_are_still_read() {
    if std::env::var_os("QKM_WRITE_SEEDS").is_some() {
        write_all().await;
    }
    let read = |kind, name| fs::read(corpus(kind).join(name)).unwrap();
    assert!(parse_unauthenticated::<RunRecord>(&read("record", "run_issuer")).is_some());
    assert!(parse_unauthenticated::<RunRecord>(&read("record", "run_collector")).is_some());
    assert!(parse_unauthenticated::<BlockState>(&read("record", "block_state")).is_some());
    assert!(parse_unauthenticated::<SealedBlock>(&read("record", "sealed_block")).is_some());
    assert!(parse_unauthenticated::<Object>(&read("record", "object")).is_some());
    assert!(parse_unauthenticated::<BlockHeader>(&read("block_header", "direct")).is_some());
}

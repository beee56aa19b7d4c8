//! What operators are told of keys that are gone.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use common::{NORTH, Pair, ids_of, sae};
use km_core::pool::KeyState;

#[tokio::test]
async fn what_became_of_a_key_is_told_after_its_block_is_used_up() {
    let mut pair = Pair::new().await;
    pair.admit_random(NORTH, 4096).await;
    let [n1, s1] = ["n1", "s1"].map(sae);
    let keys = pair.north().supply.issue(&n1, std::slice::from_ref(&s1), 256, 128).await.unwrap();
    let got = pair.south().supply.collect(&s1, Some(&n1), &ids_of(&keys)).await.unwrap();
    assert_eq!(got.len(), 128);
    pair.north().supply.stop().await;
    pair.assert_settled_and_balanced().await;
    for (end, by_master, by_slave) in
        [(pair.north(), Some(true), vec![]), (pair.south(), None, vec![s1.clone()])]
    {
        let trace = end.pool.trace(keys[7].id).await.unwrap();
        assert_eq!(trace.state, KeyState::Erased);
        let header = trace.header.expect("how its block came");
        assert_eq!(header.provenance, *keys[7].provenance);
        let run = trace.run.expect("who had it");
        assert_eq!((&run.master, &run.slaves[..]), (&n1, &[s1.clone()][..]));
        assert_eq!((run.handed_out, run.collected_by), (by_master, by_slave));
        assert!(run.ended_ms.is_some() && run.expires_ms.is_none());
    }
}

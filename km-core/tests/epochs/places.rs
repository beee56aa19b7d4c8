//! KMs with several tokens: who gets the KEKs of new epochs, and what becomes of what waits for a token.

use std::{sync::Arc, sync::atomic::Ordering::Relaxed, time::Duration};

use km_core::{
    epoch::{self, EpochError, EpochState, Epochs},
    hsm::{Hsm, HsmError, KekInfo, KekReceiver},
    random::{QrngConfig, Random},
    records::Records,
    store::Commit,
    vault::Vault,
};

use super::{
    common::{SoftHsm, two::TwoTokens},
    sharing::{Km, POLICY, create, joined, lead, start, start_drawing, start_with},
    *,
};

fn numbers(keks: &[KekInfo]) -> Vec<u64> {
    keks.iter().map(|kek| kek.number).collect()
}

async fn held(hsm: &SoftHsm) -> Vec<u64> {
    numbers(&hsm.keks().await.unwrap())
}

/// The KM `n2` joins anew with two tokens, of which the second takes nothing.
async fn joined_with_standby() -> (Machine, Km, Arc<SoftHsm>, Arc<SoftHsm>) {
    let (machine, n1, first) = joined().await;
    let second = SoftHsm::empty();
    let tokens = both(&first, &second).await;
    assert_eq!(n1.epochs.admit("n2", &tokens).await.unwrap().number, 3);
    for (token, parcel) in n1.epochs.waiting_for("n2").await.unwrap() {
        if token.is_empty() {
            first.take_kek(&parcel).await.unwrap();
        }
    }
    n1.keeper.move_record_key().await.unwrap();
    (machine, n1, first, second)
}

async fn both(first: &SoftHsm, second: &SoftHsm) -> Vec<(String, KekReceiver)> {
    let (first, second) = (first.kek_receiver().await, second.kek_receiver().await);
    vec![(String::new(), first.unwrap()), ("standby".to_owned(), second.unwrap())]
}

/// Two operators have the epochs up to `last` destroyed at `n1`, which leads.
async fn destroyed(machine: &Machine, n1: &Km, last: u64) {
    n1.keeper.begin_term(lead(machine).await).await.unwrap();
    n1.keeper.pass().await.unwrap();
    for number in 1..=last {
        super::destroy(&n1.keeper, number).await;
    }
}

/// It would stop the key manager for good: no token takes it, and none holds its KEK any more.
#[tokio::test]
async fn what_waits_for_a_token_that_is_gone_ends_with_its_epoch() {
    let (machine, n1, first, _) = joined_with_standby().await;
    let left = rows(&machine, b"share/parcel/n2/standby/").await;
    assert_eq!(left.len(), 1, "the standby never took it");
    drop(n1);
    let n1 = start_with(&machine, &machine.hsm, "n1", Duration::ZERO).await.unwrap();
    n1.epochs.rotate("ada").await.unwrap();
    destroyed(&machine, &n1, 3).await;
    assert_eq!(rows(&machine, b"share/parcel/").await.len(), 2, "those of epoch 4");

    // An older program destroys an epoch without removing it.
    put_back(&machine, &left).await;
    // Nor does one of no epoch at all keep anybody from working.
    let (row, unknown) = (&left[0], [b"share/parcel/n2/standby/".as_slice(), &[0; 8]].concat());
    let parcel: km_core::hsm::KekParcel = n1.records.decode(&row.key, &row.value).unwrap();
    let parcel = km_core::hsm::KekParcel { number: 0, ..parcel };
    let value = n1.records.encode(&unknown, &parcel);
    machine.disk.commit(Commit::new().put(unknown, value)).await.unwrap();
    let n2 = start(&machine, &first, "n2").await.unwrap();
    assert_eq!(held(&first).await, [4]);
    n2.epochs.receive().await.unwrap();
    put_back(&machine, &left).await;
    n2.epochs.receive().await.unwrap();
    assert!(rows(&machine, b"share/parcel/n2/standby/").await.is_empty());
    put_back(&machine, &left).await;
    drop(n2);
    let n2 = start(&machine, &first, "n2").await.unwrap();
    assert_eq!(open(&n2.objects, "before").await, [7; 32]);
}

#[tokio::test]
async fn a_token_that_is_not_configured_any_more_gets_no_kek() {
    let (machine, n1, first, second) = joined_with_standby().await;
    let standby = async || {
        let parcels = rows(&machine, b"share/parcel/n2/standby/").await.len();
        (rows(&machine, b"share/receiver/n2/standby").await.len(), parcels)
    };
    // With both it has both, also while one is away.
    let hsm = TwoTokens::new(&first, &second);
    hsm.away.store(true, Relaxed);
    let n2 = start(&machine, &hsm, "n2").await.unwrap();
    n2.epochs.receive().await.unwrap();
    assert_eq!(standby().await, (1, 1));
    drop(n2);
    let n2 = start(&machine, &first, "n2").await.unwrap();
    n2.epochs.receive().await.unwrap();
    assert_eq!(standby().await, (0, 0));
    assert_eq!(rows(&machine, b"share/receiver/n2").await.len(), 1, "its first token's");
    n1.epochs.receive().await.unwrap();
    n1.epochs.rotate("ada").await.unwrap();
    assert_eq!(standby().await, (0, 0));
    n2.epochs.receive().await.unwrap();
    assert_eq!(held(&first).await, [2, 3, 4]);

    // Whoever joins again has the tokens it names then.
    n1.epochs.admit("n2", &both(&first, &second).await).await.unwrap();
    assert_eq!(standby().await, (1, 1));
    n1.epochs.admit("n2", &both(&first, &second).await[..1]).await.unwrap();
    assert_eq!(standby().await, (0, 0));
    assert_eq!(
        rows(&machine, b"share/parcel/n2/").await.len(),
        2,
        "what waits for the first stays"
    );
}

/// At once, whatever becomes of the KM that takes it out.
#[tokio::test]
async fn no_token_of_a_km_that_is_taken_out_gets_a_kek() {
    let (machine, n1, _, standby) = joined_with_standby().await;
    let tokens = [(String::new(), standby.kek_receiver().await.unwrap())];
    n1.epochs.admit("n20", &tokens).await.unwrap();
    let places = rows(&machine, b"share/receiver/n2").await;
    let commit = epoch::expelled(&n1.records, "n2", Commit::new()).await.unwrap();
    machine.disk.commit(commit).await.unwrap();
    let left = rows(&machine, b"share/receiver/n2").await;
    assert_eq!(left.len(), 1);
    assert!(left[0].key.ends_with(b"/n20"), "another KM");

    // An older program removes the first place alone, and leaves the mark.
    put_back(&machine, &places).await;
    let mark = [epoch::OUT, b"n2"].concat();
    let value = n1.records.encode(&mark, &());
    machine.disk.commit(Commit::new().put(mark, value)).await.unwrap();
    let waiting = async || rows(&machine, b"share/parcel/n2/").await.len();
    let before = waiting().await;
    n1.epochs.rotate("ada").await.unwrap();
    assert_eq!(waiting().await, before);
    assert_eq!(rows(&machine, b"share/parcel/n20/").await.len(), 2);
}

/// Not by the token's numbers either, nor by a library's: a KEK that nobody can wrap soundly is not made.
#[tokio::test]
async fn no_kek_is_made_for_others_while_a_random_source_is_away() {
    let (machine, n1, joining) = joined().await;
    drop(n1);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("qrng");
    let away = QrngConfig { path, min_entropy: 8.0, deadline: Duration::from_secs(1) };
    let away = Arc::new(Random::with_qrng(Some(machine.hsm.clone()), away).unwrap());
    let n1 = start_drawing(&machine, &machine.hsm, "n1", away.clone()).await.unwrap();
    let before = held(&machine.hsm).await;
    let receiver = [(String::new(), joining.kek_receiver().await.unwrap())];
    let refused = n1.epochs.admit("n3", &receiver).await;
    assert!(matches!(refused, Err(EpochError::Hsm(HsmError::Unavailable(_)))), "{refused:?}");
    assert_eq!(held(&machine.hsm).await, before);
    assert!(rows(&machine, b"share/receiver/n3").await.is_empty());

    // Nor at a start that finds one which was never told of.
    machine.hsm.make();
    let before = held(&machine.hsm).await;
    let refused = start_drawing(&machine, &machine.hsm, "n1", away).await.err().unwrap();
    assert!(refused.contains("qrng"), "{refused}");
    assert_eq!(held(&machine.hsm).await, before);
}

/// The epochs of a KM with a store of its own and these tokens.
async fn alone(machine: &Machine, hsm: &Arc<TwoTokens>) -> Arc<Epochs> {
    let key = Vault::new(hsm.clone()).record_key(machine.disk.as_ref()).await.unwrap();
    let records = Records::new(machine.disk.clone(), &key);
    let random = Arc::new(Random::of_token(hsm.clone()));
    Epochs::open(hsm.clone(), records, POLICY, random).await.unwrap()
}

fn two_alike(machine: &Machine) -> (Arc<SoftHsm>, Arc<TwoTokens>) {
    let second = SoftHsm::copy_of(&machine.hsm);
    let hsm = TwoTokens::new(&machine.hsm, &second);
    (second, hsm)
}

/// What waits for a token is in the store before anybody waits for that token.
#[tokio::test]
async fn a_kek_on_its_way_to_the_standby_outlives_a_crash() {
    let machine = Machine::new();
    let (second, hsm) = two_alike(&machine);
    let epochs = alone(&machine, &hsm).await;
    hsm.stuck.store(true, Relaxed);
    let rotation = tokio::time::timeout(Duration::from_millis(500), epochs.rotate("ada"));
    assert!(rotation.await.is_err(), "it waits for the standby");
    assert_eq!((held(&machine.hsm).await, held(&second).await), (vec![1, 2], vec![1]));
    drop((epochs, hsm));
    let hsm = TwoTokens::new(&machine.hsm, &second);
    let keeper = lone_of(&machine, &hsm).await;
    let taken = tokio::time::timeout(Duration::from_secs(20), async {
        tokio::select! {
            () = keeper.tend() => {}
            () = async {
                while held(&second).await != [1, 2] {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            } => {}
        }
    });
    taken.await.unwrap();
    assert_eq!(keeper.epochs().list().len(), 2, "no other had to begin");
}

async fn lone_of(machine: &Machine, hsm: &Arc<TwoTokens>) -> Keeper {
    let epochs = alone(machine, hsm).await;
    let vault = Vault::new(hsm.clone());
    let key = vault.record_key(machine.disk.as_ref()).await.unwrap();
    let records = Records::new(machine.disk.clone(), &key);
    let vault = vault.with_epochs(epochs.clone());
    let objects = Objects::new(records.clone(), vault.clone());
    let here = km_core::ids::ClusterId::parse("north").unwrap();
    let supply = Supply::new(here, Registry::default(), SupplyLimits::default(), []);
    Keeper::new(epochs, vault, records, supply, objects)
}

/// Its parcel is lost with the process that made it: the standby would lack it for good.
#[tokio::test]
async fn a_kek_that_one_token_has_and_nobody_was_told_of_is_passed_over() {
    let machine = Machine::new();
    let (second, hsm) = two_alike(&machine);
    drop(alone(&machine, &hsm).await);
    machine.hsm.make();
    let epochs = alone(&machine, &hsm).await;
    let told =
        |epochs: &Arc<Epochs>| epochs.list().iter().map(|v| v.epoch.number).collect::<Vec<_>>();
    assert_eq!(told(&epochs), [1, 3]);
    assert_eq!(epochs.list()[1].epoch.state, EpochState::Active);
    assert_eq!(held(&second).await, [1, 3]);
    assert_eq!(told(&alone(&machine, &hsm).await), [1, 3], "it is not found anew");
    // Nor by a KM that has the first token alone from now on.
    let (_, _, epochs) = machine.unlock(machine.disk.clone(), POLICY).await.unwrap();
    assert_eq!(told(&epochs), [1, 3]);

    // One that all of them show begins an epoch, as ever.
    let (second, hsm) = two_alike(&machine);
    machine.hsm.make();
    second.copy_from(&machine.hsm);
    assert_eq!(told(&alone(&machine, &hsm).await), [1, 3, 4]);
}

/// Where the token that is asked for its KEKs destroyed it and the standby did not, nothing shows it.
#[tokio::test]
async fn a_token_that_was_away_destroys_the_kek_once_it_is_back() {
    let (machine, n1, first, second) = joined_with_standby().await;
    let hsm = TwoTokens::new(&first, &second);
    let n2 = start(&machine, &hsm, "n2").await.unwrap();
    n2.epochs.receive().await.unwrap();
    assert_eq!((held(&first).await, held(&second).await), (vec![2, 3], vec![3]));
    drop(n1);
    let n1 = start_with(&machine, &machine.hsm, "n1", Duration::ZERO).await.unwrap();
    n1.epochs.rotate("ada").await.unwrap();
    n2.epochs.receive().await.unwrap();
    assert_eq!((held(&first).await, held(&second).await), (vec![2, 3, 4], vec![3, 4]));
    let before = SoftHsm::copy_of(&second);
    hsm.away.store(true, Relaxed);
    destroyed(&machine, &n1, 3).await;
    for _ in 0..2 {
        n2.epochs.receive().await.unwrap();
    }
    create(&n2, "meanwhile").await;
    assert_eq!((held(&first).await, held(&second).await), (vec![4], vec![3, 4]));
    hsm.away.store(false, Relaxed);
    n2.epochs.receive().await.unwrap();
    assert_eq!(held(&second).await, [4]);

    // Also after a start that knows of no try.
    let late = SoftHsm::copy_of(&before);
    let n2 = start(&machine, &TwoTokens::new(&first, &late), "n2").await.unwrap();
    assert_eq!(held(&late).await, [4]);
    create(&n2, "afterwards").await;
}

//! Several KMs on one store, each with a token of its own.

use std::{sync::Arc, time::Duration};

use km_core::{
    epoch::{self, Epoch, EpochError, EpochPolicy, EpochState, Epochs, Keeper},
    hsm::{Hsm, HsmError, KEK_SEED_BYTES, KekParcel, KekReceiver},
    journal::Fence,
    material::ClearBytes,
    objects::Objects,
    random::Random,
    records::Records,
    registry::Registry,
    store::{Commit, Outcome, Store},
    supply::{Supply, SupplyLimits},
    vault::{Vault, VaultError},
};

use super::{common::hsm::SoftHsm, *};

pub(super) const POLICY: EpochPolicy =
    EpochPolicy { max_age: None, max_seals: 1 << 20, reseal_per_s: 1000, approval_window: WINDOW };
const WINDOW: Duration = Duration::from_secs(60);
/// How long after a look the next one is due.
const AGAIN: Duration = Duration::from_secs(300);

pub(super) struct Km {
    pub(super) records: Records,
    pub(super) objects: Objects,
    pub(super) epochs: Arc<Epochs>,
    pub(super) keeper: Arc<Keeper>,
}

/// Starts the KM `me` with its token on the store of `machine`.
pub(super) async fn start<H: Hsm + 'static>(
    machine: &Machine,
    hsm: &Arc<H>,
    me: &str,
) -> Result<Km, String> {
    start_with(machine, hsm, me, AGAIN).await
}

/// The same, which looks again so soon.
pub(super) async fn start_with<H: Hsm + 'static>(
    machine: &Machine,
    hsm: &Arc<H>,
    me: &str,
    again: Duration,
) -> Result<Km, String> {
    start_as(machine, hsm, me, (again, Arc::new(Random::of_token(hsm.clone())))).await
}

/// As [`start`]; it makes the wrapping of KEKs of these numbers.
pub(super) async fn start_drawing<H: Hsm + 'static>(
    machine: &Machine,
    hsm: &Arc<H>,
    me: &str,
    random: Arc<Random>,
) -> Result<Km, String> {
    start_as(machine, hsm, me, (AGAIN, random)).await
}

async fn start_as<H: Hsm + 'static>(
    machine: &Machine,
    hsm: &Arc<H>,
    me: &str,
    (again, random): (Duration, Arc<Random>),
) -> Result<Km, String> {
    let store: Arc<dyn Store> = machine.disk.clone();
    let vault = Vault::new(hsm.clone());
    let key = epoch::catch_up(&vault, hsm.as_ref(), &store, me).await.map_err(|e| e.to_string())?;
    let records = Records::new(store, &key);
    let epochs = Epochs::open_shared(hsm.clone(), records.clone(), POLICY, random, me).await;
    let epochs = epochs.map_err(|e| e.to_string())?;
    let vault = vault.with_epochs(epochs.clone());
    let objects = Objects::new(records.clone(), vault.clone());
    let here = km_core::ids::ClusterId::parse("north").unwrap();
    let supply = Supply::new(here, Registry::default(), SupplyLimits::default(), []);
    let keeper = Keeper::new(epochs.clone(), vault, records.clone(), supply, objects.clone());
    let keeper = keeper.shared(again);
    Ok(Km { records, objects, epochs, keeper: Arc::new(keeper) })
}

pub(super) async fn create(km: &Km, uid: &str) {
    km.objects.create(object(uid), &ClearBytes::copy_from(&[7; 32])).await.unwrap();
}

/// The KM `name`, whose only token that is, joins; what it gets of the epoch that begins.
async fn admitted(
    km: &Km,
    name: &str,
    receiver: &KekReceiver,
) -> Result<(Epoch, KekParcel), EpochError> {
    let made = km.epochs.admit(name, &[(String::new(), receiver.clone())]).await?;
    let mut waiting = km.epochs.waiting_for(name).await?.into_iter();
    let parcel = waiting.find(|(token, parcel)| token.is_empty() && parcel.number == made.number);
    Ok((made, parcel.expect("the epoch brings its keys").1))
}

/// The KM `n2` joins with an empty token and has the keys of epoch 2.
pub(super) async fn joined() -> (Machine, Km, Arc<SoftHsm>) {
    let (machine, joining) = (Machine::new(), SoftHsm::empty());
    let n1 = start(&machine, &machine.hsm, "n1").await.unwrap();
    create(&n1, "before").await;
    let receiver = joining.kek_receiver().await.unwrap();
    let (made, parcel) = admitted(&n1, "n2", &receiver).await.unwrap();
    assert_eq!((made.number, parcel.number), (2, 2));
    joining.take_kek(&parcel).await.unwrap();
    (machine, n1, joining)
}

#[tokio::test]
async fn a_token_that_joins_opens_all_once_the_older_epochs_are_swept() {
    let (machine, n1, joining) = joined().await;
    let early = start(&machine, &joining, "n2").await.err().unwrap();
    assert!(early.contains("does not open"), "the record key is under the old epoch: {early}");
    n1.keeper.move_record_key().await.unwrap();
    let n2 = start(&machine, &joining, "n2").await.unwrap();
    assert_eq!(n2.epochs.lacks(), [1], "something is under the epoch from before");
    assert!(n2.objects.open(&n2.objects.get(&sae("n1"), "before").await.unwrap().0).await.is_err());
    assert_eq!(n2.keeper.pass().await.unwrap().found, 0, "what it cannot open it leaves alone");
    let keeper = n1.keeper.clone();
    let tending = tokio::spawn(async move { keeper.tend().await });
    let swept = tokio::time::timeout(Duration::from_secs(90), async {
        while !n2.epochs.lacks().is_empty() {
            tokio::time::sleep(Duration::from_millis(500)).await;
            n2.epochs.receive().await.unwrap();
        }
    });
    swept.await.unwrap();
    assert_eq!(open(&n2.objects, "before").await, [7; 32]);
    create(&n2, "of n2").await;
    assert_eq!(open(&n1.objects, "of n2").await, [7; 32]);

    // Whoever begins an epoch, the other has its keys as soon as it needs them.
    n2.epochs.rotate("n2").await.unwrap();
    create(&n2, "third").await;
    assert_eq!(open(&n1.objects, "third").await, [7; 32]);
    create(&n1, "fourth").await;
    assert_eq!(open(&n2.objects, "fourth").await, [7; 32]);
    let active = |km: &Km| km.epochs.list().last().unwrap().epoch.clone();
    assert_eq!((active(&n1).number, active(&n1).state), (3, EpochState::Active));
    assert_eq!(active(&n1).kek, active(&n2).kek);
    tending.abort();
    drop(n2);
    start(&machine, &joining, "n2").await.unwrap();
}

/// Of two that begin an epoch at the same moment one is first, and the other begins the next.
#[tokio::test]
async fn two_tokens_never_have_different_keks_of_one_number() {
    let (machine, n1, joining) = joined().await;
    n1.keeper.move_record_key().await.unwrap();
    let n2 = start(&machine, &joining, "n2").await.unwrap();
    n1.epochs.receive().await.unwrap();
    for _ in 0..8 {
        let (one, two) = tokio::join!(n1.epochs.rotate("n1"), n2.epochs.rotate("n2"));
        assert!(one.is_ok() || two.is_ok(), "{one:?} {two:?}");
        n1.epochs.receive().await.unwrap();
        n2.epochs.receive().await.unwrap();
    }
    let keks: BTreeMap<u64, _> =
        machine.hsm.keks().await.unwrap().into_iter().map(|kek| (kek.number, kek.id)).collect();
    for kek in joining.keks().await.unwrap() {
        assert!(keks.get(&kek.number).is_none_or(|id| *id == kek.id), "{}", kek.number);
    }
    for (km, uid, other) in [(&n1, "a", &n2), (&n2, "b", &n1)] {
        create(km, uid).await;
        assert_eq!(open(&other.objects, uid).await, [7; 32]);
    }

    // Two more join at the same moment, each by another KM.
    let more = [SoftHsm::empty(), SoftHsm::empty()];
    let receivers = [more[0].kek_receiver().await.unwrap(), more[1].kek_receiver().await.unwrap()];
    let joining = (admitted(&n1, "n3", &receivers[0]), admitted(&n2, "n4", &receivers[1]));
    let (one, two) = tokio::join!(joining.0, joining.1);
    assert!(one.is_ok() && two.is_ok(), "{one:?} {two:?}");
    for km in [&n1, &n2] {
        km.epochs.receive().await.unwrap();
        km.keeper.move_record_key().await.unwrap();
    }
    for (token, name) in more.iter().zip(["n3", "n4"]) {
        for (_, parcel) in n1.epochs.waiting_for(name).await.unwrap() {
            token.take_kek(&parcel).await.unwrap();
        }
    }
    create(&n1, "c").await;
    for (token, name) in more.iter().zip(["n3", "n4"]) {
        let km = start(&machine, token, name).await.unwrap();
        assert_eq!(open(&km.objects, "c").await, [7; 32], "{name}");
    }
}

#[tokio::test]
async fn a_km_that_was_away_has_the_keys_of_all_epochs_since() {
    let (machine, n1, joining) = joined().await;
    n1.keeper.pass().await.unwrap();
    for _ in 0..3 {
        n1.epochs.rotate("n1").await.unwrap();
        create(&n1, &format!("in {}", n1.epochs.list().len())).await;
        n1.keeper.pass().await.unwrap();
    }
    let vault = Vault::new(joining.clone());
    let store: Arc<dyn Store> = machine.disk.clone();
    assert!(matches!(vault.record_key(store.as_ref()).await, Err(VaultError::Foreign(_))));
    epoch::catch_up(&vault, joining.as_ref(), &store, "n2").await.unwrap();
    let numbers: Vec<u64> = joining.keks().await.unwrap().iter().map(|kek| kek.number).collect();
    assert_eq!(numbers, [2, 3, 4, 5]);
    assert!(rows(&machine, b"share/parcel/").await.is_empty(), "they are not kept");
}

#[tokio::test]
async fn who_was_removed_has_the_keys_of_no_later_epoch() {
    let (machine, n1, joining) = joined().await;
    n1.keeper.pass().await.unwrap();
    n1.epochs.rotate("n1").await.unwrap();
    let made = n1.epochs.expel("n2", "ada").await.unwrap();
    create(&n1, "after").await;
    assert!(rows(&machine, b"share/parcel/").await.is_empty());
    n1.keeper.pass().await.unwrap();
    let refused = start(&machine, &joining, "n2").await.err().unwrap();
    assert!(refused.contains(&format!("epoch {}", made.number)), "{refused}");
    assert_eq!(joining.keks().await.unwrap().len(), 1);
    let (kept, _) = n1.objects.get(&sae("n1"), "after").await.unwrap();
    let removed = Objects::new(n1.records.clone(), Vault::new(joining.clone()));
    assert!(removed.open(&kept).await.is_err());

    // It joins again, with the token it had.
    let receiver = joining.kek_receiver().await.unwrap();
    let (_, parcel) = admitted(&n1, "n2", &receiver).await.unwrap();
    joining.take_kek(&parcel).await.unwrap();
    n1.keeper.pass().await.unwrap();
    let n2 = start(&machine, &joining, "n2").await.unwrap();
    assert_eq!(open(&n2.objects, "after").await, [7; 32]);
    n1.epochs.rotate("n1").await.unwrap();
    create(&n1, "later").await;
    assert_eq!(open(&n2.objects, "later").await, [7; 32]);
}

/// Whoever can write to the store can wrap a KEK of his own for a public key that stands in it.
#[tokio::test]
async fn a_parcel_of_an_intruder_is_not_taken() {
    let (machine, n1, joining) = joined().await;
    n1.keeper.pass().await.unwrap();
    n1.epochs.rotate("n1").await.unwrap();
    n1.keeper.pass().await.unwrap();
    let row = rows(&machine, b"share/parcel/n2/").await.pop().unwrap();
    let own = SoftHsm::new();
    own.make();
    let receiver = joining.kek_receiver().await.unwrap();
    let (_, parcels) = own
        .create_kek_for(0, &[receiver], &ClearBytes::copy_from(&[7; KEK_SEED_BYTES]))
        .await
        .unwrap();
    let other = Records::new(machine.disk.clone(), &ClearBytes::copy_from(&[1; 32]));
    let forged = other.encode(&row.key, &parcels[0]);
    machine.disk.commit(Commit::new().put(row.key, forged)).await.unwrap();
    let refused = start(&machine, &joining, "n2").await.err().unwrap();
    assert!(refused.contains("authentication tag"), "{refused}");
    assert_eq!(joining.keks().await.unwrap().len(), 1);
}

/// A crash between the KEK and its epoch loses the parcels: another one is begun.
#[tokio::test]
async fn a_kek_that_came_without_parcels_is_passed_over() {
    let (machine, n1, joining) = joined().await;
    n1.keeper.pass().await.unwrap();
    machine.hsm.make();
    drop(n1);
    let n1 = start(&machine, &machine.hsm, "n1").await.unwrap();
    let active = n1.epochs.list().last().unwrap().epoch.clone();
    assert_eq!(active.state, EpochState::Active);
    assert!(active.number > 3, "{}", active.number);
    create(&n1, "after").await;
    n1.keeper.pass().await.unwrap();
    let store: Arc<dyn Store> = machine.disk.clone();
    let vault = Vault::new(joining.clone());
    epoch::catch_up(&vault, joining.as_ref(), &store, "n2").await.unwrap();
    assert!(joining.keks().await.unwrap().iter().any(|kek| kek.id == active.kek));
}

/// Somebody leads, whoever did before.
pub(super) async fn lead(machine: &Machine) -> Fence {
    let commit = Commit::new().put(b"lead".to_vec(), b"who".to_vec());
    let Outcome::Committed(version) = machine.disk.commit(commit).await.unwrap() else { panic!() };
    Fence { key: b"lead".to_vec(), version }
}

/// What a KM sealed and did not store before its epoch was closed is never stored, so that the epoch is
/// empty for good; two operators destroy it, and it goes from all tokens.
#[tokio::test]
async fn an_epoch_that_is_closed_takes_nothing_more_and_is_destroyed_in_all_tokens() {
    let (machine, n1, joining) = joined().await;
    n1.keeper.move_record_key().await.unwrap();
    drop(n1);
    let n1 = start_with(&machine, &machine.hsm, "n1", Duration::ZERO).await.unwrap();
    let n2 = start(&machine, &joining, "n2").await.unwrap();
    create(&n2, "early").await;
    let late = n2.objects.seal("late", &sae("n1"), &ClearBytes::copy_from(&[7; 32])).await.unwrap();
    n1.epochs.receive().await.unwrap();
    n1.epochs.rotate("ada").await.unwrap();

    let refused = n1.keeper.destroy(2, "ada").await;
    assert_eq!(refused, Err(EpochError::NotLeading));
    // Another took the lead before it could close anything.
    n1.keeper.begin_term(lead(&machine).await).await.unwrap();
    let fence = lead(&machine).await;
    n1.keeper.pass().await.unwrap();
    let refused = n1.keeper.destroy(2, "ada").await;
    assert_eq!(refused, Err(EpochError::NotEmpty { number: 2, left: Some(0) }));

    n1.keeper.begin_term(fence).await.unwrap();
    for number in [1, 2] {
        super::destroy(&n1.keeper, number).await;
    }
    let held = async |hsm: &SoftHsm| {
        let keks = hsm.keks().await.unwrap();
        keks.iter().map(|kek| kek.number).collect::<Vec<_>>()
    };
    assert_eq!(held(&machine.hsm).await, [3]);
    let refused = n2.objects.create_sealed(vec![(object("late"), late)]).await;
    let refused = refused.unwrap_err().to_string();
    assert!(refused.contains("epoch ended"), "{refused}");
    create(&n2, "late").await;
    assert_eq!(held(&joining).await, [3], "it followed, in its token too");
    for uid in ["before", "early", "late"] {
        assert_eq!(open(&n1.objects, uid).await, [7; 32]);
        assert_eq!(open(&n2.objects, uid).await, [7; 32]);
    }
}

#[tokio::test]
async fn a_name_is_a_part_of_a_key() {
    let (_machine, n1, joining) = joined().await;
    let receiver = joining.kek_receiver().await.unwrap();
    for name in ["", "a/b", &"n".repeat(65)] {
        let refused = admitted(&n1, name, &receiver).await;
        assert!(matches!(refused, Err(EpochError::Hsm(HsmError::Unsupported(_)))), "{name:?}");
    }
}

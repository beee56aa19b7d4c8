//! What is told of keys in the token: where they are while they are used, and how full it is.
#![allow(clippy::unwrap_used)]

mod common;

use async_trait::async_trait;
use common::{SoftHsm, cluster};
use km_core::{
    cabinet::Cabinet,
    custody::{Custodies, QUICK, SEAL_BLOCKS, SEAL_OBJECTS, SLOW},
    hsm::{Custody, Hsm, HsmError, HsmStatus, KekId, Sealed, TokenRoom},
    material::ClearBytes,
    payload::Storage,
};

/// A token that makes no keys, and says how much room it has.
struct Room(TokenRoom);

#[async_trait]
impl Hsm for Room {
    fn current_kek(&self) -> KekId {
        KekId("01".into())
    }
    async fn seal(&self, _: &[u8], _: &ClearBytes) -> Result<Sealed, HsmError> {
        Err(HsmError::Unavailable("it went away".into()))
    }
    async fn open(&self, _: &[u8], _: &Sealed) -> Result<ClearBytes, HsmError> {
        Err(HsmError::Unavailable("it went away".into()))
    }
    async fn random(&self, _: usize) -> Result<ClearBytes, HsmError> {
        Err(HsmError::Unavailable("it went away".into()))
    }
    async fn probe(&self) -> HsmStatus {
        self.status()
    }
    fn status(&self) -> HsmStatus {
        HsmStatus {
            ready: false,
            token: String::new(),
            serial: String::new(),
            detail: String::new(),
        }
    }
    async fn room(&self) -> Result<TokenRoom, HsmError> {
        Ok(self.0)
    }
}

#[tokio::test]
async fn a_token_is_nearly_full_by_its_memory_or_by_the_objects_allowed() {
    let cabinet = Cabinet::new(cluster("north"), 100);
    for (free, total, full) in [
        (Some(50), Some(100), false),
        (Some(10), Some(100), true),
        (Some(0), Some(0), false),
        (None, Some(100), false),
        (Some(11), Some(100), false),
    ] {
        cabinet.look(&Room(TokenRoom { free_bytes: free, total_bytes: total })).await;
        let said = cabinet.view().nearly_full();
        assert_eq!(said.is_some(), full, "{free:?} of {total:?}: {said:?}");
    }
    let view =
        |held, most| km_core::cabinet::CabinetView { held, most, room: TokenRoom::default() };
    for (held, most, full) in [(0, 0, false), (89, 100, false), (90, 100, true), (1, 1, true)] {
        assert_eq!(view(held, most).nearly_full().is_some(), full, "{held} of {most}");
    }
}

#[tokio::test]
async fn what_the_token_does_not_do_is_done_here_or_not_at_all() {
    let hsm = SoftHsm::new();
    for (process, best) in [(true, Some(Custody::HostTransient)), (false, None)] {
        let custodies = Custodies::default();
        custodies.survey(hsm.as_ref(), &[QUICK, SLOW].concat(), process).await.unwrap();
        let found: Vec<_> =
            custodies.list().iter().map(|(name, view)| (*name, view.best)).collect();
        let expected = ["aes", "agreement", "ec", "ed25519", "hmac", "ml-dsa", "rsa"]
            .map(|name| (name, Some(best)));
        assert_eq!(found, expected);
    }
    let gone = Room(TokenRoom::default());
    let custodies = Custodies::default();
    // It makes no keys, and then it is gone: nothing is known.
    assert!(custodies.survey(&gone, QUICK, false).await.is_err());
    assert!(custodies.list().is_empty());
}

#[tokio::test]
async fn every_sealing_says_where_its_keys_were() {
    let pair = common::Pair::kept_in(Storage::Each(32)).await;
    let vault = &pair.north().vault;
    vault.seal_object("a", "n1", &ClearBytes::copy_from(&[7; 32])).await.unwrap();
    let seen = vault.custodies().list();
    let of = |name: &str| seen.iter().find(|(known, _)| *known == name).map(|(_, view)| *view);
    let objects = of(SEAL_OBJECTS).unwrap();
    assert_eq!((objects.best, objects.in_token), (Some(Some(Custody::InToken)), 1));
    assert_eq!((objects.host_transient, of(SEAL_BLOCKS)), (0, None));
}

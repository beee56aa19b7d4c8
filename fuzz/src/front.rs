//! A whole KMIP front over a store and a token in software: any frame in, an answer that reads or a
//! closed connection out.

use std::sync::{Arc, Mutex, OnceLock, PoisonError, atomic::Ordering::Relaxed};

use authority::{Authority, Span};
use km_core::{
    ids::{ClusterId, SaeId},
    objects::Objects,
    records::Records,
    registry::Registry,
    store::{SqliteStore, Store},
    supply::{Supply, SupplyLimits},
    vault::Vault,
};
use kmip::{
    SecretBytes, Version, client,
    enums::{CryptographicAlgorithm, ObjectType, OperationCode},
    message::ResponseMessage,
    object::{KeyBlock, Object},
    op,
};
use kmip_server::{
    Certifier, Limits, Server,
    policy::{Policies, Policy},
};
use transport::{Directory, IdentityRule};

#[path = "../../testkit/hsm.rs"]
#[allow(dead_code)]
mod hsm;

/// So many frames; then the store is thrown away.
const FRAMES: u32 = 20_000;
/// Objects that frames may name.
const KEYS: [&str; 4] = ["k1", "k2", "k3", "k4"];

struct Room {
    runtime: tokio::runtime::Runtime,
    server: Arc<Server>,
    application: SaeId,
    frames: u32,
    _dir: tempfile::TempDir,
}

impl Room {
    fn open() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let store: Arc<dyn Store> = Arc::new(SqliteStore::open(dir.path().join("db")).unwrap());
        let application = SaeId::parse("app").unwrap();
        let here = ClusterId::parse("here").unwrap();
        let mut registry = Registry::default();
        registry.register(application.clone(), [here.clone()]).unwrap();
        let mut directory = Directory::default();
        directory.add(IdentityRule::CommonName("app".into()), application.clone());
        let token = Arc::new(hsm::SoftwareHsm::new());
        token.pairs.store(true, Relaxed);
        let vault = Vault::new(token);
        let key = runtime.block_on(vault.record_key(store.as_ref())).unwrap();
        let objects = Objects::new(Records::new(store, &key), vault);
        let supply = Supply::new(here, registry, SupplyLimits::default(), []);
        let limits = Limits::default();
        // Some operations are for those alone whose entry names them.
        let operations = Some(OperationCode::ALL.iter().copied().collect());
        let policy = Policy { operations, ..Policy::default() };
        let policies = Policies::from([(application.clone(), policy)]);
        let authority = runtime.block_on(async {
            let span = Span::days(km_core::clock::now_ms() / 1000, 3650);
            Authority::make(&objects, "kmip", "CN=KMIP", span).await.unwrap()
        });
        let server = Server::new(supply, objects, directory, limits, &policies);
        let applications = [application.clone()].into();
        server.certify_with(Certifier { authority, applications, days: 90 });
        let room = Self { runtime, server, application, frames: 0, _dir: dir };
        KEYS.into_iter().for_each(|key| room.import(key));
        room
    }

    fn import(&self, id: &str) {
        let algorithm = CryptographicAlgorithm::Aes;
        let block = KeyBlock::raw(SecretBytes::copy_from(&[7; 32]), Some(algorithm), Some(256));
        let attributes = [
            kmip::attribute::Attribute::CryptographicUsageMask(0xFFF),
            kmip::attribute::Attribute::State(kmip::enums::State::Active),
        ];
        let request = op::import::Request {
            id: id.to_owned(),
            object_type: ObjectType::SymmetricKey,
            replace_existing: Some(true),
            key_wrap_type: None,
            attributes: attributes.into_iter().collect(),
            object: Object::SymmetricKey(block),
        };
        let client = client::Client::new(Version::V2_1);
        let answer = self.answer(&client.request(request).unwrap()).unwrap();
        client.answer(&answer).expect("a key is there to be named");
    }

    fn answer(&self, frame: &[u8]) -> Option<wiped::Wiped> {
        let answer = kmip_server::fuzzing::answer(&self.server, &self.application, frame);
        self.runtime.block_on(answer)
    }
}

/// Answers `data` as a frame of an application.
///
/// # Panics
/// When the answer is none that a client can read.
pub fn answer(data: &[u8]) {
    static ROOM: OnceLock<Mutex<Room>> = OnceLock::new();
    let room = ROOM.get_or_init(|| Mutex::new(Room::open()));
    let mut room = room.lock().unwrap_or_else(PoisonError::into_inner);
    room.frames += 1;
    if room.frames > FRAMES {
        *room = Room::open();
    }
    if let Some(answer) = room.answer(data) {
        assert!(ResponseMessage::decode(&answer).is_ok(), "an answer cannot be read");
    }
}

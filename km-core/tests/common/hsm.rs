//! A token in memory: real AES-256-GCM, no hardware. What it holds outlives a crash of the KM.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
};

use async_trait::async_trait;
use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use km_core::{
    hsm::{
        Hsm, HsmError, HsmStatus, KekId, KekInfo, KekParcel, KekReceiver, KekUse, SealMethod,
        Sealed, WrappedKek,
    },
    material::ClearBytes,
    usage::Hash,
};

struct Kek {
    id: KekId,
    key: Arc<LessSafeKey>,
    bytes: Vec<u8>,
}

pub struct SoftHsm {
    keks: Mutex<BTreeMap<u64, Kek>>,
    /// Stands for the pair by which it takes KEKs; the same bytes wrap and unwrap.
    pair: Vec<u8>,
    objects: Mutex<BTreeMap<String, Vec<u8>>>,
    /// Bytes opened so far.
    pub opened: AtomicUsize,
    /// It destroys no object now.
    pub keeps_all: AtomicBool,
}

impl SoftHsm {
    pub fn new() -> Arc<Self> {
        let hsm = Self::empty();
        hsm.make();
        hsm
    }

    /// A token that never had a KEK.
    pub fn empty() -> Arc<Self> {
        let (keks, objects) = (Mutex::default(), Mutex::default());
        let (opened, keeps_all) = (AtomicUsize::new(0), AtomicBool::new(false));
        Arc::new(Self { keks, pair: super::random(32), objects, opened, keeps_all })
    }

    /// Another token with the same KEKs, as they are now.
    pub fn copy_of(other: &Self) -> Arc<Self> {
        let copy = Self::empty();
        copy.copy_from(other);
        copy
    }

    /// Has all KEKs of the other as well.
    pub fn copy_from(&self, other: &Self) {
        let theirs = other.keks.lock().unwrap();
        let copies = theirs.iter().map(|(n, one)| (*n, kek(one.id.clone(), one.bytes.clone())));
        self.keks.lock().unwrap().extend(copies);
    }

    /// A new KEK, which seals from now on.
    pub fn make(&self) -> KekInfo {
        self.make_from(1)
    }

    fn make_from(&self, from: u64) -> KekInfo {
        let id = u128::from_be_bytes(super::random(16).try_into().unwrap());
        let mut keks = self.keks.lock().unwrap();
        let number = keks.keys().next_back().map_or(1, |last| last + 1).max(from);
        let id = KekId(format!("{id:032x}"));
        keks.insert(number, kek(id.clone(), super::random(32)));
        KekInfo { id, number }
    }

    /// The objects it keeps.
    pub fn objects(&self) -> MutexGuard<'_, BTreeMap<String, Vec<u8>>> {
        self.objects.lock().unwrap()
    }

    fn key(&self, id: &KekId) -> Result<Arc<LessSafeKey>, HsmError> {
        let keks = self.keks.lock().unwrap();
        let found = keks.values().find(|kek| kek.id == *id).map(|kek| kek.key.clone());
        found.ok_or_else(|| HsmError::Unsupported(format!("no KEK {}", id.0)))
    }
}

fn aead(bytes: &[u8]) -> LessSafeKey {
    LessSafeKey::new(UnboundKey::new(&AES_256_GCM, bytes).unwrap())
}

fn kek(id: KekId, bytes: Vec<u8>) -> Kek {
    Kek { id, key: Arc::new(aead(&bytes)), bytes }
}

const WRAP_NONCE: [u8; NONCE_LEN] = [0; NONCE_LEN];

#[async_trait]
impl Hsm for SoftHsm {
    fn current_kek(&self) -> KekId {
        self.keks.lock().unwrap().values().next_back().unwrap().id.clone()
    }

    async fn kek_receiver(&self) -> Result<KekReceiver, HsmError> {
        let (modulus, hash) = (self.pair.clone(), Hash::Sha256);
        Ok(KekReceiver { modulus, exponent: vec![3], hash, kem: None })
    }

    async fn create_kek_for(
        &self,
        from: u64,
        receivers: &[KekReceiver],
        _seed: &ClearBytes,
    ) -> Result<(KekInfo, Vec<KekParcel>), HsmError> {
        let made = self.make_from(from);
        let bytes = self.keks.lock().unwrap()[&made.number].bytes.clone();
        let wrap = |receiver: &KekReceiver| {
            let (mut key, nonce) = (bytes.clone(), Nonce::assume_unique_for_key(WRAP_NONCE));
            let aad = Aad::from(made.number.to_be_bytes());
            aead(&receiver.modulus).seal_in_place_append_tag(nonce, aad, &mut key).unwrap();
            let id = made.id.0.clone().into_bytes();
            let keys = vec![WrappedKek { id, usage: KekUse::Encrypts, key }];
            KekParcel { number: made.number, keys, kem: None }
        };
        Ok((made.clone(), receivers.iter().map(wrap).collect()))
    }

    async fn take_kek(&self, parcel: &KekParcel) -> Result<KekInfo, HsmError> {
        let refused = |_| HsmError::Refused("it is not for this token".into());
        let (WrappedKek { id, key, .. }, nonce) =
            (&parcel.keys[0], Nonce::assume_unique_for_key(WRAP_NONCE));
        let (mut bytes, aad) = (key.clone(), Aad::from(parcel.number.to_be_bytes()));
        let clear = aead(&self.pair).open_in_place(nonce, aad, &mut bytes).map_err(refused)?;
        let id = KekId(String::from_utf8(id.clone()).unwrap());
        let taken = kek(id.clone(), clear.to_vec());
        self.keks.lock().unwrap().entry(parcel.number).or_insert(taken);
        Ok(KekInfo { id, number: parcel.number })
    }

    async fn seal(&self, aad: &[u8], clear: &ClearBytes) -> Result<Sealed, HsmError> {
        let iv = super::random(NONCE_LEN);
        let nonce = Nonce::try_assume_unique_for_key(&iv).unwrap();
        let mut ciphertext = clear.expose(<[u8]>::to_vec);
        let kek = self.current_kek();
        let key = self.key(&kek)?;
        key.seal_in_place_append_tag(nonce, Aad::from(aad), &mut ciphertext).unwrap();
        Ok(Sealed::new(kek, SealMethod::TokenGcm, iv, ciphertext))
    }

    async fn open(&self, aad: &[u8], sealed: &Sealed) -> Result<ClearBytes, HsmError> {
        let refused = |_| HsmError::Refused("its tag does not fit".into());
        let key = self.key(&sealed.kek)?;
        let nonce = Nonce::try_assume_unique_for_key(&sealed.iv).map_err(refused)?;
        let mut bytes = sealed.ciphertext.clone();
        let clear = key.open_in_place(nonce, Aad::from(aad), &mut bytes).map_err(refused)?;
        let len = clear.len();
        bytes.truncate(len);
        self.opened.fetch_add(len, Relaxed);
        Ok(ClearBytes::from_vec(bytes))
    }

    async fn random(&self, len: usize) -> Result<ClearBytes, HsmError> {
        Ok(ClearBytes::from_vec(super::random(len)))
    }

    async fn probe(&self) -> HsmStatus {
        self.status()
    }

    fn status(&self) -> HsmStatus {
        let (token, serial) = ("test".into(), "0".into());
        HsmStatus { ready: true, token, serial, detail: "in memory".into() }
    }

    async fn keks(&self) -> Result<Vec<KekInfo>, HsmError> {
        let keks = self.keks.lock().unwrap();
        let info = |(number, kek): (&u64, &Kek)| KekInfo { id: kek.id.clone(), number: *number };
        Ok(keks.iter().map(info).collect())
    }

    async fn create_kek(&self) -> Result<KekInfo, HsmError> {
        Ok(self.make())
    }

    async fn destroy_kek(&self, kek: &KekInfo) -> Result<(), HsmError> {
        self.keks.lock().unwrap().retain(|_, held| held.id != kek.id);
        Ok(())
    }

    async fn store_object(&self, name: &str, clear: &ClearBytes) -> Result<(), HsmError> {
        let bytes = clear.expose(<[u8]>::to_vec);
        let mut objects = self.objects();
        match objects.get(name) {
            Some(kept) if *kept != bytes => Err(HsmError::Unsupported("taken".into())),
            _ => {
                objects.insert(name.to_owned(), bytes);
                Ok(())
            }
        }
    }

    async fn read_object(&self, name: &str) -> Result<ClearBytes, HsmError> {
        let missing = || HsmError::Refused("no such object".into());
        self.objects().get(name).map(|kept| ClearBytes::copy_from(kept)).ok_or_else(missing)
    }

    async fn delete_object(&self, name: &str) -> Result<(), HsmError> {
        if self.keeps_all.load(Relaxed) {
            return Err(HsmError::Unavailable("it destroys nothing now".into()));
        }
        self.objects().remove(name);
        Ok(())
    }

    async fn object_names(&self, prefix: &str) -> Result<Vec<String>, HsmError> {
        let objects = self.objects();
        Ok(objects.keys().filter(|name| name.starts_with(prefix)).cloned().collect())
    }
}

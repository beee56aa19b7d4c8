//! The HSM as the rest of the KM uses it. Enter through [`Token::open`].

use std::sync::Arc;

use async_trait::async_trait;
use km_core::hsm::{
    Hsm, HsmError, HsmStatus, KEK_SEED_BYTES, KekId, KekInfo, KekParcel, KekReceiver, MadeKey,
    Sealed, TokenKey, TokenRoom,
};
use km_core::material::ClearBytes;
use km_core::usage::kem::KemSet;
use km_core::usage::{KeyKind, KeyUse};

use crate::config::TokenConfig;
use crate::here::Here;
use crate::process::{MemberStatus, Members, Program};
use crate::request::Request;
use crate::response::Response;

/// One PKCS#11 token with its sessions and KEKs. Dropping it closes them.
pub struct Token {
    door: Door,
}

/// Where the library is loaded.
enum Door {
    Here(Here),
    Away(Arc<Members>),
}

impl Token {
    /// Loads the library into this process, finds the token, logs in, finds the KEKs (or makes the
    /// first one when `create_kek` says so), does a round trip, and starts the session threads.
    ///
    /// Blocks on the HSM: call it before serving, or from a blocking task.
    ///
    /// The login belongs to the process: a second `Token` of the same token is let in by the
    /// login of the first, and its PIN is not tried.
    ///
    /// # Errors
    /// [`HsmError::Setup`] or [`HsmError::Unsupported`] say what to change,
    /// [`HsmError::Unavailable`] what to wait for.
    pub fn open(config: TokenConfig) -> Result<Arc<Self>, HsmError> {
        Ok(Arc::new(Self { door: Door::Here(Here::open(config)?) }))
    }

    /// As [`Token::open`], but the library is loaded in a worker process, one for each token, which
    /// `program` runs. A worker that crashes or hangs is started again, and a token that comes back
    /// is used again. With several tokens configured one that opens is enough.
    ///
    /// Call it inside a tokio runtime, which must last as long as the token is used.
    ///
    /// # Errors
    /// Those of [`Token::open`].
    pub async fn start(config: TokenConfig, program: Program) -> Result<Arc<Self>, HsmError> {
        let members = Members::start(config, program).await?;
        Ok(Arc::new(Self { door: Door::Away(Arc::new(members)) }))
    }

    /// Each token with its worker process, in the order of the configuration; none when the
    /// library is loaded in this process.
    pub fn members(&self) -> Vec<MemberStatus> {
        match &self.door {
            Door::Here(_) => Vec::new(),
            Door::Away(members) => members.each(),
        }
    }

    /// Several tokens with a worker each.
    fn several(&self) -> Option<&Members> {
        match &self.door {
            Door::Away(members) if members.are_several() => Some(&**members),
            _ => None,
        }
    }

    /// The one way of every ability: within the configured deadline, wherever the library is.
    pub(crate) async fn ask(&self, request: Request) -> Result<Response, HsmError> {
        match &self.door {
            Door::Here(here) => here.ask(request).await,
            Door::Away(members) => members.ask(request).await,
        }
    }
}

#[async_trait]
impl Hsm for Token {
    fn current_kek(&self) -> KekId {
        match &self.door {
            Door::Here(here) => here.link().current_kek(),
            Door::Away(members) => members.current_kek(),
        }
    }

    async fn seal(&self, aad: &[u8], clear: &ClearBytes) -> Result<Sealed, HsmError> {
        let (aad, clear) = (aad.to_vec(), clear.expose(ClearBytes::copy_from));
        self.ask(Request::Seal { aad, clear }).await?.sealed()
    }

    async fn open(&self, aad: &[u8], sealed: &Sealed) -> Result<ClearBytes, HsmError> {
        let (aad, sealed) = (aad.to_vec(), sealed.clone());
        self.ask(Request::Open { aad, sealed }).await?.clear()
    }

    async fn random(&self, len: usize) -> Result<ClearBytes, HsmError> {
        let len = u32::try_from(len).map_err(|e| HsmError::Unsupported(e.to_string()))?;
        self.ask(Request::Random { len }).await?.clear()
    }

    async fn probe(&self) -> HsmStatus {
        if let Door::Away(members) = &self.door {
            return members.probe().await;
        }
        // The workers record success and failure; only a missing answer is left to note.
        match self.ask(Request::Probe).await.and_then(Response::done) {
            Ok(()) => self.status(),
            Err(error) => HsmStatus { ready: false, detail: error.to_string(), ..self.status() },
        }
    }

    fn status(&self) -> HsmStatus {
        match &self.door {
            Door::Here(here) => here.link().status(),
            Door::Away(members) => members.status(),
        }
    }

    async fn keks(&self) -> Result<Vec<KekInfo>, HsmError> {
        self.ask(Request::Keks).await?.keks()
    }

    async fn create_kek(&self) -> Result<KekInfo, HsmError> {
        match self.several() {
            Some(members) => {
                let seed = self.random(KEK_SEED_BYTES).await?;
                let (kek, _) = members.create_kek_for(0, &[], &seed).await?;
                members.bring_kek(&kek).await;
                Ok(kek)
            }
            None => self.ask(Request::CreateKek).await?.kek(),
        }
    }

    async fn create_kek_for(
        &self,
        from: u64,
        receivers: &[KekReceiver],
        seed: &ClearBytes,
    ) -> Result<(KekInfo, Vec<KekParcel>), HsmError> {
        if let Some(members) = self.several() {
            return members.create_kek_for(from, receivers, seed).await;
        }
        let (receivers, seed) = (receivers.to_vec(), seed.expose(ClearBytes::copy_from));
        self.ask(Request::CreateKekFor { from, receivers, seed }).await?.kek_made()
    }

    async fn kek_receiver(&self) -> Result<KekReceiver, HsmError> {
        self.ask(Request::KekReceiver).await?.receiver()
    }

    async fn take_kek(&self, parcel: &KekParcel) -> Result<KekInfo, HsmError> {
        self.ask(Request::TakeKek { parcel: parcel.clone() }).await?.kek()
    }

    fn tokens(&self) -> Vec<String> {
        self.several().map_or_else(|| vec![String::new()], Members::names_of_all)
    }

    async fn keks_anywhere(&self) -> Result<Vec<KekInfo>, HsmError> {
        match self.several() {
            Some(members) => members.keks_anywhere().await,
            None => self.keks().await,
        }
    }

    async fn lacks_kek(&self, kek: &KekInfo) -> bool {
        match self.several() {
            Some(members) => members.lacks_kek(kek).await,
            None => false,
        }
    }

    async fn bring_kek(&self, kek: &KekInfo) {
        if let Some(members) = self.several() {
            members.bring_kek(kek).await;
        }
    }

    fn is_several(&self) -> bool {
        self.several().is_some()
    }

    async fn kek_receivers(&self) -> Result<Vec<(String, Option<KekReceiver>)>, HsmError> {
        match self.several() {
            Some(members) => members.kek_receivers().await,
            None => Ok(vec![(String::new(), Some(self.kek_receiver().await?))]),
        }
    }

    async fn take_kek_in(&self, token: &str, parcel: &KekParcel) -> Result<KekInfo, HsmError> {
        match (self.several(), token) {
            (Some(members), _) => members.take_kek_in(token, parcel).await,
            (None, "") => self.take_kek(parcel).await,
            (None, other) => Err(HsmError::Unsupported(format!(
                "a KEK waits for the token {other:?}, which is not in the configuration: it is for an \
                 operator to say (`qkm hsm epoch rotate` makes another)"
            ))),
        }
    }

    fn keks_waiting(&self) -> Vec<(String, KekParcel)> {
        self.several().map(Members::keks_waiting).unwrap_or_default()
    }

    async fn destroy_kek(&self, kek: &KekInfo) -> Result<(), HsmError> {
        match self.several() {
            Some(members) => members.destroy_kek(kek).await,
            None => self.ask(Request::DestroyKek { kek: kek.clone() }).await?.done(),
        }
    }

    async fn make_key(&self, aad: &[u8], kind: KeyKind, bits: u32) -> Result<MadeKey, HsmError> {
        self.ask(Request::MakeKey { aad: aad.to_vec(), kind, bits }).await?.made()
    }

    async fn agree_key(
        &self,
        base: &TokenKey,
        public: &[u8],
        aad: &[u8],
        kind: KeyKind,
        bits: u32,
    ) -> Result<MadeKey, HsmError> {
        let (base, public, aad) = (Box::new(base.clone()), public.to_vec(), aad.to_vec());
        self.ask(Request::AgreeKey { base, public, aad, kind, bits }).await?.made()
    }

    async fn use_key_each(
        &self,
        key: &TokenKey,
        uses: &Arc<[KeyUse]>,
    ) -> Result<Vec<ClearBytes>, HsmError> {
        let (key, count) = (Box::new(key.clone()), uses.len());
        self.ask(Request::UseKey { key, uses: Arc::clone(uses) }).await?.used(count)
    }

    fn sessions(&self) -> usize {
        match &self.door {
            Door::Here(here) => here.sessions(),
            Door::Away(members) => members.sessions(),
        }
    }

    async fn rewrap_key(&self, aad: &[u8], sealed: &Sealed) -> Result<Sealed, HsmError> {
        let (aad, sealed) = (aad.to_vec(), sealed.clone());
        self.ask(Request::RewrapKey { aad, sealed }).await?.sealed()
    }

    async fn forget_key(&self, name: &[u8]) {
        // A token that is away has lost its sessions, and the key with them.
        let _ = self.ask(Request::ForgetKey { name: name.to_vec() }).await;
    }

    async fn kem_key_pair(&self, set: KemSet) -> Result<(Vec<u8>, Vec<u8>), HsmError> {
        match self.several() {
            Some(members) => members.kem_key_pair(set).await,
            None => self.ask(Request::KemKeyPair { set }).await?.pair(),
        }
    }

    async fn kem_encapsulate(
        &self,
        set: KemSet,
        public: &[u8],
    ) -> Result<(Vec<u8>, ClearBytes), HsmError> {
        if let Some(members) = self.several() {
            return members.kem_encapsulate(set, public).await;
        }
        self.ask(Request::KemEncapsulate { set, public: public.to_vec() }).await?.encapsulated()
    }

    async fn kem_decapsulate(
        &self,
        name: &[u8],
        ciphertext: &[u8],
    ) -> Result<ClearBytes, HsmError> {
        if let Some(members) = self.several() {
            return members.kem_decapsulate(name, ciphertext).await;
        }
        let (name, ciphertext) = (name.to_vec(), ciphertext.to_vec());
        self.ask(Request::KemDecapsulate { name, ciphertext }).await?.clear()
    }

    async fn kem_forget(&self, name: &[u8]) {
        // A token that is away has lost its login, and the key with it.
        let _ = match self.several() {
            Some(members) => members.kem_forget(name).await,
            None => self.ask(Request::KemForget { name: name.to_vec() }).await.map(drop),
        };
    }

    async fn store_object(&self, name: &str, clear: &ClearBytes) -> Result<(), HsmError> {
        let (name, clear) = (name.to_owned(), clear.expose(ClearBytes::copy_from));
        self.ask(Request::StoreObject { name, clear }).await?.done()
    }

    async fn read_object(&self, name: &str) -> Result<ClearBytes, HsmError> {
        self.ask(Request::ReadObject { name: name.to_owned() }).await?.clear()
    }

    async fn delete_object(&self, name: &str) -> Result<(), HsmError> {
        self.ask(Request::DeleteObject { name: name.to_owned() }).await?.done()
    }

    async fn object_names(&self, prefix: &str) -> Result<Vec<String>, HsmError> {
        let request = Request::ObjectNames { prefix: prefix.to_owned() };
        match &self.door {
            Door::Here(here) => here.ask(request).await?.names(),
            Door::Away(members) => members.names(&request).await,
        }
    }

    async fn room(&self) -> Result<TokenRoom, HsmError> {
        match &self.door {
            Door::Here(here) => here.ask(Request::Room).await?.room(),
            Door::Away(members) => members.room().await,
        }
    }
}

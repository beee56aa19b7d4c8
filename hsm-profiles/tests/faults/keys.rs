//! Keys of applications while the token fails: made, used, moved and forgotten.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hsm_profiles::Token;
use km_core::hsm::{Hsm, MadeKey, TokenKey};
use km_core::material::ClearBytes;
use km_core::usage::derive::Derivation;
use km_core::usage::{Action, Cipher, Curve, Hash, KeyKind, Scheme, process, public};

use super::within;

const AAD: &[u8] = b"object";
const AES: [u8; 32] = [0xA7; 32];
const SECRET: [u8; 48] = [0x0B; 48];
const EC: KeyKind = KeyKind::Ec(Curve::P256);
const ECDSA: Scheme = Scheme::Ecdsa(Hash::Sha256);

/// Keys from before all troubles, and what is known of them.
pub(crate) struct Keys {
    aes: TokenKey,
    hmac: TokenKey,
    made: TokenKey,
    /// What `made` makes of the input.
    made_gives: ClearBytes,
    signs: TokenKey,
    public: Vec<u8>,
    /// Another's pair, whose public half `signs` agrees with, and the secret of both.
    other: Vec<u8>,
    secret: ClearBytes,
    /// Gives each use a name of its own, so that the key is not at hand.
    names: AtomicU64,
}

impl Keys {
    pub(crate) async fn new(token: &Token) -> Self {
        let brought = async |kind, bytes: &[u8]| {
            let sealed = token.seal(AAD, &ClearBytes::copy_from(bytes)).await.unwrap();
            TokenKey { name: Vec::new(), kind, wrapped: false, aad: AAD.to_vec(), sealed }
        };
        let made = token.make_key(AAD, KeyKind::Aes, 256).await.unwrap();
        let pair = token.make_key(AAD, EC, 0).await.unwrap();
        let (other, own) = (process::make(EC, 0).unwrap(), pair.public.clone().unwrap());
        let own = ClearBytes::from_vec(own);
        let mut keys = Self {
            aes: brought(KeyKind::Aes, &AES).await,
            hmac: brought(KeyKind::Hmac, &SECRET).await,
            made: wrapped(KeyKind::Aes, &made),
            made_gives: ClearBytes::from_vec(Vec::new()),
            signs: wrapped(EC, &pair),
            public: pair.public.unwrap(),
            secret: process::act(EC, &Action::Agree, &other.private, &own).unwrap(),
            other: other.public,
            names: AtomicU64::new(0),
        };
        let encrypt = Action::Encrypt(cipher());
        keys.made_gives = token.use_key(&keys.made, &encrypt, &input()).await.unwrap();
        keys
    }

    /// Another user of the token, who has a key at hand.
    pub(crate) fn other_user(&self) -> Other {
        let key = TokenKey { name: b"other".to_vec(), ..self.signs.clone() };
        Other { key, public: self.public.clone() }
    }

    fn fresh(&self, key: &TokenKey) -> TokenKey {
        let name = self.names.fetch_add(1, Ordering::Relaxed).to_be_bytes().to_vec();
        TokenKey { name, ..key.clone() }
    }

    /// Every kind of use once. `None` when anything failed, as it may; what is answered is right.
    pub(crate) async fn try_all(&self, name: &str, token: &Token) -> Option<()> {
        let used = self.uses(name, token).await;
        let made = self.makes(name, token).await;
        used.and(made)
    }

    async fn uses(&self, name: &str, token: &Token) -> Option<()> {
        let (encrypt, decrypt) = (Action::Encrypt(cipher()), Action::Decrypt(cipher()));
        let mac = Action::Mac(Hash::Sha256);
        let mut all = Some(());
        for (key, action, bytes) in
            [(&self.aes, &encrypt, &AES[..]), (&self.hmac, &mac, &SECRET[..])]
        {
            let known = process::act(key.kind, action, &ClearBytes::copy_from(bytes), &input());
            let key = self.fresh(key);
            let answer = within(name, token.use_key(&key, action, &input())).await;
            if let Some(answer) = &answer {
                assert_eq!(*answer, known.unwrap(), "{name}: a wrong answer of {:?}", key.kind);
            }
            token.forget_key(&key.name).await;
            all = all.and(answer.map(drop));
        }
        let key = self.fresh(&self.made);
        for (action, input, known) in
            [(&encrypt, &input(), &self.made_gives), (&decrypt, &self.made_gives, &input())]
        {
            let answer = within(name, token.use_key(&key, action, input)).await;
            if let Some(answer) = &answer {
                assert_eq!(answer, known, "{name}: a wrong answer of a key made inside");
            }
            all = all.and(answer.map(drop));
        }
        let hash = Action::Derive { how: Derivation::Hash(Hash::Sha256), len: 32 };
        let none = ClearBytes::from_vec(Vec::new());
        let derived = within(name, token.use_key(&self.fresh(&self.hmac), &hash, &none)).await;
        if let Some(derived) = &derived {
            let known = Hash::Sha256.of(&SECRET);
            assert!(derived.expose(|bytes| *bytes == known[..]), "{name}: another hash");
        }
        let signs = self.fresh(&self.signs);
        let signed = signed(name, token, &signs, &self.public).await;
        let agreed = self.agreed(name, token, &signs).await;
        all.and(derived).and(signed).and(agreed)
    }

    /// The secret, and a key of it that never leaves the token.
    async fn agreed(&self, name: &str, token: &Token, key: &TokenKey) -> Option<()> {
        let other = ClearBytes::copy_from(&self.other);
        let secret = within(name, token.use_key(key, &Action::Agree, &other)).await;
        if let Some(secret) = &secret {
            assert_eq!(*secret, self.secret, "{name}: another secret");
        }
        let made = token.agree_key(key, &self.other, AAD, KeyKind::Aes, 256);
        let made = self.fresh(&wrapped(KeyKind::Aes, &within(name, made).await?));
        let encrypt = Action::Encrypt(cipher());
        let answer = within(name, token.use_key(&made, &encrypt, &input())).await?;
        let known = process::act(KeyKind::Aes, &encrypt, &self.secret, &input()).unwrap();
        assert_eq!(answer, known, "{name}: a key of another secret");
        secret.map(drop)
    }

    async fn makes(&self, name: &str, token: &Token) -> Option<()> {
        let moved = within(name, token.rewrap_key(AAD, &self.made.sealed)).await;
        let mut all = moved.is_some().then_some(());
        if let Some(sealed) = moved {
            let key = self.fresh(&TokenKey { sealed, ..self.made.clone() });
            let encrypt = Action::Encrypt(cipher());
            let answer = within(name, token.use_key(&key, &encrypt, &input())).await;
            if let Some(answer) = &answer {
                assert_eq!(*answer, self.made_gives, "{name}: moved, it is another key");
            }
            all = answer.map(drop);
        }
        let made = within(name, token.make_key(AAD, KeyKind::Aes, 128)).await;
        all = all.and(made.map(drop));
        let pair = within(name, token.make_key(AAD, EC, 0)).await?;
        let key = self.fresh(&wrapped(EC, &pair));
        let signed = signed(name, token, &key, &pair.public.unwrap()).await;
        all.and(signed)
    }
}

async fn signed(name: &str, token: &Token, key: &TokenKey, public: &[u8]) -> Option<()> {
    let digest = Hash::Sha256.of(b"what is signed");
    let input = ClearBytes::copy_from(&digest);
    let answer = within(name, token.use_key(key, &Action::Sign(ECDSA), &input)).await?;
    let fits = answer.expose(|answer| public::verify(EC, ECDSA, public, &digest, answer));
    assert!(fits.unwrap(), "{name}: a wrong signature");
    Some(())
}

pub(crate) struct Other {
    key: TokenKey,
    public: Vec<u8>,
}

impl Other {
    /// Signs all the time.
    pub(crate) async fn signs(&self, token: &Token) {
        loop {
            signed("the other user", token, &self.key, &self.public).await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

fn wrapped(kind: KeyKind, made: &MadeKey) -> TokenKey {
    let (aad, sealed) = (AAD.to_vec(), made.sealed.clone());
    TokenKey { name: Vec::new(), kind, wrapped: true, aad, sealed }
}

fn cipher() -> Cipher {
    Cipher::Cbc { iv: [0xF5; 16], padded: true }
}

fn input() -> ClearBytes {
    ClearBytes::copy_from(b"what the application sent")
}

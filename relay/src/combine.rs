//! Key combination (clause 6.1.2b): bits of a block and the secret of an ML-KEM exchange between its
//! two ends become the bits that are used. Enter through [`combine`].
//!
//! - **xor**: the bits plus a key stream made from the secret. If the bits are uniform, independent of
//!   all else and used once, so is the result, whatever becomes of ML-KEM: it keeps what the bits
//!   may claim. Who knows them and not the secret is held off by ML-KEM.
//! - **catkdf**: each 32 bytes through HKDF-SHA-384 with the secret, in the manner of ETSI
//!   TS 103 744 (concatenation KDF, with lengths before all parts and the whole context). Secure if
//!   either input is; but only ever computationally.
//!
//! The keys of the block's two tags get a key stream of the secret too ([`combine_tag_keys`]): a node
//! that relayed the bits could else make tags for others.
//!
//! Nothing is secret in the context: pool, block number, and the hash of what was exchanged.

use aws_lc_rs::{
    digest,
    hkdf::{HKDF_SHA384, KeyType, Salt},
    hmac,
};
use km_core::{
    ids::PoolTag,
    material::ClearBytes,
    provenance::CombineMethod,
    usage::kem::{KemSet, SECRET_BYTES},
};
use wiped::Wiped;

/// Bytes combined at a time.
const CHUNK: usize = 32;
/// Key stream bytes from one expansion; HKDF-SHA-384 gives at most 12,240.
const STREAM: usize = 8192;
const XOR: &[u8] = b"qkm combine xor 1\0";
const TAG_KEYS: &[u8] = b"qkm combine tag keys 1\0";
const CATKDF: &[u8] = b"qkm combine catkdf 1\0";

/// What both ends of a pool must agree on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Combine {
    /// Whether blocks without it are refused.
    pub required: bool,
    /// How.
    pub method: CombineMethod,
    /// With which ML-KEM.
    pub set: KemSet,
}

/// The secret of one exchange.
pub struct KemSecret {
    secret: ClearBytes,
    transcript: [u8; 48],
}

impl KemSecret {
    /// The secret of the exchange of `public` and `ciphertext`. `None` when it is not whole.
    pub fn new(set: KemSet, public: &[u8], ciphertext: &[u8], secret: ClearBytes) -> Option<Self> {
        let mut exchanged = Wiped::copy_of(b"qkm ml-kem 1\0");
        put(&mut exchanged, public);
        put(&mut exchanged, ciphertext);
        let hash = digest::digest(&digest::SHA384, &exchanged);
        let transcript = hash.as_ref().try_into().ok()?;
        let whole = secret.len() == SECRET_BYTES
            && public.len() == set.public_bytes()
            && ciphertext.len() == set.ciphertext_bytes();
        whole.then_some(Self { secret, transcript })
    }

    /// Proves to the other end that this one holds the secret.
    pub fn proof(&self) -> [u8; 48] {
        let message = [b"qkm ml-kem held 1\0".as_slice(), &self.transcript].concat();
        let tag = self
            .secret
            .expose(|secret| hmac::sign(&hmac::Key::new(hmac::HMAC_SHA384, secret), &message));
        let mut proof = [0; 48];
        proof.copy_from_slice(tag.as_ref());
        proof
    }
}

/// The bits of block `number` of `pool`, combined; as many as before. `None` when there are none.
pub fn combine(
    method: CombineMethod,
    secret: &KemSecret,
    pool: PoolTag,
    number: u64,
    bits: &ClearBytes,
) -> Option<ClearBytes> {
    let context = |label, index| context(label, secret, pool, number, index);
    let mut out = Vec::with_capacity(bits.len());
    let combined = bits.expose(|bits| match method {
        CombineMethod::Xor => {
            for (index, part) in (0..).zip(bits.chunks(STREAM)) {
                let mut input = Wiped::with_capacity(64);
                secret.secret.expose(|secret| put(&mut input, secret));
                let stream = derive(&input, &context(XOR, index), part.len())?;
                out.extend(part.iter().zip(stream.iter()).map(|(bit, key)| bit ^ key));
            }
            Some(())
        }
        CombineMethod::CatKdf => {
            for (index, part) in (0..).zip(bits.chunks(CHUNK)) {
                let mut input = Wiped::with_capacity(128);
                put(&mut input, part);
                secret.secret.expose(|secret| put(&mut input, secret));
                out.extend_from_slice(&derive(&input, &context(CATKDF, index), part.len())?);
            }
            Some(())
        }
    });
    let out = ClearBytes::from_vec(out);
    (combined.is_some() && !out.is_empty()).then_some(out)
}

/// The tag keys of that block plus a key stream made from the secret: whoever relayed the bits does not
/// know them. They stay uniform if they were. `None` when there are none.
pub fn combine_tag_keys(
    secret: &KemSecret,
    pool: PoolTag,
    number: u64,
    keys: &ClearBytes,
) -> Option<ClearBytes> {
    let mut input = Wiped::with_capacity(64);
    secret.secret.expose(|secret| put(&mut input, secret));
    let info = context(TAG_KEYS, secret, pool, number, 0);
    let stream = derive(&input, &info, keys.len())?;
    let added =
        |keys: &[u8]| keys.iter().zip(stream.iter()).map(|(key, with)| key ^ with).collect();
    let added = ClearBytes::from_vec(keys.expose(added));
    (!added.is_empty()).then_some(added)
}

/// What a derivation is for; nothing in it is secret.
fn context(label: &[u8], secret: &KemSecret, pool: PoolTag, number: u64, index: u64) -> Vec<u8> {
    let mut info = label.to_vec();
    info.extend_from_slice(&pool.bits().to_be_bytes());
    info.extend_from_slice(&number.to_be_bytes());
    info.extend_from_slice(&index.to_be_bytes());
    info.extend_from_slice(&secret.transcript);
    info
}

/// A part behind its length.
fn put(into: &mut Wiped, part: &[u8]) {
    into.append(&(part.len() as u64).to_be_bytes());
    into.append(part);
}

struct Bytes(usize);

impl KeyType for Bytes {
    fn len(&self) -> usize {
        self.0
    }
}

/// HKDF-SHA-384 without salt.
fn derive(input: &[u8], info: &[u8], len: usize) -> Option<Wiped> {
    let mut out = Wiped::zeros(len);
    let parts = [info];
    let key = Salt::new(HKDF_SHA384, &[]).extract(input);
    let filled = key.expand(&parts, Bytes(len)).and_then(|okm| okm.fill(&mut out));
    filled.is_ok().then_some(out)
}

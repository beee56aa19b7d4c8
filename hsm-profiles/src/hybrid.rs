//! The second layer around a KEK on its way, so that whoever keeps a parcel until there are quantum computers
//! has to break ML-KEM beside RSA. Enter through [`receiver`], [`close`] and [`open`].
//!
//! It is around what RSA-OAEP wrapped: its secret, which is in this process for a moment, gives nobody a KEK.
//! The private key never leaves the token that takes the KEK.

use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey},
    hkdf::{HKDF_SHA256, Salt},
};
use cryptoki::error::Error;
use cryptoki::mechanism::Mechanism;
use cryptoki::object::{Attribute, MlKemParameterSetType, ObjectClass, ObjectHandle};
use cryptoki::session::Session;
use km_core::hsm::{HsmError, KEK_SEED_BYTES, KekParcel, KekReceiver};
use km_core::material::ClearBytes;
use km_core::usage::kem::{self, KemSet, SECRET_BYTES};
use wiped::Wiped;

use crate::lane::{OpError, secret_template, taken, value};
use crate::parcels::{Place, answered, find, refused};
use crate::profile::{Kind, Role};

const SET: KemSet = KemSet::MlKem1024;
const PARAMETERS: MlKemParameterSetType = MlKemParameterSetType::ML_KEM_1024;

/// The public key of the token's pair, which is made when there is none; `None` where the token has no
/// ML-KEM that works.
pub(crate) fn receiver(place: &Place<'_>) -> Result<Option<Vec<u8>>, OpError> {
    let session = place.session;
    if let Some(public) = find(session, ObjectClass::PUBLIC_KEY, &label(place))? {
        return Ok(Some(value(session, public)?));
    }
    let Ok((public, private)) = make(place) else { return Ok(None) };
    match works(session, public, private) {
        Ok(public) => Ok(Some(public)),
        Err(error) => {
            let error = answered(error, "the token opens nothing that is for its ML-KEM key");
            tracing::warn!(%error, "KEKs come to this token by RSA-OAEP alone");
            session.destroy_object(public)?;
            session.destroy_object(private)?;
            Ok(None)
        }
    }
}

fn make(place: &Place<'_>) -> Result<(ObjectHandle, ObjectHandle), Error> {
    let label = label(place);
    let mut open = vec![
        Attribute::Token(true),
        Attribute::Private(false),
        Attribute::Label(label.clone()),
        Attribute::ParameterSet(PARAMETERS.into()),
        Attribute::Encapsulate(true),
    ];
    let mut secret = vec![
        Attribute::Token(true),
        Attribute::Private(true),
        Attribute::Label(label),
        Attribute::Sensitive(true),
        Attribute::Extractable(false),
        Attribute::Decapsulate(true),
    ];
    let keys = &place.profile.keys;
    keys.shape(Role::Public, Some(Kind::MlKem), &mut open);
    keys.shape(Role::Private, Some(Kind::MlKem), &mut secret);
    place.session.generate_key_pair(&Mechanism::MlKemKeyPairGen, &open, &secret)
}

/// The public key, once the token opened what the library made for it.
fn works(
    session: &Session,
    public: ObjectHandle,
    private: ObjectHandle,
) -> Result<Vec<u8>, OpError> {
    let public = value(session, public)?;
    let (ciphertext, secret) = kem::encapsulate(SET, &public).map_err(OpError::Answer)?;
    match decapsulate(session, private, &ciphertext)? == secret {
        true => Ok(public),
        false => Err(OpError::Answer(refused("another secret than the library's"))),
    }
}

fn decapsulate(
    session: &Session,
    private: ObjectHandle,
    ciphertext: &[u8],
) -> Result<ClearBytes, OpError> {
    let secret =
        session.decapsulate_key(&Mechanism::MlKem, private, &secret_template(), ciphertext)?;
    taken(session, secret, SECRET_BYTES)
}

/// Puts the layer around what is wrapped for this receiver, where its token opens it. Its secret is made of
/// the seed that all receivers of one KEK have in common, and of its place among them: two of them may have one
/// key, as tokens do that are copies of each other, and no key of a layer is used twice.
pub(crate) fn close(
    (at, receiver): (usize, &KekReceiver),
    seed: &ClearBytes,
    parcel: &mut KekParcel,
) -> Result<(), HsmError> {
    let Some(public) = &receiver.kem else { return Ok(()) };
    let (ciphertext, secret) = kem::encapsulate_of(SET, public, &own_seed(seed, at, public)?)?;
    for key in &mut parcel.keys {
        let (layer, said) = (layer(&secret, parcel.number, &key.id)?, key.usage as u8);
        let nonce = Nonce::assume_unique_for_key([0; 12]);
        let sealed = layer.seal_in_place_append_tag(nonce, Aad::from([said]), &mut key.key);
        sealed.map_err(|_| refused("the library does not encrypt"))?;
    }
    parcel.kem = Some(ciphertext);
    Ok(())
}

/// Takes the layer off, by the token's key.
pub(crate) fn open(place: &Place<'_>, parcel: &KekParcel) -> Result<KekParcel, OpError> {
    let private = find(place.session, ObjectClass::PRIVATE_KEY, &label(place))?;
    let (private, ciphertext) = match (private, &parcel.kem) {
        (None, None) => return Ok(parcel.clone()),
        (Some(private), Some(ciphertext)) => (private, ciphertext),
        (Some(_), None) => {
            // Whoever kept it can break it as well if it is refused here.
            tracing::error!(
                number = parcel.number,
                alarm = "kek-without-ml-kem",
                "a KEK came wrapped by RSA-OAEP alone, and this token asked for ML-KEM as well"
            );
            return Ok(parcel.clone());
        }
        (None, Some(_)) => {
            return Err(OpError::Answer(refused("it is for a token with an ML-KEM key")));
        }
    };
    let secret = decapsulate(place.session, private, ciphertext)?;
    let mut opened = KekParcel { kem: None, ..parcel.clone() };
    for key in &mut opened.keys {
        let layer = layer(&secret, parcel.number, &key.id).map_err(OpError::Answer)?;
        let nonce = Nonce::assume_unique_for_key([0; 12]);
        let clear = layer.open_in_place(nonce, Aad::from([key.usage as u8]), &mut key.key);
        let len = match clear {
            Ok(clear) => clear.len(),
            Err(_) => {
                let text = "its ML-KEM layer does not open: it is for another token, or changed";
                return Err(OpError::Answer(refused(text)));
            }
        };
        key.key.truncate(len);
    }
    Ok(opened)
}

/// The seed of one receiver's secret: no other is known by it.
fn own_seed(seed: &ClearBytes, at: usize, public: &[u8]) -> Result<ClearBytes, HsmError> {
    if seed.len() != KEK_SEED_BYTES {
        let text = format!("the seed of a KEK's wrapping has {} bytes", seed.len());
        return Err(HsmError::Unsupported(text));
    }
    let mut own = Wiped::zeros(SECRET_BYTES);
    let at = (at as u64).to_be_bytes();
    let info: [&[u8]; 3] = [b"qkm kek parcel seed 2", &at, public];
    let filled = seed.expose(|seed| {
        let extracted = Salt::new(HKDF_SHA256, &[]).extract(seed);
        extracted.expand(&info, HKDF_SHA256).and_then(|made| made.fill(&mut own))
    });
    filled.map_err(|_| refused("the library derives no seed"))?;
    Ok(own.into())
}

/// The key of one message: an identifier is random, and used once.
fn layer(secret: &ClearBytes, number: u64, id: &[u8]) -> Result<LessSafeKey, HsmError> {
    let info: [&[u8]; 3] = [b"qkm kek parcel 1", &number.to_be_bytes(), id];
    let key = secret.expose(|secret| {
        let extracted = Salt::new(HKDF_SHA256, &[]).extract(secret);
        extracted.expand(&info, &AES_256_GCM).map(UnboundKey::from).map(LessSafeKey::new)
    });
    key.map_err(|_| refused("the library derives no key"))
}

fn label(place: &Place<'_>) -> Vec<u8> {
    format!("{}kem-pair", place.prefix).into_bytes()
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::kem::{DecapsulationKey, ML_KEM_1024};
    use km_core::hsm::{KekUse, WrappedKek};
    use km_core::usage::Hash;

    use super::*;

    fn receiver() -> KekReceiver {
        let key = DecapsulationKey::generate(&ML_KEM_1024).unwrap();
        let public = key.encapsulation_key().unwrap().key_bytes().unwrap();
        let kem = Some(public.as_ref().to_vec());
        KekReceiver { modulus: vec![1], exponent: vec![3], hash: Hash::Sha256, kem }
    }

    #[test]
    fn the_layers_around_a_kek_are_made_of_its_seed_and_each_is_its_receivers_own() {
        let (one, other) = (receiver(), receiver());
        let of = |at: usize, receiver: &KekReceiver, seed: u8, byte: u8| {
            let key = WrappedKek { id: vec![5; 16], usage: KekUse::Keys, key: vec![byte; 384] };
            let mut parcel = KekParcel { number: 9, keys: vec![key], kem: None };
            let seed = ClearBytes::from_vec(vec![seed; KEK_SEED_BYTES]);
            close((at, receiver), &seed, &mut parcel).unwrap();
            parcel
        };
        let closed = |receiver: &KekReceiver, seed: u8| of(0, receiver, seed, 6);
        assert_eq!(closed(&one, 1), closed(&one, 1), "something else is in it");
        let all = [closed(&one, 1), closed(&one, 2), closed(&other, 1), closed(&other, 2)];
        for (n, parcel) in all.iter().enumerate() {
            let others = all.iter().skip(n + 1);
            assert!(others.clone().all(|other| other.kem != parcel.kem));
            assert!(others.clone().all(|other| other.keys[0].key != parcel.keys[0].key));
        }
        // Two tokens with one key: what differs in the clear must not show.
        let twice = [of(0, &one, 1, 6), of(1, &one, 1, 7)];
        assert_ne!(twice[0].kem, twice[1].kem);
        let [first, second] = twice.map(|parcel| parcel.keys[0].key.clone());
        let shown = first.iter().zip(&second).take(384).filter(|(a, b)| **a ^ **b == 6 ^ 7).count();
        assert!(shown < 64, "{shown} bytes of 384 tell what they are to each other");
        let public = one.kem.as_ref().unwrap();
        let own = |seed: &[u8]| own_seed(&ClearBytes::copy_from(seed), 0, public);
        assert!(own(&[1; KEK_SEED_BYTES]).is_ok() && own(&[1; 31]).is_err());
    }
}

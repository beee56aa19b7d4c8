//! KEKs that go from token to token, by hand: wrapped by RSA-OAEP under a public key whose private half
//! the receiving token made and never shows, and where that token has ML-KEM by this as well (`hybrid`). The receiving end is [`receiver`] and [`take`], which need
//! no key manager; the giving end is [`km_core::hsm::Hsm::create_kek_for`].
//!
//! A KEK can be wrapped only while it is made, as an object of the session, which a crash takes along.
//! What stays in a token cannot be taken out, there as here.

use cryptoki::error::Error;
use cryptoki::mechanism::Mechanism;
use cryptoki::object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle};
use cryptoki::session::Session;
use km_core::hsm::{HsmError, KekId, KekInfo, KekParcel, KekReceiver, KekUse, WrappedKek};
use km_core::material::ClearBytes;
use km_core::usage::Hash;

use crate::config::TokenConfig;
use crate::hybrid;
use crate::kek::{self, KEK_ID_BYTES, KekSet, Usage};
use crate::lane::{OpError, with_oaep};
use crate::library;
use crate::link::{Entered, Link, code};
use crate::profile::{Profile, Role, Trusted};

/// Bits of the pair that receives.
const RSA_BITS: u64 = 3072;
/// Most receivers of one KEK.
const MOST_RECEIVERS: usize = 64;
const NOT_SHOWN: &str = "the token does not show its keys";

/// What other tokens need to wrap a KEK for this one. The pair is made when there is none. Logs in
/// once, as [`crate::examine::login`] does.
///
/// # Errors
/// [`HsmError::Unsupported`] when the token or its profile takes no KEKs so, and those of the login.
pub fn receiver(config: TokenConfig) -> Result<KekReceiver, HsmError> {
    Login::once(config)?.place()?.receiver()
}

/// Takes the keys of an epoch that another token made; what is here already is left. Whoever calls has
/// made sure of who made the parcel.
///
/// # Errors
/// [`HsmError::Refused`] when it was not wrapped for this token, or its number is taken, and those of
/// [`receiver`].
pub fn take(config: TokenConfig, parcel: &KekParcel) -> Result<KekInfo, HsmError> {
    Login::once(config)?.place()?.take(parcel)
}

/// A login for the time of one errand.
struct Login {
    entered: Entered,
    prefix: String,
}

impl Login {
    fn once(config: TokenConfig) -> Result<Self, HsmError> {
        config.check()?;
        let profile = Profile::load(&config.profile)?;
        let library = library::load(config.library.as_deref(), &profile)?;
        let prefix = config.kek_label.clone();
        Ok(Self { entered: Link::enter_once(config, profile, &library)?, prefix })
    }

    fn place(&self) -> Result<Place<'_>, HsmError> {
        let session = self.entered.held.get().map_err(|e| HsmError::Unavailable(code(&e)))?;
        Ok(Place { session, profile: &self.entered.profile, prefix: &self.prefix })
    }
}

/// The receiving token.
pub(crate) struct Place<'a> {
    pub(crate) session: &'a Session,
    pub(crate) profile: &'a Profile,
    pub(crate) prefix: &'a str,
}

impl Place<'_> {
    /// See [`receiver`].
    pub(crate) fn receiver(&self) -> Result<KekReceiver, HsmError> {
        check(self.profile)?;
        let public = match find(self.session, ObjectClass::PUBLIC_KEY, &self.pair_label()) {
            Ok(Some(public)) => Ok(public),
            Ok(None) => self.make_pair(),
            Err(error) => Err(error),
        };
        let wanted = [AttributeType::Modulus, AttributeType::PublicExponent];
        let shown = public.and_then(|public| self.session.get_attributes(public, &wanted));
        match &shown.map_err(|e| told("the token makes no pair to take KEKs by", &e))?[..] {
            [Attribute::Modulus(modulus), Attribute::PublicExponent(exponent)] => {
                let (modulus, exponent) = (modulus.clone(), exponent.clone());
                let kem = hybrid::receiver(self).map_err(|error| answered(error, NOT_SHOWN))?;
                Ok(KekReceiver { modulus, exponent, hash: self.profile.keys.oaep(), kem })
            }
            _ => Err(HsmError::Unsupported("the token does not show its public key".to_owned())),
        }
    }

    /// See [`take`].
    pub(crate) fn take(&self, parcel: &KekParcel) -> Result<KekInfo, HsmError> {
        check(self.profile)?;
        let info = self.fits(parcel)?;
        match self.keks()?.into_iter().find(|kek| kek.number == info.number) {
            Some(known) if known == info => return Ok(info),
            Some(_) => {
                let text = format!("this token has another KEK of number {}", info.number);
                return Err(refused(&text));
            }
            None => {}
        }
        let private = find(self.session, ObjectClass::PRIVATE_KEY, &self.pair_label());
        let private = private.map_err(|e| told(NOT_SHOWN, &e))?;
        let private = private.ok_or_else(|| refused("this token never asked for a KEK"))?;
        let parcel = hybrid::open(self, parcel)
            .map_err(|e| answered(e, "the token does not open the ML-KEM layer"))?;
        // Of a parcel that was taken in half: the giver has destroyed its own.
        let cleared = kek::clear_wrapping(self.session, self.prefix, info.number);
        cleared
            .map_err(|e| told("the token does not destroy what is left of another parcel", &e))?;
        let mut keys: Vec<&WrappedKek> = parcel.keys.iter().collect();
        // The one that seals comes last: an epoch begins with all its keys, or not.
        keys.sort_by_key(|key| key.usage != KekUse::Keys);
        for key in keys {
            self.unwrap(private, info.number, key)?;
        }
        // It has every property a KEK must have.
        self.keks()?;
        Ok(info)
    }

    /// The KEK of a parcel that seals as this token does.
    fn fits(&self, parcel: &KekParcel) -> Result<KekInfo, HsmError> {
        let sealing = parcel.keys.iter().find(|key| key.usage != KekUse::Keys);
        let sealing = sealing.ok_or_else(|| refused("it holds no KEK that seals"))?;
        let here = kek_use(Role::Sealing, self.profile.seal.usage());
        if sealing.usage != here {
            return Err(HsmError::Unsupported(format!(
                "the KEK is to seal as {:?}, and the profile {} seals as {here:?}: tokens that share \
                 KEKs need profiles that seal alike",
                sealing.usage, self.profile.name
            )));
        }
        Ok(KekInfo { id: KekId(hex::encode(&sealing.id)), number: parcel.number })
    }

    fn pair_label(&self) -> Vec<u8> {
        format!("{}pair", self.prefix).into_bytes()
    }

    fn keks(&self) -> Result<Vec<KekInfo>, HsmError> {
        let seal = &self.profile.seal;
        let keks = KekSet::find(self.session, self.prefix, seal, &mut Default::default());
        keks.map(|keks| keks.list()).map_err(|error| answered(error, NOT_SHOWN))
    }

    fn make_pair(&self) -> Result<ObjectHandle, Error> {
        let (keys, label) = (&self.profile.keys, self.pair_label());
        let mut open = vec![
            Attribute::Token(true),
            Attribute::Private(false),
            Attribute::Label(label.clone()),
            Attribute::ModulusBits(RSA_BITS.into()),
            Attribute::PublicExponent(vec![1, 0, 1]),
            Attribute::Wrap(true),
            Attribute::Encrypt(false),
            Attribute::Verify(false),
        ];
        let mut secret = vec![
            Attribute::Token(true),
            Attribute::Private(true),
            Attribute::Label(label),
            Attribute::Sensitive(true),
            Attribute::Extractable(false),
            Attribute::Unwrap(true),
            Attribute::Decrypt(false),
            Attribute::Sign(false),
        ];
        keys.fit(&mut open);
        keys.fit(&mut secret);
        let pair = self.session.generate_key_pair(&keys.rsa_pair().bare(), &open, &secret)?;
        Ok(pair.0)
    }

    fn unwrap(&self, private: ObjectHandle, number: u64, key: &WrappedKek) -> Result<(), HsmError> {
        let (prefix, profile) = (self.prefix, self.profile);
        let (label, role, usage) = match key.usage {
            KekUse::Keys => (format!("{prefix}w-{number}"), Role::Wrapping, Usage::Wraps),
            KekUse::Encrypts => (format!("{prefix}{number}"), Role::Sealing, Usage::Encrypts),
            KekUse::Wraps => (format!("{prefix}{number}"), Role::Sealing, Usage::Wraps),
        };
        let there = kek::kept(self.session, &key.id);
        if !there.map_err(|e| told(NOT_SHOWN, &e))?.is_empty() {
            return Ok(());
        }
        let mut template = kek::template(label.into_bytes(), key.id.clone(), role, usage, profile);
        // Told by what is wrapped.
        template.retain(|attribute| !matches!(attribute, Attribute::ValueLen(_)));
        let taken = oaep(profile.keys.oaep(), |oaep| {
            Ok(self.session.unwrap_key(oaep, private, &key.key, &template))
        });
        taken
            .map_err(|error| answered(error, "no RSA-OAEP"))?
            .map(drop)
            .map_err(|e| refused(&format!("the token does not take the KEK: {}", code(&e))))
    }
}

/// Destroys what tries that failed left of an epoch. By their names: an answer may have been lost.
pub(crate) fn take_back(session: &Session, begun: &mut Vec<Vec<u8>>) -> Result<(), Error> {
    while let Some(id) = begun.last() {
        for object in kek::kept(session, id)? {
            session.destroy_object(object)?;
        }
        begun.pop();
    }
    Ok(())
}

/// Makes the keys of epoch `number`, or of the next free one, in the session's token, wrapped for each
/// receiver as well: all of them, or none. What is random of the ML-KEM layers is made of the seed. What a
/// failure leaves all the same is named in `begun`.
pub(crate) fn give(
    session: &Session,
    profile: &Profile,
    (prefix, number): (&str, u64),
    (receivers, seed): (&[KekReceiver], &ClearBytes),
    begun: &mut Vec<Vec<u8>>,
) -> Result<(KekInfo, Vec<KekParcel>), OpError> {
    check(profile).map_err(OpError::Answer)?;
    if receivers.len() > MOST_RECEIVERS {
        let text = format!("a KEK goes to at most {MOST_RECEIVERS} tokens");
        return Err(OpError::Answer(HsmError::Unsupported(text)));
    }
    // Another KM that shares the token may have made one since.
    let number = kek::free_number(session, prefix, number)?;
    kek::clear_wrapping(session, prefix, number)?;
    let publics: Vec<ObjectHandle> =
        receivers.iter().map(|receiver| public(session, receiver)).collect::<Result<_, _>>()?;
    let gift = Gift { session, profile, prefix, number, receivers, publics: &publics };
    let made = gift.make(begun).and_then(|mut made| {
        publics.iter().try_for_each(|public| session.destroy_object(*public))?;
        let layers = receivers.iter().enumerate().zip(&mut made.1);
        let closed = layers.map(|(receiver, parcel)| hybrid::close(receiver, seed, parcel));
        closed.collect::<Result<(), _>>().map_err(OpError::Answer)?;
        Ok(made)
    });
    if made.is_err() {
        // Half an epoch, or one that no receiver hears of. The session may be gone too: then the next try
        // does it.
        let _ = take_back(session, begun);
    }
    made
}

/// The keys of an epoch that are to be made and given away.
struct Gift<'a> {
    session: &'a Session,
    profile: &'a Profile,
    prefix: &'a str,
    number: u64,
    receivers: &'a [KekReceiver],
    /// Theirs, in the same order.
    publics: &'a [ObjectHandle],
}

impl Gift<'_> {
    /// Adds to `kept` the `CKA_ID` of what stays in the token.
    fn make(&self, kept: &mut Vec<Vec<u8>>) -> Result<(KekInfo, Vec<KekParcel>), OpError> {
        let Self { session, profile, prefix, number, receivers, publics } = *self;
        let mut parcels = vec![KekParcel { number, keys: Vec::new(), kem: None }; receivers.len()];
        let wraps = (format!("{prefix}w-{number}"), Role::Wrapping, Usage::Wraps);
        let seals = (format!("{prefix}{number}"), Role::Sealing, profile.seal.usage());
        let mut sealing = Vec::new();
        for (label, role, usage) in profile.wraps_keys().then_some(wraps).into_iter().chain([seals])
        {
            let id = session.generate_random_vec(KEK_ID_BYTES)?;
            let template = kek::template(label.into_bytes(), id.clone(), role, usage, profile);
            let draft = kek::draft(session, &template)?;
            let wrapped = receivers.iter().zip(publics).zip(&mut parcels).try_for_each(
                |((receiver, public), parcel)| {
                    let key = oaep(receiver.hash, |oaep| session.wrap_key(oaep, *public, draft))?;
                    let usage = kek_use(role, usage);
                    parcel.keys.push(WrappedKek { id: id.clone(), usage, key });
                    Ok::<(), OpError>(())
                },
            );
            let stays = [Attribute::Token(true), Attribute::Extractable(false)];
            kept.push(id.clone());
            let copied = wrapped.and_then(|()| Ok(session.copy_object(draft, &stays)?));
            let gone = session.destroy_object(draft);
            copied?;
            gone?;
            sealing = id;
        }
        Ok((KekInfo { id: KekId(hex::encode(sealing)), number }, parcels))
    }
}

pub(crate) fn check(profile: &Profile) -> Result<(), HsmError> {
    let keys = &profile.keys;
    match keys.trusted == Trusted::No && !keys.token_objects_only {
        true => Ok(()),
        false => Err(HsmError::Unsupported(format!(
            "with the profile {} KEKs go to no other token: use the HSM's own cloning",
            profile.name
        ))),
    }
}

fn kek_use(role: Role, usage: Usage) -> KekUse {
    match (role, usage) {
        (Role::Sealing, Usage::Encrypts) => KekUse::Encrypts,
        (Role::Sealing, Usage::Wraps) => KekUse::Wraps,
        _ => KekUse::Keys,
    }
}

pub(crate) fn find(
    session: &Session,
    class: ObjectClass,
    label: &[u8],
) -> Result<Option<ObjectHandle>, Error> {
    let template =
        [Attribute::Class(class), Attribute::Label(label.to_vec()), Attribute::Token(true)];
    Ok(session.find_objects(&template)?.into_iter().next())
}

/// The receiver's public key as an object of the session.
fn public(session: &Session, receiver: &KekReceiver) -> Result<ObjectHandle, OpError> {
    if receiver.modulus.len() * 8 < RSA_BITS as usize {
        let text = "the receiver's key is shorter than 3072 bits".to_owned();
        return Err(OpError::Answer(HsmError::Unsupported(text)));
    }
    Ok(session.create_object(&[
        Attribute::Class(ObjectClass::PUBLIC_KEY),
        Attribute::KeyType(KeyType::RSA),
        Attribute::Token(false),
        Attribute::Private(false),
        Attribute::Modulus(receiver.modulus.clone()),
        Attribute::PublicExponent(receiver.exponent.clone()),
        Attribute::Wrap(true),
    ])?)
}

/// Runs with RSA-OAEP of one hash and without label.
fn oaep<T>(hash: Hash, run: impl FnOnce(&Mechanism) -> Result<T, Error>) -> Result<T, OpError> {
    with_oaep((hash, hash, &[]), run)
}

pub(crate) fn answered(error: OpError, what: &str) -> HsmError {
    match error {
        OpError::Answer(error) | OpError::Close(error) => error,
        OpError::Token(error) => told(what, &error),
    }
}

fn told(what: &str, error: &Error) -> HsmError {
    HsmError::Unsupported(format!("{what}: {}", code(error)))
}

pub(crate) fn refused(what: &str) -> HsmError {
    HsmError::Refused(what.to_owned())
}

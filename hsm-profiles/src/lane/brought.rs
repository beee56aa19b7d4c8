//! Keys that applications brought, whose bytes are sealed: they are in this process while they become
//! objects of the session. Enter through [`Lane::imported`].

use cryptoki::error::Error;
use cryptoki::object::{Attribute, ObjectHandle};
use km_core::hsm::{HsmError, TokenKey};
use km_core::material::ClearBytes;
use km_core::usage::private::{Parts, parts, pkcs8, public_half};
use km_core::usage::{KeyKind, der};
use wiped::Wiped;
use zeroize::Zeroize;

use super::judge::unsupported;
use super::made::parameters;
use super::using::Extractable;
use super::{Lane, OpError};
use crate::fault::{Fault, classify};
use crate::keys;
use crate::link::code;
use crate::profile::Import;

/// Longest modulus of an RSA key that the token is given, in bytes.
const LONGEST_RSA: usize = 512;

impl Lane {
    /// The key as an object of the session, sensitive and not extractable.
    pub(super) fn imported(&mut self, key: &TokenKey) -> Result<ObjectHandle, OpError> {
        let keys = &self.profile.keys;
        if keys.import == Import::Refused || keys.token_objects_only {
            return Err(unsupported("the token takes no clear keys for a session".to_owned()));
        }
        let (kind, least) = (key.kind, keys.hmac_bytes);
        let clear = self.open_sealed(&key.aad, &key.sealed)?;
        let clear = match kind {
            KeyKind::TripleDes => three_keys(clear),
            _ => clear,
        };
        // Not left to the token: what it says of a key of an odd length may be anything.
        let fits = match (kind, clear.len()) {
            (KeyKind::Aes, len) => matches!(len, 16 | 24 | 32),
            (KeyKind::TripleDes, len) => len == 24,
            (KeyKind::Hmac, len) => len >= least.max(1),
            _ => true,
        };
        if !fits {
            let text = format!("keys of {} bytes are not for the token", clear.len());
            return Err(unsupported(text));
        }
        let public = match kind.is_pair() {
            true => Some(clear.expose(|bytes| public_of(kind, bytes))?),
            false => None,
        };
        let made = match keys.import {
            Import::EncryptThenUnwrap => self.unwrapped_clear(kind, &clear)?,
            _ => self.created(kind, &clear)?,
        };
        match kind.is_pair() {
            true => self.proven(kind, made.map_err(OpError::Token), &public),
            false => made.map_err(|error| self.judge(error)),
        }
    }

    /// By `C_CreateObject`, of the parts of the key.
    fn created(
        &self,
        kind: KeyKind,
        clear: &ClearBytes,
    ) -> Result<Result<ObjectHandle, Error>, OpError> {
        let mut template = self.template(kind, Extractable::No);
        clear.expose(|bytes| match kind.is_pair() {
            true => fill(kind, bytes, &mut template),
            false => {
                template.push(Attribute::Value(bytes.to_vec()));
                Ok(())
            }
        })?;
        let made = self.session()?.create_object(&template);
        template.iter_mut().for_each(wipe);
        Ok(made)
    }

    /// For tokens that take keys in no clear form.
    fn unwrapped_clear(
        &self,
        kind: KeyKind,
        clear: &ClearBytes,
    ) -> Result<Result<ObjectHandle, Error>, OpError> {
        let template = self.template(kind, Extractable::No);
        let (session, profile) = (self.session()?, &self.profile);
        let import = |bytes: &ClearBytes| keys::by_unwrapping(session, profile, &template, bytes);
        Ok(match kind.is_pair() {
            true => import(&clear.expose(|bytes| pkcs8(kind, bytes)).ok_or_else(unknown)?),
            false => import(clear),
        })
    }

    /// A private key that signs as its public half says. One that the token does not take, or signs
    /// wrongly with, is not for it.
    fn proven(
        &mut self,
        kind: KeyKind,
        made: Result<ObjectHandle, OpError>,
        public: &Option<Vec<u8>>,
    ) -> Result<ObjectHandle, OpError> {
        let handle = made.map_err(|error| self.not_taken(error))?;
        let same = self.is_same(kind, handle, handle, public);
        match same.map_err(|error| self.not_taken(error)) {
            Ok(true) => Ok(handle),
            same => {
                self.destroy(handle)?;
                same?;
                Err(unsupported("the private key does not fit its public half".to_owned()))
            }
        }
    }

    /// Private keys come in many forms, so what a token says of one is not held against the token.
    fn not_taken(&mut self, error: OpError) -> OpError {
        match error {
            OpError::Token(error) => match classify(&error, &self.profile.errors) {
                Fault::Data | Fault::Request => match self.round_trip(None) {
                    Ok(()) => {
                        unsupported(format!("the token does not take this key: {}", code(&error)))
                    }
                    Err(gone) => gone,
                },
                _ => OpError::Token(error),
            },
            OpError::Close(HsmError::Unavailable(why)) => unsupported(why),
            other => other,
        }
    }
}

/// Triple DES with two keys is that with three of which the third is the first.
fn three_keys(clear: ClearBytes) -> ClearBytes {
    match (clear.len(), clear.slice(0..8)) {
        (16, Some(first)) => {
            let mut all = Wiped::with_capacity(24);
            clear.expose(|bytes| all.append(bytes));
            first.expose(|bytes| all.append(bytes));
            all.into()
        }
        _ => clear,
    }
}

fn unknown() -> OpError {
    unsupported("the private key has no known form".to_owned())
}

/// The public half of a private key that is for tokens.
fn public_of(kind: KeyKind, bytes: &[u8]) -> Result<Vec<u8>, OpError> {
    let parts = parts(kind, bytes).ok_or_else(unknown)?;
    match parts {
        // Others take long, or their signatures have lengths that are not checked here.
        Parts::Rsa([n, ..]) if n.len() > LONGEST_RSA || n.len() % 8 != 0 => {
            Err(unsupported(format!("RSA keys of {} bytes are not for the token", n.len())))
        }
        parts => public_half(kind, &parts).ok_or_else(unknown),
    }
}

/// Adds the parts of a private key to the template.
fn fill(kind: KeyKind, bytes: &[u8], template: &mut Vec<Attribute>) -> Result<(), OpError> {
    match (kind, parts(kind, bytes).ok_or_else(unknown)?) {
        (_, Parts::Rsa([n, e, d, p, q, dp, dq, coefficient])) => {
            template.extend([
                Attribute::Modulus(n.to_vec()),
                Attribute::PublicExponent(e.to_vec()),
                Attribute::PrivateExponent(d.to_vec()),
                Attribute::Prime1(p.to_vec()),
                Attribute::Prime2(q.to_vec()),
                Attribute::Exponent1(dp.to_vec()),
                Attribute::Exponent2(dq.to_vec()),
                Attribute::Coefficient(coefficient.to_vec()),
            ]);
        }
        (KeyKind::Ec(curve), Parts::Ec(secret, _)) => {
            template.push(Attribute::EcParams(der::curve_oid(curve).to_vec()));
            template.push(Attribute::Value(secret.to_vec()));
        }
        (KeyKind::MlDsa(set), Parts::Seed(seed)) => {
            template.push(Attribute::ParameterSet(parameters(set).into()));
            template.push(Attribute::Seed(seed.to_vec()));
        }
        (_, Parts::Ec(secret, _) | Parts::Seed(secret)) => {
            let curve = match kind {
                KeyKind::X25519 => der::X25519_OID,
                _ => der::ED25519_OID,
            };
            template.push(Attribute::EcParams(curve.to_vec()));
            template.push(Attribute::Value(secret.to_vec()));
        }
    }
    Ok(())
}

fn wipe(attribute: &mut Attribute) {
    match attribute {
        Attribute::Value(bytes)
        | Attribute::Seed(bytes)
        | Attribute::PrivateExponent(bytes)
        | Attribute::Prime1(bytes)
        | Attribute::Prime2(bytes)
        | Attribute::Exponent1(bytes)
        | Attribute::Exponent2(bytes)
        | Attribute::Coefficient(bytes) => bytes.zeroize(),
        _ => {}
    }
}

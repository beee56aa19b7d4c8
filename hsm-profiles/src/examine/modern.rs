//! Trials of what PKCS#11 3.0 and 3.2 brought: HKDF, ML-KEM, ML-DSA.

use cryptoki::mechanism::dsa::{HedgeType, SignAdditionalContext};
use cryptoki::mechanism::hkdf::{HkdfParams, HkdfSalt};
use cryptoki::mechanism::{Mechanism, MechanismType};
use cryptoki::object::{
    Attribute, KeyType, MlDsaParameterSetType, MlKemParameterSetType, ObjectClass, ObjectHandle,
};

use super::abilities::{Bench, Trial, told};

const BLOCK: [u8; 16] = [7; 16];

impl Bench<'_> {
    /// The same input gives the same key, another salt another one; all stay in the token.
    pub(super) fn hkdf(&self) -> Trial {
        self.has("HKDF_DERIVE")?;
        let mut template = self.aes_template();
        template.push(Attribute::Encrypt(true));
        self.profile.keys.fit(&mut template);
        let mut base =
            vec![Attribute::KeyType(KeyType::GENERIC_SECRET), Attribute::ValueLen(32.into())];
        base.extend([Attribute::Token(false), Attribute::Sensitive(true), Attribute::Derive(true)]);
        let base = self.session.generate_key(&Mechanism::GenericSecretKeyGen, &base);
        let base = base.map_err(told)?;
        let derive = |salt: &[u8]| {
            let hash = MechanismType::SHA256;
            let params = HkdfParams::new(hash, Some(HkdfSalt::Data(salt)), Some(b"qkm"));
            let hkdf = Mechanism::HkdfDerive(params);
            let key = self.session.derive_key(&hkdf, base, &template).map_err(told)?;
            self.by(key)
        };
        let (first, same, other) = (derive(b"a")?, derive(b"a")?, derive(b"b")?);
        if first != same || first == other {
            return Err("does not derive one key from one input".to_owned());
        }
        Ok(String::new())
    }

    /// Both ends get the same key, which neither shows.
    pub(super) fn ml_kem(&self) -> Trial {
        self.has("ML_KEM_KEY_PAIR_GEN")?;
        let public = [
            Attribute::Token(false),
            Attribute::ParameterSet(MlKemParameterSetType::ML_KEM_768.into()),
            Attribute::Encapsulate(true),
        ];
        let private = [
            Attribute::Token(false),
            Attribute::Sensitive(true),
            Attribute::Extractable(false),
            Attribute::Decapsulate(true),
        ];
        let session = self.session;
        let pair = session.generate_key_pair(&Mechanism::MlKemKeyPairGen, &public, &private);
        let (public, private) = pair.map_err(told)?;
        let mut template = self.aes_template();
        template.extend([Attribute::Class(ObjectClass::SECRET_KEY), Attribute::Encrypt(true)]);
        // The length follows from the mechanism.
        template.retain(|attribute| !matches!(attribute, Attribute::ValueLen(_)));
        let (sent, ours) =
            session.encapsulate_key(&Mechanism::MlKem, public, &template).map_err(told)?;
        let theirs =
            session.decapsulate_key(&Mechanism::MlKem, private, &template, &sent).map_err(told)?;
        if self.by(ours)? != self.by(theirs)? {
            return Err("the two ends get different keys".to_owned());
        }
        Ok(String::new())
    }

    pub(super) fn ml_dsa(&self) -> Trial {
        self.has("ML_DSA_KEY_PAIR_GEN")?;
        let public = [
            Attribute::Token(false),
            Attribute::ParameterSet(MlDsaParameterSetType::ML_DSA_65.into()),
            Attribute::Verify(true),
        ];
        let private = [
            Attribute::Token(false),
            Attribute::Sensitive(true),
            Attribute::Extractable(false),
            Attribute::Sign(true),
        ];
        let session = self.session;
        let pair = session.generate_key_pair(&Mechanism::MlDsaKeyPairGen, &public, &private);
        let (public, private) = pair.map_err(told)?;
        let ml_dsa = Mechanism::MlDsa(SignAdditionalContext::new(HedgeType::Preferred, None));
        let signature = session.sign(&ml_dsa, private, b"message").map_err(told)?;
        session.verify(&ml_dsa, public, b"message", &signature).map_err(told)?;
        match session.verify(&ml_dsa, public, b"massage", &signature) {
            Ok(()) => Err("verifies a changed message".to_owned()),
            Err(_) => Ok(String::new()),
        }
    }

    /// What a key makes of a known block: tells keys apart that show no value.
    pub(super) fn by(&self, key: ObjectHandle) -> Result<Vec<u8>, String> {
        self.session.encrypt(&Mechanism::AesEcb, key, &BLOCK).map_err(told)
    }

    fn aes_template(&self) -> Vec<Attribute> {
        vec![
            Attribute::KeyType(KeyType::AES),
            Attribute::ValueLen(32.into()),
            Attribute::Token(false),
            Attribute::Sensitive(true),
            Attribute::Extractable(false),
        ]
    }
}

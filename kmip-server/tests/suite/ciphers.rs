//! Ciphers beyond the usual, done outside the token: known answers, and keys of more than one hash.

use kmip::{
    SecretBytes, Version,
    attribute::{Attribute, Attributes, CryptographicParameters},
    client,
    enums::{
        BlockCipherMode as Mode, CryptographicAlgorithm as Algorithm, HashingAlgorithm,
        PaddingMethod, ResultReason,
    },
    op,
};

use crate::common::{Client, Network, refusal};

/// Every use there is.
const ANY: i32 = 0xFFF;

fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> =
        hex.bytes().filter_map(|c| char::from(c).to_digit(16)).map(|d| d as u8).collect();
    digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}

fn active() -> Attribute {
    Attribute::ActivationDate(kmip::DateTime(1_000_000_000))
}

struct Known {
    algorithm: Algorithm,
    mode: Option<Mode>,
    tag_length: Option<i32>,
    key: &'static str,
    iv: &'static str,
    aad: &'static str,
    clear: &'static str,
    /// With its tag.
    sealed: &'static str,
}

const AES_KEY: &str = "2b7e151628aed2a6abf7158809cf4f3c";
const AES_IV: &str = "000102030405060708090a0b0c0d0e0f";
const TWO_BLOCKS: &str = "6bc1bee22e409f96e93d7e117393172a ae2d8a571e03ac9c9eb76fac45af8e51";

const KNOWN: [Known; 6] = [
    // NIST SP 800-38A, F.3.13.
    Known {
        algorithm: Algorithm::Aes,
        mode: Some(Mode::Cfb),
        tag_length: None,
        key: AES_KEY,
        iv: AES_IV,
        aad: "",
        clear: TWO_BLOCKS,
        sealed: "3b3fd92eb72dad20333449f8e83cfb4a c8a64537a0b3a93fcde3cdad9f1ce58b",
    },
    // NIST SP 800-38A, F.4.1.
    Known {
        algorithm: Algorithm::Aes,
        mode: Some(Mode::Ofb),
        tag_length: None,
        key: AES_KEY,
        iv: AES_IV,
        aad: "",
        clear: TWO_BLOCKS,
        sealed: "3b3fd92eb72dad20333449f8e83cfb4a 7789508d16918f03f53c52dac54ed825",
    },
    // NIST SP 800-38C, example 3.
    Known {
        algorithm: Algorithm::Aes,
        mode: Some(Mode::Ccm),
        tag_length: Some(8),
        key: "404142434445464748494a4b4c4d4e4f",
        iv: "101112131415161718191a1b",
        aad: "000102030405060708090a0b0c0d0e0f10111213",
        clear: "202122232425262728292a2b2c2d2e2f3031323334353637",
        sealed: "e3b201a9f5b71a7a9b1ceaeccd97e70b6176aad9a4428aa5 484392fbc1b09951",
    },
    // IEEE 1619, vector 2.
    Known {
        algorithm: Algorithm::Aes,
        mode: Some(Mode::Xts),
        tag_length: None,
        key: "1111111111111111111111111111111122222222222222222222222222222222",
        iv: "33333333330000000000000000000000",
        aad: "",
        clear: "4444444444444444444444444444444444444444444444444444444444444444",
        sealed: "c454185e6a16936e39334038acef838bfb186fff7480adc4289382ecd6d394f0",
    },
    // RFC 8439, 2.4.2, its first 32 bytes with the counter at 1.
    Known {
        algorithm: Algorithm::ChaCha20,
        mode: None,
        tag_length: None,
        key: "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f",
        iv: "000000000000004a00000000",
        aad: "",
        clear: "4c616469657320616e642047656e746c656d656e206f662074686520636c6173",
        sealed: "6e2e359a2568f98041ba0728dd0d6981e97e7aec1d4360c20a27afccfd9fae0b",
    },
    // As OpenSSL has it for DES-EDE3-CBC.
    Known {
        algorithm: Algorithm::Des3,
        mode: Some(Mode::Cbc),
        tag_length: None,
        key: "0123456789abcdeff1e0d3c2b5a49786fedcba9876543210",
        iv: "fedcba9876543210",
        aad: "",
        clear: "37363534333231204e6f77206973207468652074696d6520666f722000000000",
        sealed: "3fe301c962ac01d02213763c1cbd4cdc799657c064ecf5d41c673812cfde9675",
    },
];

impl Known {
    fn parameters(&self) -> CryptographicParameters {
        CryptographicParameters {
            block_cipher_mode: self.mode,
            tag_length: self.tag_length,
            initial_counter_value: (self.mode.is_none()).then_some(1),
            ..Default::default()
        }
    }

    async fn check(&self, client: &mut Client) {
        let (parameters, tag) = (Some(self.parameters()), self.tag_length.unwrap_or(0));
        let key = SecretBytes::copy_from(&bytes(self.key));
        let request = client::register_key(key, self.algorithm, ANY, [active()]);
        let id = client.register(request).await.unwrap().id;
        let aad = Some(bytes(self.aad)).filter(|aad| !aad.is_empty());
        let request = op::encrypt::Request {
            id: Some(id.as_str().into()),
            parameters: parameters.clone(),
            data: Some(SecretBytes::copy_from(&bytes(self.clear))),
            iv: Some(bytes(self.iv)),
            aad: aad.clone(),
            ..Default::default()
        };
        let answer = client.encrypt(request).await.unwrap();
        let found = [answer.data.unwrap(), answer.tag.unwrap_or_default()].concat();
        assert_eq!(found, bytes(self.sealed), "{:?} {:?}", self.algorithm, self.mode);
        let open = |sealed: &[u8]| {
            let (data, tag) = sealed.split_at(sealed.len() - tag as usize);
            op::decrypt::Request {
                id: Some(id.as_str().into()),
                parameters: parameters.clone(),
                data: Some(data.to_vec()),
                iv: Some(bytes(self.iv)),
                aad: aad.clone(),
                tag: Some(tag.to_vec()).filter(|tag| !tag.is_empty()),
                ..Default::default()
            }
        };
        let clear = client.decrypt(open(&found)).await.unwrap().data.unwrap();
        assert_eq!(clear.expose(<[u8]>::to_vec), bytes(self.clear));
        if tag > 0 {
            let mut changed = found.clone();
            changed[0] ^= 1;
            let refused = refusal(client.decrypt(open(&changed)).await);
            assert_eq!(refused, ResultReason::CryptographicFailure);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ciphers_outside_the_token_give_the_known_answers() {
    let network = Network::start().await;
    let mut client = network.client("n1", Version::V2_1).await;
    for known in KNOWN {
        known.check(&mut client).await;
    }
    let mut bound = network.token_only_client("n1", Version::V2_1).await;
    let key = SecretBytes::copy_from(&[1; 32]);
    let request = client::register_key(key, Algorithm::ChaCha20, ANY, [active()]);
    let id = bound.register(request).await.unwrap().id;
    let request = op::encrypt::Request {
        id: Some(id.as_str().into()),
        parameters: Some(CryptographicParameters::default()),
        data: Some(SecretBytes::copy_from(b"data")),
        iv: Some(vec![0; 12]),
        ..Default::default()
    };
    let refused = refusal(bound.encrypt(request).await);
    assert_eq!(refused, ResultReason::UnsupportedCryptographicParameters);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn oaep_has_two_hashes_and_a_label_and_pss_any_salt() {
    let network = Network::start().await;
    let mut client = network.client("n1", Version::V2_1).await;
    let with = |mask| -> Attributes {
        [Attribute::CryptographicUsageMask(mask), active()].into_iter().collect()
    };
    let request = op::create_key_pair::Request {
        common: [
            Attribute::CryptographicAlgorithm(Algorithm::Rsa),
            Attribute::CryptographicLength(2048),
        ]
        .into_iter()
        .collect(),
        private: with(0x1 | 0x8),
        public: with(0x2 | 0x4),
        ..Default::default()
    };
    let pair = client.create_key_pair(request).await.unwrap();
    let oaep = |hash, mask, label: &[u8]| CryptographicParameters {
        padding_method: Some(PaddingMethod::Oaep),
        hashing_algorithm: Some(hash),
        mask_generator_hashing_algorithm: mask,
        p_source: Some(label.to_vec()).filter(|label| !label.is_empty()),
        ..Default::default()
    };
    use HashingAlgorithm::{Sha3_224, Sha3_256, Sha3_384, Sha3_512, Sha224, Sha256, Sha384};
    for (hash, mask, label) in [
        (Sha384, Some(Sha256), &b"label"[..]),
        (Sha3_224, None, b""),
        (Sha3_256, Some(Sha3_256), b""),
        (Sha3_384, None, b"label"),
        (Sha3_512, Some(Sha256), b""),
        (Sha224, None, b""),
    ] {
        let request = op::encrypt::Request {
            id: Some(pair.public_id.as_str().into()),
            parameters: Some(oaep(hash, mask, label)),
            data: Some(SecretBytes::copy_from(b"a secret")),
            ..Default::default()
        };
        let sealed = client.encrypt(request).await.unwrap().data;
        let open = |hash, mask, label: &[u8]| op::decrypt::Request {
            id: Some(pair.private_id.as_str().into()),
            parameters: Some(oaep(hash, mask, label)),
            data: sealed.clone(),
            ..Default::default()
        };
        let clear = client.decrypt(open(hash, mask, label)).await.unwrap().data.unwrap();
        assert_eq!(clear.expose(<[u8]>::to_vec), b"a secret");
        for wrong in [open(hash, mask, b"other"), open(Sha256, None, label)] {
            let refused = refusal(client.decrypt(wrong).await);
            assert_eq!(refused, ResultReason::CryptographicFailure, "{hash:?}");
        }
    }

    let pss = |salt_length| CryptographicParameters {
        padding_method: Some(PaddingMethod::Pss),
        hashing_algorithm: Some(HashingAlgorithm::Sha256),
        salt_length,
        ..Default::default()
    };
    let request = op::sign::Request {
        id: Some(pair.private_id.as_str().into()),
        parameters: Some(pss(Some(20))),
        data: Some(SecretBytes::copy_from(b"a message")),
        ..Default::default()
    };
    let signature = client.sign(request).await.unwrap().signature;
    for (salt, fits) in [(None, true), (Some(20), true), (Some(32), false)] {
        let request = op::signature_verify::Request {
            id: Some(pair.public_id.as_str().into()),
            parameters: Some(pss(salt)),
            data: Some(SecretBytes::copy_from(b"a message")),
            signature: signature.clone(),
            ..Default::default()
        };
        let validity = client.signature_verify(request).await.unwrap().validity;
        assert_eq!(validity == kmip::enums::ValidityIndicator::Valid, fits, "salt {salt:?}");
    }
}

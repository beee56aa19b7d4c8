//! Enumerations about cryptography: algorithms, modes, formats.

use super::wire_enum;

wire_enum! {
    /// Algorithm of a key.
    pub enum CryptographicAlgorithm {
        V1_0: Des "DES" = 0x01, Des3 "DES3" = 0x02, Aes "AES" = 0x03, Rsa "RSA" = 0x04,
            Dsa "DSA" = 0x05, Ecdsa "ECDSA" = 0x06, HmacSha1 "HMAC_SHA1" = 0x07,
            HmacSha224 "HMAC_SHA224" = 0x08, HmacSha256 "HMAC_SHA256" = 0x09,
            HmacSha384 "HMAC_SHA384" = 0x0A, HmacSha512 "HMAC_SHA512" = 0x0B,
            HmacMd5 "HMAC_MD5" = 0x0C, Dh "DH" = 0x0D, Ecdh "ECDH" = 0x0E, Ecmqv "ECMQV" = 0x0F,
            Blowfish = 0x10, Camellia = 0x11, Cast5 "CAST5" = 0x12, Idea "IDEA" = 0x13,
            Mars "MARS" = 0x14, Rc2 "RC2" = 0x15, Rc4 "RC4" = 0x16, Rc5 "RC5" = 0x17,
            Skipjack "SKIPJACK" = 0x18, Twofish = 0x19;
        V1_2: Ec "EC" = 0x1A;
        V1_3: OneTimePad = 0x1B;
        V1_4: ChaCha20 = 0x1C, Poly1305 = 0x1D, ChaCha20Poly1305 = 0x1E,
            Sha3_224 "SHA3_224" = 0x1F, Sha3_256 "SHA3_256" = 0x20, Sha3_384 "SHA3_384" = 0x21,
            Sha3_512 "SHA3_512" = 0x22, HmacSha3_224 "HMAC_SHA3_224" = 0x23,
            HmacSha3_256 "HMAC_SHA3_256" = 0x24, HmacSha3_384 "HMAC_SHA3_384" = 0x25,
            HmacSha3_512 "HMAC_SHA3_512" = 0x26, Shake128 "SHAKE_128" = 0x27,
            Shake256 "SHAKE_256" = 0x28;
        V2_0: Aria "ARIA" = 0x29, Seed "SEED" = 0x2A, Sm2 "SM2" = 0x2B, Sm3 "SM3" = 0x2C,
            Sm4 "SM4" = 0x2D, GostR34_10_2012 "GOSTR34_10_2012" = 0x2E,
            GostR34_11_2012 "GOSTR34_11_2012" = 0x2F, GostR34_13_2015 "GOSTR34_13_2015" = 0x30,
            Gost28147_89 "GOST28147_89" = 0x31, Xmss "XMSS" = 0x32, Sphincs256 "SPHINCS_256" = 0x33,
            McEliece = 0x34, McEliece6960119 "McEliece_6960119" = 0x35,
            McEliece8192128 "McEliece_8192128" = 0x36, Ed25519 = 0x37, Ed448 = 0x38;
        // KMIP 3.0, not approved yet; understood from 2.1 on, since clients of 2.1 use them already.
        V2_1: MlDsa44 "ML_DSA_44" = 0x3C, MlDsa65 "ML_DSA_65" = 0x3D, MlDsa87 "ML_DSA_87" = 0x3E;
    }
}

wire_enum! {
    /// Mode of a block cipher.
    pub enum BlockCipherMode {
        V1_0: Cbc "CBC" = 0x01, Ecb "ECB" = 0x02, Pcbc "PCBC" = 0x03, Cfb "CFB" = 0x04,
            Ofb "OFB" = 0x05, Ctr "CTR" = 0x06, Cmac "CMAC" = 0x07, Ccm "CCM" = 0x08,
            Gcm "GCM" = 0x09, CbcMac "CBC_MAC" = 0x0A, Xts "XTS" = 0x0B,
            AesKeyWrapPadding "AESKeyWrapPadding" = 0x0C, NistKeyWrap "NISTKeyWrap" = 0x0D,
            X9_102Aeskw "X9_102AESKW" = 0x0E, X9_102Tdkw "X9_102TDKW" = 0x0F,
            X9_102Akw1 "X9_102AKW1" = 0x10, X9_102Akw2 "X9_102AKW2" = 0x11;
        V1_4: Aead "AEAD" = 0x12;
    }
}

wire_enum! {
    /// Padding of a cipher or signature.
    pub enum PaddingMethod {
        V1_0: None = 0x01, Oaep "OAEP" = 0x02, Pkcs5 "PKCS5" = 0x03, Ssl3 "SSL3" = 0x04,
            Zeros = 0x05, AnsiX9_23 "ANSIX9_23" = 0x06, Iso10126 "ISO10126" = 0x07,
            Pkcs1V1_5 "PKCS1V1_5" = 0x08, X9_31 = 0x09, Pss "PSS" = 0x0A;
    }
}

wire_enum! {
    /// Hash function.
    pub enum HashingAlgorithm {
        V1_0: Md2 "MD2" = 0x01, Md4 "MD4" = 0x02, Md5 "MD5" = 0x03, Sha1 "SHA_1" = 0x04,
            Sha224 "SHA_224" = 0x05, Sha256 "SHA_256" = 0x06, Sha384 "SHA_384" = 0x07,
            Sha512 "SHA_512" = 0x08, Ripemd160 "RIPEMD_160" = 0x09, Tiger = 0x0A, Whirlpool = 0x0B;
        V1_2: Sha512_224 "SHA_512_224" = 0x0C, Sha512_256 "SHA_512_256" = 0x0D;
        V1_4: Sha3_224 "SHA3_224" = 0x0E, Sha3_256 "SHA3_256" = 0x0F, Sha3_384 "SHA3_384" = 0x10,
            Sha3_512 "SHA3_512" = 0x11;
    }
}

wire_enum! {
    /// Role of a payment key.
    pub enum KeyRoleType {
        V1_0: Bdk "BDK" = 0x01, Cvk "CVK" = 0x02, Dek "DEK" = 0x03, Mkac "MKAC" = 0x04,
            Mksmc "MKSMC" = 0x05, Mksmi "MKSMI" = 0x06, Mkdac "MKDAC" = 0x07, Mkdn "MKDN" = 0x08,
            Mkcp "MKCP" = 0x09, Mkoth "MKOTH" = 0x0A, Kek "KEK" = 0x0B, Mac16609 "MAC16609" = 0x0C,
            Mac97971 "MAC97971" = 0x0D, Mac97972 "MAC97972" = 0x0E, Mac97973 "MAC97973" = 0x0F,
            Mac97974 "MAC97974" = 0x10, Mac97975 "MAC97975" = 0x11, Zpk "ZPK" = 0x12,
            Pvkibm "PVKIBM" = 0x13, Pvkpvv "PVKPVV" = 0x14, Pvkoth "PVKOTH" = 0x15;
        V1_4: Dukpt "DUKPT" = 0x16, Iv "IV" = 0x17, Trkbk "TRKBK" = 0x18;
    }
}

wire_enum! {
    /// Signature algorithm with its hash.
    pub enum DigitalSignatureAlgorithm {
        V1_1: Md2WithRsa "MD2WithRSAEncryption" = 0x01, Md5WithRsa "MD5WithRSAEncryption" = 0x02,
            Sha1WithRsa "SHA_1WithRSAEncryption" = 0x03,
            Sha224WithRsa "SHA_224WithRSAEncryption" = 0x04,
            Sha256WithRsa "SHA_256WithRSAEncryption" = 0x05,
            Sha384WithRsa "SHA_384WithRSAEncryption" = 0x06,
            Sha512WithRsa "SHA_512WithRSAEncryption" = 0x07, RsassaPss "RSASSA_PSS" = 0x08,
            DsaWithSha1 "DSAWithSHA_1" = 0x09, DsaWithSha224 "DSAWithSHA224" = 0x0A,
            DsaWithSha256 "DSAWithSHA256" = 0x0B, EcdsaWithSha1 "ECDSAWithSHA_1" = 0x0C,
            EcdsaWithSha224 "ECDSAWithSHA224" = 0x0D, EcdsaWithSha256 "ECDSAWithSHA256" = 0x0E,
            EcdsaWithSha384 "ECDSAWithSHA384" = 0x0F, EcdsaWithSha512 "ECDSAWithSHA512" = 0x10;
        V1_4: Sha3_256WithRsa "SHA3_256WithRSAEncryption" = 0x11,
            Sha3_384WithRsa "SHA3_384WithRSAEncryption" = 0x12,
            Sha3_512WithRsa "SHA3_512WithRSAEncryption" = 0x13;
    }
}

wire_enum! {
    /// Form of key material.
    pub enum KeyFormatType {
        V1_0: Raw = 0x01, Opaque = 0x02, Pkcs1 "PKCS_1" = 0x03, Pkcs8 "PKCS_8" = 0x04,
            X509 "X_509" = 0x05, EcPrivateKey "ECPrivateKey" = 0x06, TransparentSymmetricKey = 0x07,
            TransparentDsaPrivateKey "TransparentDSAPrivateKey" = 0x08,
            TransparentDsaPublicKey "TransparentDSAPublicKey" = 0x09,
            TransparentRsaPrivateKey "TransparentRSAPrivateKey" = 0x0A,
            TransparentRsaPublicKey "TransparentRSAPublicKey" = 0x0B,
            TransparentDhPrivateKey "TransparentDHPrivateKey" = 0x0C,
            TransparentDhPublicKey "TransparentDHPublicKey" = 0x0D;
        V1_0 ..= V1_4: TransparentEcdsaPrivateKey "TransparentECDSAPrivateKey" = 0x0E,
            TransparentEcdsaPublicKey "TransparentECDSAPublicKey" = 0x0F,
            TransparentEcdhPrivateKey "TransparentECDHPrivateKey" = 0x10,
            TransparentEcdhPublicKey "TransparentECDHPublicKey" = 0x11,
            TransparentEcmqvPrivateKey "TransparentECMQVPrivateKey" = 0x12,
            TransparentEcmqvPublicKey "TransparentECMQVPublicKey" = 0x13;
        V1_3: TransparentEcPrivateKey "TransparentECPrivateKey" = 0x14,
            TransparentEcPublicKey "TransparentECPublicKey" = 0x15;
        V1_4: Pkcs12 "PKCS_12" = 0x16;
        V2_0: Pkcs10 "PKCS_10" = 0x17;
    }
}

wire_enum! {
    /// Form of an elliptic-curve public key.
    pub enum KeyCompressionType {
        V1_0: Uncompressed "ECPublicKeyTypeUncompressed" = 0x01,
            CompressedPrime "ECPublicKeyTypeX9_62CompressedPrime" = 0x02,
            CompressedChar2 "ECPublicKeyTypeX9_62CompressedChar2" = 0x03,
            Hybrid "ECPublicKeyTypeX9_62Hybrid" = 0x04;
    }
}

wire_enum! {
    /// How a key is wrapped.
    pub enum WrappingMethod {
        V1_0: Encrypt = 0x01, MacSign "MACSign" = 0x02, EncryptThenMacSign "EncryptThenMACSign" = 0x03,
            MacSignThenEncrypt "MACSignThenEncrypt" = 0x04, Tr31 "TR_31" = 0x05;
    }
}

wire_enum! {
    /// Whether what is wrapped is TTLV or bare bytes.
    pub enum EncodingOption { V1_1: NoEncoding = 0x01, TtlvEncoding "TTLVEncoding" = 0x02; }
}

wire_enum! {
    /// In which wrapping a key is wanted.
    pub enum KeyWrapType { V1_4: NotWrapped = 0x01, AsRegistered = 0x02; }
}

wire_enum! {
    /// Mask generator of OAEP and PSS.
    pub enum MaskGenerator { V1_4: Mgf1 "MGF1" = 0x01; }
}

wire_enum! {
    /// How a key is derived.
    pub enum DerivationMethod {
        V1_0: Pbkdf2 "PBKDF2" = 0x01, Hash "HASH" = 0x02, Hmac "HMAC" = 0x03,
            Encrypt "ENCRYPT" = 0x04, Nist800_108C "NIST800_108_C" = 0x05,
            Nist800_108F "NIST800_108_F" = 0x06, Nist800_108Dpi "NIST800_108_DPI" = 0x07;
        V1_4: AsymmetricKey = 0x08;
        V2_0: AwsSignatureVersion4 "AWSSignatureVersion4" = 0x09, Hkdf "HKDF" = 0x0A;
    }
}

wire_enum! {
    /// Kind of random number generator.
    pub enum RngAlgorithm {
        V1_3: Unspecified = 0x01, Fips186_2 "FIPS186_2" = 0x02, Drbg "DRBG" = 0x03,
            Nrbg "NRBG" = 0x04, AnsiX9_31 "ANSIX9_31" = 0x05, AnsiX9_62 "ANSIX9_62" = 0x06;
    }
}

wire_enum! {
    /// Kind of deterministic generator.
    pub enum DrbgAlgorithm {
        V1_3: Unspecified = 0x01, DualEc "DualEC" = 0x02, Hash = 0x03, Hmac "HMAC" = 0x04,
            Ctr "CTR" = 0x05;
    }
}

wire_enum! {
    /// Variant of the FIPS 186 generator.
    pub enum Fips186Variation {
        V1_3: Unspecified = 0x01, GpXOriginal "GPXOriginal" = 0x02,
            GpXChangeNotice "GPXChangeNotice" = 0x03, XOriginal = 0x04, XChangeNotice = 0x05,
            KOriginal = 0x06, KChangeNotice = 0x07;
    }
}

wire_enum! {
    /// Purpose of a key as NIST SP 800-57 names it.
    pub enum NistKeyType {
        V2_0: PrivateSignatureKey = 0x01, PublicSignatureVerificationKey = 0x02,
            SymmetricAuthenticationKey = 0x03, PrivateAuthenticationKey = 0x04,
            PublicAuthenticationKey = 0x05, SymmetricDataEncryptionKey = 0x06,
            SymmetricKeyWrappingKey = 0x07, SymmetricRandomNumberGenerationKey = 0x08,
            SymmetricMasterKey = 0x09, PrivateKeyTransportKey = 0x0A, PublicKeyTransportKey = 0x0B,
            SymmetricKeyAgreementKey = 0x0C, PrivateStaticKeyAgreementKey = 0x0D,
            PublicStaticKeyAgreementKey = 0x0E, PrivateEphemeralKeyAgreementKey = 0x0F,
            PublicEphemeralKeyAgreementKey = 0x10, SymmetricAuthorizationKey = 0x11,
            PrivateAuthorizationKey = 0x12, PublicAuthorizationKey = 0x13;
    }
}

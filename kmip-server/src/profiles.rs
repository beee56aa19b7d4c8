//! The profiles this server conforms to, as Query tells them: those whose OASIS cases it passes over
//! its socket, for the version of the client; of 1.3 and 2.0 these are the cases of the version after, where
//! nothing in them is newer (`tests/oasis.toml`). Not Complete Server (Re-Provision is not there), not
//! Quantum Safe, and not PKCS #11: of that operation only the functions are there that say what is.

use kmip::{Version, op::query::ProfileInformation, ttlv::Value};

/// Of 2.0 and 2.1: Tape Library, Symmetric and Asymmetric Key Lifecycle, Basic, Advanced and RNG
/// Cryptographic, Symmetric Key Foundry, Opaque Managed Object Store, Storage Array with Self
/// Encrypting Drive, AES XTS, Baseline.
const NEWEST: [u32; 11] =
    [0x107, 0x109, 0x10B, 0x10D, 0x10F, 0x111, 0x115, 0x117, 0x11D, 0x125, 0x12B];
/// HTTPS, JSON, XML.
const NEWEST_WEB: [u32; 3] = [0x11F, 0x121, 0x123];
/// Of 1.4: Baseline (basic and TLS 1.2), then as for the newest, without AES XTS.
const V1_4: [u32; 11] = [0x79, 0x7A, 0x80, 0x82, 0x84, 0x86, 0x88, 0x8A, 0x8E, 0x90, 0x96];
const V1_4_WEB: [u32; 3] = [0x98, 0x9A, 0x9C];
/// The same of 1.3.
const V1_3: [u32; 11] = [0x55, 0x56, 0x5C, 0x5E, 0x60, 0x62, 0x64, 0x66, 0x6A, 0x6C, 0x72];
const V1_3_WEB: [u32; 3] = [0x74, 0x76, 0x78];

/// The profiles for a client of `version`; `web` where the HTTPS front is open.
pub(crate) fn of(version: Version, web: bool) -> Vec<ProfileInformation> {
    let (always, over_https) = match version {
        Version::V2_0 | Version::V2_1 => (NEWEST, NEWEST_WEB),
        Version::V1_4 => (V1_4, V1_4_WEB),
        _ => (V1_3, V1_3_WEB),
    };
    let over_https = over_https.into_iter().filter(|_| web);
    let told = |number| ProfileInformation {
        name: Value::Enumeration(number),
        server_uri: None,
        server_port: None,
    };
    always.into_iter().chain(over_https).map(told).collect()
}

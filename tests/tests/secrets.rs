//! Where clear key bytes must not be: the data directories, the logs, a core dump of the idle
//! process; and what an outsider sees of the KEK.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "../../testkit/p11_shim.rs"]
#[allow(dead_code, unreachable_pub)]
mod p11_shim;

use std::{collections::HashSet, path::Path, process::Command, time::Duration};

use km_core::{
    material::ClearBytes,
    usage::{Action, Cipher, Hash, KeyKind, process},
};
use kmip::{
    Answer, SecretBytes,
    attribute::{Attribute, CryptographicParameters},
    client,
    enums::{BlockCipherMode, CryptographicAlgorithm, PaddingMethod},
    op,
};
use p11_shim::Shim;
use qkm_tests::{
    clients::material,
    network::{End, Network, Options},
};

const ENCRYPT_DECRYPT: i32 = 12;

/// Longest wait for the process to be idle: runs end after five seconds, connections after less.
const IDLE: Duration = Duration::from_secs(12);

fn base64(text: &str) -> Vec<u8> {
    use base64ct::Encoding;
    base64ct::Base64::decode_vec(text).unwrap()
}

/// A thousand keys through both fronts and at both ends, as bytes.
async fn delivered(network: &Network) -> Vec<Vec<u8>> {
    let (north, south) = (network.etsi(End::North, "sae-n1"), network.etsi(End::South, "sae-s1"));
    let mut keys = Vec::new();
    for _ in 0..9 {
        let said = north.enc("sae-s1", 100).await.unwrap();
        let issued = said.keys();
        let ids: Vec<&str> = issued.iter().map(|(id, _)| id.as_str()).collect();
        assert_eq!(south.dec("sae-n1", &ids).await.unwrap().keys(), issued);
        keys.extend(issued.iter().map(|(_, key)| base64(key)));
    }
    let (at_north, at_south) =
        (network.kmip_client(End::North, "sae-n1"), network.kmip_client(End::South, "sae-s1"));
    for _ in 0..50 {
        let group = kmip::attribute::Attribute::ObjectGroup("qkd/south".into());
        let more = [vec![group], vec![]];
        for attributes in more {
            let pool = !attributes.is_empty();
            let create =
                client::create(CryptographicAlgorithm::Aes, 256, ENCRYPT_DECRYPT, attributes);
            let Answer::Create(created) = at_north.ask(create).await.unwrap() else { panic!() };
            let got = at_north.ask(client::get(&created.id)).await.unwrap();
            keys.push(hex::decode(material(&got).unwrap()).unwrap());
            if pool {
                let far = at_south.ask(client::get(&created.id)).await.unwrap();
                assert_eq!(material(&far), material(&got));
            }
        }
    }
    north.close().await;
    south.close().await;
    assert_eq!(keys.len(), 1000);
    keys
}

/// Every key as it could stand somewhere: raw, hexadecimal, base64. The first 16 bytes of that are looked for,
/// so that a partly overwritten copy counts too; of raw keys also the next 16.
struct Needles {
    starts: HashSet<[u8; 16]>,
    /// By the first two bytes, so that most places need no lookup.
    begins: Vec<bool>,
}

impl Needles {
    fn new(keys: &[Vec<u8>]) -> Self {
        use base64ct::Encoding;
        let mut starts: HashSet<[u8; 16]> = HashSet::new();
        for key in keys {
            let head = &key[..24];
            let hex = hex::encode(head);
            let base64 = base64ct::Base64::encode_string(head);
            let upper = hex.to_uppercase();
            for form in [head, &key[16..], hex.as_bytes(), upper.as_bytes(), base64.as_bytes()] {
                starts.insert(form[..16].try_into().unwrap());
            }
        }
        let mut begins = vec![false; 1 << 16];
        for start in &starts {
            begins[usize::from(u16::from_be_bytes([start[0], start[1]]))] = true;
        }
        Self { starts, begins }
    }

    /// Where they stand.
    fn places_in(&self, bytes: &[u8]) -> Vec<usize> {
        let begins = |w: &[u8]| self.begins[usize::from(u16::from_be_bytes([w[0], w[1]]))];
        let places = bytes.windows(16).enumerate();
        let found = places.filter(|(_, w)| begins(w) && self.starts.contains(*w));
        found.map(|(at, _)| at).collect()
    }

    fn found_in(&self, bytes: &[u8]) -> usize {
        self.places_in(bytes).len()
    }
}

fn search_files(dir: &Path, needles: &Needles, found: &mut Vec<String>) {
    for entry in std::fs::read_dir(dir).unwrap().map(Result::unwrap) {
        let path = entry.path();
        if path.is_dir() {
            search_files(&path, needles, found);
        } else if let Ok(bytes) = std::fs::read(&path) {
            let hits = needles.found_in(&bytes);
            if hits > 0 {
                found.push(format!("{} ({hits} places)", path.display()));
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn delivered_keys_are_nowhere_on_disk_nor_in_a_core_dump_of_the_idle_process() {
    let network = Network::start(Options { max_stored_mib: 2, ..Options::default() }).await;
    network.stocked(End::South, 20_000).await;
    network.stocked(End::North, 20_000).await;
    let keys = delivered(&network).await;
    let needles = Needles::new(&keys);
    assert!(needles.found_in(&keys.concat()) >= 1000, "the search finds what is there");
    tokio::time::sleep(IDLE).await;

    let mut found = Vec::new();
    search_files(network.dir(), &needles, &mut found);
    assert!(found.is_empty(), "clear keys on disk: {found:?}");

    let dumps = tempfile::tempdir().unwrap();
    for end in [End::North, End::South] {
        let prefix = dumps.path().join(network.site(end).cluster);
        let workers = network.workers(end);
        assert_eq!(workers.len(), 1, "one token, one HSM worker process");
        let workers = workers.into_iter().map(|pid| ("the HSM worker", pid));
        for (who, pid) in workers.chain([("the KM", network.pid(end))]) {
            let found = needles.places_in(&core_dump(&prefix, pid));
            assert!(found.is_empty(), "clear keys in {who} of {end:?}, at {found:x?} of its dump");
        }
    }
}

fn core_dump(prefix: &Path, pid: u32) -> Vec<u8> {
    let gcore = Command::new("gcore").arg("-o").arg(prefix).arg(pid.to_string()).output();
    let gcore = gcore.expect("gcore is installed by `make test`");
    let core = format!("{}.{pid}", prefix.display());
    let bytes = std::fs::read(&core).unwrap_or_else(|_| panic!("no core dump: {gcore:?}"));
    assert!(bytes.len() > 1 << 20, "a core dump is larger");
    bytes
}

const INPUT: &[u8] = b"what the application sent";
const IV: [u8; 16] = [0xF5; 16];

/// Makes keys that are never to leave the token, uses each, and gives what they made of [`INPUT`]:
/// by AES-256-CBC, and by HMAC-SHA-256.
async fn used_inside(network: &Network) -> (Vec<Vec<u8>>, Vec<Vec<u8>>) {
    let north = network.kmip_client(End::North, "sae-n1");
    let mut made = (Vec::new(), Vec::new());
    for _ in 0..20 {
        made.0.push(encrypted(&north, &created(&north, CryptographicAlgorithm::Aes).await).await);
        let id = created(&north, CryptographicAlgorithm::HmacSha256).await;
        let mac = op::mac::Request { id: Some(id.as_str().into()), ..Default::default() };
        let mac = op::mac::Request { data: Some(SecretBytes::copy_from(INPUT)), ..mac };
        let Answer::Mac(answer) = north.ask(mac).await.unwrap() else { panic!() };
        made.1.push(answer.mac.unwrap());
        signed(&north).await;
    }
    made
}

async fn created(client: &qkm_tests::clients::Kmip, algorithm: CryptographicAlgorithm) -> String {
    let usage = 0xFFFF;
    let create = client::create(algorithm, 256, usage, never_to_leave());
    let Answer::Create(created) = client.ask(create).await.unwrap() else { panic!() };
    let got = client.ask(client::get(&created.id)).await;
    assert!(got.is_err(), "{got:?}");
    created.id
}

fn never_to_leave() -> Vec<Attribute> {
    let active = Attribute::ActivationDate(kmip::DateTime(1));
    vec![active, Attribute::Sensitive(true), Attribute::Extractable(false)]
}

async fn encrypted(client: &qkm_tests::clients::Kmip, id: &str) -> Vec<u8> {
    let encrypt = op::encrypt::Request {
        id: Some(id.into()),
        parameters: Some(CryptographicParameters {
            block_cipher_mode: Some(BlockCipherMode::Cbc),
            padding_method: Some(PaddingMethod::Pkcs5),
            ..Default::default()
        }),
        data: Some(SecretBytes::copy_from(INPUT)),
        iv: Some(IV.to_vec()),
        ..Default::default()
    };
    let Answer::Encrypt(answer) = client.ask(encrypt).await.unwrap() else { panic!() };
    answer.data.unwrap()
}

async fn signed(client: &qkm_tests::clients::Kmip) {
    let mut private = vec![Attribute::CryptographicUsageMask(1)];
    private.extend(never_to_leave());
    let create = op::create_key_pair::Request {
        common: [
            Attribute::CryptographicAlgorithm(CryptographicAlgorithm::Ecdsa),
            Attribute::CryptographicLength(256),
        ]
        .into_iter()
        .collect(),
        private: private.into_iter().collect(),
        public: [Attribute::CryptographicUsageMask(2)].into_iter().collect(),
        ..Default::default()
    };
    let Answer::CreateKeyPair(pair) = client.ask(create).await.unwrap() else { panic!() };
    let sign = op::sign::Request {
        id: Some(pair.private_id.as_str().into()),
        data: Some(SecretBytes::copy_from(INPUT)),
        ..Default::default()
    };
    client.ask(sign).await.unwrap();
}

/// Keys that applications bring and that may never leave, as bytes.
async fn registered_and_used(network: &Network) -> Vec<Vec<u8>> {
    let north = network.kmip_client(End::North, "sae-n1");
    let mut keys = Vec::new();
    for n in 0..20u8 {
        let key: Vec<u8> = Hash::Sha256.of(&[n, 0x77]);
        let material = SecretBytes::copy_from(&key);
        let aes = CryptographicAlgorithm::Aes;
        let register = client::register_key(material, aes, ENCRYPT_DECRYPT, never_to_leave());
        let Answer::Register(registered) = north.ask(register).await.unwrap() else { panic!() };
        let answer = encrypted(&north, &registered.id).await;
        assert_eq!(answer, by_library(&key, KeyKind::Aes));
        keys.push(key);
    }
    keys
}

fn by_library(key: &[u8], kind: KeyKind) -> Vec<u8> {
    let action = match kind {
        KeyKind::Aes => Action::Encrypt(Cipher::Cbc { iv: IV, padded: true }),
        _ => Action::Mac(Hash::Sha256),
    };
    let (key, input) = (ClearBytes::copy_from(key), ClearBytes::copy_from(INPUT));
    process::act(kind, &action, &key, &input).unwrap().expose(<[u8]>::to_vec)
}

/// The process that holds the HSM's library is another one, and not searched here: SoftHSM is that
/// process, and its keys are in its memory.
#[tokio::test(flavor = "multi_thread")]
async fn keys_that_stay_in_the_token_are_nowhere_in_the_key_manager() {
    let dir = tempfile::tempdir().unwrap();
    let (shim, record) = (Shim::new(dir.path().join("orders")), dir.path().join("record"));
    let library = p11_shim::library();
    let mut env = shim.env("/usr/lib/softhsm/libsofthsm2.so".as_ref());
    env.insert("QKM_SHIM_RECORD".to_owned(), record.display().to_string());
    let env: Vec<_> = env.into_iter().map(|(k, v)| format!("{k} = {v:?}")).collect();
    let lines =
        format!("library = {:?}\nenv = {{ {} }}", library.display().to_string(), env.join(", "));
    let options = Options { hsm: [("north", lines)].into(), ..Options::default() };
    let network = Network::start(options).await;

    let (sealed, macs) = used_inside(&network).await;
    let registered = registered_and_used(&network).await;
    let recorded = std::fs::read_to_string(&record).unwrap();
    let made: Vec<Vec<u8>> = recorded.lines().map(|line| hex::decode(line).unwrap()).collect();
    // 20 of each kind, the KEK, the key that wraps, and one of each kind that the KM tries at its start.
    assert_eq!(made.len(), 65, "each key made in the token is known");
    for (kind, answers) in [(KeyKind::Aes, sealed), (KeyKind::Hmac, macs)] {
        let of_made: HashSet<_> =
            made.iter().filter(|key| key.len() == 32).map(|key| by_library(key, kind)).collect();
        assert!(answers.iter().all(|answer| of_made.contains(answer)), "{kind:?}: the same keys");
    }

    let keys = [made, registered].concat();
    let needles = Needles::new(&keys);
    assert!(needles.found_in(&keys.concat()) >= 82, "the search finds what is there");
    tokio::time::sleep(IDLE).await;
    let mut found = Vec::new();
    search_files(network.dir(), &needles, &mut found);
    assert!(found.is_empty(), "clear keys on disk: {found:?}");
    let core = core_dump(&dir.path().join("north"), network.pid(End::North));
    assert_eq!(needles.found_in(&core), 0, "keys of the token in the memory of the key manager");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_kek_is_a_secret_key_that_cannot_be_taken_out() {
    let network = Network::start(Options::default()).await;
    let site = network.site(End::North);
    let pin = std::fs::read_to_string(&site.pin_file).unwrap();
    let pkcs11_tool = |more: &[&str]| {
        let output = Command::new("pkcs11-tool")
            .args(["--module", "/usr/lib/softhsm/libsofthsm2.so", "--token-label", &site.token])
            .args(["--login", "--pin", pin.trim()])
            .args(more)
            .env("SOFTHSM2_CONF", &site.softhsm_conf)
            .output()
            .expect("pkcs11-tool is installed by `make test`");
        String::from_utf8_lossy(&output.stdout).into_owned()
            + &String::from_utf8_lossy(&output.stderr)
    };
    let listed = pkcs11_tool(&["--list-objects", "--type", "secrkey"]);
    assert!(listed.contains("Secret Key Object; AES length 32"), "{listed}");
    let access = listed.lines().find(|line| line.contains("Access:")).expect("an access line");
    for property in ["sensitive", "never extractable"] {
        assert!(access.contains(property), "{property}: {access}");
    }
    let id = listed.lines().find_map(|line| line.trim().strip_prefix("ID:")).unwrap().trim();
    let read = pkcs11_tool(&["--read-object", "--type", "secrkey", "--id", id]);
    assert!(read.contains("CKR_ATTRIBUTE_SENSITIVE") || read.contains("error"), "{read}");
}

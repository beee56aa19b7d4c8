//! Which token to use and how to log in. Enter through [`TokenConfig`] (part of the KM's TOML).

use std::collections::BTreeMap;
use std::fs::{File, Metadata};
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use km_core::hsm::HsmError;
use serde::{Deserialize, Serialize};
use wiped::Wiped;
use zeroize::Zeroizing;

/// No PKCS#11 token takes a longer PIN than this.
const MAX_PIN_BYTES: usize = 255;
/// Most tokens of one KM, and bytes of their names: KEKs wait for each in the store, under its name.
const MOST_TOKENS: usize = 64;
const MAX_NAME_BYTES: usize = 64;

/// One token, as an operator writes it down.
///
/// ```
/// let text = r#"
///     profile = "softhsm2"
///     token = { label = "north" }
///     pin = { file = "/etc/qkm/north.pin" }
///     create_kek = true
/// "#;
/// let config: hsm_profiles::TokenConfig = toml::from_str(text).unwrap();
/// assert_eq!(config.deadline_ms, 5000);
/// ```
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenConfig {
    /// The PKCS#11 library; when absent the profile's candidates are tried.
    #[serde(default)]
    pub library: Option<PathBuf>,
    /// Name of a built-in profile, or the path of a `.toml` file.
    pub profile: String,
    /// Which of the library's tokens.
    pub token: TokenSelector,
    /// Where the user PIN is.
    pub pin: PinSource,
    /// Label prefix of the key-encryption keys; a number follows (`qkm-kek-1`).
    #[serde(default = "default_kek_label")]
    pub kek_label: String,
    /// Generate a first KEK when the token has none.
    #[serde(default)]
    pub create_kek: bool,
    /// Working sessions, each with its thread; absent means what the profile suggests.
    #[serde(default)]
    pub sessions: Option<usize>,
    /// Longest time one operation may take, waiting included: 10 to 120000 ms. The answer that it is
    /// over comes late by an eighth of it at most, and by 250 ms at most. An operation that the token is at
    /// for half as long again, four times as long where it signs or makes a key pair, and at least for 1 s (an
    /// RSA pair: 120 s), is taken for a hang: the worker process is started anew.
    #[serde(default = "default_deadline_ms")]
    pub deadline_ms: u64,
    /// Environment variables for the library, set in its worker process alone.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Most memory a worker process may map, 64 to 1048576 MiB; absent means no limit. A library
    /// that leaks is ended and started again.
    #[serde(default)]
    pub memory_mib: Option<u64>,
    /// What the token is called in status and metrics; absent means by its label or serial number.
    #[serde(default)]
    pub name: Option<String>,
    /// Further tokens that hold the same KEKs.
    #[serde(default)]
    pub member: Vec<MemberConfig>,
    /// How several tokens share the work.
    #[serde(default)]
    pub spread: Spread,
}

/// A further token. What is absent is as in `[hsm]`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MemberConfig {
    /// What it is called in status and metrics.
    pub name: String,
    /// The profile, of a token of another product. It must seal as that of `[hsm]` does.
    #[serde(default)]
    pub profile: Option<String>,
    /// The PKCS#11 library. With a profile of its own, what is absent is as that profile says.
    #[serde(default)]
    pub library: Option<PathBuf>,
    /// Which of the library's tokens.
    #[serde(default)]
    pub token: Option<TokenSelector>,
    /// Where the user PIN is.
    #[serde(default)]
    pub pin: Option<PinSource>,
    /// Environment variables for the library; those of `[hsm]` are not taken over then.
    #[serde(default)]
    pub env: Option<BTreeMap<String, String>>,
}

/// How several tokens share the work.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Spread {
    /// The first that works does it all.
    #[default]
    ActiveStandby,
    /// All that work, in turn.
    ActiveActive,
}

fn default_kek_label() -> String {
    "qkm-kek-".to_owned()
}

fn default_deadline_ms() -> u64 {
    5_000
}

/// How a token is told from the others. Never by slot: slot numbers change between starts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TokenSelector {
    /// By its label, which must be unique among the tokens of the library.
    Label(String),
    /// By its serial number.
    Serial(String),
}

impl std::fmt::Display for TokenSelector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Label(label) => write!(f, "label {label:?}"),
            Self::Serial(serial) => write!(f, "serial {serial:?}"),
        }
    }
}

/// Where the PIN is. It is read at each login and kept nowhere.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PinSource {
    /// A file that only its owner can read.
    File(PathBuf),
    /// A systemd credential (`LoadCredential=`), by name.
    Credential(String),
}

impl TokenConfig {
    /// This token, and the defaults for everything else.
    pub fn new(profile: &str, token: TokenSelector, pin: PinSource) -> Self {
        Self {
            library: None,
            profile: profile.to_owned(),
            token,
            pin,
            kek_label: default_kek_label(),
            create_kek: false,
            sessions: None,
            deadline_ms: default_deadline_ms(),
            env: BTreeMap::new(),
            memory_mib: None,
            name: None,
            member: Vec::new(),
            spread: Spread::default(),
        }
    }

    /// Refuses values out of range, naming the field.
    pub fn check(&self) -> Result<(), HsmError> {
        let fail = |what: &str| Err(HsmError::Setup(format!("HSM configuration: {what}")));
        if !(10..=120_000).contains(&self.deadline_ms) {
            return fail("deadline_ms must be 10 to 120000");
        }
        if self.sessions.is_some_and(|n| n == 0) {
            return fail("sessions must be at least 1; leave it out for the profile's number");
        }
        if self.kek_label.is_empty() || self.kek_label.len() > 24 {
            return fail("kek_label must have 1 to 24 characters");
        }
        if self.memory_mib.is_some_and(|mib| !(64..=1 << 20).contains(&mib)) {
            return fail("memory_mib must be 64 to 1048576");
        }
        let members = self.members();
        if members.len() > MOST_TOKENS {
            return fail(&format!(
                "member names too many: at most {MOST_TOKENS} tokens share KEKs"
            ));
        }
        if let Some(long) = self.member.iter().find(|member| member.name.len() > MAX_NAME_BYTES) {
            return fail(&format!(
                "{:?} is too long: the name of a member has at most {MAX_NAME_BYTES} bytes",
                long.name
            ));
        }
        for (n, (name, member)) in members.iter().enumerate() {
            if name.is_empty() || members.iter().take(n).any(|(other, _)| other == name) {
                return fail(&format!("{name:?} names two tokens, or none: set name"));
            }
            let bad = |(name, value): (&String, &String)| {
                name.is_empty() || name.contains(['=', '\0']) || value.contains('\0')
            };
            if member.env.iter().any(bad) {
                return fail("env must have names without \"=\" and values without NUL");
            }
        }
        Ok(())
    }

    /// Each token by its name, with a configuration of its own. Only the first may be given a
    /// first KEK: the others must hold the same one.
    pub fn members(&self) -> Vec<(String, Self)> {
        let (TokenSelector::Label(by) | TokenSelector::Serial(by)) = &self.token;
        let name = self.name.clone().unwrap_or_else(|| by.clone());
        let first = Self { member: Vec::new(), ..self.clone() };
        let further = self.member.iter().map(|member| {
            let of_first = || first.library.clone().filter(|_| member.profile.is_none());
            let config = Self {
                profile: member.profile.clone().unwrap_or_else(|| first.profile.clone()),
                library: member.library.clone().or_else(of_first),
                token: member.token.clone().unwrap_or_else(|| first.token.clone()),
                pin: member.pin.clone().unwrap_or_else(|| first.pin.clone()),
                env: member.env.clone().unwrap_or_else(|| first.env.clone()),
                create_kek: false,
                ..first.clone()
            };
            (member.name.clone(), config)
        });
        std::iter::once((name, first.clone())).chain(further.collect::<Vec<_>>()).collect()
    }
}

impl PinSource {
    /// The file to read. Credentials are looked up where systemd says they are.
    pub(crate) fn path(&self) -> Result<PathBuf, HsmError> {
        match self {
            Self::File(path) => Ok(path.clone()),
            Self::Credential(name) => {
                if name.is_empty() || name.contains('/') || name.starts_with('.') {
                    return Err(HsmError::Setup(format!(
                        "HSM configuration: the credential name {name:?} is not a plain file name"
                    )));
                }
                let folder = std::env::var_os("CREDENTIALS_DIRECTORY").ok_or_else(|| {
                    HsmError::Setup(format!(
                        "the HSM PIN should come from the credential {name:?}, but systemd passed \
                         none: add LoadCredential={name}:PATH to the unit, or use pin = {{ file = \
                         \"...\" }}"
                    ))
                })?;
                Ok(Path::new(&folder).join(name))
            }
        }
    }

    /// Reads the PIN; a final newline is not part of it.
    pub(crate) fn read(&self) -> Result<Wiped, HsmError> {
        let path = self.path()?;
        let shown = path.display();
        let fail = |what: String| HsmError::Setup(format!("the HSM PIN file {shown} {what}"));
        let meta = std::fs::metadata(&path)
            .map_err(|e| fail(format!("cannot be read: {e}; check pin")))?;
        self.check_mode(&meta).map_err(&fail)?;
        // One byte more than allowed, so that the vector never grows and leaves a copy behind.
        let mut pin = Wiped::with_capacity(MAX_PIN_BYTES + 3);
        let mut file =
            File::open(&path).map_err(|e| fail(format!("cannot be read: {e}; check its owner")))?;
        let mut chunk = Zeroizing::new([0u8; MAX_PIN_BYTES + 3]);
        while pin.len() < chunk.len() {
            let room = chunk.len() - pin.len();
            match file.read(&mut chunk[..room]).map_err(|e| fail(format!("cannot be read: {e}")))? {
                0 => break,
                n => pin.append(&chunk[..n]),
            }
        }
        let line = pin.strip_suffix(b"\n").map(|line| line.strip_suffix(b"\r").unwrap_or(line));
        if let Some(len) = line.map(<[u8]>::len) {
            pin.truncate(len);
        }
        match pin.len() {
            0 => Err(fail("is empty: write the user PIN into it".to_owned())),
            1..=MAX_PIN_BYTES => Ok(pin),
            _ => Err(fail(format!("is longer than {MAX_PIN_BYTES} bytes: it holds no PIN"))),
        }
    }

    /// systemd shows the access list of a credential as group bits, so those pass there.
    fn check_mode(&self, meta: &Metadata) -> Result<(), String> {
        if !meta.is_file() {
            return Err("is not a regular file".to_owned());
        }
        let forbidden = match self {
            Self::File(_) => 0o077,
            Self::Credential(_) => 0o037,
        };
        let mode = meta.permissions().mode() & 0o777;
        if mode & forbidden != 0 {
            return Err(format!(
                "is open to other users (mode {mode:04o}): run chmod 600 on it, and change the \
                 PIN if others may have read it"
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{Permissions, set_permissions, write};

    fn pin_file(content: &[u8], mode: u32) -> (tempfile::TempDir, PinSource) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pin");
        write(&path, content).unwrap();
        set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        (dir, PinSource::File(path))
    }

    #[test]
    fn one_final_newline_is_trimmed() {
        for content in ["12 34", "12 34\n", "12 34\r\n"] {
            let (_dir, pin) = pin_file(content.as_bytes(), 0o600);
            assert_eq!(*pin.read().unwrap(), *b"12 34");
        }
    }

    #[test]
    fn open_modes_and_wrong_sizes_are_refused() {
        for mode in [0o640, 0o604, 0o620, 0o644] {
            let (_dir, pin) = pin_file(b"1234", mode);
            let error = pin.read().unwrap_err().to_string();
            assert!(error.contains("chmod 600") && !error.contains("1234"), "{error}");
        }
        for content in [&b""[..], b"\n", &[b'1'; 256], &[b'1'; 5000]] {
            let (_dir, pin) = pin_file(content, 0o600);
            assert!(pin.read().is_err());
        }
        let (dir, _) = pin_file(b"1234", 0o600);
        let error = PinSource::File(dir.path().to_owned()).read().unwrap_err();
        assert!(error.to_string().contains("regular file"), "{error}");
    }

    #[test]
    fn a_credential_is_a_plain_name() {
        for name in ["../pin", "", ".pin", "a/b"] {
            assert!(PinSource::Credential(name.to_owned()).read().is_err());
        }
    }

    #[test]
    fn members_take_over_what_they_do_not_say() {
        let text = "profile = 'softhsm2'\ntoken = { label = 'n' }\npin = { file = 'p' }\n\
                    create_kek = true\nenv = { A = '1' }\nspread = 'active-active'\n\
                    [[member]]\nname = 'b'\nenv = { A = '2' }\n";
        let config: TokenConfig = toml::from_str(text).unwrap();
        config.check().unwrap();
        let [(first, a), (second, b)] = &config.members()[..] else { panic!("two tokens") };
        assert_eq!((first.as_str(), second.as_str()), ("n", "b"));
        assert_eq!((&a.env["A"][..], &b.env["A"][..]), ("1", "2"));
        assert_eq!((a.create_kek, b.create_kek, &b.pin), (true, false, &a.pin));
        assert_eq!((&b.profile, &b.library), (&a.profile, &a.library));
        let mixed = text.replace("name = 'b'", "name = 'b'\nprofile = 'kryoptic'");
        let mut mixed: TokenConfig = toml::from_str(&mixed).unwrap();
        mixed.library = Some("/usr/lib/first.so".into());
        let members = mixed.members();
        assert_eq!((&members[1].1.profile[..], &members[1].1.library), ("kryoptic", &None));
        assert!(members[0].1.library.is_some());
        for (from, to) in [("'b'", "'n'"), ("A = '2'", "'A=' = '2'"), ("'b'", "''")] {
            let config: TokenConfig = toml::from_str(&text.replace(from, to)).unwrap();
            assert!(config.check().is_err(), "{to}");
        }
        // Each has a place in the store, under its name.
        let member = config.member[0].clone();
        let named = |name: String| MemberConfig { name, ..member.clone() };
        for (length, fits) in [(64, true), (65, false)] {
            let long = TokenConfig { member: vec![named("n".repeat(length))], ..config.clone() };
            assert_eq!(long.check().is_ok(), fits, "{length} bytes");
        }
        for (count, fits) in [(63, true), (64, false)] {
            let member = (0..count).map(|n| named(format!("m{n}"))).collect();
            let many = TokenConfig { member, ..config.clone() };
            assert_eq!(many.check().is_ok(), fits, "{count} members");
        }
    }

    #[test]
    fn slots_and_typos_are_refused() {
        let good = "profile = 'softhsm2'\ntoken = { label = 'n' }\npin = { file = 'p' }\n";
        toml::from_str::<TokenConfig>(good).unwrap().check().unwrap();
        for (from, to) in [("label", "slot"), ("profile", "profil"), ("file", "value")] {
            assert!(toml::from_str::<TokenConfig>(&good.replace(from, to)).is_err());
        }
    }
}

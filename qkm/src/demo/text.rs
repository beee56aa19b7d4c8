//! What a person sees.

use std::{io::Write, path::Path};

use transport::TlsFiles;

use super::{
    Room,
    layout::{Layout, Site},
    selfcheck::Checked,
};

/// A line to standard output; nobody may be reading any more, and the demonstration goes on.
macro_rules! say {
    ($($text:tt)*) => {{ let _ = writeln!(std::io::stdout(), $($text)*); }};
}

const BANNER: &str = "DEMO - SIMULATED QKD";

pub(super) fn banner() {
    say!("{BANNER}: the link is a simulation, the HSM is software, nothing here protects keys");
    say!("making tokens, certificates and configuration ...");
}

pub(super) fn serving(layout: &Layout) {
    for Site { cluster, etsi014, kmip, monitor, admin, .. } in layout.sites() {
        say!("  {cluster:<6} ETSI 014 https://{etsi014}  KMIP {kmip}");
        say!("         metrics http://{monitor}/metrics  admin https://{admin}");
    }
    let [a, b] = layout.modules;
    say!("  QKD    simulated modules https://{a} (north) and https://{b} (south)");
    say!("  HSM    two SoftHSM tokens (software, for demonstration)");
    say!("  files  {}", layout.dir.display());
}

pub(super) fn checked(checked: &Checked) {
    say!("self-check, bytes equal at both ends:");
    say!("  ETSI 014 key {}", checked.etsi014);
    say!("  KMIP     key {}", checked.kmip);
}

pub(super) fn commands(layout: &Layout) {
    let curl = |files: &TlsFiles| {
        let TlsFiles { certificate, key, ca } = files;
        let (ca, certificate, key) = (shell(ca), shell(certificate), shell(key));
        format!("curl -s --cacert {ca} --cert {certificate} --key {key}")
    };
    let (enc, dec) = (layout.north.etsi014, layout.south.etsi014);
    say!("\nTry, in another terminal:\n");
    say!("# ETSI GS QKD 014: a key for sae-n1 at north ...");
    say!(
        "KEY=$({} 'https://{enc}/api/v1/keys/sae-s1/enc_keys?number=1&size=256'); echo \"$KEY\"",
        curl(layout.application("sae-n1"))
    );
    say!("# ... and the same key for sae-s1 at south");
    say!("ID=$(echo \"$KEY\" | grep -o '[0-9a-f]\\{{8\\}}-[0-9a-f-]*')");
    say!(
        "{} \"https://{dec}/api/v1/keys/sae-n1/dec_keys?key_ID=$ID\"; echo",
        curl(layout.application("sae-s1"))
    );
    let script = shell(&layout.kmip_script);
    say!("# KMIP: create at north, get at south, with PyKMIP");
    say!("python3 -m venv /tmp/qkm-venv && /tmp/qkm-venv/bin/pip -q install pykmip==0.11.0");
    say!("/tmp/qkm-venv/bin/python {script}");
    say!("# what the key manager at north sees");
    let (program, config) = (shell(&layout.program), shell(&layout.north.config));
    say!("{program} pool list --config {config}");
    say!("{program} link list --config {config}");
    say!("\n{BANNER}. Ctrl-C stops and cleans up.");
}

pub(super) fn stopping(room: &Room) {
    match room.is_kept() {
        true => say!("stopping; {} is kept", room.path().display()),
        false => say!("stopping and erasing {}", room.path().display()),
    }
}

/// As one word of a shell.
fn shell(path: &Path) -> String {
    let text = path.to_string_lossy();
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-".contains(c);
    match text.chars().all(plain) {
        true => text.into_owned(),
        false => format!("'{}'", text.replace('\'', "'\\''")),
    }
}

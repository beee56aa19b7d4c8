//! What a person sees.

use std::path::Path;

use transport::TlsFiles;

use super::{
    Room,
    layout::{Layout, Site},
    selfcheck::Checked,
};

const BANNER: &str = "DEMO - SIMULATED QKD";

pub(super) fn banner() {
    println!("{BANNER}: the link is a simulation, the HSM is software, nothing here protects keys");
    println!("making tokens, certificates and configuration ...");
}

pub(super) fn serving(layout: &Layout) {
    for Site { cluster, etsi014, kmip, monitor, admin, .. } in layout.sites() {
        println!("  {cluster:<6} ETSI 014 https://{etsi014}  KMIP {kmip}");
        println!("         metrics http://{monitor}/metrics  admin https://{admin}");
    }
    let [a, b] = layout.modules;
    println!("  QKD    simulated modules https://{a} (north) and https://{b} (south)");
    println!("  HSM    two SoftHSM tokens (software, for demonstration)");
    println!("  files  {}", layout.dir.display());
}

pub(super) fn checked(checked: &Checked) {
    println!("self-check, bytes equal at both ends:");
    println!("  ETSI 014 key {}", checked.etsi014);
    println!("  KMIP     key {}", checked.kmip);
}

pub(super) fn commands(layout: &Layout) {
    let curl = |files: &TlsFiles| {
        let TlsFiles { certificate, key, ca } = files;
        let (ca, certificate, key) = (shell(ca), shell(certificate), shell(key));
        format!("curl -s --cacert {ca} --cert {certificate} --key {key}")
    };
    let (enc, dec) = (layout.north.etsi014, layout.south.etsi014);
    println!("\nTry, in another terminal:\n");
    println!("# ETSI GS QKD 014: a key for sae-n1 at north ...");
    println!(
        "KEY=$({} 'https://{enc}/api/v1/keys/sae-s1/enc_keys?number=1&size=256'); echo \"$KEY\"",
        curl(layout.application("sae-n1"))
    );
    println!("# ... and the same key for sae-s1 at south");
    println!("ID=$(echo \"$KEY\" | grep -o '[0-9a-f]\\{{8\\}}-[0-9a-f-]*')");
    println!(
        "{} \"https://{dec}/api/v1/keys/sae-n1/dec_keys?key_ID=$ID\"; echo",
        curl(layout.application("sae-s1"))
    );
    let script = shell(&layout.kmip_script);
    println!("# KMIP: create at north, get at south, with PyKMIP");
    println!("python3 -m venv /tmp/qkm-venv && /tmp/qkm-venv/bin/pip -q install pykmip==0.11.0");
    println!("/tmp/qkm-venv/bin/python {script}");
    println!("# what the key manager at north sees");
    let (program, config) = (shell(&layout.program), shell(&layout.north.config));
    println!("{program} pool list --config {config}");
    println!("{program} link list --config {config}");
    println!("\n{BANNER}. Ctrl-C stops and cleans up.");
}

pub(super) fn stopping(room: &Room) {
    match room.is_kept() {
        true => println!("stopping; {} is kept", room.path().display()),
        false => println!("stopping and erasing {}", room.path().display()),
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

//! The configuration files of a demonstration network.

use std::{net::SocketAddr, path::Path};

use cluster::EtcdConfig;
use transport::TlsFiles;

use super::{
    layout::{Layout, Site},
    provision::Options,
};

/// As a TOML string.
pub(super) fn q(text: impl AsRef<Path>) -> String {
    toml::Value::from(text.as_ref().to_string_lossy().into_owned()).to_string()
}

pub(super) fn tls(files: &TlsFiles) -> String {
    let TlsFiles { certificate, key, ca } = files;
    format!("certificate = {}\nkey = {}\nca = {}\n", q(certificate), q(key), q(ca))
}

fn front(name: &str, listen: SocketAddr, files: &TlsFiles) -> String {
    format!("[{name}]\nlisten = \"{listen}\"\n{}\n", tls(files))
}

/// A store that `here` shares with others.
fn shared(here: &Site, desk: SocketAddr, etcd: &EtcdConfig) -> String {
    let name = &here.name;
    format!(
        "[store]\nengine = \"etcd\"\n[store.etcd]\nendpoints = {endpoints:?}\n\
         prefix = \"{prefix}\"\nallow_unmaintained = {old}\n{etcd}\n\
         [node]\nname = \"{name}\"\nlisten = \"{desk}\"\naddress = \"{desk}\"\n\
         members = \"uri:urn:qkm:km:{cluster}\"\n{own}\n",
        endpoints = etcd.endpoints,
        prefix = etcd.prefix,
        old = etcd.allow_unmaintained,
        etcd = tls(&etcd.files),
        cluster = here.cluster,
        own = tls(&here.tls),
    )
}

/// Tables of a key manager that depend on no other.
pub(super) fn own(
    here: &Site,
    operator: &TlsFiles,
    dumpable: bool,
    etcd: Option<&EtcdConfig>,
) -> String {
    let store = match here.desk.zip(etcd) {
        Some((desk, etcd)) => shared(here, desk, etcd),
        None => format!("[store]\npath = {}\n\n", q(&here.store)),
    };
    let mut text = format!(
        "# DEMO - SIMULATED QKD. Not for production.\n\n\
         [cluster]\nid = \"{cluster}\"\n\n{store}\
         [hsm]\nprofile = \"softhsm2\"\ntoken = {{ label = \"{token}\" }}\n\
         pin = {{ file = {pin} }}\ncreate_kek = true\n\n",
        cluster = here.cluster,
        token = here.token,
        pin = q(&here.pin_file),
    );
    text += &front("etsi014", here.etsi014, &here.tls);
    text += &front("kmip", here.kmip, &here.tls);
    text += &front("kmip_https", here.kmip_https, &here.tls);
    text += &front("km_link", here.km_link, &here.tls);
    text += &format!("[monitor]\nlisten = \"{}\"\n\n", here.monitor);
    text += &front("admin", here.admin, &here.tls);
    text.truncate(text.len() - 1);
    text += "operators = [\"cn:operator\"]\n";
    text += "custodians = [\"cn:custodian-1\", \"cn:custodian-2\"]\n\n";
    text += &format!("[operator]\n{}\n", tls(operator));
    text + &format!("[debug]\ndumpable = {dumpable}\n\n")
}

/// A peer whose key manager is `peer`.
pub(super) fn peer(peer: &Site, max_stored_mib: u64) -> String {
    let there = peer.cluster;
    format!(
        "[[peer]]\ncluster = \"{there}\"\naddress = \"{}\"\nidentity = \"uri:urn:qkm:km:{there}\"\n\
         max_stored_mib = {max_stored_mib}\n\n",
        peer.km_link
    )
}

/// The QKD link `id` from `here` to `there`, by the module at `module`.
pub(super) fn qkd_link(
    id: &str,
    here: &Site,
    there: &str,
    module: SocketAddr,
    extra: &str,
) -> String {
    let cluster = here.cluster;
    format!(
        "[[qkd_link]]\nid = \"{id}\"\npeer = \"{there}\"\n[qkd_link.module]\n\
         address = \"{module}\"\n{}identity = \"uri:urn:qkm:module:{cluster}\"\n\
         sae = \"km-{cluster}\"\npeer_sae = \"km-{there}\"\nstatus_path = \"/api/v1/link\"\n{extra}\n",
        tls(&here.tls)
    )
}

/// The key manager of `here`.
pub(super) fn site(
    layout: &Layout,
    here: &Site,
    there: &Site,
    module: SocketAddr,
    options: &Options,
) -> String {
    own(here, &layout.operator, options.dumpable, options.shared.as_ref())
        + &peer(there, options.max_stored_mib)
        + &qkd_link("demo-link", here, there.cluster, module, "")
        + APPLICATIONS
}

/// The same at both ends.
const APPLICATIONS: &str = r#"[[sae]]
id = "sae-n1"
clusters = ["north"]
certificate = "cn:sae-n1"

[[sae]]
id = "sae-s1"
clusters = ["south"]
certificate = "cn:sae-s1"

[[sae]]
id = "sae-s2"
clusters = ["south"]
certificate = "cn:sae-s2"

# At both ends, and paired with itself.
[[sae]]
id = "sae-x"
clusters = ["north", "south"]
certificate = "cn:sae-x"

[[pair]]
saes = ["sae-n1", "sae-s1"]

[[pair]]
saes = ["sae-n1", "sae-s2"]

[[pair]]
saes = ["sae-x", "sae-x"]
"#;

/// The simulated link; module `a` is north's.
pub(super) fn sim(layout: &Layout, files: &[TlsFiles; 2], options: &Options) -> String {
    let [north, south] = layout.sites().map(|site| site.cluster);
    let [a, b] = layout.modules;
    link([(north, a, &files[0]), (south, b, &files[1])], options.rate.as_deref())
}

/// A simulated link: for each end its cluster, where its module listens, and the module's files.
pub(super) fn link(ends: [(&str, SocketAddr, &TlsFiles); 2], rate: Option<&str>) -> String {
    let mut text = "# DEMO - SIMULATED QKD.\nadmins = [\"cn:sim-admin\"]\n".to_owned();
    if let Some(rate) = rate {
        text += &format!("rate_override = {rate}\n");
    }
    for (end, (cluster, listen, files)) in ["a", "b"].into_iter().zip(ends) {
        text += &format!(
            "\n[{end}]\nkme_id = \"module-{cluster}\"\nlisten = \"{listen}\"\n\
             sae_id = \"km-{cluster}\"\nclients = [\"uri:urn:qkm:km:{cluster}\"]\n\
             [{end}.tls]\n{}",
            tls(files)
        );
    }
    text
}

/// A PyKMIP script with this network's addresses and files filled in.
pub(super) fn kmip_script(layout: &Layout) -> String {
    let end = |application: &str, address: SocketAddr| {
        let TlsFiles { certificate, key, ca } = layout.application(application);
        let (certificate, key, ca) = (q(certificate), q(key), q(ca));
        let (host, port) = (address.ip(), address.port());
        format!("(\"{host}\", {port}, {certificate}, {key}, {ca})")
    };
    include_str!("kmip-demo.py")
        .replace("\"@NORTH@\"", &end("sae-n1", layout.north.kmip))
        .replace("\"@SOUTH@\"", &end("sae-s1", layout.south.kmip))
}

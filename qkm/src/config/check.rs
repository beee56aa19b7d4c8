//! What must fit together. Enter through [`check`]; each mistake names the entry to change.

use std::{collections::HashMap, fmt, path::PathBuf, time::Duration};

use km_core::{
    epoch::{EpochPolicy, MOST_SEALS},
    ids::{ClusterId, PoolTag, SaeId},
    payload::Storage,
    random::QrngConfig,
    supply::SupplyLimits,
};
use toml::Spanned;
use transport::TlsFiles;

use super::{
    Admin, Config, Controller, KmipCa, Peer, QkdLink, RandomSources, Shared,
    file::{self, File},
    locate, relay, tenancy,
};
use crate::{
    fault::{Code, Failure},
    worker,
};

/// A contradiction, with the byte offset of the entry at fault.
pub(super) struct Mistake {
    offset: Option<usize>,
    what: String,
    help: String,
}

impl Mistake {
    pub(super) fn new(what: impl Into<String>, help: impl Into<String>) -> Self {
        Self { offset: None, what: what.into(), help: help.into() }
    }

    pub(super) fn at<T>(mut self, entry: &Spanned<T>) -> Self {
        self.offset = Some(entry.span().start);
        self
    }

    /// As shown to a person.
    pub(super) fn locate(self, text: &str, origin: &dyn fmt::Display) -> Failure {
        let failure = Failure::new(Code::C003, self.what).help(self.help);
        match self.offset {
            Some(offset) => failure.at(locate::place(text, offset, origin)),
            None => failure,
        }
    }
}

pub(super) fn check(file: File) -> Result<Config, Mistake> {
    let here = file.cluster.id;
    let token = &file.hsm;
    token.check().map_err(|e| Mistake::new(e.to_string(), "change [hsm]"))?;
    let random = random(file.random)?;
    let epochs = epochs(file.epochs.as_ref())?;
    let (shared, store) = store(&here, &file.store, file.node.as_ref())?;
    let (limits, key_ttl) = supply(file.supply.as_ref())?;
    let mut peers = peers(&here, &file.peer, &file.qkd_link, limits.key_size)?;
    relay::feed_all(&here, &mut peers, &file.relay, file.controller.is_some())?;
    if !peers.is_empty() && file.km_link.is_none() {
        return Err(Mistake::new(
            "there are peers but no [km_link]",
            "add [km_link] with listen, certificate, key and ca",
        )
        .at(&file.peer[0]));
    }
    let kmip_ca = file.kmip_ca.map(|entry| kmip_ca(entry, &file.sae)).transpose()?;
    if let (Some(ca), Some(node)) = (&kmip_ca, &file.node)
        && node.get_ref().authority.as_ref() == Some(&ca.name)
    {
        let text =
            "[kmip_ca] and [node] authority are one: applications could have certificates of KMs";
        return Err(Mistake::new(text, "make another authority for one of them").at(node));
    }
    let tenancy = tenancy::check(&here, &file.sae, &file.pair, &file.tenant)?;
    let told = file.sae.iter().find(|sae| sae.get_ref().notify.is_some());
    if let Some(told) = told.filter(|_| file.kmip.is_none() && file.kmip_https.is_none()) {
        let text = format!("{} is to be told over KMIP, and there is no [kmip]", told.get_ref().id);
        return Err(Mistake::new(text, "add [kmip], whose certificate is shown to it").at(told));
    }
    Ok(Config {
        cluster: here,
        store,
        shared,
        token_objects: file.store.get_ref().token_objects,
        random,
        epochs,
        limits,
        key_ttl,
        etsi014: file.etsi014,
        kmip: file.kmip,
        kmip_https: file.kmip_https,
        kmip_ca,
        km_link: file.km_link,
        monitor: file.monitor.map(monitor).transpose()?,
        admin: file.admin.map(admin).transpose()?,
        operator: file.operator,
        controller: file.controller.map(controller).transpose()?,
        crypto_in_process: file.objects.crypto_in_process,
        lenience: kmip_server::Lenience {
            shared_names: file.objects.shared_names,
            early_derivation: file.objects.early_derivation,
        },
        memory_lock: file.memory.lock,
        dumpable: file.debug.dumpable,
        hsm: file.hsm,
        worker: worker::program(false, file.memory.lock, "off"),
        peers,
        registry: tenancy.registry,
        applications: tenancy.applications,
        kept_in_token: tenancy.kept_in_token,
        kept_as_asked: tenancy.kept_as_asked,
        policies: tenancy.policies,
        quotas: tenancy.quotas,
    })
}

fn kmip_ca(entry: Spanned<file::KmipCa>, saes: &[Spanned<file::Sae>]) -> Result<KmipCa, Mistake> {
    let table = entry.get_ref();
    let known = |sae: &SaeId| saes.iter().any(|known| known.get_ref().id == *sae);
    if let Some(stranger) = table.applications.iter().find(|sae| !known(sae)) {
        let text = format!("[kmip_ca] names {stranger}, which is not a registered SAE");
        return Err(Mistake::new(text, "add an [[sae]], or correct the name").at(&entry));
    }
    if !(1..=3650).contains(&table.days) {
        let text = "days in [kmip_ca] must be 1 to 3650";
        return Err(Mistake::new(text, "say how long certificates are valid").at(&entry));
    }
    let file::KmipCa { name, applications, days } = entry.into_inner();
    Ok(KmipCa { name, applications: applications.into_iter().collect(), days })
}

/// What several KMs share, if they do, and the directory of the embedded store if not.
fn store(
    here: &ClusterId,
    entry: &Spanned<file::Store>,
    node: Option<&Spanned<file::Node>>,
) -> Result<(Option<Shared>, PathBuf), Mistake> {
    let file::Store { engine, path, etcd, .. } = entry.get_ref();
    if *engine == file::Engine::Embedded {
        return match (path, etcd, node) {
            (Some(path), None, None) => Ok((None, path.clone())),
            (None, ..) => Err(Mistake::new("[store] has no path", "add path = \"…\"").at(entry)),
            _ => {
                let text =
                    "an embedded store has one key manager, but [store.etcd] or [node] is there";
                Err(Mistake::new(text, "remove them, or set engine = \"etcd\"").at(entry))
            }
        };
    }
    let (Some(etcd), Some(node)) = (etcd, node) else {
        let text = "engine = \"etcd\" needs [store.etcd] and [node]";
        return Err(Mistake::new(text, "add them; `qkm config example` shows both").at(entry));
    };
    let n = node.get_ref();
    let rules = [
        (
            (1..=9).contains(&etcd.endpoints.len()),
            "[store.etcd] endpoints must list 1 to 9 members",
        ),
        (
            (1..=64).contains(&n.name.len()) && n.name.bytes().all(|b| b.is_ascii_graphic()),
            "[node] name must have 1 to 64 letters, digits and signs",
        ),
        ((1000..=60_000).contains(&n.lease_ms), "[node] lease_ms must be 1000 to 60000"),
    ];
    if let Some((_, rule)) = rules.iter().find(|(holds, _)| !holds) {
        return Err(Mistake::new(*rule, "change it, or leave it out").at(node));
    }
    let file::Node { name, listen, address, certificate, key, ca, members, authority, lease_ms } =
        n.clone();
    let prefix = etcd.prefix.clone().unwrap_or_else(|| format!("/qkm/{here}/"));
    let (own, etcd) = ((certificate, key, ca), etcd.clone());
    let files = TlsFiles { certificate: etcd.certificate, key: etcd.key, ca: etcd.ca };
    let shared = Shared {
        etcd: ::cluster::EtcdConfig {
            endpoints: etcd.endpoints,
            files,
            prefix,
            allow_unmaintained: etcd.allow_unmaintained,
        },
        seat: ::cluster::lead::Seat { node: name, desk: address },
        desk: file::Front { listen, certificate: own.0, key: own.1, ca: own.2, connections: 256 },
        members,
        authority,
        lease: Duration::from_millis(lease_ms),
    };
    Ok((Some(shared), PathBuf::new()))
}

fn epochs(entry: Option<&Spanned<file::Epochs>>) -> Result<EpochPolicy, Mistake> {
    let Some(entry) = entry else { return Ok(EpochPolicy::default()) };
    let e = entry.get_ref();
    let rules = [
        (e.max_age_days <= 36_500, "max_age_days must be 1 to 36500, or 0 for never"),
        ((1 << 20..=MOST_SEALS).contains(&e.max_seals), "max_seals must be 1048576 to 4026531840"),
        ((1..=1000).contains(&e.reseal_per_s), "reseal_per_s must be 1 to 1000"),
        ((60..=604_800).contains(&e.approval_window_s), "approval_window_s must be 60 to 604800"),
    ];
    if let Some((_, rule)) = rules.iter().find(|(holds, _)| !holds) {
        return Err(Mistake::new(*rule, "change [epochs], or leave the entry out").at(entry));
    }
    let day = Duration::from_secs(86_400);
    Ok(EpochPolicy {
        max_age: (e.max_age_days > 0).then(|| day * e.max_age_days),
        max_seals: e.max_seals,
        reseal_per_s: e.reseal_per_s,
        approval_window: Duration::from_secs(e.approval_window_s),
    })
}

fn random(entry: file::Random) -> Result<RandomSources, Mistake> {
    let file::Random { token, qrng } = entry;
    let Some(device) = qrng else {
        return match token {
            true => Ok(RandomSources { token, qrng: None }),
            false => Err(Mistake::new(
                "[random] has no source",
                "add [random.qrng], or remove token = false",
            )),
        };
    };
    let file::Qrng { path, min_entropy, deadline_ms } = device.get_ref();
    let rules = [
        ((0.5..=8.0).contains(min_entropy), "min_entropy must be 0.5 to 8 (bits per byte)"),
        ((100..=60_000).contains(deadline_ms), "deadline_ms must be 100 to 60000"),
    ];
    if let Some((_, rule)) = rules.iter().find(|(holds, _)| !holds) {
        return Err(Mistake::new(*rule, "change [random.qrng]").at(&device));
    }
    let deadline = Duration::from_millis(*deadline_ms);
    let qrng = QrngConfig { path: path.clone(), min_entropy: *min_entropy, deadline };
    Ok(RandomSources { token, qrng: Some(qrng) })
}

fn supply(entry: Option<&Spanned<file::Supply>>) -> Result<(SupplyLimits, Duration), Mistake> {
    let default = file::Supply::default();
    let s = entry.map_or(&default, Spanned::get_ref);
    let sizes = [s.min_key_size, s.key_size, s.max_key_size];
    let rules = [
        (sizes.iter().all(|n| n % 8 == 0), "key sizes are bits and multiples of 8"),
        (sizes.is_sorted(), "min_key_size, key_size and max_key_size must not decrease"),
        (s.min_key_size >= 64, "min_key_size must be at least 64 bits"),
        (s.max_key_size <= 32_768, "max_key_size must be at most 32768 bits"),
        ((1..=2048).contains(&s.max_keys_per_request), "max_keys_per_request must be 1 to 2048"),
        ((1..=31_536_000).contains(&s.key_ttl_s), "key_ttl_s must be 1 second to a year"),
    ];
    if let Some((_, rule)) = rules.iter().find(|(holds, _)| !holds) {
        let mistake = Mistake::new(*rule, "change [supply], or leave the entry out");
        return Err(match entry {
            Some(entry) => mistake.at(entry),
            None => mistake,
        });
    }
    let limits = SupplyLimits {
        key_size: s.key_size,
        min_key_size: s.min_key_size,
        max_key_size: s.max_key_size,
        max_keys: s.max_keys_per_request,
    };
    Ok((limits, Duration::from_secs(s.key_ttl_s)))
}

fn peers(
    here: &ClusterId,
    entries: &[Spanned<file::Peer>],
    links: &[Spanned<file::QkdLink>],
    key_bits: u32,
) -> Result<Vec<Peer>, Mistake> {
    let mut peers: Vec<Peer> = Vec::new();
    let mut tags: HashMap<PoolTag, ClusterId> = HashMap::new();
    for entry in entries {
        let file::Peer { cluster, address, identity, max_stored_mib, storage, .. } =
            entry.get_ref();
        if cluster == here {
            let text = format!("{cluster} is this cluster, it cannot be its own peer");
            return Err(Mistake::new(text, "remove the entry").at(entry));
        }
        if let Some(other) = tags.insert(PoolTag::of_pair(here, cluster), cluster.clone()) {
            let text = if other == *cluster {
                format!("the peer {cluster} is configured twice")
            } else {
                format!("the pools with {cluster} and {other} would get the same tag")
            };
            return Err(Mistake::new(text, "remove the entry, or rename a cluster").at(entry));
        }
        let addresses = address.list();
        if here < cluster && addresses.is_empty() {
            let text = format!("this cluster dials {cluster}, but its address is not given");
            return Err(Mistake::new(text, "add address = \"host:port\"").at(entry));
        }
        if addresses.len() > control::report::MAX_CHANNELS {
            let most = control::report::MAX_CHANNELS;
            let text = format!("{cluster} has more than {most} addresses");
            return Err(Mistake::new(text, "leave some of them out").at(entry));
        }
        if !(1..=1 << 20).contains(max_stored_mib) {
            let text = "max_stored_mib must be from 1 to 1048576";
            return Err(Mistake::new(text, "change it, or leave it out").at(entry));
        }
        peers.push(Peer {
            cluster: cluster.clone(),
            addresses,
            identity: identity.clone(),
            max_stored: max_stored_mib << 20,
            storage: match storage {
                file::Storage::Blocks => Storage::Blocks,
                file::Storage::Each => Storage::Each((key_bits / 8) as u16),
                file::Storage::Token => Storage::Token,
            },
            qkd: Vec::new(),
            relay: None,
            combine: relay::combine(entry.get_ref()),
        });
    }
    links.iter().try_for_each(|link| give_link(&mut peers, link))?;
    Ok(peers)
}

fn give_link(peers: &mut [Peer], entry: &Spanned<file::QkdLink>) -> Result<(), Mistake> {
    let file::QkdLink { id, peer, module } = entry.get_ref();
    if peers.iter().any(|p| p.qkd.iter().any(|qkd| qkd.id == *id)) {
        return Err(Mistake::new(
            format!("the QKD link {id} is configured twice"),
            "give each link its own id",
        )
        .at(entry));
    }
    let Some(peer) = peers.iter_mut().find(|p| p.cluster == *peer) else {
        let text = format!("the QKD link {id} leads to {peer}, which is no [[peer]]");
        return Err(
            Mistake::new(text, format!("add a [[peer]] with cluster = \"{peer}\"")).at(entry)
        );
    };
    if peer.qkd.len() >= control::report::MAX_QKD {
        let text = format!("{} has more than {} QKD links", peer.cluster, control::report::MAX_QKD);
        return Err(Mistake::new(text, "remove one of them").at(entry));
    }
    peer.qkd.push(QkdLink { id: id.clone(), module: module.clone() });
    Ok(())
}

fn monitor(entry: Spanned<file::Monitor>) -> Result<std::net::SocketAddr, Mistake> {
    let checked = entry.get_ref().checked();
    checked.map_err(|(text, help)| Mistake::new(text, help).at(&entry))
}

fn controller(entry: Spanned<file::Controller>) -> Result<Controller, Mistake> {
    let e = entry.get_ref();
    let rules = [
        (
            (1..=4).contains(&e.addresses.len()),
            "[controller] addresses must list 1 to 4 controllers",
        ),
        ((200..=10_000).contains(&e.report_ms), "[controller] report_ms must be 200 to 10000"),
    ];
    if let Some((_, rule)) = rules.iter().find(|(holds, _)| !holds) {
        return Err(Mistake::new(*rule, "change it, or remove [controller]").at(&entry));
    }
    let file::Controller { addresses, identity, certificate, key, ca, report_ms } =
        entry.into_inner();
    let files = transport::TlsFiles { certificate, key, ca };
    Ok(Controller { addresses, identity, files, report: Duration::from_millis(report_ms) })
}

fn admin(entry: Spanned<file::Admin>) -> Result<Admin, Mistake> {
    if entry.get_ref().operators.is_empty() {
        let text = "[admin] names no operators, so nobody could use it";
        return Err(Mistake::new(text, "add operators = [\"cn:…\"], or remove [admin]").at(&entry));
    }
    let file::Admin { listen, certificate, key, ca, operators, custodians } = entry.into_inner();
    let front = file::Front { listen, certificate, key, ca, connections: 64 };
    Ok(Admin { front, operators, custodians })
}

//! Applications: whose certificates they show, whose objects they share, and what they may do.

use std::collections::{BTreeMap, BTreeSet};

use km_core::{
    ids::{ClusterId, SaeId},
    objects::Quota,
    registry::Registry,
};
use kmip::{Version, enums::OperationCode};
use kmip_server::{
    Login,
    policy::{Endpoint, Policies, Policy, Sent},
};
use toml::Spanned;

use super::{
    Application,
    check::Mistake,
    file::{Notify, ObjectStorage, Pair, Put, Sae, Tenant},
};

/// What the entries about applications say together.
#[derive(Debug, Default)]
pub(super) struct Tenancy {
    pub(super) registry: Registry,
    pub(super) applications: Vec<Application>,
    pub(super) kept_in_token: BTreeSet<SaeId>,
    pub(super) kept_as_asked: BTreeSet<SaeId>,
    pub(super) policies: Policies,
    pub(super) quotas: BTreeMap<SaeId, Quota>,
}

pub(super) fn check(
    here: &ClusterId,
    saes: &[Spanned<Sae>],
    pairs: &[Spanned<Pair>],
    tenants: &[Spanned<Tenant>],
) -> Result<Tenancy, Mistake> {
    let mut all = Tenancy { quotas: quotas(tenants)?, ..Tenancy::default() };
    let mut storage: BTreeMap<SaeId, (ObjectStorage, SaeId)> = BTreeMap::new();
    for entry in saes {
        let sae = entry.get_ref();
        register(&mut all.registry, here, entry)?;
        let tenant = tenant(entry, tenants)?;
        let (kept, by) =
            storage.entry(tenant.clone()).or_insert_with(|| (sae.storage, sae.id.clone()));
        if *kept != sae.storage {
            let text = format!("{} and {by} share their objects, but not their storage", sae.id);
            let help = "give all applications of a tenant the same `storage`";
            return Err(Mistake::new(text, help).at(entry));
        }
        if sae.clusters.contains(here) {
            all.applications.push(application(entry, &all.applications)?);
            all.policies.insert(sae.id.clone(), policy(entry, tenant)?);
        }
    }
    for (tenant, (kept, _)) in storage {
        match kept {
            ObjectStorage::Sealed => false,
            ObjectStorage::Token => all.kept_in_token.insert(tenant),
            ObjectStorage::Either => all.kept_as_asked.insert(tenant),
        };
    }
    for entry in pairs {
        let Pair { saes: [one, other], grade } = entry.get_ref();
        all.registry.pair(one, other).map_err(|e| {
            Mistake::new(e.to_string(), "add an [[sae]], or correct the name").at(entry)
        })?;
        if let Some(grade) = grade {
            all.registry.require(one, other, *grade);
        }
    }
    Ok(all)
}

fn register(
    registry: &mut Registry,
    here: &ClusterId,
    entry: &Spanned<Sae>,
) -> Result<(), Mistake> {
    let Sae { id, clusters, .. } = entry.get_ref();
    if clusters.is_empty() {
        let help = format!("add the cluster it connects to, such as [\"{here}\"]");
        return Err(Mistake::new(format!("{id} is at no cluster"), help).at(entry));
    }
    registry
        .register(id.clone(), clusters.iter().cloned())
        .map_err(|e| Mistake::new(e.to_string(), "remove one of the entries").at(entry))
}

fn quotas(entries: &[Spanned<Tenant>]) -> Result<BTreeMap<SaeId, Quota>, Mistake> {
    let mut quotas = BTreeMap::new();
    for entry in entries {
        let Tenant { id, max_objects, max_mib } = entry.get_ref();
        let (objects, bytes) = (max_objects.unwrap_or(u64::MAX), max_mib.unwrap_or(u64::MAX));
        let quota = Quota { objects, bytes: bytes.saturating_mul(1 << 20) };
        if id.is_reserved() {
            let text = format!("the name {id} is the key manager's own");
            return Err(Mistake::new(text, "give the tenant another name").at(entry));
        }
        if quotas.insert(id.clone(), quota).is_some() {
            let text = format!("the tenant {id} is configured twice");
            return Err(Mistake::new(text, "remove one of the entries").at(entry));
        }
    }
    Ok(quotas)
}

/// Whose objects an application works with: a tenant's of its own name when it names none.
fn tenant(entry: &Spanned<Sae>, tenants: &[Spanned<Tenant>]) -> Result<SaeId, Mistake> {
    let Sae { id, tenant, .. } = entry.get_ref();
    let Some(tenant) = tenant else { return Ok(id.clone()) };
    if !tenants.iter().any(|known| known.get_ref().id == *tenant) {
        let text = format!("{id} belongs to the tenant {tenant}, which is not configured");
        let help = format!("add [[tenant]] with id = \"{tenant}\", or correct the name");
        return Err(Mistake::new(text, help).at(entry));
    }
    Ok(tenant.clone())
}

fn application(entry: &Spanned<Sae>, others: &[Application]) -> Result<Application, Mistake> {
    let Sae { id, certificate, issuer, login, .. } = entry.get_ref();
    let Some(rule) = certificate else {
        let text = format!("{id} connects here, but its certificate is not named");
        return Err(
            Mistake::new(text, "add certificate = \"cn:…\" (or uri:, dns:, sha256:)").at(entry)
        );
    };
    let new = Application {
        sae: id.clone(),
        certificate: rule.clone(),
        issuer: issuer.clone(),
        login: login.as_ref().map(|login| login.username.clone()),
    };
    if let Some(other) = others.iter().find(|other| other.may_be_taken_for(&new)) {
        let text = format!("{id} and {} have the same certificate rule {rule}", other.sae);
        let help = "give each application its own certificate, or each a `login` of its own";
        return Err(Mistake::new(text, help).at(entry));
    }
    Ok(new)
}

impl Application {
    /// Whether nothing tells the two apart.
    fn may_be_taken_for(&self, other: &Self) -> bool {
        let same_issuer = match (&self.issuer, &other.issuer) {
            (Some(one), Some(other)) => one == other,
            _ => true,
        };
        let same_login = match (&self.login, &other.login) {
            (Some(one), Some(other)) => one == other,
            _ => true,
        };
        self.certificate == other.certificate && same_issuer && same_login
    }
}

fn policy(entry: &Spanned<Sae>, tenant: SaeId) -> Result<Policy, Mistake> {
    let sae = entry.get_ref();
    Ok(Policy {
        tenant: Some(tenant),
        operations: operations(entry)?,
        login: sae.login.as_ref().map(|login| login_of(entry, login)).transpose()?,
        operations_per_s: sae.operations_per_s,
        connections: sae.connections,
        endpoint: sae.notify.as_ref().map(|notify| endpoint(entry, notify)).transpose()?,
    })
}

fn endpoint(entry: &Spanned<Sae>, notify: &Notify) -> Result<Endpoint, Mistake> {
    let Notify { address, version, put } = notify;
    let has_port = |address: &String| {
        address.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok())
    };
    if let Some(address) = address.as_ref().filter(|address| !has_port(address)) {
        let text = format!("{address:?} is no address to tell {} at", entry.get_ref().id);
        return Err(Mistake::new(text, "write address = \"host:port\"").at(entry));
    }
    // The certificate alone is no proof of who takes the keys.
    if entry.get_ref().login.is_some() && *put != Put::Nothing {
        let text = format!("{} has a login, and no Put asks for one", entry.get_ref().id);
        let help =
            "write put = \"nothing\" and let it Get what it is told of, or leave `login` out";
        return Err(Mistake::new(text, help).at(entry));
    }
    let named = |name: &String| {
        let known = Version::ALL.into_iter().find(|known| known.to_string() == *name);
        known.ok_or_else(|| {
            let text = format!("{name:?} is not a version of KMIP");
            Mistake::new(text, "write version = \"1.0\" to \"2.1\"").at(entry)
        })
    };
    let version = version.as_ref().map_or(Ok(Version::V2_1), named)?;
    let sent = match put {
        Put::Nothing => Sent::Nothing,
        Put::Successors => Sent::Successors,
        Put::All => Sent::All,
    };
    Ok(Endpoint { address: address.clone(), version, sent })
}

fn operations(entry: &Spanned<Sae>) -> Result<Option<BTreeSet<OperationCode>>, Mistake> {
    let Some(names) = &entry.get_ref().operations else { return Ok(None) };
    let parse = |name: &String| {
        OperationCode::from_name(name).ok_or_else(|| {
            let text = format!("{name:?} is not a KMIP operation");
            let help = "write operations as KMIP does in XML, such as \"Get\", \"GetAttributes\"";
            Mistake::new(text, help).at(entry)
        })
    };
    names.iter().map(parse).collect::<Result<_, _>>().map(Some)
}

fn login_of(entry: &Spanned<Sae>, login: &super::file::Login) -> Result<Login, Mistake> {
    let password = login.password.parse().map_err(|error| {
        let text = format!("the password of the login {:?}: {error}", login.username);
        Mistake::new(text, "run `qkm kmip password` and copy the line it prints").at(entry)
    })?;
    if login.username.is_empty() {
        return Err(Mistake::new("a login has no user name", "add username = \"…\"").at(entry));
    }
    Ok(Login { username: login.username.clone(), password })
}

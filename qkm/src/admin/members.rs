//! `/v1/nodes`: KMs join a cluster that shares a store, rest, and are taken out. Any of them lets others in
//! and takes others out; custodians invite and decide.

use std::collections::{BTreeMap, BTreeSet};

use authority::{Authority, BadRequest, Leaf, Span, Uses};
use cluster::roster;
use hyper::StatusCode;
use km_core::{
    clock::now_ms,
    hsm::{KekParcel, KekReceiver},
    peer::Fingerprint,
    usage::Hash,
};
use serde::Deserialize;
use serde_json::{Value, json};
use tracing::warn;
use transport::{IdentityRule, PeerIdentity};

use super::{
    epochs::{Custodian, through},
    problem::Problem,
};
use crate::{
    config::Shared,
    fault::Code,
    serve::{Inside, Membership, membership},
};

/// Longest time an invitation holds, in minutes.
const MOST_MINUTES: u32 = 24 * 60;
/// How long the certificate of a KM is valid, in days.
const DAYS: u32 = 825;
/// Clocks differ by less, in seconds.
const SKEW: u64 = 3600;

/// What an invitation is made of.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Invitation {
    /// PKCS #10 in PEM, for the certificate by which the new KM will ask.
    request: String,
    minutes: u32,
}

/// What a new KM sends.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Joining {
    /// PKCS #10 in PEM, for the certificate it will have.
    request: String,
    /// How its token, the first of several, takes KEKs; absent when it has the cluster's.
    receiver: Option<KekReceiver>,
    /// How further tokens do, by name.
    #[serde(default)]
    members: BTreeMap<String, KekReceiver>,
}

/// The parts of a KM that shares a store.
pub(super) struct Room<'a> {
    inside: &'a Inside,
    shared: &'a Shared,
    membership: &'a Membership,
}

impl<'a> Room<'a> {
    pub(super) fn of(inside: &'a Inside, shared: Option<&'a Shared>) -> Result<Self, Problem> {
        match shared.zip(inside.node.membership.as_ref()) {
            Some((shared, membership)) => Ok(Self { inside, shared, membership }),
            None => Err(Problem::alone()),
        }
    }

    /// `POST …/{name}/invite`: a certificate that is good for one thing, once.
    pub(super) async fn invite(
        &self,
        name: &str,
        body: &[u8],
        who: Custodian,
        peer: &PeerIdentity,
    ) -> Result<Value, Problem> {
        let Invitation { request, minutes } = read(body)?;
        if !(1..=MOST_MINUTES).contains(&minutes) || !is_name(name) {
            return Err(refused(
                "an invitation holds for 1 to 1440 minutes, for a name of 1 to 64 letters, digits, \
                 hyphens, dots and underscores",
            ));
        }
        let nodes = self.nodes().await?;
        let out = self.membership.decided().out;
        if nodes.iter().any(|node| node.name == name && node.alive && !out.contains(name)) {
            return Err(refused(&format!("a key manager {name} runs already")));
        }
        self.members_rule()?;
        warn!(custodian = %who, certificate = %peer, node = name, "a key manager is invited");
        let leaf = leaf(&request)?.bare(&format!("CN=join {name}")).map_err(of_request)?;
        let (authority, now) = (self.authority().await?, now_ms() / 1000);
        let until = now + u64::from(minutes) * 60;
        let certificate = authority.issue(&leaf, Span { from: now - SKEW, until }).await?;
        self.membership.members.invite(&fingerprint(&certificate)?, name, until * 1000).await?;
        Ok(json!({ "certificate": authority::pem(&certificate) }))
    }

    /// `POST /v1/nodes` of a KM that was invited: its certificate, and the keys of a new epoch. What it was
    /// invited with is used up before anything is made, whatever becomes of it then.
    pub(super) async fn join(&self, body: &[u8], peer: &PeerIdentity) -> Result<Value, Problem> {
        let Joining { request, receiver, members } = read(body)?;
        let (leaf, rule) = (leaf(&request)?, self.members_rule()?);
        let authority = self.authority().await?;
        let ca = std::fs::read_to_string(&self.shared.desk.ca);
        let ca = ca.map_err(|e| refused(&format!("[node] ca of this key manager: {e}")))?;
        let name = self.membership.members.accept(peer.sha256()).await?;
        let name = name.ok_or_else(|| {
            let detail = "this certificate invites nobody: it was used, or its time is over";
            Problem::new(StatusCode::FORBIDDEN, Code::J001, detail)
        })?;
        warn!(certificate = %peer, node = name, "a key manager joins");
        let leaf = leaf.hosts_only(&format!("CN={name}")).map_err(of_request)?;
        let leaf = match rule {
            Rule::Uri(uri) => leaf.uri(uri),
            Rule::Dns(dns) => leaf.dns(dns),
        };
        let span = Span { from: now_ms() / 1000 - SKEW, ..Span::days(now_ms() / 1000, DAYS) };
        let certificate = authority.issue(&leaf.map_err(of_request)?, span).await?;
        self.membership.members.add(&name, fingerprint(&certificate)?).await?;
        let first = receiver.map(|receiver| (String::new(), receiver));
        let tokens: Vec<_> = first.into_iter().chain(members).collect();
        let all = match tokens.is_empty() {
            false => self.share_with(&name, tokens).await?,
            true => Vec::new(),
        };
        let (mut parcels, mut members) = (Vec::new(), BTreeMap::<_, Vec<_>>::new());
        for (token, parcel) in all {
            match token.as_str() {
                "" => parcels.push(parcel),
                _ => members.entry(token).or_default().push(parcel),
            }
        }
        let chain = [authority::pem(&certificate), authority.pem()].concat();
        Ok(json!({ "name": name, "certificate": chain, "ca": ca, "parcels": parcels,
            "members": members }))
    }

    /// A new epoch, whose keys the tokens of `name` get.
    async fn share_with(
        &self,
        name: &str,
        tokens: Vec<(String, KekReceiver)>,
    ) -> Result<Vec<(String, KekParcel)>, Problem> {
        let (keeper, name) = (self.inside.node.keeper.clone(), name.to_owned());
        let parcels = through(async move {
            keeper.epochs().admit(&name, &tokens).await?;
            // Nothing can be read without it.
            keeper.move_record_key().await?;
            keeper.epochs().waiting_for(&name).await
        });
        parcels.await
    }

    /// `POST …/{name}/revoke`: the KM gets nothing any more.
    pub(super) async fn revoke(
        &self,
        name: &str,
        who: Custodian,
        peer: &PeerIdentity,
    ) -> Result<Value, Problem> {
        if name == self.shared.seat.node {
            return Err(refused("a key manager does not take itself out: ask another one"));
        }
        let Shown { own, with } = self.shown(name).await?;
        warn!(custodian = %who, certificate = %peer, node = name, "a key manager is taken out");
        self.membership.members.revoke(name, &own).await?;
        // Should this key manager end here, the one that leads goes on with it.
        let (keeper, members) = (self.inside.node.keeper.clone(), self.membership.members.clone());
        self.membership.look(keeper.epochs()).await;
        let (gone, who) = (name.to_owned(), who.to_string());
        let made =
            through(async move { membership::without(&keeper, &members, &gone, &who).await })
                .await?;
        Ok(json!({ "name": name, "epoch": made.number, "shares_certificate_with": with }))
    }

    /// `POST …/{name}/drain` and `…/undrain`.
    pub(super) async fn drain(
        &self,
        name: &str,
        rests: bool,
        who: Custodian,
        peer: &PeerIdentity,
    ) -> Result<Value, Problem> {
        self.shown(name).await?;
        warn!(custodian = %who, certificate = %peer, node = name, rests, "who is to work is changed");
        self.membership.members.rest(name, rests).await?;
        Ok(json!({ "name": name, "rests": rests }))
    }

    /// The certificates of a KM of this name.
    async fn shown(&self, name: &str) -> Result<Shown, Problem> {
        let (nodes, decided) = (self.nodes().await?, self.membership.members.all().await?);
        if nodes.iter().all(|node| node.name != name) && !decided.members.contains_key(name) {
            let shown: String = name.chars().take(64).collect();
            let detail = format!("no key manager {shown:?} ever shared this store");
            return Err(Problem::new(StatusCode::NOT_FOUND, Code::S010, detail));
        }
        let mut all = Shown::default();
        for node in nodes.iter().filter(|node| node.name == name) {
            all.own = certificates(node);
        }
        for node in nodes.iter().filter(|node| node.name != name) {
            let theirs = match decided.out.contains(&node.name) {
                true => BTreeSet::new(),
                false => certificates(node).into_iter().collect(),
            };
            if all.own.iter().any(|own| theirs.contains(own)) {
                all.own.retain(|own| !theirs.contains(own));
                all.with.push(node.name.clone());
            }
        }
        Ok(all)
    }

    async fn nodes(&self) -> Result<Vec<roster::Node>, Problem> {
        match &self.inside.node.roster {
            Some(roster) => Ok(roster.list().await?),
            None => Ok(Vec::new()),
        }
    }

    /// What the certificates of all KMs carry, where an authority can write it into one.
    fn members_rule(&self) -> Result<Rule<'_>, Problem> {
        match &self.shared.members {
            IdentityRule::Uri(uri) => Ok(Rule::Uri(uri)),
            IdentityRule::Dns(dns) => Ok(Rule::Dns(dns)),
            _ => {
                Err(refused("[node] members has to be a uri: or dns: that certificates can share"))
            }
        }
    }

    async fn authority(&self) -> Result<Authority, Problem> {
        let name = self.shared.authority.as_deref();
        let name = name.ok_or_else(|| refused("[node] of this key manager names no authority"))?;
        let found = Authority::open(&self.inside.node.objects, name).await?;
        found.ok_or_else(|| refused(&format!("there is no authority {name}: `qkm ca make {name}`")))
    }
}

/// What a KM shows to others.
#[derive(Default)]
struct Shown {
    /// Its certificates that no other KM has.
    own: Vec<Fingerprint>,
    /// Who has one of its others: to refuse that would cut these off.
    with: Vec<String>,
}

fn certificates(node: &roster::Node) -> Vec<Fingerprint> {
    let roster::Condition { certificate, link_certificate, .. } = &node.condition;
    let both = [Some(certificate), link_certificate.as_ref()].into_iter().flatten();
    both.filter_map(|shown| hex::decode(shown).ok()?.try_into().ok()).collect()
}

enum Rule<'a> {
    Uri(&'a str),
    Dns(&'a str),
}

fn is_name(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    (1..=64).contains(&name.len()) && name.bytes().all(plain)
}

fn leaf(request: &str) -> Result<Leaf, Problem> {
    Leaf::of_pem_request(request.as_bytes(), Uses::Tls).map_err(of_request)
}

fn read<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, Problem> {
    serde_json::from_slice(body).map_err(|_| Problem::wrong_body())
}

fn fingerprint(certificate: &[u8]) -> Result<Fingerprint, Problem> {
    let digest = Hash::Sha256.of(certificate).try_into();
    digest.map_err(|_| refused("the certificate has no fingerprint"))
}

fn of_request(error: BadRequest) -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, Code::A005, error.to_string())
}

fn refused(why: &str) -> Problem {
    Problem::new(StatusCode::CONFLICT, Code::J001, why)
}

//! Pool keys that become managed objects: drawn by a master (Create, Locate Fresh), collected by a
//! slave (Get and every other operation that names the key's identifier).
//!
//! A key has one identifier at both ends, and several applications may collect it at one cluster,
//! each as an object of its own.

use km_core::{
    ids::{ClusterId, SaeId},
    key_id::KeyId,
    objects::{NewObject, Object, ObjectError, ObjectState, Objects},
    pool::SuppliedKey,
    store::Version,
};
use kmip::{
    attribute::{ApplicationSpecificInformation, Attribute},
    enums::{CryptographicAlgorithm, KeyFormatType, ObjectType},
};

use crate::{
    Counters,
    context::Context,
    error::OpError,
    meta::{Form, Meta},
    terms,
    wanted::Wanted,
};

/// Object Group of the keys shared with a cluster: this and the cluster's ID.
const GROUP: &str = "qkd/";
/// Name space of Application Specific Information that holds the ETSI 014 key_ID.
pub(crate) const NAMESPACE: &str = "qkd014";
/// Vendor attributes of this server start so; clients cannot set them.
pub(crate) const VENDOR_PREFIX: &str = "qkm-";
/// Grade of the key's way here.
pub(crate) const VENDOR_GRADE: &str = "qkm-grade";
/// The QKD link the key comes from.
pub(crate) const VENDOR_LINK: &str = "qkm-link";
/// Encrypt and Decrypt: what a slave may do with a key nobody gave a usage for.
const USAGE: i32 = 0x4 | 0x8;
const DEFAULT_BITS: i32 = 256;
/// The cluster whose pool an Object Group asks for.
pub(crate) fn peer_of(group: &str) -> Option<Result<ClusterId, OpError>> {
    let name = group.strip_prefix(GROUP)?;
    Some(ClusterId::parse(name).map_err(|error| OpError::Denied(error.to_string())))
}

/// The cluster that the object groups in `wanted` ask for; at most one.
pub(crate) fn wanted_peer(wanted: &Wanted) -> Result<Option<ClusterId>, OpError> {
    let mut found = None;
    for attribute in wanted.rest.iter() {
        if let Attribute::ObjectGroup(group) = attribute
            && let Some(peer) = peer_of(group)
            && found.replace(peer?).is_some()
        {
            return Err(OpError::Denied("a key comes from one pool only".to_owned()));
        }
    }
    Ok(found)
}

/// Refuses what only pool keys may say about themselves.
pub(crate) fn refuse_claims(wanted: &Wanted) -> Result<(), OpError> {
    let claims = wanted.rest.iter().any(|attribute| match attribute {
        Attribute::ObjectGroup(group) => group.starts_with(GROUP),
        Attribute::ApplicationSpecificInformation(info) => info.namespace == NAMESPACE,
        _ => false,
    });
    if claims {
        let text = format!("groups {GROUP}… and the name space {NAMESPACE} are of pool keys only");
        return Err(OpError::Denied(text));
    }
    Ok(())
}

/// Draws `count` fresh keys from the pool with `peer` for the caller; each is durable as an object
/// on return. Names are already held by the caller of this function.
pub(crate) async fn draw(
    cx: &Context<'_>,
    peer: &ClusterId,
    wanted: &Wanted,
    count: u32,
) -> Result<Vec<String>, OpError> {
    let master = cx.caller.sae();
    let supply = &cx.server.supply;
    let slaves = supply.registry().partners_at(master, peer);
    if slaves.is_empty() {
        let text = format!("{master} shares keys with no application at {peer}");
        return Err(OpError::Denied(text));
    }
    let bits = wanted.length.unwrap_or(DEFAULT_BITS);
    let size = u32::try_from(bits).unwrap_or(0);
    check_algorithm(wanted, bits)?;
    let mut made = Vec::new();
    for key in supply.issue(master, &slaves, size, count).await? {
        let new = new_object(&key, master, peer, Some(wanted), cx.now);
        cx.objects().create(new, &key.bytes).await?;
        Counters::add(&cx.server.counters.pool_keys);
        tracing::debug!(key = %key.id, %master, %peer, "drawn");
        made.push(key.id.to_string());
    }
    Ok(made)
}

fn check_algorithm(wanted: &Wanted, bits: i32) -> Result<(), OpError> {
    match wanted.algorithm {
        Some(algorithm) => crate::op::create::key_len(algorithm, Some(bits)).map(|_| ()),
        None => Ok(()),
    }
}

/// The caller's object for a pool key: made now when it has not been collected yet. One commit
/// makes the object and marks the key collected, so it is delivered once over all fronts.
pub(crate) async fn collect(cx: &Context<'_>, id: KeyId) -> Result<(Object, Version), OpError> {
    let slave = cx.caller.sae();
    let uid = id.to_string();
    // A second request for the same key waits here and then finds the object.
    let _held = cx.server.locks.hold(vec![format!("key:{slave}:{uid}")]).await;
    if let Some(found) = existing(cx.objects(), slave, &uid).await? {
        return Ok(found);
    }
    let supply = &cx.server.supply;
    let reservation = supply.reserve_one(slave, id)?;
    let tag = id.slice().block.pool;
    let pool = supply.pools().find(|pool| pool.tag() == tag);
    let peer = pool.map(|pool| pool.config().peer.clone());
    let peer = peer.ok_or_else(|| OpError::NotFound(id.to_string()))?;
    let key = reservation.open().await?.pop();
    let key = key.ok_or_else(|| OpError::NotFound(id.to_string()))?;
    let new = new_object(&key, slave, &peer, None, cx.now);
    let (_, records) = cx.objects().prepare(new, &key.bytes).await?;
    reservation.deliver(records).await?;
    Counters::add(&cx.server.counters.pool_keys);
    tracing::debug!(key = %id, %slave, "collected");
    Ok(cx.objects().get(slave, &uid).await?)
}

/// An object that is there already.
pub(crate) async fn existing(
    objects: &Objects,
    owner: &SaeId,
    uid: &str,
) -> Result<Option<(Object, Version)>, OpError> {
    match objects.get(owner, uid).await {
        Ok(found) => Ok(Some(found)),
        Err(ObjectError::NotFound(_)) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn new_object(
    key: &SuppliedKey,
    owner: &SaeId,
    peer: &ClusterId,
    wanted: Option<&Wanted>,
    now: i64,
) -> NewObject {
    let kind = ObjectType::SymmetricKey;
    let mut meta = key.bytes.expose(|bytes| Meta::new(kind, Form::Bytes, bytes, now));
    meta.set_format(KeyFormatType::Raw);
    meta.length = i32::try_from(key.bytes.len() * 8).ok();
    if matches!(key.bytes.len(), 16 | 24 | 32) {
        meta.set_algorithm(CryptographicAlgorithm::Aes);
    }
    meta.usage_mask = Some(USAGE);
    meta.dates.original = Some(now);
    let mut rest = wanted.map(|wanted| wanted.rest.clone()).unwrap_or_default();
    if let Some(wanted) = wanted {
        wanted.apply(&mut meta);
    }
    let group = format!("{GROUP}{peer}");
    if !rest.iter().any(|a| matches!(a, Attribute::ObjectGroup(named) if *named == group)) {
        rest.push(Attribute::ObjectGroup(group));
    }
    rest.push(Attribute::ApplicationSpecificInformation(ApplicationSpecificInformation {
        namespace: NAMESPACE.to_owned(),
        data: Some(key.id.to_string()),
    }));
    NewObject {
        uid: key.id.to_string(),
        owner: owner.clone(),
        state: meta.state_at(ObjectState::PreActive, now),
        provenance: key.provenance.as_ref().clone(),
        attributes: meta.encode(&rest),
        terms: terms::of(kind, &rest),
    }
}

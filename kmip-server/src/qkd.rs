//! Pool keys that become managed objects: drawn by a master (Create, Locate Fresh), collected by a
//! slave (Get and every other operation that names the key's identifier).
//!
//! A key has one identifier at both ends, and several applications may collect it at one cluster,
//! each as an object of its own.

use km_core::{
    clock::now_ms,
    ids::{BadName, ClusterId, SaeId},
    key_id::KeyId,
    material::ClearBytes,
    objects::{NewObject, Object, ObjectError, ObjectState, Objects},
    pool::{CollectError, SuppliedKey},
    provenance::{Origin, Provenance},
    run::MAX_SLAVES,
    store::Version,
    supply::{Supply, SupplyError},
};
use kmip::{
    attribute::{ApplicationSpecificInformation, Attribute, AttributeKind},
    enums::{CryptographicAlgorithm, KeyFormatType, ObjectType},
};

use crate::{
    Counters, Server,
    context::Context,
    error::OpError,
    meta::{Form, Meta},
    terms,
    wanted::Wanted,
};

/// Object Group of the keys shared with a cluster: this and the cluster's ID. With a further `/`
/// and an application there, keys for that application alone.
const GROUP: &str = "qkd/";
/// Name space of Application Specific Information that holds the ETSI 014 key_ID.
pub(crate) const NAMESPACE: &str = "qkd014";
/// Vendor attributes of this server start so; clients cannot set them.
pub(crate) const VENDOR_PREFIX: &str = "qkm-";
/// Whether the key has always been inside the token, or is in this process's memory while used.
pub(crate) const VENDOR_CUSTODY: &str = "qkm-custody";
/// Encrypt and Decrypt: what a slave may do with a key nobody gave a usage for.
const USAGE: i32 = 0x4 | 0x8;
const DEFAULT_BITS: i32 = 256;

/// Whose keys an Object Group asks for.
pub(crate) struct Share {
    peer: ClusterId,
    /// The only application at the peer that may collect; without it, every partner there may.
    slave: Option<SaeId>,
}

impl Share {
    /// `None` when the group is an ordinary one. Neither name can hold a `/`.
    fn parse(group: &str) -> Option<Result<Self, OpError>> {
        let names = group.strip_prefix(GROUP)?;
        let (peer, slave) = match names.split_once('/') {
            Some((peer, slave)) => (peer, Some(slave)),
            None => (names, None),
        };
        let parse = || {
            Ok(Self { peer: ClusterId::parse(peer)?, slave: slave.map(SaeId::parse).transpose()? })
        };
        Some(parse().map_err(|error: BadName| OpError::Denied(error.to_string())))
    }

    /// What the object groups among `attributes` ask for; at most one may name a pool.
    pub(crate) fn asked<'a>(
        attributes: impl IntoIterator<Item = &'a Attribute>,
    ) -> Result<Option<Self>, OpError> {
        let mut found = None;
        for attribute in attributes {
            if let Attribute::ObjectGroup(group) = attribute
                && let Some(share) = Self::parse(group)
                && found.replace(share?).is_some()
            {
                let text = "a key comes from one pool only: name one Object Group of QKD keys";
                return Err(OpError::Denied(text.to_owned()));
            }
        }
        Ok(found)
    }

    /// The applications that may collect what `master` draws.
    fn slaves(&self, supply: &Supply, master: &SaeId) -> Result<Vec<SaeId>, OpError> {
        let peer = &self.peer;
        let mut partners = supply.registry().partners_at(master, peer);
        // One with several homes collects at the first of them only, out of that pool.
        partners.retain(|sae| supply.registry().far_cluster(sae, supply.here()) == Some(peer));
        if let Some(slave) = &self.slave {
            partners.retain(|sae| sae == slave);
        }
        match (&self.slave, partners.len()) {
            (Some(slave), 0) => {
                let text = format!("{master} shares no keys with {slave} at {peer}");
                Err(OpError::Denied(text))
            }
            (None, 0) => {
                let text = format!("{master} shares keys with no application at {peer}");
                Err(OpError::Denied(text))
            }
            (_, many) if many > MAX_SLAVES => {
                let text = format!(
                    "{many} applications at {peer} share keys with {master}, and a key goes to at \
                     most {MAX_SLAVES}; name one of them: {GROUP}{peer}/<SAE ID>"
                );
                Err(OpError::invalid(AttributeKind::ObjectGroup, &text))
            }
            _ => Ok(partners),
        }
    }
}

/// Refuses what only pool keys may say about themselves.
pub(crate) fn refuse_claims(wanted: &Wanted) -> Result<(), OpError> {
    wanted.rest.iter().try_for_each(refuse_claim)
}

/// Refuses an attribute that only pool keys have.
pub(crate) fn refuse_claim(attribute: &Attribute) -> Result<(), OpError> {
    let claims = match attribute {
        Attribute::ObjectGroup(group) => group.starts_with(GROUP),
        Attribute::ApplicationSpecificInformation(info) => info.namespace == NAMESPACE,
        _ => false,
    };
    if claims {
        let text = format!("groups {GROUP}… and the name space {NAMESPACE} are of pool keys only");
        return Err(OpError::Denied(text));
    }
    Ok(())
}

/// Draws `count` fresh keys of `share` for the caller; each is durable as an object on return.
/// Names are already held by the caller of this function.
pub(crate) async fn draw(
    cx: &Context<'_>,
    share: &Share,
    wanted: &Wanted,
    count: u32,
) -> Result<Vec<String>, OpError> {
    let (master, owner) = (cx.caller.application(), cx.caller.tenant());
    let supply = &cx.server.supply;
    let (peer, slaves) = (&share.peer, share.slaves(supply, master)?);
    let bits = wanted.length.unwrap_or(DEFAULT_BITS);
    let size = u32::try_from(bits).unwrap_or(0);
    check_algorithm(wanted, bits)?;
    let draft = Draft { owner, peer, wanted: Some(wanted), now: cx.now };
    let sample = draft.sample(size, supply.limits().max_key_size)?;
    cx.objects().check_room(owner, count.into())?;
    let places = cx.objects().places(&sample, size as usize / 8, count).await?;
    let mut made = Vec::new();
    for (key, place) in supply.issue(master, &slaves, size, count).await?.into_iter().zip(places) {
        cx.objects().create_in(place, draft.object_of(&key), &key.bytes).await?;
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
    cx.turn_comes().await;
    let (slave, owner) = (cx.caller.application(), cx.caller.tenant());
    let uid = id.to_string();
    // A second request for the same key waits here and then finds the object.
    let _held = cx.server.locks.hold(vec![format!("key:{owner}:{uid}")]).await;
    if let Some(found) = existing(cx.objects(), owner, &uid).await? {
        return Ok(found);
    }
    let supply = &cx.server.supply;
    // Where another KM of the cluster leads, that one makes the object.
    if !supply.bring(slave, owner, id).await? {
        make(cx.server, cx.objects(), (slave, owner), id, cx.now).await?;
    }
    Ok(cx.objects().get(owner, &uid).await?)
}

/// As [`make`], once, for another KM.
pub(crate) async fn bring(
    server: &Server,
    (slave, owner): (&SaeId, &SaeId),
    id: KeyId,
) -> Result<(), SupplyError> {
    let uid = id.to_string();
    let _held = server.locks.hold(vec![format!("key:{owner}:{uid}")]).await;
    let now = now_ms() as i64 / 1000;
    let made = match existing(&server.objects, owner, &uid).await {
        Ok(Some(_)) => return Ok(()),
        Ok(None) => make(server, &server.objects, (slave, owner), id, now).await,
        Err(error) => Err(error),
    };
    made.map_err(|error| refusal(error, id))
}

/// Why another KM gets no object made: where nobody leads it asks again, and its client is told of no
/// more than it would be here.
fn refusal(error: OpError, id: KeyId) -> SupplyError {
    match error {
        OpError::NotFound(_) => CollectError::NotFound(vec![id]).into(),
        OpError::NotLed(reason) => SupplyError::NotLed(reason),
        OpError::Quota(text) => SupplyError::Quota(text),
        OpError::Full => SupplyError::Full,
        error => SupplyError::Unavailable(error.to_string()),
    }
}

/// Makes the pool key an object of `owner`, collected by `slave`, where this KM leads.
async fn make(
    server: &Server,
    objects: &Objects,
    (slave, owner): (&SaeId, &SaeId),
    id: KeyId,
    now: i64,
) -> Result<(), OpError> {
    let (reservation, peer) = server.supply.reserve_one(slave, id).await?;
    let key = reservation.open().await?.pop();
    let key = key.ok_or_else(|| OpError::NotFound(id.to_string()))?;
    let new = Draft { owner, peer: &peer, wanted: None, now }.object_of(&key);
    // The object in hand keeps its KEK in use until the records are stored.
    let (_made, records, place) = objects.prepare(new, &key.bytes).await?;
    reservation.deliver(records).await?;
    place.keep();
    Counters::add(&server.counters.pool_keys);
    tracing::debug!(key = %id, %slave, "collected");
    Ok(())
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

/// What a pool key becomes: the same but for the key itself, whichever it will be.
struct Draft<'a> {
    owner: &'a SaeId,
    peer: &'a ClusterId,
    wanted: Option<&'a Wanted>,
    now: i64,
}

impl Draft<'_> {
    /// What a key of `size` bits will be, as far as it is known before there is one. Refuses what
    /// [`Objects`] would refuse.
    fn sample(&self, size: u32, most: u32) -> Result<NewObject, OpError> {
        let blank = ClearBytes::from_vec(vec![0; (size.min(most) / 8) as usize]);
        // As long as a key's identifier.
        let id = Objects::fresh_uid();
        let sample = self.object(id, &blank, Provenance::local(Origin::HsmRng));
        sample.check()?;
        Ok(sample)
    }

    fn object_of(&self, key: &SuppliedKey) -> NewObject {
        self.object(key.id.to_string(), &key.bytes, key.provenance.as_ref().clone())
    }

    fn object(&self, id: String, key: &ClearBytes, provenance: Provenance) -> NewObject {
        let kind = ObjectType::SymmetricKey;
        let mut meta = key.expose(|bytes| Meta::new(kind, Form::Bytes, bytes, self.now));
        meta.set_format(KeyFormatType::Raw);
        meta.length = i32::try_from(key.len() * 8).ok();
        if matches!(key.len(), 16 | 24 | 32) {
            meta.set_algorithm(CryptographicAlgorithm::Aes);
        }
        meta.usage_mask = Some(USAGE);
        meta.dates.original = Some(self.now);
        let mut rest = self.wanted.map(|wanted| wanted.rest.clone()).unwrap_or_default();
        if let Some(wanted) = self.wanted {
            wanted.apply(&mut meta);
        }
        let group = format!("{GROUP}{}", self.peer);
        if !rest.iter().any(|a| matches!(a, Attribute::ObjectGroup(named) if *named == group)) {
            rest.push(Attribute::ObjectGroup(group));
        }
        rest.push(Attribute::ApplicationSpecificInformation(ApplicationSpecificInformation {
            namespace: NAMESPACE.to_owned(),
            data: Some(id.clone()),
        }));
        NewObject {
            uid: id,
            owner: self.owner.clone(),
            state: meta.state_at(ObjectState::PreActive, self.now),
            provenance,
            attributes: meta.encode(&rest),
            terms: terms::of(kind, &rest),
        }
    }
}

#[cfg(test)]
mod tests {
    use km_core::{
        hsm::HsmError,
        ids::{BlockId, PoolTag},
        key_id::Slice,
    };

    use super::*;

    #[test]
    fn another_km_hears_why_no_object_was_made() {
        let block = BlockId { pool: PoolTag::from_bits(1), number: 1 };
        let id = KeyId::of(Slice { block, offset: 0, len: 32 });
        let owner = SaeId::parse("bank").unwrap();
        let quota = || ObjectError::Quota { owner: owner.clone(), objects: 2, bytes: 100 };
        for (here, there) in [
            (
                OpError::from(SupplyError::NotLed("lost".to_owned())),
                SupplyError::NotLed("lost".to_owned()),
            ),
            (quota().into(), SupplyError::Quota(quota().to_string())),
            (HsmError::Full("objects".to_owned()).into(), SupplyError::Full),
        ] {
            assert_eq!(refusal(here.clone(), id), there);
            assert_eq!(OpError::from(there), here, "its client hears the same");
        }
    }
}

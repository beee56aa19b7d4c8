//! Objects that the relay copies to and from other clusters (clause 9.3b). The two applications must be a
//! pair, as for keys of a pool; an operator says which object goes.

use std::sync::Arc;

use async_trait::async_trait;
use aws_lc_rs::constant_time::verify_slices_are_equal;
use km_core::{
    clock::now_ms,
    copies::{Copies, CopyError, Leaving, ObjectCopy, Placed},
    ids::{ClusterId, SaeId},
    key_id::KeyId,
    material::ClearBytes,
    objects::{NewObject, Object},
};

use crate::{
    Server,
    caller::Caller,
    error::OpError,
    meta::{Meta, sha256},
    names, qkd, terms,
};

#[async_trait]
impl Copies for Server {
    async fn leaving(&self, name: &str, to: &SaeId) -> Result<Leaving, CopyError> {
        let registry = self.supply.registry();
        let cluster = registry.far_cluster(to, self.supply.here()).ok_or_else(|| {
            CopyError::NotFound(format!("no application {to} is registered at another cluster"))
        })?;
        let (from, object) = self.named(name, to).await?;
        self.may_leave(&object, cluster)?;
        let clear = self.objects.open(&object).await.map_err(failed)?;
        let grade = registry.grade(from.application(), std::slice::from_ref(to));
        let copy = ObjectCopy {
            uid: object.uid,
            from: from.application().clone(),
            to: to.clone(),
            state: object.state,
            provenance: object.provenance,
            attributes: object.attributes,
        };
        Ok(Leaving { copy, clear, cluster: cluster.clone(), grade })
    }

    async fn arrived(
        &self,
        cluster: &ClusterId,
        copy: ObjectCopy,
        clear: ClearBytes,
    ) -> Result<Placed, CopyError> {
        let registry = self.supply.registry();
        let (from, to) = (&copy.from, &copy.to);
        let paired = registry.authorise(from, to) && registry.is_at(from, cluster);
        let Some(caller) = self.callers.get(to).filter(|_| paired) else {
            let text = format!("{from} and {to} are not registered as a pair at both clusters");
            return Err(CopyError::Refused(text));
        };
        let least = registry.grade(from, std::slice::from_ref(to));
        if copy.provenance.grade() < least {
            let text = format!("policy there asks for grade {}", least.as_str());
            return Err(CopyError::Refused(text));
        }
        self.not_of_a_pool(&copy.uid, |_| true)?;
        self.place(caller.tenant(), copy, &clear).await
    }
}

impl Server {
    /// The object of that Unique Identifier, or else Name, and the application whose it is: one that is
    /// paired with `to`.
    async fn named(&self, name: &str, to: &SaeId) -> Result<(Arc<Caller>, Object), CopyError> {
        let registry = self.supply.registry();
        let callers = self.callers.values();
        let paired = callers.filter(|caller| registry.authorise(caller.application(), to));
        let mut found: Vec<(Arc<Caller>, Object)> = Vec::new();
        for caller in paired {
            let tenant = caller.tenant();
            let mut uids = vec![name.to_owned()];
            let term = terms::name(name);
            uids.extend(self.objects.search(tenant, &term, 2).await.map_err(failed)?);
            for uid in uids {
                let known = found.iter().any(|(_, o)| o.uid == uid);
                let object = qkd::existing(&self.objects, tenant, &uid).await.map_err(failed)?;
                found.extend(object.filter(|_| !known).map(|(object, _)| (caller.clone(), object)));
            }
        }
        match (found.pop(), found.len()) {
            (Some(one), 0) => Ok(one),
            (Some(_), _) => Err(CopyError::NotFound(format!(
                "several objects have the name {name:?}; say the Unique Identifier"
            ))),
            (None, _) => Err(CopyError::NotFound(format!(
                "no application that is paired with {to} has an object {name:?}"
            ))),
        }
    }

    fn may_leave(&self, object: &Object, cluster: &ClusterId) -> Result<(), CopyError> {
        let uid = &object.uid;
        let meta = Meta::of(object).map_err(failed)?;
        let refused = |text: String| Err(CopyError::Refused(text));
        if object.state.is_destroyed() {
            return refused(format!("object {uid} was destroyed"));
        }
        if meta.in_token {
            return refused(format!("object {uid} is a key that never leaves its HSM"));
        }
        if meta.limited {
            return refused(format!("object {uid} has Usage Limits, which a copy would double"));
        }
        self.not_of_a_pool(uid, |peer| peer == cluster)
    }

    /// The key of a pool is never given out twice under its identifier.
    fn not_of_a_pool(&self, uid: &str, with: impl Fn(&ClusterId) -> bool) -> Result<(), CopyError> {
        let Some(key) = KeyId::parse(uid) else { return Ok(()) };
        let tag = key.slice().block.pool;
        let pools = self.supply.pools();
        match pools.iter().find(|pool| pool.tag() == tag && with(&pool.config().peer)) {
            None => Ok(()),
            Some(pool) => Err(CopyError::Refused(format!(
                "{uid} is a key that {} and {} share; it is collected there",
                self.supply.here(),
                pool.config().peer
            ))),
        }
    }

    async fn place(
        &self,
        tenant: &SaeId,
        copy: ObjectCopy,
        clear: &ClearBytes,
    ) -> Result<Placed, CopyError> {
        let uid = copy.uid;
        let mut object = Object {
            uid: uid.clone(),
            owner: tenant.clone(),
            state: copy.state,
            sealed: None,
            provenance: copy.provenance,
            created_ms: now_ms(),
            attributes: copy.attributes,
            terms: Vec::new(),
        };
        Meta::change(&mut object, |meta| meta.dates.changed = now_ms() as i64 / 1000);
        let (meta, rest) = Meta::with_rest(&object).map_err(failed)?;
        let fits = meta.bytes as usize == clear.len()
            && meta.digest.is_none_or(|hash| clear.expose(sha256) == hash)
            && !meta.in_token
            && !copy.state.is_destroyed();
        if !fits {
            return Err(CopyError::Refused(format!("object {uid} is not as it says of itself")));
        }
        let given: Vec<&str> = rest.iter().filter_map(names::of).collect();
        let mut locks: Vec<String> =
            given.iter().map(|name| format!("name:{tenant}/{name}")).collect();
        locks.push(format!("copy:{tenant}:{uid}"));
        let _held = self.locks.hold(locks).await;
        if let Some((old, _)) = qkd::existing(&self.objects, tenant, &uid).await.map_err(failed)? {
            return self.is_there(&old, clear).await;
        }
        for name in given.iter().filter(|_| !self.limits.lenience.shared_names) {
            if names::is_taken(&self.objects, tenant, name, &[]).await.map_err(failed)? {
                let text = format!("another object of {tenant} has the name {name:?} there");
                return Err(CopyError::Refused(text));
            }
        }
        let new = NewObject {
            uid,
            owner: object.owner,
            state: object.state,
            provenance: object.provenance,
            terms: terms::of(meta.kind(), &rest),
            attributes: object.attributes,
        };
        let made = self.objects.create(new, clear).await.map_err(failed)?;
        tracing::info!(uid = made.uid, from = %copy.from, owner = %tenant, "a copy of an object came");
        Ok(Placed::Stored)
    }

    /// The same object, from an earlier time that it was asked for.
    async fn is_there(&self, old: &Object, clear: &ClearBytes) -> Result<Placed, CopyError> {
        if old.state.is_destroyed() {
            return Err(CopyError::Refused(format!("object {} was destroyed there", old.uid)));
        }
        let same = match Meta::of(old).map_err(failed)?.in_token {
            true => false,
            false => {
                let known = self.objects.open(old).await.map_err(failed)?;
                known.expose(|old| clear.expose(|new| verify_slices_are_equal(old, new).is_ok()))
            }
        };
        match same {
            true => Ok(Placed::There),
            false => Err(CopyError::Refused(format!(
                "another object has the identifier {} there",
                old.uid
            ))),
        }
    }
}

fn failed(error: impl Into<OpError>) -> CopyError {
    match error.into() {
        error @ (OpError::Temporary(_) | OpError::NotLed(_) | OpError::Internal(_)) => {
            CopyError::Unavailable(error.to_string())
        }
        error => CopyError::Refused(error.to_string()),
    }
}

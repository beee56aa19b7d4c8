//! Sessions: leases of the engine, each with a key that goes when the lease ends.

use std::time::Duration;

use km_core::store::{Session, SessionId, StoreError};

use super::{
    Engine,
    channel::{CallError, code},
    client::{Patience, is_verdict, refused},
    lease,
    proto::{
        LeaseGrantRequest, LeaseGrantResponse, LeaseKeepAliveResponse, LeaseName,
        LeaseRevokeResponse, PutRequest, Request, RequestOp, TxnRequest, TxnResponse,
    },
};

/// A renewal costs the engine no write: the other members get their turn while the shortest lease lasts.
const RENEWAL: Patience = Patience { within: Duration::from_millis(250), shuns: true };

impl Engine {
    /// Leases last whole seconds, and at least 1.5 times as long as the engine's election timeout. One
    /// whose opening is not confirmed ends by itself.
    pub(super) async fn open_session(&self, ttl: Duration) -> Result<Session, StoreError> {
        let ttl = i64::try_from(ttl.as_millis().div_ceil(1000)).unwrap_or(i64::MAX).max(1);
        let granted: LeaseGrantResponse = self
            .client
            .call("Lease/LeaseGrant", &LeaseGrantRequest { ttl }, true)
            .await
            .map_err(refused)?;
        let session = SessionId(granted.id.unsigned_abs());
        let key = self.keys.session(session).ok_or_else(no_lease)?;
        let put = PutRequest { key, value: Vec::new(), lease: granted.id };
        let success = vec![RequestOp { request: Some(Request::Put(put)) }];
        let request = TxnRequest { success, ..Default::default() };
        let _: TxnResponse = self.client.call("KV/Txn", &request, true).await.map_err(refused)?;
        let granted = Duration::from_secs(granted.ttl.unsigned_abs());
        Ok(Session { id: session, ttl: granted })
    }

    /// Asks the members in turn until one answers.
    pub(super) async fn renew_session(&self, session: SessionId) -> Result<bool, StoreError> {
        let Some(id) = lease(session) else { return Ok(false) };
        let mut tries = self.client.members().len();
        loop {
            tries = tries.saturating_sub(1);
            // A stream of renewals to the engine; ours has one.
            let renewal = LeaseName { id };
            let asked = self.client.try_once("Lease/LeaseKeepAlive", &renewal, RENEWAL).await;
            let answered: Result<LeaseKeepAliveResponse, _> = asked;
            match answered {
                Ok(answer) => return Ok(answer.ttl > 0),
                Err(error) if tries == 0 || is_verdict(&error) => return Err(refused(error)),
                Err(error) => tracing::info!(?error, "another member is asked to renew a lease"),
            }
        }
    }

    pub(super) async fn revoke_session(&self, session: SessionId) -> Result<(), StoreError> {
        let Some(id) = lease(session) else { return Ok(()) };
        let done: Result<LeaseRevokeResponse, _> =
            self.client.call("Lease/LeaseRevoke", &LeaseName { id }, true).await;
        match done {
            Ok(_) | Err(CallError::Status { code: code::NOT_FOUND, .. }) => Ok(()),
            Err(error) => Err(refused(error)),
        }
    }
}

fn no_lease() -> StoreError {
    StoreError::Unavailable("etcd answered without a lease".into())
}

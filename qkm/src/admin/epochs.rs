//! `/v1/hsm/epochs`: the KEK epochs, and the two changes a custodian may make to them.

use std::{fmt, sync::Arc, time::Duration};

use km_core::{
    audit,
    epoch::{Approval, Destruction, EpochError, EpochView, Keeper},
    hsm::KekReceiver,
    records::Records,
};
use serde_json::{Value, json};
use tracing::warn;
use transport::{IdentityRule, PeerIdentity};

use super::problem::Problem;

/// Longest wait for a change; it goes on without who asked.
const WAIT: Duration = Duration::from_secs(25);
/// Most deeds shown, the newest.
const LOG_ENTRIES: usize = 1000;

/// A custodian, by the entry of the configuration that names the certificate.
#[derive(Clone, Debug)]
pub(super) struct Custodian(String);

impl Custodian {
    /// The one way to one. Which certificate an entry fits is the configuration's choice: two
    /// certificates of one entry are one custodian.
    pub(super) fn of(peer: &PeerIdentity, custodians: &[IdentityRule]) -> Result<Self, Problem> {
        let rule = custodians.iter().find(|rule| peer.matches(rule));
        rule.map(|rule| Self(rule.to_string())).ok_or_else(Problem::not_a_custodian)
    }
}

impl fmt::Display for Custodian {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// `GET`: every epoch there ever was.
pub(super) fn list(keeper: &Keeper) -> Value {
    let policy = keeper.epochs().policy();
    let epochs: Vec<Value> = keeper.epochs().list().iter().map(shown).collect();
    json!({
        "epochs": epochs,
        "policy": {
            "max_age_s": policy.max_age.map(|age| age.as_secs()),
            "max_seals": policy.max_seals,
            "approval_window_s": policy.approval_window.as_secs(),
        },
    })
}

fn shown(view: &EpochView) -> Value {
    let EpochView { epoch, seals_used, seen } = view;
    json!({
        "number": epoch.number,
        "kek": epoch.kek.0,
        "state": epoch.state,
        "made_ms": epoch.made_ms,
        "seals": seals_used,
        "records_left": seen.map(|seen| seen.left),
        "records_refused": seen.map(|seen| seen.refused),
        "empty": seen.is_some_and(|seen| seen.empty),
        "approvals": epoch.approvals.iter().map(approval).collect::<Vec<_>>(),
        "destroyed_ms": epoch.destroyed_ms,
    })
}

fn approval(approval: &Approval) -> Value {
    json!({ "operator": approval.operator, "at_ms": approval.at_ms })
}

/// `GET …/log`: who did what to the epochs, and when.
pub(super) async fn log(records: &Records) -> Result<Value, Problem> {
    Ok(json!({ "deeds": audit::list(records, LOG_ENTRIES).await? }))
}

/// `POST`: a new epoch begins.
pub(super) async fn rotate(
    keeper: &Arc<Keeper>,
    body: &[u8],
    who: Custodian,
    peer: &PeerIdentity,
) -> Result<Value, Problem> {
    let wanted = if body.is_empty() { b"{}" } else { body };
    let Wanted { receivers } = serde_json::from_slice(wanted).map_err(|_| Problem::wrong_body())?;
    let count = receivers.len();
    warn!(custodian = %who.0, certificate = %peer, receivers = count, "a new KEK epoch is asked for");
    let epochs = keeper.epochs().clone();
    let made = through(async move {
        match receivers.is_empty() {
            true => Ok((epochs.rotate(&who.0).await?, Vec::new())),
            false => epochs.rotate_for(&who.0, &receivers).await,
        }
    });
    let (made, parcels) = made.await?;
    let (number, kek, state) = (made.number, made.kek.0, made.state);
    Ok(json!({ "number": number, "kek": kek, "state": state, "parcels": parcels }))
}

/// Who else is to hold the KEK of a new epoch.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    #[serde(default)]
    receivers: Vec<KekReceiver>,
}

/// `POST …/{number}/destroy`: one of the two approvals.
pub(super) async fn destroy(
    keeper: &Arc<Keeper>,
    number: &str,
    who: Custodian,
    peer: &PeerIdentity,
) -> Result<Value, Problem> {
    let number: u64 = number.parse().map_err(|_| Problem::no_such_epoch(number))?;
    warn!(epoch = number, custodian = %who.0, certificate = %peer, "its destruction is approved");
    let keeper = keeper.clone();
    let done = through(async move { keeper.destroy(number, &who.0).await }).await?;
    Ok(match done {
        Destruction::Approved { by, until_ms } => json!({
            "number": number,
            "state": "approved",
            "approvals": [approval(&by)],
            "until_ms": until_ms,
        }),
        Destruction::Done(epoch) => json!({
            "number": number,
            "state": epoch.state,
            "approvals": epoch.approvals.iter().map(approval).collect::<Vec<_>>(),
            "destroyed_ms": epoch.destroyed_ms,
        }),
    })
}

/// Runs a change to its end, whether or not the client stays.
pub(super) async fn through<T: Send + 'static>(
    change: impl Future<Output = Result<T, EpochError>> + Send + 'static,
) -> Result<T, Problem> {
    match tokio::time::timeout(WAIT, tokio::spawn(change)).await {
        Ok(Ok(done)) => Ok(done?),
        Ok(Err(_)) | Err(_) => Err(Problem::still_at_it()),
    }
}

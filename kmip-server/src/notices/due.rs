//! Objects whose state a date will change. They are looked for when the server starts, and noted when
//! they are made or changed; enter through [`watch`].

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use km_core::{
    clock::now_ms,
    ids::SaeId,
    objects::{Object, ObjectState, Walk, WalkError},
};
use tokio::sync::Notify;

use super::{Notice, What};
use crate::{Server, meta::Meta, terms};

/// Most dates that are waited for; what is more is told of by nobody.
const MOST: usize = 100_000;
/// Longest sleep: clocks are set, too.
const NAP: Duration = Duration::from_secs(60);
/// Objects read at a time.
const PAGE: usize = 100;

/// When, whose, and which.
type Entry = (i64, SaeId, String);

/// Dates to come.
#[derive(Default)]
pub(super) struct Due {
    dates: Mutex<BTreeSet<Entry>>,
    sooner: Arc<Notify>,
}

fn now() -> i64 {
    i64::try_from(now_ms() / 1000).unwrap_or(i64::MAX)
}

impl Due {
    fn lock(&self) -> MutexGuard<'_, BTreeSet<Entry>> {
        self.dates.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the next date of an object.
    fn expect(&self, object: &Object) {
        let Some(date) = next(object, now()) else { return };
        let mut dates = self.lock();
        if dates.len() >= MOST {
            tracing::warn!(object = object.uid, "too many dates to wait for; this one is not told");
            return;
        }
        let is_first = dates.first().is_none_or(|(first, ..)| date < *first);
        dates.insert((date, object.owner.clone(), object.uid.clone()));
        drop(dates);
        if is_first {
            self.sooner.notify_one();
        }
    }

    /// As [`expect`](Self::expect), of the object as it is now.
    pub(super) async fn expect_of(&self, server: &Server, tenant: &SaeId, uid: &str) {
        if let Ok((object, _)) = server.objects.get(tenant, uid).await {
            self.expect(&object);
        }
    }

    /// Takes out what has come, and says how long it is to the next.
    fn come(&self, now: i64) -> (Vec<Entry>, Duration) {
        let mut dates = self.lock();
        let mut come = Vec::new();
        while dates.first().is_some_and(|(date, ..)| *date <= now) {
            come.extend(dates.pop_first());
        }
        let next = dates.first().map(|(date, ..)| u64::try_from(date - now).unwrap_or(0));
        (come, next.map_or(NAP, |seconds| Duration::from_secs(seconds).min(NAP)))
    }
}

/// The next date that changes the state of `object`.
fn next(object: &Object, now: i64) -> Option<i64> {
    let dates = Meta::of(object).ok()?.dates;
    let later = |date: Option<i64>| date.filter(|date| *date > now);
    match object.state {
        ObjectState::PreActive => {
            let (first, second) = (later(dates.activation), later(dates.deactivation));
            first.into_iter().chain(second).min()
        }
        ObjectState::Active => later(dates.deactivation),
        _ => None,
    }
}

/// Tells what dates bring, as long as there is a server.
pub(super) async fn watch(server: Weak<Server>) {
    if let Some(server) = server.upgrade() {
        look(&server).await;
    }
    loop {
        let Some(server) = server.upgrade() else { return };
        let notices = &server.notices;
        let (come, nap) = notices.due.come(now());
        for (_, tenant, uid) in come {
            let notice = Notice { uid, what: What::Changed(None) };
            notices.note(&server, &tenant, None, vec![notice]).await;
        }
        let sooner = notices.due.sooner.clone();
        // Waits without holding the server.
        drop(server);
        // Either way it looks again.
        let _ = tokio::time::timeout(nap, sooner.notified()).await;
    }
}

/// Looks through the objects of all tenants that are told.
async fn look(server: &Server) {
    for tenant in server.notices.listeners.keys() {
        for term in terms::every_kind() {
            let mut walk = Walk::of(tenant.clone(), vec![term], PAGE);
            loop {
                match walk.next(&server.objects).await {
                    Ok(Some(object)) => server.notices.due.expect(&object),
                    Ok(None) => break,
                    Err(error @ WalkError::Object { .. }) => {
                        tracing::warn!(%tenant, %error, "its dates are not told");
                    }
                    Err(error @ WalkError::Page(_)) => {
                        tracing::warn!(%tenant, %error, "dates of its objects could not be looked for");
                        break;
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_come_in_order_and_once() {
        let (due, tenant) = (Due::default(), SaeId::parse("bank").unwrap());
        for date in [30, 10, 20] {
            due.lock().insert((date, tenant.clone(), format!("at-{date}")));
        }
        assert_eq!(due.come(5), (vec![], Duration::from_secs(5)));
        let (come, nap) = due.come(20);
        let come: Vec<_> = come.into_iter().map(|(_, _, uid)| uid).collect();
        assert_eq!((come, nap), (vec!["at-10".into(), "at-20".into()], Duration::from_secs(10)));
        assert_eq!(due.come(30).0.len(), 1);
        assert_eq!(due.come(1000), (vec![], NAP));
    }
}

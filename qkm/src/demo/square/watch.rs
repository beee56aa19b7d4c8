//! Keys, routes and faults of the running square. Every wait has an end.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use km_core::clock::now_ms;
use serde_json::Value;
use transport::http::HttpClient;
use wiped::Wiped;

use super::{
    super::{
        children,
        selfcheck::{
            End, etsi014_between, etsi014_collect, etsi014_issue, failed, http, kmip_between, names,
        },
    },
    plan::{LINKS, LOW_BITS, Square},
};
use crate::fault::Failure;

/// Longest wait for the next thing to happen.
const PATIENCE: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(100);

pub(super) struct Watch<'a> {
    square: &'a Square,
    controller: HttpClient,
    admin: HttpClient,
}

impl<'a> Watch<'a> {
    /// Sees the network as one of the controllers does, and as north's KM does.
    pub(super) fn new(square: &'a Square, controller: usize) -> Result<Self, Failure> {
        let north = &square.sites()[1];
        Ok(Self {
            square,
            controller: http(&square.operator, &square.controllers[controller].to_string())?,
            admin: http(&square.operator, &north.admin.to_string())?,
        })
    }

    fn end(&self, name: &'static str, sae: &'static str) -> Result<End<'_>, Failure> {
        let found = self.square.site(name).ok_or_else(|| failed(format!("no cluster {name}")));
        found.map(|(site, files)| End::new(site, sae, files))
    }

    fn ends(&self, far: &'static str) -> Result<[End<'_>; 2], Failure> {
        let sae = if far == "south" { "sae-south" } else { "sae-village" };
        Ok([self.end("north", "sae-north")?, self.end(far, sae)?])
    }

    async fn until<T>(
        &self,
        what: &str,
        mut found: impl AsyncFnMut() -> Result<Option<T>, Failure>,
    ) -> Result<T, Failure> {
        let start = Instant::now();
        while start.elapsed() < PATIENCE {
            if let Some(found) = found().await? {
                return Ok(found);
            }
            tokio::time::sleep(PAUSE).await;
        }
        Err(failed(format!("{what}: not within {PATIENCE:?}")))
    }

    pub(super) async fn all_ready(&self) -> Result<(), Failure> {
        for site in self.square.sites() {
            let ready = tokio::time::timeout(PATIENCE, children::ready(site.monitor)).await;
            ready.map_err(|_| failed(format!("{} was not ready in time", site.cluster)))?;
        }
        Ok(())
    }

    async fn ask(&self, client: &HttpClient, path: &str) -> Result<Value, Failure> {
        let (status, body) = client.get(path).await.map_err(failed)?;
        match status {
            200 => serde_json::from_slice(&body).map_err(failed),
            status => Err(failed(format!("{path} answered {status}"))),
        }
    }

    /// All four links make keys, and none is low.
    pub(super) async fn all_live(&self) -> Result<(), Failure> {
        let live = async || {
            let edges = self.ask(&self.controller, "/v1/edges").await?;
            let all = edges["edges"].as_array().cloned().unwrap_or_default();
            let good = |edge: &&Value| edge["feed"] == "live" && edge["low"] == false;
            Ok((all.iter().filter(good).count() == LINKS.len()).then_some(()))
        };
        self.until("all four links in service", live).await
    }

    /// The one middle node of the way from north to south, once all links are there.
    pub(super) async fn settled(&self) -> Result<String, Failure> {
        self.all_live().await?;
        self.until("ways from north to south and to the village", async || {
            let (way, other) = (self.hops_to("south").await?, self.hops_to("village").await?);
            // A way that goes round by the village is from before all links were there.
            let direct = <[String; 2]>::try_from(way).ok().filter(|_| !other.is_empty());
            Ok(direct.map(|[middle, _]| middle))
        })
        .await
    }

    /// The middle node of the best way from north to south, by what north's KM follows.
    pub(super) async fn way(&self) -> Result<String, Failure> {
        Ok(self.hops_to("south").await?.into_iter().next().unwrap_or_default())
    }

    async fn hops_to(&self, far: &str) -> Result<Vec<String>, Failure> {
        let routes = self.ask(&self.admin, "/v1/routes").await?;
        let mut all = routes["routes"].as_array().into_iter().flatten();
        let there = all.find(|ways| ways["to"] == far).map(|ways| &ways["routes"][0]["hops"]);
        let hops = there.and_then(Value::as_array).into_iter().flatten();
        Ok(hops.filter_map(Value::as_str).map(str::to_owned).collect())
    }

    /// Waits until north's KM follows that controller.
    pub(super) async fn followed(&self, controller: usize) -> Result<(), Failure> {
        self.until("north follows the other controller", async || {
            let said = self.ask(&self.admin, "/v1/routes").await?;
            Ok((said["controllers"][controller]["followed"] == true).then_some(()))
        })
        .await
    }

    /// Waits until north and `neighbour` have fewer keys than a pool may have that carries others'.
    pub(super) async fn low(&self, neighbour: &str) -> Result<(), Failure> {
        self.until(&format!("few keys between north and {neighbour}"), async || {
            let pools = self.ask(&self.admin, "/v1/pools").await?;
            let pools = pools["pools"].as_array().cloned().unwrap_or_default();
            let pool = pools.iter().find(|pool| pool["peer"] == neighbour);
            let stored = pool.and_then(|pool| pool["stored_bits"].as_u64());
            Ok(stored.filter(|stored| *stored < LOW_BITS).map(drop))
        })
        .await
    }

    /// Waits until north follows another way than by `old`; the last change must be for `why`. The
    /// new way, and how long it took since `struck`.
    pub(super) async fn moved_from(
        &self,
        old: &str,
        why: &str,
        struck: Instant,
    ) -> Result<(String, Duration), Failure> {
        let new = self
            .until(&format!("a way that is not by {old}, because of {why}"), async || {
                let way = self.way().await?;
                Ok((!way.is_empty() && way != old).then_some(way))
            })
            .await?;
        let took = struck.elapsed();
        let events = self.ask(&self.controller, "/v1/events").await?;
        let all = events["events"].as_array().into_iter().flatten();
        let mut ours = all.filter(|event| {
            event["between"] == serde_json::json!(["north", "south"]) && event["old"][1] == old
        });
        match ours.next_back().map(|event| event["why"].clone()) {
            Some(said) if said == why => Ok((new, took)),
            said => Err(failed(format!("the way by {old} was left for {said:?}, not for {why}"))),
        }
    }

    /// A key for north and `far`, equal at both, that was relayed after this call, and how. With a way
    /// named, by that one, or by one that north's KM came to follow since, for links run low by
    /// themselves; but never by `left`.
    pub(super) async fn fresh_key(
        &self,
        far: &'static str,
        way: Option<&str>,
        left: Option<&str>,
    ) -> Result<(String, String), Failure> {
        let began = now_ms();
        let [north, south] = self.ends(far)?;
        let mut ways: Option<BTreeSet<String>> = way.map(|way| BTreeSet::from([way.to_owned()]));
        self.until(&format!("new keys for {far}"), async || {
            if let Some(ways) = &mut ways {
                ways.extend(Some(self.way().await?).filter(|way| Some(way.as_str()) != left));
            }
            let Some(issued) = etsi014_issue(north, south, 16, 32_768).await? else {
                return Ok(None);
            };
            // Before they are collected: of a block used up at both ends nothing is left to tell.
            let mut found = None;
            for id in names(&issued) {
                if let Some(by) = self.relayed_since(&id, began, ways.as_ref(), far).await? {
                    found = Some((id, by));
                    break;
                }
            }
            let collected = etsi014_collect(north, south, &issued).await?;
            Ok(found.filter(|_| collected))
        })
        .await
    }

    /// The hops and the grade of the pool key `id`, if it was relayed to `far` since `began`, over one of
    /// `ways` alone.
    async fn relayed_since(
        &self,
        id: &str,
        began: u64,
        ways: Option<&BTreeSet<String>>,
        far: &str,
    ) -> Result<Option<String>, Failure> {
        let shown = self.ask(&self.admin, &format!("/v1/keys/{id}")).await?;
        let key = &shown["pool_key"];
        let path: Vec<&str> = key["provenance"]["path"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|hop| hop["to"].as_str())
            .collect();
        let fresh = key["received_ms"].as_u64().unwrap_or_default() >= began;
        let grade = key["provenance"]["grade"].as_str().unwrap_or_default();
        let by = format!("{} ({grade})", path.join(", "));
        let there = ways
            .is_none_or(|ways| matches!(*path, [way, last] if ways.contains(way) && last == far));
        Ok((fresh && there).then_some(by))
    }

    /// A key for north and `far` over KMIP, equal at both.
    pub(super) async fn kmip_key(&self, far: &'static str) -> Result<String, Failure> {
        let [north, far] = self.ends(far)?;
        let start = Instant::now();
        loop {
            match kmip_between(north, far).await {
                // What a pool has just now may be used up.
                Err(failure) if not_yet(&failure) && start.elapsed() < PATIENCE => {
                    tokio::time::sleep(PAUSE).await;
                }
                done => return done,
            }
        }
    }

    /// Switches a fault of the simulated link `id`.
    pub(super) async fn fault(&self, id: &str, fault: &str) -> Result<(), Failure> {
        let at = LINKS.iter().position(|link| link.0 == id);
        let at = at.ok_or_else(|| failed(format!("no link {id}")))?;
        let sim = http(&self.square.sim_admin, &self.square.modules[at][0].to_string())?;
        let body = Wiped::copy_of(fault.as_bytes());
        let (status, _) = sim.post("/api/v1/sim/fault", body).await.map_err(failed)?;
        match status {
            200..300 => Ok(()),
            status => Err(failed(format!("the simulator of {id} answered {status}"))),
        }
    }

    /// Uses up the pool of north and its neighbour, as fast as it goes, until it is dropped.
    pub(super) async fn drain(&self, neighbour: &str) -> Failure {
        let far = match neighbour {
            "east" => self.end("east", "sae-east"),
            _ => self.end("west", "sae-west"),
        };
        let (here, far) = match (self.end("north", "sae-north"), far) {
            (Ok(here), Ok(far)) => (here, far),
            (Err(failure), _) | (_, Err(failure)) => return failure,
        };
        loop {
            for (one, other) in [(here, far), (far, here)] {
                match etsi014_between(one, other, 96, 32_768).await {
                    Ok(Some(_)) => {}
                    Ok(None) => tokio::time::sleep(PAUSE).await,
                    Err(failure) => return failure,
                }
            }
        }
    }
}

fn not_yet(failure: &Failure) -> bool {
    failure.to_string().contains("the server refused")
}

//! Every metric of a running key manager, read from its parts. Enter through [`all`].

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use cluster::{Member, MemberState, roster::Node};
use hsm_profiles::{Breaker, MemberStatus};
use km_core::{
    epoch::EpochState,
    hsm::Custody,
    ids::{ClusterId, LinkId},
    ledger::Ledger,
    pool::{Pool, PoolCounters, PoolView},
    vault::Kind,
};
use qkd_ingest::{LinkCondition, Totals};
use relay::LinkView;
use transport::{HandshakeFailure, ListenerStats};

use super::{Labels, Metric};
use crate::{hardening, serve::Inside};

pub(super) fn all(inside: &Inside) -> Vec<Metric> {
    let mut metrics = process(inside);
    metrics.extend(random(inside));
    metrics.extend(tokens(inside));
    metrics.extend(epochs(inside));
    metrics.extend(cabinet(inside));
    metrics.extend(custodies(inside));
    metrics.extend(cluster(inside));
    metrics.extend(pools(inside));
    metrics.extend(links(inside));
    metrics.extend(relay(inside));
    metrics.extend(modules(inside));
    metrics.extend(listeners(inside));
    metrics.extend(etsi014(inside));
    metrics.extend(kmip(inside));
    metrics
}

fn yes(flag: bool) -> f64 {
    f64::from(u8::from(flag))
}

fn process(inside: &Inside) -> Vec<Metric> {
    let version = vec![("version", env!("CARGO_PKG_VERSION").to_owned())];
    let here = vec![("cluster", inside.node.supply.here().to_string())];
    let ready = inside.health.reasons(&inside.node).is_empty();
    let mut metrics = vec![
        Metric::gauge("qkm_build_info", "Version of this qkm.", vec![(version, 1.0)]),
        Metric::gauge(
            "qkm_ready",
            "1 when the HSM is logged in and the store is open.",
            vec![(here, yes(ready))],
        ),
        Metric::gauge(
            "qkm_store_ready",
            "1 when the store made the last probe durable.",
            vec![(Vec::new(), yes(inside.health.store_ready()))],
        ),
    ];
    if let Some(bytes) = hardening::locked_bytes() {
        metrics.push(Metric::gauge(
            "qkm_memory_locked_bytes",
            "Mapped memory that the kernel may not swap out; 0 when it could not be locked.",
            vec![(Vec::new(), bytes as f64)],
        ));
    }
    if let Some(bytes) = resident_bytes() {
        metrics.push(Metric::gauge(
            "process_resident_memory_bytes",
            "Memory of this process that is in RAM.",
            vec![(Vec::new(), bytes as f64)],
        ));
    }
    metrics
}

fn epochs(inside: &Inside) -> Vec<Metric> {
    let views = inside.node.keeper.epochs().list();
    let in_state = |state| views.iter().filter(move |view| view.epoch.state == state);
    let active = in_state(EpochState::Active).next_back();
    let number = active.map(|view| (Vec::new(), view.epoch.number as f64));
    let seals = active.map(|view| (Vec::new(), view.seals_used as f64));
    let left = in_state(EpochState::Retiring).filter_map(|view| {
        let labels = vec![("epoch", view.epoch.number.to_string())];
        Some((labels, view.seen?.left as f64))
    });
    let refusals = inside.node.objects.vault().refusals();
    let refused = [Kind::Block, Kind::Object]
        .map(|kind| (vec![("record", kind.name().to_owned())], refusals.of(kind)));
    vec![
        Metric::gauge(
            "qkm_epoch_active",
            "Number of the KEK epoch that seals.",
            number.into_iter().collect(),
        ),
        Metric::gauge(
            "qkm_epoch_seals",
            "Seals made under it, or fewer.",
            seals.into_iter().collect(),
        ),
        Metric::gauge(
            "qkm_epoch_records",
            "Records under a retiring epoch when last seen.",
            left.collect(),
        ),
        Metric::counter("qkm_sealed_refused", "Sealed data that did not open.", refused.to_vec()),
    ]
}

fn random(inside: &Inside) -> Vec<Metric> {
    let statuses = inside.node.random.status();
    let of_source = |source: &str| vec![("source", source.to_owned())];
    let well = statuses.iter().map(|s| (of_source(s.source), yes(s.trouble.is_none())));
    let failures = statuses.iter().map(|s| (of_source(s.source), s.failures));
    vec![
        Metric::gauge(
            "qkm_random_source_ready",
            "1 when the source passed its health test at the last draw.",
            well.collect(),
        ),
        Metric::counter(
            "qkm_random_source_failures",
            "Health tests failed and draws without an answer.",
            failures.collect(),
        ),
    ]
}

fn tokens(inside: &Inside) -> Vec<Metric> {
    let members = inside.node.token.members();
    let labels = |member: &MemberStatus| vec![("token", member.name.clone())];
    let ready = members.iter().map(|m| (labels(m), yes(m.status.ready)));
    let open = members.iter().map(|m| (labels(m), yes(m.breaker == Breaker::Open)));
    let restarts = members.iter().map(|m| (labels(m), m.restarts));
    vec![
        Metric::gauge(
            "qkm_hsm_ready",
            "1 when the token answered the last operation or probe, and is used.",
            ready.collect(),
        ),
        Metric::gauge(
            "qkm_hsm_breaker_open",
            "1 when the token does not work and nothing is sent to it.",
            open.collect(),
        ),
        Metric::counter(
            "qkm_hsm_worker_restarts",
            "How often the token's worker process was started again.",
            restarts.collect(),
        ),
    ]
}

fn cabinet(inside: &Inside) -> Vec<Metric> {
    let view = inside.node.cabinet.view();
    let failed_removals = inside.node.cabinet.failed_removals();
    let gauge = |name, help, value: Option<u64>| {
        let sample = value.map(|value| (Vec::new(), value as f64));
        Metric::gauge(name, help, sample.into_iter().collect())
    };
    vec![
        gauge(
            "qkm_token_objects",
            "Blocks and managed objects kept inside the token.",
            Some(view.held),
        ),
        gauge("qkm_token_objects_limit", "Most of them allowed there.", Some(view.most)),
        gauge("qkm_token_free_bytes", "As the token says.", view.room.free_bytes),
        gauge("qkm_token_total_bytes", "As the token says.", view.room.total_bytes),
        gauge(
            "qkm_token_nearly_full",
            "1 when less than a tenth of the objects allowed or of its memory is left.",
            Some(view.nearly_full().is_some().into()),
        ),
        Metric::counter(
            "qkm_token_failed_removals",
            "Objects that the token did not destroy when it should have; each is tried again.",
            vec![(Vec::new(), failed_removals)],
        ),
    ]
}

fn custodies(inside: &Inside) -> Vec<Metric> {
    let all = inside.node.objects.vault().custodies().list();
    let labels = |function: &str, custody: Custody| {
        vec![("function", function.to_owned()), ("custody", custody.name().to_owned())]
    };
    let in_token = all.iter().filter_map(|(function, view)| {
        let best = view.best?;
        Some((vec![("function", (*function).to_owned())], yes(best == Some(Custody::InToken))))
    });
    let uses = all.iter().flat_map(|(function, view)| {
        [
            (labels(function, Custody::InToken), view.in_token),
            (labels(function, Custody::HostTransient), view.host_transient),
        ]
    });
    vec![
        Metric::gauge(
            "qkm_function_in_token",
            "1 when its keys can stay in the token, 0 when the host sees them or cannot do it.",
            in_token.collect(),
        ),
        Metric::counter("qkm_function_uses", "By where the key was.", uses.collect()),
    ]
}

/// Resident memory as the kernel counts it.
fn resident_bytes() -> Option<u64> {
    let kib: u64 = hardening::status_line("VmRSS:")?.strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

fn of_peer(peer: &ClusterId) -> Labels {
    vec![("peer", peer.to_string())]
}

fn pools(inside: &Inside) -> Vec<Metric> {
    let pools: Vec<_> =
        inside.node.supply.pools().into_iter().map(|pool| (pool.clone(), pool.view())).collect();
    type Of<T> = fn(&PoolView) -> T;
    let gauge = |name, help, value: Of<f64>| {
        let samples = pools.iter().map(|(_, view)| (of_peer(&view.peer), value(view)));
        Metric::gauge(name, help, samples.collect())
    };
    let account = |name, help, bits: fn(&Ledger) -> u64| {
        let samples = pools.iter().map(|(_, v)| (of_peer(&v.peer), bits(&v.ledger) / 8));
        Metric::counter(name, help, samples.collect())
    };
    let counter = |name, help, of: fn(&PoolCounters) -> &AtomicU64| {
        let read = |pool: &Pool| of(&pool.counters).load(Relaxed);
        let samples = pools.iter().map(|(pool, view)| (of_peer(&view.peer), read(pool)));
        Metric::counter(name, help, samples.collect())
    };
    vec![
        gauge("qkm_pool_stored_bytes", "Key bytes stored.", |v| v.stored_bits as f64 / 8.0),
        gauge("qkm_pool_own_bytes", "Of these, this end may assign.", |v| v.own_bits as f64 / 8.0),
        gauge("qkm_pool_peer_bytes", "Of these, the peer may assign or has assigned.", |v| {
            v.stored_bits.saturating_sub(v.own_bits) as f64 / 8.0
        }),
        gauge("qkm_pool_blocks", "Blocks stored.", |v| v.blocks as f64),
        gauge("qkm_pool_runs_issuing", "Open runs this end hands out.", |v| v.issuing as f64),
        gauge("qkm_pool_runs_collecting", "Open runs collected here.", |v| v.collecting as f64),
        gauge("qkm_pool_balanced", "1 when the account balances to the bit.", |v| yes(v.balanced)),
        account("qkm_pool_absorbed_bytes", "Key bytes taken in.", |l| l.absorbed),
        account("qkm_pool_delivered_bytes", "Key bytes handed to applications.", |l| l.delivered),
        account("qkm_pool_burned_bytes", "Key bytes erased undelivered.", |l| l.burned),
        account("qkm_pool_rejected_bytes", "Key bytes refused: the ends differed.", |l| l.rejected),
        account("qkm_pool_tag_bytes", "Key bytes spent on authentication tags.", |l| l.tag),
        account("qkm_pool_pad_bytes", "Key bytes spent as one-time pad.", |l| l.pad),
        counter("qkm_pool_blocks_admitted", "Blocks taken in.", |c| &c.blocks_admitted),
        counter("qkm_pool_blocks_rejected", "Blocks refused.", |c| &c.blocks_rejected),
        counter("qkm_pool_runs_leased", "Runs leased at this end.", |c| &c.runs_leased),
        counter("qkm_pool_keys_collected", "Keys collected by ID.", |c| &c.keys_collected),
    ]
}

/// Of a KM that shares its store with others.
fn cluster(inside: &Inside) -> Vec<Metric> {
    let Some(candidate) = &inside.node.candidate else { return Vec::new() };
    let leader = candidate.leader().borrow().clone();
    let led = leader.map(|seat| (vec![("leader", seat.node)], 1.0));
    let (members, nodes) = (inside.health.engine(), inside.health.nodes(None));
    let named = |node: &Node| vec![("node", node.name.clone())];
    let up = |member: &Member| {
        let well = member.state.as_ref().is_ok_and(|state| state.has_leader);
        (vec![("member", member.address.clone())], yes(well))
    };
    let of_state = |value: fn(&MemberState) -> u64| {
        let told = members.iter().filter_map(move |member| {
            let state = member.state.as_ref().ok()?;
            Some((vec![("member", member.address.clone())], value(state) as f64))
        });
        told.collect()
    };
    let (size, used) = (of_state(|state| state.db_bytes), of_state(|state| state.used_bytes));
    let applied = of_state(|state| state.applied);
    vec![
        Metric::gauge(
            "qkm_cluster_leads",
            "1 when this KM leads its cluster.",
            vec![(Vec::new(), yes(inside.node.supply.leads()))],
        ),
        Metric::gauge(
            "qkm_cluster_node_alive",
            "1 when a KM that shares the store told something within the last seconds.",
            nodes.iter().map(|node| (named(node), yes(node.alive))).collect(),
        ),
        Metric::gauge(
            "qkm_cluster_node_ready",
            "1 when it also said that it is ready.",
            nodes
                .iter()
                .map(|node| (named(node), yes(node.alive && node.condition.troubles.is_empty())))
                .collect(),
        ),
        Metric::gauge(
            "qkm_engine_leads",
            "1 for the member of the engine that leads.",
            of_state(|state| u64::from(state.leads)),
        ),
        Metric::gauge("qkm_cluster_led", "1 for the KM that leads.", led.into_iter().collect()),
        Metric::gauge(
            "qkm_engine_member_up",
            "1 when the member of the engine answers and knows a leader.",
            members.iter().map(up).collect(),
        ),
        Metric::gauge("qkm_engine_db_bytes", "Size of the member's database.", size),
        Metric::gauge("qkm_engine_db_used_bytes", "What of it is in use.", used),
        Metric::gauge(
            "qkm_engine_applied_index",
            "How far the member has come in the engine's log: the difference is its lag.",
            applied,
        ),
    ]
}

fn links(inside: &Inside) -> Vec<Metric> {
    let links = inside.links.status();
    let gauge = |name, help, value: fn(&LinkView) -> f64| {
        let samples = links.iter().map(|link| (of_peer(&link.peer), value(link)));
        Metric::gauge(name, help, samples.collect())
    };
    let counter = |name, help, value: fn(&LinkView) -> u64| {
        let samples = links.iter().map(|link| (of_peer(&link.peer), value(link)));
        Metric::counter(name, help, samples.collect())
    };
    vec![
        gauge("qkm_link_up", "1 when messages to the peer KM get through.", |l| yes(l.up)),
        gauge("qkm_link_blocks_in_flight", "Blocks being agreed.", |l| l.in_flight as f64),
        counter("qkm_link_connections", "Connections made to the peer KM.", |l| l.connections),
        counter("qkm_link_blocks_agreed", "Blocks both ends proved equal.", |l| l.agreed),
        counter("qkm_link_blocks_mismatched", "Blocks that differed.", |l| l.mismatched),
        counter("qkm_link_blocks_given_up", "Blocks given up otherwise.", |l| l.given_up),
        counter("qkm_link_tampered", "Signs of somebody in the middle.", |l| l.tampered),
        counter("qkm_relay_batches_sent", "Batches of relayed keys sent on.", |l| l.hops_sent),
        counter("qkm_relay_sent_bytes", "Key bytes in them.", |l| l.hop_bytes_sent),
        counter("qkm_relay_batches_opened", "Batches that came and opened.", |l| l.hops_opened),
        counter("qkm_relay_opened_bytes", "Key bytes in them.", |l| l.hop_bytes_opened),
        counter("qkm_relay_batches_refused", "Batches that did not open.", |l| l.hops_refused),
    ]
}

fn relay(inside: &Inside) -> Vec<Metric> {
    let Some(view) = inside.links.relay() else { return Vec::new() };
    let gauge =
        |name, help, value: usize| Metric::gauge(name, help, vec![(Vec::new(), value as f64)]);
    let counter = |name, help, value| Metric::counter(name, help, vec![(Vec::new(), value)]);
    vec![
        gauge("qkm_relay_batches_passing", "Batches of others passing through.", view.passing),
        gauge("qkm_relay_batches_arrived", "Batches to be agreed on here.", view.arrived),
        counter("qkm_relay_batches_fetched", "Own batches that arrived.", view.fetched),
        counter("qkm_relay_batches_lost", "Own batches that were lost.", view.lost),
    ]
}

fn modules(inside: &Inside) -> Vec<Metric> {
    let of_link = |link: &LinkId, peer: &ClusterId| -> Labels {
        vec![("link", link.to_string()), ("peer", peer.to_string())]
    };
    let all: Vec<_> = inside
        .links
        .modules
        .iter()
        .map(|(link, peer, m)| (of_link(link, peer), m.counters().totals(), m.status()))
        .collect();
    let counter = |name, help, value: fn(&Totals) -> u64| {
        let samples = all.iter().map(|(labels, totals, _)| (labels.clone(), value(totals)));
        Metric::counter(name, help, samples.collect())
    };
    let reachable = all.iter().map(|(labels, _, s)| (labels.clone(), yes(s.reachable)));
    let stored =
        all.iter().filter_map(|(labels, _, s)| Some((labels.clone(), s.stored_bits? as f64 / 8.0)));
    let reports = || all.iter().filter_map(|(l, _, s)| Some((l.clone(), s.link.as_ref()?)));
    let light = reports().map(|(l, r)| (l, yes(r.condition == LinkCondition::Up)));
    let rate = reports().filter_map(|(l, r)| Some((l, r.key_rate_bps? / 8.0)));
    let qber = reports().filter_map(|(l, r)| Some((l, r.qber?)));
    vec![
        counter("qkm_qkd_keys_taken", "Keys taken from our module.", |t| t.keys_taken),
        counter("qkm_qkd_taken_bytes", "Their bytes.", |t| t.bytes_taken),
        counter("qkm_qkd_keys_collected", "Keys collected by ID.", |t| t.keys_collected),
        counter("qkm_qkd_collected_bytes", "Their bytes.", |t| t.bytes_collected),
        counter("qkm_qkd_keys_duplicate", "Keys dropped: ID came before.", |t| t.duplicates),
        counter("qkm_qkd_keys_bad", "Keys dropped: unusable.", |t| t.bad_keys),
        counter("qkm_qkd_errors", "Requests without a usable answer.", |t| t.errors),
        counter("qkm_qkd_reconnects", "Recoveries after errors.", |t| t.reconnects),
        Metric::gauge(
            "qkm_qkd_module_reachable",
            "1 when our module answers.",
            reachable.collect(),
        ),
        Metric::gauge("qkm_qkd_module_stored_bytes", "Ready at our module.", stored.collect()),
        Metric::gauge("qkm_qkd_link_up", "1 when the link makes keys.", light.collect()),
        Metric::gauge("qkm_qkd_secret_key_bytes_per_second", "Secret key rate.", rate.collect()),
        Metric::gauge("qkm_qkd_qber_ratio", "Quantum bit error rate.", qber.collect()),
    ]
}

fn listeners(inside: &Inside) -> Vec<Metric> {
    let each = inside.fronts.stats.each();
    let of_front = |front: &str| -> Labels { vec![("front", front.to_owned())] };
    let counter = |name, help, of: fn(&ListenerStats) -> &AtomicU64| {
        let read = |stats: &ListenerStats| of(stats).load(Relaxed);
        let samples = each.iter().map(|(front, stats)| (of_front(front), read(stats)));
        Metric::counter(name, help, samples.collect())
    };
    let active = each.iter().map(|(front, s)| (of_front(front), s.active.load(Relaxed) as f64));
    let failures = each.iter().flat_map(|(front, stats)| {
        HandshakeFailure::ALL.into_iter().map(|kind| {
            let mut labels = of_front(front);
            labels.push(("reason", kind.name().to_owned()));
            (labels, stats.failures(kind))
        })
    });
    vec![
        counter("qkm_front_connections", "Connections accepted.", |s| &s.accepted),
        counter("qkm_front_connections_refused", "Over the limit.", |s| &s.refused_by_cap),
        counter("qkm_front_handshakes", "TLS handshakes completed.", |s| &s.handshakes),
        counter("qkm_front_handshakes_resumed", "Of these, resumed.", |s| &s.resumed),
        counter("qkm_front_accept_errors", "Failures to accept.", |s| &s.accept_errors),
        Metric::gauge("qkm_front_connections_active", "Connections open.", active.collect()),
        Metric::counter("qkm_front_handshake_failures", "By reason.", failures.collect()),
    ]
}

fn etsi014(inside: &Inside) -> Vec<Metric> {
    let counts = inside.fronts.etsi014.counters();
    vec![
        one("qkm_etsi014_keys_issued", "Keys issued by enc_keys.", &counts.issued),
        one("qkm_etsi014_keys_collected", "Keys collected by dec_keys.", &counts.collected),
        one("qkm_etsi014_unauthorized", "Answers 401.", &counts.unauthorized),
        one("qkm_etsi014_unavailable", "Answers 503.", &counts.unavailable),
        one("qkm_etsi014_refused", "Other refusals.", &counts.refused),
    ]
}

fn kmip(inside: &Inside) -> Vec<Metric> {
    let counts = inside.fronts.kmip.counters();
    vec![
        one("qkm_kmip_requests", "Requests read.", &counts.requests),
        one("qkm_kmip_items_done", "Batch items done.", &counts.done),
        one("qkm_kmip_items_refused", "Batch items refused.", &counts.refused),
        one("qkm_kmip_unauthenticated", "Requests of strangers.", &counts.unauthenticated),
        one("qkm_kmip_malformed", "Frames that could not be read.", &counts.malformed),
        one("qkm_kmip_pool_keys", "Pool keys that became objects.", &counts.pool_keys),
        one("qkm_kmip_told", "Notices applications took (Notify, Put).", &counts.told),
        one("qkm_kmip_untold", "Notices that were given up.", &counts.untold),
    ]
}

fn one(name: &'static str, help: &'static str, count: &AtomicU64) -> Metric {
    Metric::counter(name, help, vec![(Vec::new(), count.load(Relaxed))])
}

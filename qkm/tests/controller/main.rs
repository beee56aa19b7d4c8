//! The controller over its sockets, with KMs that are certificates and reports. Whole KMs report to
//! it in `qkm/tests/square.rs`.
#![allow(clippy::unwrap_used)]

mod place;

use std::time::{Duration, Instant};

use control::{Directions, report::Report};
use place::{Place, best, get, name, post, report, tell, to_d, until, watch};
use serde_json::{Value, json};
use transport::http::HttpClient;

/// Why routes change, and what b's KM tells before.
type Cause = (&'static str, fn(&mut Report));

/// The four causes of 7.1.2, of which the second has two.
fn causes() -> [Cause; 5] {
    [
        ("low-keys", |report| to_d(report).stock_bits = 1000),
        ("km-fault", |report| report.trouble = Some("the HSM is away".to_owned())),
        ("km-link-fault", |report| to_d(report).up = false),
        ("high-qber", |report| to_d(report).qkd[0].qber = Some(0.11)),
        ("module-fault", |report| to_d(report).qkd[0].module_well = false),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_km_that_waits_has_its_new_route_within_a_second_of_each_cause() {
    for (why, strike) in causes() {
        let place = Place::new();
        let running = place.start().await;
        let kms = ["a", "b", "c", "d"].map(|km| (km, place.client(km)));
        for (km, client) in &kms {
            tell(client, &report(km)).await;
        }
        let waiting = place.client("a");
        let now: Directions = get(&waiting, "/v1/directions").await;
        assert_eq!((best(&now), now.qkd[&name("b")].as_str()), ("b d".to_owned(), "a-b"));
        let held = tokio::spawn(async move {
            let path = format!("/v1/directions?have={}", now.tag());
            (get::<Directions>(&waiting, &path).await, Instant::now())
        });
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert!(!held.is_finished(), "nothing changed, nothing is said");
        let mut struck = report("b");
        strike(&mut struck);
        let at = Instant::now();
        tell(&kms[1].1, &struck).await;
        let (after, heard) = held.await.unwrap();
        assert_eq!(best(&after), "c d", "{why}");
        println!("{why}: routes are there after {:?}", heard - at);
        assert!(heard - at < Duration::from_secs(1), "{why}: {:?}", heard - at);
        let operator = place.client("operator");
        let events: Value = get(&operator, "/v1/events").await;
        let last = events["events"].as_array().unwrap().last().unwrap().clone();
        assert_eq!(last["why"], why);
        running.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_km_speaks_for_itself_alone_and_only_operators_give_orders() {
    let place = Place::new();
    let running = place.start().await;
    let (a, stranger, operator) =
        (place.client("a"), place.client("stranger"), place.client("operator"));
    let of_b = serde_json::to_value(report("b")).unwrap();
    assert_eq!(post(&a, "/v1/report", &of_b).await.0, 403);
    assert_eq!(post(&stranger, "/v1/report", &of_b).await.0, 403);
    assert_eq!(post(&operator, "/v1/report", &of_b).await.0, 403);
    assert_eq!(stranger.get("/v1/directions").await.unwrap().0, 403);
    assert_eq!(stranger.get("/v1/components").await.unwrap().0, 403);
    let order = json!({ "component": "km/b", "step": "suspend" });
    assert_eq!(post(&a, "/v1/components", &order).await.0, 403);
    assert_eq!(post(&operator, "/v1/components", &order).await.0, 409, "not reported yet");
    let twice = json!({ "between": ["a", "d"], "via": ["a"] });
    assert_eq!(post(&operator, "/v1/pins", &twice).await.0, 400);
    assert_eq!(post(&operator, "/v1/pins", &json!({ "betwixt": 1 })).await.0, 400);
    let parts: Value = get(&operator, "/v1/components").await;
    assert_eq!(parts["components"], json!([]));
    running.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn orders_outlive_the_controller() {
    let place = Place::new();
    let operator = place.client("operator");
    let kms = ["a", "b", "c", "d"].map(|km| (km, place.client(km)));
    let running = place.start().await;
    for (km, client) in &kms {
        tell(client, &report(km)).await;
    }
    let order = json!({ "component": "km-link/b~d", "step": "suspend" });
    let (status, answer) = post(&operator, "/v1/components", &order).await;
    assert_eq!((status, answer["state"].as_str()), (200, Some("out of service (suspended)")));
    running.end().await;

    let running = place.start().await;
    // A KM asks before anybody reported: it is told nothing rather than to drop its routes.
    let waiting = place.client("a");
    let held =
        tokio::spawn(async move { get::<Directions>(&waiting, "/v1/directions?have=").await });
    for (km, client) in &kms[..3] {
        tell(client, &report(km)).await;
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!held.is_finished(), "d did not report yet");
    tell(&kms[3].1, &report("d")).await;
    let now = held.await.unwrap();
    assert_eq!((best(&now), now.table.routes(&name("d")).len()), ("c d".to_owned(), 1));
    running.end().await;
}

async fn suspended(client: &HttpClient) -> bool {
    let parts: Value = get(client, "/v1/components").await;
    let parts = parts["components"].as_array().unwrap().clone();
    parts.iter().any(|it| it["component"] == "qkd-link/a-b" && it["state"] != "in service")
}

#[tokio::test(flavor = "multi_thread")]
async fn probes_and_prometheus_see_whether_it_is_ready_and_how_the_network_is() {
    let monitor = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut place = Place::new();
    place.more = format!("[monitor]\nlisten = \"{monitor}\"\n");
    let running = place.start().await;
    let kms = ["a", "b", "c", "d"].map(|km| (km, place.client(km)));
    for (km, client) in &kms[..3] {
        tell(client, &report(km)).await;
    }
    assert_eq!(watch(monitor, "/healthz").await.0, 200);
    let (status, why) = watch(monitor, "/readyz").await;
    assert_eq!((status, why.as_str()), (503, "waits for the KM of d\n"));
    tell(&kms[3].1, &report("d")).await;
    assert_eq!(watch(monitor, "/readyz").await, (200, "ready\n".to_owned()));
    let mut cut = report("b");
    to_d(&mut cut).up = false;
    tell(&kms[1].1, &cut).await;
    let (_, seen) = watch(monitor, "/metrics").await;
    for line in [
        "qkm_controller_ready 1",
        "qkm_controller_components{kind=\"km\",state=\"in service\"} 4",
        "qkm_controller_components{kind=\"km-link\",state=\"out of service\"} 1",
        "qkm_controller_pairs{way=\"yes\"} 5",
        "qkm_controller_pairs{way=\"no\"} 0",
        "qkm_controller_route_changes_total{why=\"KM link fault\"} 2",
        "qkm_controller_link_stock_bytes{link=\"a~b\"} 8388608",
        "qkm_controller_link_rate_bits_per_second{link=\"a~b\"} 100000",
        "qkm_controller_link_low{link=\"c~d\"} 0",
        "qkm_controller_table_followed{cluster=\"a\"} 0",
    ] {
        assert!(
            seen.lines().any(|told| told == line || told == format!("{line}.0")),
            "{line}\n{seen}"
        );
    }
    std::fs::create_dir(place.dir.path().join("orders.json")).unwrap();
    let operator = place.client("operator");
    let order = json!({ "component": "km/a", "step": "suspend" });
    assert_eq!(post(&operator, "/v1/components", &order).await.0, 500);
    let (status, why) = watch(monitor, "/readyz").await;
    assert_eq!((status, why.as_str()), (503, "orders of operators are not on disk\n"));
    running.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_given_to_one_controller_holds_at_the_other() {
    let places = Place::pair();
    let mut running = Vec::new();
    for place in &places {
        running.push(place.start().await);
    }
    let operators = places.each_ref().map(|place| place.client("operator"));
    let kms = ["a", "b", "c", "d"].map(|km| (km, places.each_ref().map(|place| place.client(km))));
    for (km, clients) in &kms {
        for client in clients {
            tell(client, &report(km)).await;
        }
    }
    assert_eq!(kms[0].1[1].get("/v1/orders").await.unwrap().0, 403, "not for KMs");
    let order = |step| json!({ "component": "qkd-link/a-b", "step": step });
    assert_eq!(post(&operators[0], "/v1/components", &order("suspend")).await.0, 200);
    until("the other hears it", async || suspended(&operators[1]).await).await;
    let told: Directions = get(&kms[0].1[1], "/v1/directions").await;
    assert_eq!((best(&told), told.withheld.len()), ("c d".to_owned(), 1));

    // It is kept there too: the first one goes for good.
    running.remove(0).end().await;
    running.remove(0).end().await;
    let second = places[1].start().await;
    for (km, clients) in &kms {
        tell(&clients[1], &report(km)).await;
    }
    assert!(suspended(&operators[1]).await);
    assert_eq!(post(&operators[1], "/v1/components", &order("resume")).await.0, 200);
    assert!(!suspended(&operators[1]).await);

    // The first comes back with the order on its disk: what was given back stays so.
    let first = places[0].start().await;
    for (km, clients) in &kms {
        tell(&clients[0], &report(km)).await;
    }
    until("the first hears the other", async || !suspended(&operators[0]).await).await;
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert!(!suspended(&operators[1]).await);
    first.end().await;
    second.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_that_is_not_on_disk_is_no_success() {
    let place = Place::new();
    let running = place.start().await;
    let (a, operator) = (place.client("a"), place.client("operator"));
    tell(&a, &report("a")).await;
    // A directory stands where the file goes.
    std::fs::create_dir(place.dir.path().join("orders.json")).unwrap();
    let order = json!({ "component": "km/a", "step": "suspend" });
    let pin = json!({ "between": ["a", "d"], "via": ["c"] });
    let unpin = json!({ "between": ["a", "d"] });
    for (path, order) in [("/v1/components", &order), ("/v1/pins", &pin), ("/v1/unpin", &unpin)] {
        let (status, answer) = post(&operator, path, order).await;
        assert_eq!((status, answer["code"].as_str()), (500, Some("QKM-N001")), "{path} {answer}");
    }
    running.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_commands_of_routes_and_links_ask_the_controller() {
    let place = Place::new();
    let running = place.start().await;
    let kms = ["a", "b", "c", "d"].map(|km| (km, place.client(km)));
    for (km, client) in &kms {
        tell(client, &report(km)).await;
    }
    drop(place.client("operator"));
    let file = place.file();
    let qkm = |arguments: &[&str]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_qkm"));
        let done = command.args(arguments).arg("--config").arg(&file).output().unwrap();
        let said = String::from_utf8_lossy(&done.stdout).into_owned();
        assert!(done.status.success(), "{said}{}", String::from_utf8_lossy(&done.stderr));
        said
    };
    tokio::task::block_in_place(|| {
        assert!(qkm(&["route", "show"]).contains("a > b > d"));
        assert_eq!(qkm(&["route", "pin", "a", "d", "--via", "c"]), "pinned\n");
        assert!(qkm(&["route", "show"]).contains("a > c > d"));
        let why: Value =
            serde_json::from_str(&qkm(&["route", "explain", "d", "a", "-o", "json"])).unwrap();
        assert_eq!(why["best"]["way"], json!(["a", "c", "d"]));
        assert_eq!(why["latest_changes"][0]["why"], "policy");
        assert_eq!(why["ways"]["routes"].as_array().unwrap().len(), 2, "{why}");
        assert_eq!(qkm(&["route", "unpin", "a", "d"]), "no longer pinned\n");
        let said = qkm(&["link", "suspend", "km-link/a~c"]);
        assert!(said.contains("out of service (suspended)"), "{said}");
        assert!(qkm(&["route", "show"]).contains("a > b > d"));
        assert!(qkm(&["link", "resume", "km-link/a~c"]).contains("km-link/a~c is in service"));
    });
    running.end().await;
}

//! What makes a key manager not ready, and that it says so.

use std::{
    io::{Read, Write},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use qkm::demo::Site;

use crate::common::{self, Network, await_ready, get, text};

/// What `/readyz` says once the key manager of `site` is not ready any more.
async fn reasons(site: &Site) -> String {
    let started = std::time::Instant::now();
    loop {
        let (status, reasons) = get(site.monitor, "/readyz").unwrap();
        if status == 503 {
            return reasons;
        }
        assert!(started.elapsed() < common::PATIENCE, "{} is still ready", site.cluster);
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_cannot_write_makes_it_not_ready_until_it_can() {
    let network = Network::running().await;
    let north = &network.layout.north;
    let config = qkm::config::Config::load(&north.config).unwrap();
    // Who holds SQLite's write lock lets others read, and nobody write.
    let other = rusqlite::Connection::open(config.store_file()).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let reasons = reasons(north).await;
    assert!(reasons.contains("store: ") && !reasons.contains("HSM"), "{reasons}");
    let (_, metrics) = get(north.monitor, "/metrics").unwrap();
    assert!(metrics.contains("qkm_ready{cluster=\"north\"} 0"), "{metrics}");
    other.execute_batch("ROLLBACK").unwrap();
    await_ready(north).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_token_makes_it_not_ready_but_alive() {
    let network = Network::running().await;
    let north = &network.layout.north;
    let tokens = north.softhsm_conf.with_file_name("softhsm");
    std::fs::rename(&tokens, tokens.with_extension("away")).unwrap();
    let reasons = reasons(north).await;
    assert!(reasons.contains("HSM token \"north\"") && !reasons.contains("store"), "{reasons}");
    assert_eq!(get(north.monitor, "/healthz").unwrap(), (200, "alive\n".to_owned()));
    let (_, metrics) = get(north.monitor, "/metrics").unwrap();
    assert!(metrics.contains("qkm_hsm_ready{token=\"north\"} 0"), "{metrics}");
    assert!(metrics.contains("qkm_ready{cluster=\"north\"} 0"), "{metrics}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_qrng_that_fails_its_health_test_makes_it_not_ready_until_it_is_well() {
    let mut network = Network::provisioned();
    let north = &network.layout.north;
    let device = network.dir.path().join("qrng0");
    assert!(Command::new("mkfifo").arg(&device).status().unwrap().success());
    let entry = format!("\n[random.qrng]\npath = {device:?}\nmin_entropy = 7.5\n");
    std::fs::OpenOptions::new()
        .append(true)
        .open(&north.config)
        .unwrap()
        .write_all(entry.as_bytes())
        .unwrap();
    let stuck = Arc::new(AtomicBool::new(false));
    let (at, is_stuck) = (device.clone(), stuck.clone());
    std::thread::spawn(move || {
        let mut noise = std::fs::File::open("/dev/urandom").unwrap();
        // Each start and each failure opens the device anew.
        loop {
            let mut pipe = std::fs::OpenOptions::new().write(true).open(&at).unwrap();
            let mut bytes = [0; 512];
            loop {
                noise.read_exact(&mut bytes).unwrap();
                if is_stuck.load(Relaxed) {
                    bytes.fill(0x55);
                }
                if pipe.write_all(&bytes).is_err() {
                    break;
                }
            }
        }
    });
    network.north = Some(network.serve(north));
    await_ready(north).await;
    let doctor = text(&network.cli(north, &["doctor"]).stdout);
    assert!(doctor.contains("random source qrng: passes its health test"), "{doctor}");
    stuck.store(true, Relaxed);
    // What still waits in the FIFO is good.
    let mut waiting = vec![0; 128 << 10];
    std::fs::File::open(&device).unwrap().read_exact(&mut waiting).unwrap();
    let reasons = reasons(north).await;
    assert!(reasons.contains("`qrng` failed its health test"), "{reasons}");
    let (_, metrics) = get(north.monitor, "/metrics").unwrap();
    assert!(metrics.contains("qkm_random_source_ready{source=\"qrng\"} 0"), "{metrics}");
    assert!(metrics.contains("qkm_random_source_ready{source=\"token\"} 1"), "{metrics}");
    assert!(network.read_log("north").contains("random-source"), "the alarm is in the log");
    stuck.store(false, Relaxed);
    await_ready(north).await;
}

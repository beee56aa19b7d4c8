//! Seals and opens in the token through its worker process, against the same PKCS#11 calls in a plain loop:
//! with one thread or as many as there are callers, whichever does more. (SoftHSM's locks make more threads
//! slower.)

use std::collections::BTreeMap;
use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use hsm_profiles::{PinSource, Program, Spread, Token, TokenConfig, TokenSelector};
use km_core::{
    hsm::{Hsm, Sealed},
    material::ClearBytes,
};
use qkm::demo::Site;
use qkm_tests::load::{
    Figures, Script,
    direct::{Direct, SEAL_AAD},
    report::Report,
};

/// This program as the worker process of the token.
const ROLE: &str = "--hsm-worker";
/// Message lengths in bytes.
const LENGTHS: [usize; 3] = [256, 4096, 65_536];

/// Whether this process is the worker; then it has served.
pub(crate) fn role() -> bool {
    let is_worker = std::env::args().any(|arg| arg == ROLE);
    if is_worker {
        hsm_profiles::serve_worker().expect("the worker serves");
    }
    is_worker
}

struct Seals(Arc<Token>, Arc<ClearBytes>);

impl Script for Seals {
    async fn step(&mut self) -> Result<u64, String> {
        let sealed = self.0.seal(SEAL_AAD, &self.1).await;
        sealed.map(|sealed| drop(black_box(sealed))).map(|()| 1).map_err(|e| e.to_string())
    }
}

struct Opens(Arc<Token>, Arc<Sealed>);

impl Script for Opens {
    async fn step(&mut self) -> Result<u64, String> {
        let clear = self.0.open(SEAL_AAD, &self.1).await;
        clear.map(|clear| drop(black_box(clear))).map(|()| 1).map_err(|e| e.to_string())
    }
}

pub(crate) async fn rows(report: &mut Report, site: &Site, time: Duration) {
    let (token, pid) = (token(site).await, std::process::id());
    // The CPU time is that of both processes, callers included.
    let mut add = async |what: Direct, (name, callers): (&str, usize), done: (Figures, f64)| {
        let alone = |threads| what.per_second(&site.softhsm_conf, &site.pin_file, threads, time);
        let best = if callers > 1 { alone(1).max(alone(callers)) } else { alone(1) };
        let (figures, used_us) = done;
        report.against(&format!("{name}@{callers}"), figures.per_second(), "1/s", best);
        let each = used_us / figures.operations.max(1) as f64;
        report.add(&format!("{name}@{callers}.cpu"), each, "us/op");
    };
    for len in LENGTHS {
        let clear = Arc::new(ClearBytes::from_vec(vec![7; len]));
        let sealed = Arc::new(token.seal(SEAL_AAD, &clear).await.expect("the token seals"));
        for callers in super::CONNECTIONS {
            let each = (0..callers).map(|_| Seals(Arc::clone(&token), Arc::clone(&clear)));
            let done = super::loaded(each.collect(), pid, time).await;
            add(Direct::Seal(len), (&format!("seal_{len}_per_s"), callers), done).await;
            let each = (0..callers).map(|_| Opens(Arc::clone(&token), Arc::clone(&sealed)));
            let done = super::loaded(each.collect(), pid, time).await;
            add(Direct::Open(len), (&format!("open_{len}_per_s"), callers), done).await;
        }
    }
}

/// The token of a site once more, with a KEK of its own.
async fn token(site: &Site) -> Arc<Token> {
    let conf = site.softhsm_conf.display().to_string();
    let config = TokenConfig {
        library: None,
        profile: "softhsm2".to_owned(),
        token: TokenSelector::Label(site.token.clone()),
        pin: PinSource::File(site.pin_file.clone()),
        kek_label: "bench-".to_owned(),
        create_kek: true,
        sessions: None,
        deadline_ms: 10_000,
        env: BTreeMap::from([("SOFTHSM2_CONF".to_owned(), conf)]),
        memory_mib: None,
        name: None,
        member: Vec::new(),
        spread: Spread::default(),
    };
    let path = std::env::current_exe().expect("own path");
    let program = Program { path, arguments: vec![ROLE.into()] };
    Token::start(config, program).await.expect("the token opens")
}

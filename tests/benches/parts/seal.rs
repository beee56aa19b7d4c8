//! Seals and opens in the token through its worker process, against the same PKCS#11 calls in a plain loop
//! with as many threads as there are callers.

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
    Script, closed_loop,
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
    let token = token(site).await;
    for len in LENGTHS {
        let clear = Arc::new(ClearBytes::from_vec(vec![7; len]));
        let sealed = Arc::new(token.seal(SEAL_AAD, &clear).await.expect("the token seals"));
        for callers in super::CONNECTIONS {
            let alone =
                |what: Direct| what.per_second(&site.softhsm_conf, &site.pin_file, callers, time);
            let each = (0..callers).map(|_| Seals(Arc::clone(&token), Arc::clone(&clear)));
            let done = closed_loop(each.collect(), time).await.per_second();
            let name = format!("seal_{len}_per_s@{callers}");
            report.against(&name, done, "1/s", alone(Direct::Seal(len)));
            let each = (0..callers).map(|_| Opens(Arc::clone(&token), Arc::clone(&sealed)));
            let done = closed_loop(each.collect(), time).await.per_second();
            let name = format!("open_{len}_per_s@{callers}");
            report.against(&name, done, "1/s", alone(Direct::Open(len)));
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

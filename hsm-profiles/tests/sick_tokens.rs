//! Tokens that hang in one session, do what they say they did not or give what is not random:
//! SoftHSM behind a library that does so (`tests/p11-shim`).

#![allow(clippy::unwrap_used, clippy::panic)]

mod common;
#[path = "../../testkit/p11_shim.rs"]
#[allow(dead_code, unreachable_pub)]
mod p11_shim;

use std::sync::Arc;
use std::time::{Duration, Instant};

use common::{Room, library, runtime, with_token, worker_program};
use hsm_profiles::{Breaker, MemberConfig, Token, TokenConfig};
use km_core::hsm::{Hsm, HsmError};
use km_core::material::ClearBytes;
use p11_shim::Shim;

/// The token with a library that obeys, and the orders for it.
fn obeying(room: &Room) -> (TokenConfig, Shim) {
    let orders = Shim::new(room.dir.join("orders"));
    let (library, env) = (Some(p11_shim::library()), orders.env(&library(room.product)));
    let config = TokenConfig { library, env, deadline_ms: 500, sessions: Some(2), ..room.config() };
    (config, orders)
}

/// As [`obeying`], with a standby whose library is as it should be.
fn with_standby(room: &Room) -> (TokenConfig, Shim) {
    // The first start makes the KEK that both must hold.
    drop(room.open());
    let (config, orders) = obeying(room);
    let south = MemberConfig {
        name: "south".into(),
        library: Some(library(room.product)),
        token: None,
        pin: None,
        env: Some(room.copied("south").1),
    };
    (TokenConfig { member: vec![south], ..config }, orders)
}

async fn start(config: TokenConfig) -> Arc<Token> {
    let token = Token::start(config, worker_program()).await.unwrap();
    ready_again(&token).await;
    token
}

async fn ready_again(token: &Token) {
    until("all tokens are used", || token.members().iter().all(|m| m.breaker == Breaker::Closed))
        .await;
}

async fn until(what: &str, is_so: impl Fn() -> bool) {
    let until = Instant::now() + Duration::from_secs(20);
    while !is_so() {
        assert!(Instant::now() < until, "never: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn unavailable<T: std::fmt::Debug>(answer: Result<T, HsmError>) -> String {
    match answer {
        Err(HsmError::Unavailable(why)) => why,
        other => panic!("{other:?}"),
    }
}

/// Each of these asks all tokens.
#[test]
fn a_token_that_hangs_costs_an_idle_standby_nothing() {
    with_token("a_token_that_hangs_costs_an_idle_standby_nothing", |room| {
        runtime().block_on(async {
            let (config, orders) = with_standby(&room);
            let token = start(config).await;
            let clear = ClearBytes::copy_from(&[1; 8]);
            for (n, function) in
                ["C_GetTokenInfo", "C_FindObjectsInit", "C_CreateObject"].into_iter().enumerate()
            {
                // Idle for longer than a deadline, as a standby is.
                tokio::time::sleep(Duration::from_millis(700)).await;
                orders.order(&[format!("{function} 1 hang")]);
                match function {
                    "C_GetTokenInfo" => drop(token.room().await.unwrap()),
                    "C_FindObjectsInit" => drop(token.object_names("held-").await.unwrap()),
                    _ => {
                        let why = unavailable(token.store_object("held-1", &clear).await);
                        assert!(why.contains("north did not"), "{why}");
                    }
                }
                until("the first is ended", || token.members()[0].restarts == n as u64 + 1).await;
                orders.lift();
                ready_again(&token).await;
            }
            assert_eq!(token.members()[1].restarts, 0);
            assert_eq!(token.object_names("held-").await.unwrap(), ["held-1"], "the second did it");
        });
    });
}

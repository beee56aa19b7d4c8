//! What operators ordered of the other controllers of the network. Enter through [`listen`].

use std::{sync::Arc, time::Duration};

use control::Orders;
use tokio::task::JoinSet;
use tracing::{info, warn};
use transport::{
    Profile, Shutdown, client_config,
    http::{ClientLimits, HttpClient},
};

use super::{
    config::{ControllerConfig, Other},
    room::Room,
};
use crate::{
    fault::{Code, Failure},
    serve::of_tls,
};

/// How often each is asked, and so how long an order given to one does not hold at the others.
const EVERY: Duration = Duration::from_secs(1);
/// Longest wait for an answer.
const WITHIN: Duration = Duration::from_secs(5);
/// Longest answer, in bytes.
const MAX_BYTES: usize = 8 << 20;

/// Asks them in `tasks` until `shutdown`.
pub(super) fn listen(
    config: &ControllerConfig,
    room: &Arc<Room>,
    tasks: &mut JoinSet<()>,
    shutdown: &Shutdown,
) -> Result<(), Failure> {
    if config.others.is_empty() {
        return Ok(());
    }
    let tls = client_config(&config.front.tls(), Profile::Front);
    let tls = tls.map_err(|e| of_tls("[controller]", &e))?;
    for Other { address, identity } in &config.others {
        let limits =
            ClientLimits { request: WITHIN, response_bytes: MAX_BYTES, ..ClientLimits::default() };
        let client = HttpClient::new(address, None, tls.clone(), limits)
            .map_err(|e| Failure::new(Code::C003, format!("[[other]] address: {e}")))?
            .expecting(identity.clone());
        let (room, address, stop) = (room.clone(), address.clone(), shutdown.clone());
        tasks.spawn(async move {
            tokio::select! {
                () = follow(&room, &address, &client) => {}
                () = stop.requested() => {}
            }
        });
    }
    Ok(())
}

async fn follow(room: &Room, address: &str, client: &HttpClient) {
    let mut away = false;
    loop {
        match ask(client).await {
            Ok(orders) => {
                if std::mem::take(&mut away) {
                    info!(controller = %address, "the other controller answers again");
                }
                room.agree(address, orders);
            }
            Err(trouble) if !away => {
                away = true;
                warn!(controller = %address, %trouble, alarm = "controller-away",
                    "orders given to the other controller are not heard");
            }
            Err(_) => {}
        }
        tokio::time::sleep(EVERY).await;
    }
}

async fn ask(client: &HttpClient) -> Result<Orders, String> {
    let (status, answer) = client.get("/v1/orders").await.map_err(|e| e.to_string())?;
    if status != 200 {
        return Err(format!("it answered {status}"));
    }
    serde_json::from_slice(&answer).map_err(|e| format!("its answer cannot be read: {e}"))
}

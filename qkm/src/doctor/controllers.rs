//! Whether the controllers of this KM are there, and are who they should be.

use transport::{Profile, TlsClient, client_config};

use super::{PROBE_WAIT, Report};
use crate::config::Config;

/// Connects to each. Without one the KM goes on with the routes it has, so nothing here is fatal.
pub(super) async fn check(config: &Config, report: &mut Report) {
    let Some(entry) = &config.controller else { return };
    // Files that cannot be used were told of already.
    let Ok(tls) = client_config(&entry.tls(), Profile::Front) else { return };
    for address in &entry.addresses {
        let client = match TlsClient::new(address, None, tls.clone()) {
            Ok(client) => client,
            Err(error) => {
                report.warn(format!("controller {address}: {error}"));
                continue;
            }
        };
        match client.connect(PROBE_WAIT).await {
            Ok((_, identity)) if identity.matches(&entry.identity) => {
                report.ok(format!("controller {address} is there"));
            }
            Ok((_, identity)) => report.warn(format!(
                "controller {address} is {identity}, not {}: it is not followed",
                entry.identity
            )),
            Err(error) => report.warn(format!("controller {address} is away: {error}")),
        }
    }
}

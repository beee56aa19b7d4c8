//! The relay as a source of keys for an end-to-end pool, in the place of a QKD module.

use std::sync::Arc;

use async_trait::async_trait;
use km_core::{
    ids::ClusterId,
    module::{ModuleError, ModuleKey, ModuleSource},
    route::Route,
};

use super::{
    engine::{Fetched, Relay, Scheme},
    message::{HopFault, MAX_MATERIAL, TransferId},
};

/// How a pool is fed by relay.
#[derive(Clone, Debug, Default)]
pub struct RelayConfig {
    /// The way taken while no controller gives another.
    pub route: Option<Route>,
    /// Where the bits are born.
    pub scheme: Scheme,
}

/// Keys for the pool with one cluster.
pub(crate) struct RelaySource {
    relay: Arc<Relay>,
    to: ClusterId,
    config: RelayConfig,
}

impl RelaySource {
    pub(crate) fn new(relay: Arc<Relay>, to: ClusterId, config: RelayConfig) -> Self {
        Self { relay, to, config }
    }

    async fn fetch(&self, bytes: usize) -> Result<Fetched, ModuleError> {
        let mut last = ModuleError::Unavailable(format!("no route to {}", self.to));
        for route in self.relay.ways(&self.to, self.config.route.as_ref()) {
            let (relay, scheme) = (self.relay.clone(), self.config.scheme);
            let fetching = tokio::spawn(async move { relay.fetch(&route, scheme, bytes).await });
            match fetching.await {
                Ok(Ok(fetched)) => return Ok(fetched),
                Ok(Err(HopFault::NoPad)) => last = ModuleError::Empty,
                Ok(Err(why)) => last = ModuleError::Unavailable(why.to_string()),
                Err(_) => last = ModuleError::Unavailable("the relay is stopping".into()),
            }
        }
        Err(last)
    }
}

#[async_trait]
impl ModuleSource for RelaySource {
    async fn take(&self, bytes: usize) -> Result<Vec<ModuleKey>, ModuleError> {
        let Fetched { transfer, material, provenance } =
            self.fetch(bytes.min(MAX_MATERIAL)).await?;
        let relayed = Some(provenance);
        Ok(vec![ModuleKey { id: transfer.to_string(), bytes: material, relayed }])
    }

    async fn collect(&self, ids: &[String]) -> Result<Vec<ModuleKey>, ModuleError> {
        let collect = |id: &String| {
            let name = (self.to.clone(), parse(id)?);
            let (bytes, provenance) = self.relay.collect(&name)?;
            Some(ModuleKey { id: id.clone(), bytes, relayed: Some(provenance) })
        };
        ids.iter().map(collect).collect::<Option<_>>().ok_or(ModuleError::UnknownId)
    }

    async fn rest(&self) {}
}

/// Reads what a [`TransferId`] shows as.
fn parse(text: &str) -> Option<TransferId> {
    let digits: Vec<u8> =
        text.chars().map(|c| c.to_digit(16).map(|d| d as u8)).collect::<Option<_>>()?;
    let bytes: Vec<u8> = digits.chunks_exact(2).map(|two| two[0] << 4 | two[1]).collect();
    bytes.try_into().ok().filter(|_| digits.len() == 32).map(TransferId)
}

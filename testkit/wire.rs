//! A KM link without a wire: calls the other end's supply, with a switch. Not a crate: tests of
//! several crates include it.

use std::sync::{
    OnceLock, Weak,
    atomic::{AtomicBool, Ordering::Relaxed},
};

use async_trait::async_trait;
use km_core::{
    ids::ClusterId,
    pad::{PadSpan, PadUse},
    peer::{AssignError, GivenBlock, PeerLink},
    pool::{Pool, PoolError},
    provenance::Grade,
    run::RunSpec,
    supply::Supply,
};

/// What the end `from` tells the other one.
pub(crate) struct Wire {
    from: ClusterId,
    far: OnceLock<Weak<Supply>>,
    pub(crate) up: AtomicBool,
}

impl Wire {
    pub(crate) fn new(from: ClusterId) -> Self {
        Self { from, far: OnceLock::new(), up: AtomicBool::new(true) }
    }

    pub(crate) fn lead_to(&self, far: Weak<Supply>) {
        self.far.set(far).expect("once");
    }

    fn far(&self) -> Option<std::sync::Arc<Supply>> {
        self.far.get()?.upgrade().filter(|_| self.is_up())
    }

    fn at_far_pool(&self, tell: impl FnOnce(&std::sync::Arc<Pool>)) {
        if let Some(far) = self.far() {
            tell(&far.pool(&self.from).expect("a pool at both ends"));
        }
    }
}

#[async_trait]
impl PeerLink for Wire {
    fn is_up(&self) -> bool {
        self.up.load(Relaxed)
    }

    async fn assign(&self, run: &RunSpec) -> Result<(), AssignError> {
        let down = || AssignError::Unavailable("switched off by the test".into());
        let refused = |error: PoolError| match error {
            PoolError::NoBlock(number) => AssignError::NoBlock(number),
            error => AssignError::Refused(error.to_string()),
        };
        let far = self.far().ok_or_else(down)?;
        let accepted = far.accept(&self.from, run.clone()).map_err(refused)?;
        accepted.durable().await.map_err(refused)
    }

    fn run_ended(&self, run: &RunSpec, handed_out: u16) {
        self.at_far_pool(|pool| pool.run_ended(run, handed_out));
    }

    async fn lend(&self, span: PadSpan) -> Result<(), AssignError> {
        let down = || AssignError::Unavailable("switched off by the test".into());
        let refused = |error: PoolError| AssignError::Refused(error.to_string());
        let far = self.far().ok_or_else(down)?;
        let borrowed = far.pool(&self.from).ok_or_else(down)?.borrow_pad(span).map_err(refused)?;
        borrowed.durable().await.map_err(refused)
    }

    fn pads_used(&self, pads: Vec<PadUse>) {
        self.at_far_pool(|pool| drop(pool.pads_told(&pads)));
    }

    fn blocks_given(&self, blocks: Vec<GivenBlock>) {
        self.at_far_pool(|pool| pool.take_given(&blocks));
    }

    fn ask_blocks(&self, count: u16, grade: Grade) {
        self.at_far_pool(|pool| {
            let pool = pool.clone();
            tokio::spawn(async move { pool.give(count, grade).await });
        });
    }
}

//! A KM link without a wire. It calls the other end directly, or, as [`Chaos`] says, loses,
//! repeats or delays what is best effort, and loses assignments or their answers.

use std::sync::{
    Mutex, Weak,
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

/// Chances in percent.
#[derive(Clone, Copy, Default)]
pub struct Chaos {
    pub lose: u32,
    pub repeat: u32,
    pub delay: u32,
    pub seed: u64,
}

#[derive(Clone)]
enum Message {
    Ended(RunSpec, u16),
    PadsUsed(Vec<PadUse>),
    Given(Vec<GivenBlock>),
    Ask(u16, Grade),
}

pub struct Wire {
    from: ClusterId,
    far: Mutex<Weak<Supply>>,
    back: Mutex<Weak<Pool>>,
    pub up: AtomicBool,
    chaos: Mutex<Chaos>,
    late: Mutex<Vec<Message>>,
}

impl Wire {
    pub fn new(from: ClusterId) -> Self {
        let (far, up) = (Mutex::default(), AtomicBool::new(true));
        let (chaos, late, back) = (Mutex::default(), Mutex::default(), Mutex::default());
        Self { from, far, back, up, chaos, late }
    }

    pub fn lead_to(&self, far: Weak<Supply>) {
        *self.far.lock().unwrap() = far;
    }

    /// The pool at this end, which hears what the other end knows.
    pub fn belongs_to(&self, pool: Weak<Pool>) {
        *self.back.lock().unwrap() = pool;
    }

    pub fn set_chaos(&self, chaos: Chaos) {
        *self.chaos.lock().unwrap() = chaos;
    }

    /// Delivers what was delayed, newest first.
    pub fn deliver_late(&self) {
        let late = std::mem::take(&mut *self.late.lock().unwrap());
        late.into_iter().rev().for_each(|message| self.deliver(message));
    }

    /// A number below 100 from the seed (splitmix64).
    fn roll(&self) -> (u32, Chaos) {
        let mut chaos = self.chaos.lock().unwrap();
        chaos.seed = chaos.seed.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = chaos.seed;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (((z ^ (z >> 31)) % 100) as u32, *chaos)
    }

    fn far(&self) -> Option<std::sync::Arc<Supply>> {
        self.far.lock().unwrap().upgrade().filter(|_| self.is_up())
    }

    fn deliver(&self, message: Message) {
        let Some(far) = self.far() else { return };
        let pool: std::sync::Arc<Pool> = far.pool(&self.from).unwrap().clone();
        match message {
            Message::Ended(run, handed_out) => pool.run_ended(&run, handed_out),
            Message::PadsUsed(pads) => {
                let told = pool.pads_told(&pads);
                let back = self.back.lock().unwrap().upgrade();
                tokio::spawn(async move {
                    told.durable().await.unwrap();
                    let spans: Vec<_> = pads.iter().map(|used| used.span.id).collect();
                    back.inspect(|near| near.pads_known(&spans));
                });
            }
            Message::Given(blocks) => pool.take_given(&blocks),
            Message::Ask(count, grade) => {
                tokio::spawn(async move { pool.give(count, grade).await });
            }
        }
    }

    fn send(&self, message: Message) {
        let (roll, chaos) = self.roll();
        if roll < chaos.lose {
            return;
        }
        if roll < chaos.lose + chaos.delay {
            self.late.lock().unwrap().push(message);
            return;
        }
        if roll < chaos.lose + chaos.delay + chaos.repeat {
            self.late.lock().unwrap().push(message.clone());
        }
        self.deliver(message);
    }
}

fn refused(error: PoolError) -> AssignError {
    match error {
        PoolError::NoBlock(number) => AssignError::NoBlock(number),
        PoolError::Passed(number, cursor) => AssignError::Behind(number, cursor),
        PoolError::NotPaired => AssignError::NotPaired,
        PoolError::BelowGrade(grade) => AssignError::BelowGrade(grade),
        error => AssignError::Refused(error.to_string()),
    }
}

#[async_trait]
impl PeerLink for Wire {
    fn is_up(&self) -> bool {
        self.up.load(Relaxed)
    }

    async fn assign(&self, run: &RunSpec) -> Result<(), AssignError> {
        let down = || AssignError::Unavailable("switched off by the test".into());
        let (roll, chaos) = self.roll();
        if roll < chaos.lose {
            return Err(down());
        }
        let far = self.far().ok_or_else(down)?;
        let accepted = far.accept(&self.from, run.clone()).map_err(refused)?;
        drop(far);
        accepted.durable().await.map_err(refused)?;
        // The run arrived; the answer does not.
        if roll < 2 * chaos.lose { Err(down()) } else { Ok(()) }
    }

    fn run_ended(&self, run: &RunSpec, handed_out: u16) {
        self.send(Message::Ended(run.clone(), handed_out));
    }

    async fn lend(&self, span: PadSpan) -> Result<(), AssignError> {
        let down = || AssignError::Unavailable("switched off by the test".into());
        let (roll, chaos) = self.roll();
        if roll < chaos.lose {
            return Err(down());
        }
        let far = self.far().ok_or_else(down)?;
        let borrowed = far.pool(&self.from).unwrap().borrow_pad(span).map_err(refused)?;
        drop(far);
        borrowed.durable().await.map_err(refused)?;
        if roll < 2 * chaos.lose { Err(down()) } else { Ok(()) }
    }

    fn pads_used(&self, pads: Vec<PadUse>) {
        self.send(Message::PadsUsed(pads));
    }

    fn blocks_given(&self, blocks: Vec<GivenBlock>) {
        self.send(Message::Given(blocks));
    }

    fn ask_blocks(&self, count: u16, grade: Grade) {
        self.send(Message::Ask(count, grade));
    }
}

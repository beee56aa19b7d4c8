//! Two ends of a pool without sockets: a token that really seals, a store that can die at any
//! commit, and a link that can lose, repeat and delay. Enter through [`Pair::new`].
#![allow(dead_code, unreachable_pub, unused_imports)]

pub mod hsm;
pub mod life;
pub mod two;
pub mod wire;

use std::{sync::Arc, time::Duration};

use km_core::{
    cabinet::Cabinet,
    epoch::{EpochError, EpochPolicy, Epochs, Keeper},
    hsm::Hsm,
    ids::{BlockId, ClusterId, LinkId, SaeId},
    journal::Journal,
    key_id::KeyId,
    material::ClearBytes,
    objects::Objects,
    payload::Storage,
    pool::{self, NewBlock, Pool, PoolConfig, PoolError, SuppliedKey},
    provenance::Provenance,
    random::Random,
    records::{RecordError, Records},
    registry::Registry,
    run::{RunId, RunSpec},
    store::{SqliteStore, Store, faulty::FaultyStore},
    supply::{Supply, SupplyLimits},
    vault::Vault,
};

pub use hsm::SoftHsm;
pub use life::Life;
pub use wire::{Chaos, Wire};

/// Most objects in a token.
pub const MOST_OBJECTS: u64 = 100;
/// Every form in which a block may be kept.
pub const FORMS: [Storage; 3] = [Storage::Blocks, Storage::Each(32), Storage::Token];

pub type Disk = Arc<FaultyStore<SqliteStore>>;

pub fn cluster(name: &str) -> ClusterId {
    ClusterId::parse(name).unwrap()
}

pub fn sae(name: &str) -> SaeId {
    SaeId::parse(name).unwrap()
}

/// A directory in memory where there is one: what is tested here is order, not the disk.
pub fn temp_dir() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

pub fn random(len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    aws_lc_rs::rand::fill(&mut bytes).unwrap();
    bytes
}

/// n1, n2 at north; s1, s2, s3 at south; `both` at both, paired with itself.
pub fn registry() -> Registry {
    let (north, south) = (cluster("north"), cluster("south"));
    let mut registry = Registry::default();
    for (name, at) in
        [("n1", &north), ("n2", &north), ("s1", &south), ("s2", &south), ("s3", &south)]
    {
        registry.register(sae(name), [at.clone()]).unwrap();
    }
    registry.register(sae("both"), [north, south]).unwrap();
    for (one, other) in [("n1", "s1"), ("n1", "s2"), ("n1", "s3"), ("n2", "s2"), ("both", "both")] {
        registry.pair(&sae(one), &sae(other)).unwrap();
    }
    registry
}

/// What outlives a crash of one end.
pub struct Machine {
    _dir: tempfile::TempDir,
    pub disk: Disk,
    pub hsm: Arc<SoftHsm>,
}

impl Machine {
    pub fn new() -> Self {
        Self::with(SoftHsm::new())
    }

    /// An empty disk beside a token that was used before.
    pub fn with(hsm: Arc<SoftHsm>) -> Self {
        let dir = temp_dir();
        let store = SqliteStore::open(dir.path().join("db")).unwrap();
        Self { _dir: dir, disk: Arc::new(FaultyStore::new(store)), hsm }
    }

    /// Records and vault over the store `through`.
    pub async fn unlock(
        &self,
        through: Arc<dyn Store>,
        policy: EpochPolicy,
    ) -> Result<(Records, Vault, Arc<Epochs>), EpochError> {
        let vault = Vault::new(self.hsm.clone());
        let key = vault.record_key(self.disk.as_ref()).await.unwrap();
        let records = Records::new(through, &key);
        let random = Arc::new(Random::of_token(self.hsm.clone()));
        let epochs = Epochs::open(self.hsm.clone(), records.clone(), policy, random).await?;
        let cabinet = Arc::new(Cabinet::new(cluster("here"), MOST_OBJECTS));
        let vault = vault.with_epochs(epochs.clone()).with_cabinet(cabinet);
        Ok((records, vault, epochs))
    }
}

/// One running end.
pub struct End {
    pub life: Arc<Life>,
    pub records: Records,
    pub vault: Vault,
    pub pool: Arc<Pool>,
    pub supply: Arc<Supply>,
    pub wire: Arc<Wire>,
    pub objects: Objects,
    pub keeper: Arc<Keeper>,
}

impl End {
    pub async fn open(
        machine: &Machine,
        config: PoolConfig,
        registry: Registry,
    ) -> Result<Self, RecordError> {
        let life = Arc::new(Life::new(machine.disk.clone()));
        let policy = EpochPolicy { reseal_per_s: 1000, ..EpochPolicy::default() };
        let unlocked = machine.unlock(life.clone(), policy).await;
        let (records, vault, epochs) = match unlocked {
            Err(EpochError::Record(error)) => return Err(error),
            unlocked => unlocked.unwrap(),
        };
        let here = config.here.clone();
        let pool = Pool::open(config, records.clone(), vault.clone()).await?;
        let wire = Arc::new(Wire::new(here.clone()));
        wire.belongs_to(Arc::downgrade(&pool));
        pool.connect(wire.clone());
        let supply = Supply::new(here, registry, SupplyLimits::default(), [pool.clone()]);
        let objects = Objects::new(records.clone(), vault.clone());
        let (kept, sealing) = (records.clone(), vault.clone());
        let keeper = Keeper::new(epochs, sealing, kept, supply.clone(), objects.clone());
        let keeper = Arc::new(keeper);
        Ok(Self { life, records, vault, pool, supply, wire, objects, keeper })
    }

    /// What is durable right now, counted from the records alone.
    pub async fn assert_durable_account_balances(&self) {
        let (ledger, stored) = pool::audit(&self.records, self.pool.tag()).await.unwrap();
        assert!(ledger.balanced_with(stored), "durable: {ledger:?}, {stored} stored");
    }

    pub fn assert_balanced(&self) {
        let view = self.pool.view();
        assert!(view.balanced, "{view:?}");
    }
}

/// North and south, and what they run on.
pub struct Pair {
    pub machines: [Machine; 2],
    pub ends: [End; 2],
    pub key_ttl: Duration,
    pub storage: Storage,
    next: u64,
}

pub const NORTH: usize = 0;
pub const SOUTH: usize = 1;
const NAMES: [&str; 2] = ["north", "south"];

impl Pair {
    pub async fn new() -> Self {
        Self::with_ttl(Duration::from_secs(3600)).await
    }

    pub async fn with_ttl(key_ttl: Duration) -> Self {
        Self::with(key_ttl, Storage::Blocks).await
    }

    /// Blocks are kept in that form at both ends.
    pub async fn kept_in(storage: Storage) -> Self {
        Self::with(Duration::from_secs(3600), storage).await
    }

    async fn with(key_ttl: Duration, storage: Storage) -> Self {
        let machines = [Machine::new(), Machine::new()];
        let config = |at| PoolConfig { storage, ..config(at, key_ttl) };
        let north = End::open(&machines[0], config(0), registry()).await.unwrap();
        let south = End::open(&machines[1], config(1), registry()).await.unwrap();
        let pair = Self { machines, ends: [north, south], key_ttl, storage, next: 1 };
        pair.join();
        pair
    }

    pub fn north(&self) -> &End {
        &self.ends[NORTH]
    }

    pub fn south(&self) -> &End {
        &self.ends[SOUTH]
    }

    pub fn join(&self) {
        for at in [0, 1] {
            self.ends[at].wire.lead_to(Arc::downgrade(&self.ends[1 - at].supply));
        }
    }

    /// What both ends say to each other when a connection is made: [`relay`]'s greeting.
    pub fn greet(&self) {
        let pools = [&self.ends[0].pool, &self.ends[1].pool];
        let said = pools.map(|pool| (pool.doubtful(), pool.given_blocks(), pool.floor()));
        for (at, (doubtful, given, floor)) in said.into_iter().enumerate() {
            let (me, far) = (pools[at], pools[1 - at]);
            let (have, lack): (Vec<u64>, Vec<u64>) =
                doubtful.into_iter().partition(|number| far.has_block(*number));
            far.take_given(&given);
            far.peer_floor(floor);
            far.peer_key_ttl(me.config().key_ttl);
            me.confirm(&have);
            me.burn_lacking(&lack);
            me.tell_pads();
        }
    }

    /// Stops one end as a power cut does: nothing it had not made durable is ever heard of again.
    pub async fn crash(&mut self, at: usize) {
        // A dead process says nothing any more.
        self.ends[at].wire.lead_to(std::sync::Weak::new());
        self.ends[at].life.kill().await;
        self.reopen(at).await;
    }

    pub async fn reopen(&mut self, at: usize) {
        let config = PoolConfig { storage: self.storage, ..config(at, self.key_ttl) };
        let end = End::open(&self.machines[at], config, registry()).await;
        self.ends[at] = end.unwrap();
        self.join();
        self.greet();
    }

    /// The next number the leader would propose.
    pub fn fresh_number(&mut self) -> u64 {
        let high = self.ends.iter().map(|end| end.pool.highest_block()).max().unwrap_or(0);
        self.next = high + 1;
        self.next
    }

    /// Agrees on a block of `bits` at both ends, confirmed.
    pub async fn admit(&mut self, owner: usize, bits: &[u8]) -> u64 {
        let number = self.fresh_number();
        for at in [0, 1] {
            self.ends[at].pool.admit(block(number, owner, bits, true)).await.unwrap();
        }
        number
    }

    pub async fn admit_random(&mut self, owner: usize, len: usize) -> u64 {
        self.admit(owner, &random(len)).await
    }

    pub fn assert_balanced(&self) {
        self.ends.iter().for_each(End::assert_balanced);
    }

    pub async fn assert_settled_and_balanced(&self) {
        for end in &self.ends {
            end.pool.settled().await.unwrap();
            end.assert_balanced();
            end.assert_durable_account_balances().await;
            end.pool.destroy_erased().await;
        }
        self.assert_nothing_stray_in_the_tokens();
    }

    /// Each token keeps one object for each block that is kept in it, and no other.
    pub fn assert_nothing_stray_in_the_tokens(&self) {
        for (machine, end) in self.machines.iter().zip(&self.ends) {
            let blocks = if self.storage == Storage::Token { end.pool.view().blocks } else { 0 };
            assert_eq!(machine.hsm.objects().len(), blocks);
        }
    }
}

pub fn block(number: u64, owner: usize, bits: &[u8], confirmed: bool) -> NewBlock {
    NewBlock {
        number,
        owner: cluster(NAMES[owner]),
        provenance: Provenance::direct(LinkId::parse("link").unwrap()),
        module: "module".into(),
        clear: ClearBytes::copy_from(bits),
        confirmed,
    }
}

pub fn config(at: usize, key_ttl: Duration) -> PoolConfig {
    let (here, peer) = (cluster(NAMES[at]), cluster(NAMES[1 - at]));
    PoolConfig { here, peer, key_ttl, max_stored: 64 << 20, storage: Storage::Blocks, fence: None }
}

/// A run of 32-byte keys from n1 to s1.
pub fn run_in(pool: &Pool, number: u64, offset: u16, count: u16) -> RunSpec {
    let block = BlockId { pool: pool.tag(), number };
    let (master, slaves) = (sae("n1"), vec![sae("s1")]);
    RunSpec { id: RunId { block, offset }, key_len: 32, count, master, slaves }
}

/// The bytes of a key, to compare; tests only.
pub fn bytes_of(key: &SuppliedKey) -> Vec<u8> {
    key.bytes.expose(<[u8]>::to_vec)
}

pub fn ids_of(keys: &[SuppliedKey]) -> Vec<KeyId> {
    keys.iter().map(|key| key.id).collect()
}

/// `count` runs of one key each, as pairs that ask rarely get them.
pub async fn single_keys(end: &End, count: usize) -> Result<Vec<SuppliedKey>, PoolError> {
    let mut keys = Vec::new();
    for _ in 0..count {
        let mut run = end.pool.lease(&sae("n1"), &[sae("s1")], 32, 1).await?;
        keys.extend(run.take());
        end.pool.end_run(run);
    }
    Ok(keys)
}

pub fn start_journal(records: &Records) -> Arc<Journal> {
    Journal::start(records.clone(), b"ledger/test".to_vec(), Default::default(), None)
}

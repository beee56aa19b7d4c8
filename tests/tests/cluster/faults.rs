//! What befalls the KMs and the engine, and how it is mended. Enter through [`inject`].

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::Ordering::Relaxed,
    time::{Duration, Instant},
};

use qkm_tests::{
    cluster::{CLOCK, Cluster, MEMBERS, NORTH, SOUTH},
    network::program,
    promises::{Dice, Load},
};

/// Longer than the lease of the KM that leads, and than etcd takes to end it.
const TOO_LONG: Duration = Duration::from_secs(3);
/// How far a clock jumps, in seconds: longer than keys wait to be collected.
const JUMP: i64 = 7200;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fault {
    KillLeader,
    KillFollower,
    StopLeader,
    /// Longer than its lease.
    PauseLeader,
    PauseFollower,
    /// From the engine, longer than its lease.
    CutLeader,
    CutFollower,
    /// Two hours ahead, then two hours back.
    JumpClock,
    /// One KM after the other.
    RollingRestart,
    /// The same, with another build than before.
    RollingUpgrade,
    KillEngineMember,
    KillEngineLeader,
    PauseEngineMember,
    PauseEngineLeader,
    /// From the other members; the KMs still reach it.
    CutEngineLeader,
    /// Of the member that leads the engine.
    FullDisk,
    /// The engine has its most bytes, until an operator makes room.
    FillEngine,
}

/// All that one build suffices for, the short ones first.
pub(crate) const FAULTS: [Fault; 16] = [
    Fault::KillLeader,
    Fault::PauseLeader,
    Fault::KillEngineLeader,
    Fault::CutLeader,
    Fault::CutEngineLeader,
    Fault::KillFollower,
    Fault::JumpClock,
    Fault::StopLeader,
    Fault::PauseEngineLeader,
    Fault::CutFollower,
    Fault::KillEngineMember,
    Fault::FullDisk,
    Fault::PauseFollower,
    Fault::PauseEngineMember,
    Fault::FillEngine,
    Fault::RollingRestart,
];

impl Fault {
    /// Whether another KM has to take the lead unasked.
    pub(crate) fn is_of_the_leader(self) -> bool {
        matches!(self, Self::KillLeader | Self::PauseLeader | Self::CutLeader)
    }

    /// Whether another member has to lead the engine.
    pub(crate) fn is_of_the_engine_leader(self) -> bool {
        use Fault::{CutEngineLeader, FullDisk, KillEngineLeader, PauseEngineLeader};
        matches!(self, KillEngineLeader | PauseEngineLeader | CutEngineLeader | FullDisk)
    }
}

/// Another build of the program, where `QKM_PREVIOUS` names one.
pub(crate) fn other_build() -> Option<PathBuf> {
    let other = PathBuf::from(std::env::var_os("QKM_PREVIOUS").filter(|path| !path.is_empty())?);
    let said = |program: &Path| {
        let done = Command::new(program).arg("version").output().expect("the build runs");
        String::from_utf8_lossy(&done.stdout).trim().to_owned()
    };
    let (one, two) = (said(&other), said(program()));
    assert_ne!(one, two, "two builds have different versions");
    println!("upgrades go from {one} to {two}, and back");
    Some(other)
}

/// What a fault cost.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cost {
    /// The longest time in which no key was issued at north, as its applications see it.
    pub(crate) pause: Duration,
    /// Where the KM that leads was killed: how another one came to do its work.
    pub(crate) moves: Option<Moves>,
    /// Whether all members of the engine were there when it began: with one still away from the fault before,
    /// the loss of another leaves no majority.
    pub(crate) whole: bool,
}

/// How long after the death of the KM that led.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moves {
    /// A block was agreed over the KM link.
    pub(crate) link: Duration,
    /// A key was taken from the QKD module.
    pub(crate) ingest: Duration,
}

/// Does it, and mends it.
pub(crate) async fn inject(
    cluster: &mut Cluster,
    fault: Fault,
    load: &Load,
    dice: &mut Dice,
) -> Cost {
    let whole = cluster.engine.is_whole();
    let leader = leader(cluster).await;
    let follower = (leader + 1 + dice.roll(2) as usize) % NORTH;
    let engine_leader = cluster.engine.leader().unwrap_or(0);
    let member = dice.roll(MEMBERS as u64) as usize;
    if fault == Fault::KillLeader {
        make_room(cluster, follower).await;
    }
    load.watch_service();
    let mut moves = None;
    match fault {
        Fault::KillLeader => {
            cluster.kill(leader);
            moves = Some(work_moves(cluster).await);
            served_again(cluster, load).await;
            cluster.run(leader);
        }
        Fault::KillFollower => kill(cluster, follower, load).await,
        Fault::StopLeader => {
            cluster.stop(leader);
            served_again(cluster, load).await;
            cluster.run(leader);
        }
        Fault::PauseLeader => pause(cluster, leader, load).await,
        Fault::PauseFollower => pause(cluster, follower, load).await,
        Fault::CutLeader => cut(cluster, leader, load).await,
        Fault::CutFollower => cut(cluster, follower, load).await,
        Fault::JumpClock => {
            // What a wrong clock does is what the KM that leads does by it.
            if leader != CLOCK {
                lead_by(cluster, CLOCK, load).await;
                load.watch_service();
            }
            for seconds in [JUMP, -JUMP, 0] {
                cluster.set_clock(seconds);
                served_again(cluster, load).await;
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
            cluster.ready(CLOCK).await;
        }
        Fault::RollingRestart => roll(cluster, load).await,
        Fault::RollingUpgrade => {
            let other = other_of(cluster.program(0));
            (0..NORTH).for_each(|km| cluster.set_program(km, &other));
            roll(cluster, load).await;
        }
        Fault::KillEngineLeader => kill_member(cluster, engine_leader, load).await,
        Fault::KillEngineMember => kill_member(cluster, member, load).await,
        Fault::PauseEngineLeader => pause_member(cluster, engine_leader, load).await,
        Fault::PauseEngineMember => pause_member(cluster, member, load).await,
        Fault::CutEngineLeader => {
            cluster.cut_member(engine_leader, true);
            longer_than_the_lease(cluster, load).await;
            cluster.cut_member(engine_leader, false);
            cluster.engine.ready();
        }
        Fault::FullDisk => fill_disk(cluster, engine_leader, load).await,
        Fault::FillEngine => {
            cluster.engine.fill();
            cluster.troubled(0, "full").await;
            // From here on: what it takes to serve again once an operator made room.
            cluster.engine.make_room();
            load.watch_service();
        }
    }
    for km in 0..NORTH {
        cluster.ready(km).await;
    }
    served_again(cluster, load).await;
    Cost { pause: load.longest_pause(), moves, whole }
}

/// Has a KM lead: for a while it is alone.
async fn lead_by(cluster: &mut Cluster, km: usize, load: &Load) {
    let others: Vec<usize> = (0..NORTH).filter(|other| *other != km).collect();
    others.iter().for_each(|other| cluster.stop(*other));
    served_again(cluster, load).await;
    others.iter().for_each(|other| cluster.run(*other));
    for other in others {
        cluster.ready(other).await;
    }
}

/// A full pool takes no keys from its module: uses some up.
async fn make_room(cluster: &Cluster, km: usize) {
    let (near, far) = (cluster.calm(km, "sae-n1"), cluster.calm(SOUTH, "sae-s1"));
    for _ in 0..4 {
        let drawn = near.get("/api/v1/keys/sae-s1/enc_keys?number=64&size=32768").await;
        let keys = drawn.map(|said| said.keys()).unwrap_or_default();
        let ids: Vec<&str> = keys.iter().map(|(id, _)| id.as_str()).collect();
        if !ids.is_empty() {
            // Those that are not collected would fill it too.
            let _ = far.dec("sae-n1", &ids).await;
        }
    }
}

/// Waits until another KM has the link, and takes keys from the module.
async fn work_moves(cluster: &Cluster) -> Moves {
    let struck = Instant::now();
    // What was on its way still comes.
    tokio::time::sleep(Duration::from_millis(100)).await;
    let agreed = async || cluster.metric(SOUTH, "qkm_link_blocks_agreed_total").await;
    let taken = async || {
        let mut all = 0.0;
        for km in 0..NORTH {
            all += cluster.metric(km, "qkm_qkd_keys_taken_total").await;
        }
        all
    };
    let before = (agreed().await, taken().await);
    let (mut link, mut ingest) = (None, None);
    cluster
        .until("the link and the module are another's", async || {
            if ingest.is_none() && taken().await > before.1 {
                ingest = Some(struck.elapsed());
            }
            if link.is_none() && agreed().await > before.0 {
                link = Some(struck.elapsed());
            }
            link.is_some() && ingest.is_some()
        })
        .await;
    let never = struck.elapsed();
    Moves { link: link.unwrap_or(never), ingest: ingest.unwrap_or(never) }
}

async fn kill(cluster: &mut Cluster, km: usize, load: &Load) {
    cluster.kill(km);
    served_again(cluster, load).await;
    cluster.run(km);
}

async fn pause(cluster: &Cluster, km: usize, load: &Load) {
    cluster.signal(km, "STOP");
    longer_than_the_lease(cluster, load).await;
    cluster.signal(km, "CONT");
}

async fn cut(cluster: &Cluster, km: usize, load: &Load) {
    cluster.cut_km(km, true);
    longer_than_the_lease(cluster, load).await;
    cluster.cut_km(km, false);
}

async fn kill_member(cluster: &mut Cluster, member: usize, load: &Load) {
    cluster.engine.kill(member);
    served_again(cluster, load).await;
    cluster.engine.run(member);
    cluster.engine.ready();
}

async fn pause_member(cluster: &Cluster, member: usize, load: &Load) {
    cluster.engine.signal(member, "STOP");
    longer_than_the_lease(cluster, load).await;
    cluster.engine.signal(member, "CONT");
}

async fn fill_disk(cluster: &mut Cluster, member: usize, load: &Load) {
    cluster.engine.stop_writes(member);
    longer_than_the_lease(cluster, load).await;
    assert!(cluster.engine.ended(member), "a member that cannot write goes on");
    cluster.engine.run(member);
    cluster.engine.ready();
}

/// Waits until keys are issued in spite of a fault, and for so long that a lease ends.
async fn longer_than_the_lease(cluster: &Cluster, load: &Load) {
    let began = Instant::now();
    tokio::time::sleep(TOO_LONG).await;
    served_again(cluster, load).await;
    assert!(began.elapsed() >= TOO_LONG);
}

async fn roll(cluster: &mut Cluster, load: &Load) {
    for km in 0..NORTH {
        cluster.stop(km);
        served_again(cluster, load).await;
        cluster.run(km);
        cluster.ready(km).await;
    }
}

/// The build that a KM with this one goes to.
fn other_of(program: &Path) -> PathBuf {
    let current = qkm_tests::network::program();
    match program == current {
        true => other_build().expect("another build"),
        false => current.to_owned(),
    }
}

async fn leader(cluster: &Cluster) -> usize {
    let told = Instant::now();
    loop {
        if let Some(leader) = cluster.leader().await {
            return leader;
        }
        assert!(told.elapsed() < Duration::from_secs(60), "nobody leads");
    }
}

/// Waits until keys are issued that cannot have been on their way before.
async fn served_again(cluster: &Cluster, load: &Load) {
    let enough = load.granted.load(Relaxed) + 4;
    cluster.until("keys are issued again", async || load.granted.load(Relaxed) >= enough).await;
}

//! What befalls the KMs and the engine, and how it is mended. Enter through [`inject`].

use std::{
    sync::atomic::Ordering::Relaxed,
    time::{Duration, Instant},
};

use qkm_tests::{
    cluster::{CLOCK, Cluster, MEMBERS, NORTH},
    promises::Load,
};

/// Longer than the lease of the KM that leads.
const TOO_LONG: Duration = Duration::from_secs(4);
/// How far a clock jumps, in seconds: shorter than keys wait to be collected.
const JUMP: i64 = 7200;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    KillLeader,
    KillFollower,
    StopLeader,
    /// Longer than its lease.
    PauseLeader,
    /// From the engine, longer than its lease.
    CutLeader,
    CutFollower,
    /// Two hours ahead, then two hours back.
    JumpClock,
    /// One KM after the other.
    RollingRestart,
    KillEngineMember,
    KillEngineLeader,
    PauseEngineMember,
    /// From the other members; the KMs still reach it.
    CutEngineLeader,
    FillEngine,
}

/// All, the short ones first.
pub(crate) const FAULTS: [Fault; 13] = [
    Fault::KillLeader,
    Fault::PauseLeader,
    Fault::KillEngineLeader,
    Fault::CutLeader,
    Fault::CutEngineLeader,
    Fault::KillFollower,
    Fault::JumpClock,
    Fault::StopLeader,
    Fault::PauseEngineMember,
    Fault::CutFollower,
    Fault::KillEngineMember,
    Fault::FillEngine,
    Fault::RollingRestart,
];

/// Small and seeded, so that a failing run can be repeated.
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    pub(crate) fn roll(&mut self, below: u64) -> u64 {
        // xorshift64* (Vigna 2016); good enough to choose moments.
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) % below
    }
}

/// Does it, and mends it; how long no key was issued at north, as its applications see it.
pub(crate) async fn inject(
    cluster: &mut Cluster,
    fault: Fault,
    load: &Load,
    dice: &mut Dice,
) -> Duration {
    let leader = leader(cluster).await;
    let follower = (leader + 1 + dice.roll(2) as usize) % NORTH;
    let member = dice.roll(MEMBERS as u64) as usize;
    let began = Instant::now();
    match fault {
        Fault::KillLeader => cluster.kill(leader),
        Fault::KillFollower => cluster.kill(follower),
        Fault::StopLeader => cluster.stop(leader),
        Fault::PauseLeader => cluster.signal(leader, "STOP"),
        Fault::CutLeader => cluster.cut_km(leader, true),
        Fault::CutFollower => cluster.cut_km(follower, true),
        Fault::JumpClock => cluster.set_clock(JUMP),
        Fault::RollingRestart => return rolling_restart(cluster, load).await,
        _ => return of_the_engine(cluster, fault, member, load).await,
    }
    let pause = served_again(cluster, load, began).await;
    let rest = TOO_LONG.saturating_sub(began.elapsed());
    match fault {
        Fault::PauseLeader => {
            tokio::time::sleep(rest).await;
            cluster.signal(leader, "CONT");
        }
        Fault::CutLeader | Fault::CutFollower => {
            tokio::time::sleep(rest).await;
            (0..NORTH).for_each(|km| cluster.cut_km(km, false));
        }
        Fault::JumpClock => {
            for seconds in [-JUMP, 0] {
                tokio::time::sleep(Duration::from_millis(500)).await;
                cluster.set_clock(seconds);
            }
            cluster.ready(CLOCK).await;
        }
        Fault::KillFollower => cluster.run(follower),
        _ => cluster.run(leader),
    }
    pause
}

async fn of_the_engine(
    cluster: &mut Cluster,
    fault: Fault,
    member: usize,
    load: &Load,
) -> Duration {
    let leader = cluster.engine.leader().unwrap_or(member);
    let began = Instant::now();
    match fault {
        Fault::KillEngineLeader | Fault::KillEngineMember => {
            let killed = if fault == Fault::KillEngineLeader { leader } else { member };
            cluster.engine.kill(killed);
            let pause = served_again(cluster, load, began).await;
            cluster.engine.run(killed);
            cluster.engine.ready();
            pause
        }
        Fault::PauseEngineMember => {
            cluster.engine.signal(member, "STOP");
            let pause = served_again(cluster, load, began).await;
            tokio::time::sleep(TOO_LONG.saturating_sub(began.elapsed())).await;
            cluster.engine.signal(member, "CONT");
            pause
        }
        Fault::CutEngineLeader => {
            cluster.cut_member(leader, true);
            let pause = served_again(cluster, load, began).await;
            tokio::time::sleep(TOO_LONG.saturating_sub(began.elapsed())).await;
            cluster.cut_member(leader, false);
            cluster.engine.ready();
            pause
        }
        _ => {
            cluster.engine.fill();
            cluster.troubled(0, "full").await;
            // From here on: what it takes to serve again once an operator made room.
            cluster.engine.make_room();
            served_again(cluster, load, Instant::now()).await
        }
    }
}

async fn rolling_restart(cluster: &mut Cluster, load: &Load) -> Duration {
    let mut longest = Duration::ZERO;
    for km in 0..NORTH {
        let began = Instant::now();
        cluster.stop(km);
        longest = longest.max(served_again(cluster, load, began).await);
        cluster.run(km);
        cluster.ready(km).await;
    }
    longest
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
async fn served_again(cluster: &Cluster, load: &Load, began: Instant) -> Duration {
    let before = load.granted.load(Relaxed);
    let enough = before + 4;
    cluster.until("keys are issued again", async || load.granted.load(Relaxed) >= enough).await;
    began.elapsed()
}

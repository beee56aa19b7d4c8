//! Two sessions over a channel that drops, repeats, reorders and corrupts, by seed.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::{Duration, Instant},
};

use km_core::{
    ids::{ClusterId, LinkId, PoolTag},
    material::ClearBytes,
    module::{ModuleError, ModuleKey},
    provenance::Provenance,
};
use relay::{
    frame::{Frame, Frames, Hello, Rejection},
    session::{AGREE_WITHIN, Action, Event, FULL_PAUSE, Feed, MAX_IN_FLIGHT, Session, Start},
};

/// splitmix64.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % sides
    }

    fn hits(&mut self, percent: u64) -> bool {
        self.roll(100) < percent
    }
}

#[derive(Clone, Copy, Default)]
struct Weather {
    lose: u64,
    repeat: u64,
    reorder: u64,
    corrupt: u64,
    /// The follower's module gives other bits, or does not have the keys.
    differ: u64,
    missing: u64,
    /// The HSM or the store does not take a block.
    unstored: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    Agreed,
    Stored,
}

struct Node {
    session: Session,
    stored: BTreeMap<u64, (Phase, Vec<u8>)>,
    high: u64,
    refused: BTreeMap<u64, Rejection>,
    events: VecDeque<Event>,
    wire: VecDeque<Vec<u8>>,
}

struct World {
    nodes: [Node; 2],
    dice: Dice,
    weather: Weather,
    differing: BTreeSet<u64>,
    next_key: u32,
    broken: bool,
    now: Instant,
}

fn cluster(at: usize) -> ClusterId {
    ClusterId::parse(["north", "south"][at]).unwrap()
}

fn session(at: usize, node: Option<&Node>, now: Instant) -> (Session, Vec<Action>) {
    let empty = BTreeMap::new();
    let (stored, highest) = node.map_or((&empty, 0), |node| (&node.stored, node.high));
    let agreed = stored.iter().filter(|(_, (phase, _))| *phase == Phase::Agreed);
    let (cluster_here, pool) = (cluster(at), PoolTag::of_pair(&cluster(0), &cluster(1)));
    let hello = Hello {
        cluster: cluster_here.clone(),
        pool,
        highest,
        doubtful: agreed.map(|(number, _)| *number).collect(),
        floor: 0,
        given: Vec::new(),
        key_ttl_ms: 60_000,
    };
    let feed = Some(Feed::Qkd(vec![LinkId::parse("link").unwrap()]));
    Session::new(
        Start { here: cluster_here, peer: cluster(1 - at), pool, feed, combine: None, hello },
        now,
    )
}

impl World {
    fn new(seed: u64, weather: Weather) -> Self {
        let now = Instant::now();
        let start = |at| {
            let (session, greeting) = session(at, None, now);
            let (stored, refused) = (BTreeMap::new(), BTreeMap::new());
            let (events, wire) = (VecDeque::new(), VecDeque::new());
            (Node { session, stored, high: 0, refused, events, wire }, greeting)
        };
        let ((north, first), (south, second)) = (start(0), start(1));
        let (dice, differing) = (Dice(seed), BTreeSet::new());
        let nodes = [north, south];
        let mut world = Self { nodes, dice, weather, differing, next_key: 0, broken: false, now };
        // Greetings arrive; what comes after them may not.
        let weather = std::mem::take(&mut world.weather);
        world.carry_out(0, first);
        world.carry_out(1, second);
        world.deliver_all();
        world.weather = weather;
        world
    }

    fn carry_out(&mut self, at: usize, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Send(frame) => self.send(at, &frame),
                Action::Collect { number, ids, .. } => {
                    let keys = self.collect(number, &ids);
                    self.nodes[at].events.push_back(Event::Collected { number, keys });
                }
                Action::Admit(agreed) => {
                    let number = agreed.number;
                    let stored = !self.dice.hits(self.weather.unstored);
                    let node = &mut self.nodes[at];
                    if stored {
                        let phase = if agreed.confirmed { Phase::Stored } else { Phase::Agreed };
                        let bits = agreed.raw.into_bits().expose(<[u8]>::to_vec);
                        let before = node.stored.insert(number, (phase, bits));
                        assert!(before.is_none() && number > node.high, "{number} used twice");
                        node.high = number;
                    }
                    node.events.push_back(Event::Admitted { number, stored });
                }
                Action::Confirmed(numbers) => {
                    for number in numbers {
                        if let Some((phase, _)) = self.nodes[at].stored.get_mut(&number) {
                            *phase = Phase::Stored;
                        }
                    }
                }
                Action::Burn(numbers) => self.nodes[at].stored.retain(|number, (phase, _)| {
                    !(numbers.contains(number) && *phase == Phase::Agreed)
                }),
                Action::Refused { number, why, .. } => {
                    self.nodes[at].refused.entry(number).or_insert(why);
                }
                Action::TellKnown(numbers) => {
                    let stored = &self.nodes[at].stored;
                    let (have, lack) = numbers.iter().partition(|n| stored.contains_key(n));
                    self.send(at, &Frame::Known { have, lack });
                }
                _ => {}
            }
        }
    }

    fn send(&mut self, at: usize, frame: &Frame) {
        let mut bytes = Vec::new();
        frame.encode(&mut bytes);
        let Weather { lose, repeat, reorder, corrupt, .. } = self.weather;
        if self.dice.hits(lose) {
            return;
        }
        if self.dice.hits(corrupt) {
            let bit = self.dice.roll(bytes.len() as u64 * 8) as usize;
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
        if self.dice.hits(repeat) {
            self.nodes[at].wire.push_back(bytes.clone());
        }
        let waiting = self.nodes[at].wire.len() as u64;
        let place = match self.dice.hits(reorder) {
            true => self.dice.roll(waiting + 1),
            false => waiting,
        };
        self.nodes[at].wire.insert(place as usize, bytes);
    }

    fn collect(&mut self, number: u64, ids: &[String]) -> Result<Vec<ModuleKey>, ModuleError> {
        // A corrupted identifier is nobody's.
        let known = |id: &String| id.strip_prefix('k').is_some_and(|n| n.parse::<u64>().is_ok());
        if self.dice.hits(self.weather.missing) || !ids.iter().all(known) {
            return Err(ModuleError::UnknownId);
        }
        let mut keys: Vec<ModuleKey> = ids.iter().map(|id| key(id, 0)).collect();
        if self.dice.hits(self.weather.differ) {
            let last = keys.len() - 1;
            keys[last] = key(&ids[last], 1 << self.dice.roll(8));
            self.differing.insert(number);
        }
        Ok(keys)
    }

    fn propose(&mut self) {
        if !self.nodes[0].session.has_room() {
            return;
        }
        let ids: Vec<String> = (0..4).map(|i| format!("k{}", self.next_key + i)).collect();
        self.next_key += 4;
        let keys = ids.iter().map(|id| key(id, 0)).collect();
        let owner = cluster(self.dice.roll(2) as usize);
        let actions = self.nodes[0].session.on_event(Event::Keys { keys, owner });
        self.carry_out(0, actions);
    }

    /// One event or one frame at each end.
    fn step(&mut self) {
        for at in [0, 1] {
            if let Some(event) = self.nodes[at].events.pop_front() {
                let actions = self.nodes[at].session.on_event(event);
                self.carry_out(at, actions);
            }
            let Some(bytes) = self.nodes[1 - at].wire.pop_front() else { continue };
            let mut frames = Frames::default();
            frames.push(&bytes);
            match frames.next_frame() {
                Ok(Some(frame)) => match self.nodes[at].session.on_frame(frame) {
                    Ok(actions) => self.carry_out(at, actions),
                    Err(_) => self.broken = true,
                },
                Ok(None) | Err(_) => self.broken = true,
            }
        }
    }

    fn deliver_all(&mut self) {
        while self.nodes.iter().any(|node| !node.wire.is_empty() || !node.events.is_empty()) {
            self.step();
        }
    }

    fn tick(&mut self, passed: Duration) {
        self.now += passed;
        for at in [0, 1] {
            let actions = self.nodes[at].session.on_event(Event::Tick(self.now));
            self.carry_out(at, actions);
        }
    }

    /// Usable at both ends means equal.
    fn assert_equal_where_usable(&self) {
        for (number, (phase, bits)) in &self.nodes[0].stored {
            let there = self.nodes[1].stored.get(number);
            if let Some((there, other)) = there
                && (*phase, *there) == (Phase::Stored, Phase::Stored)
            {
                assert_eq!(bits, other, "block {number}");
                assert!(!self.differing.contains(number));
            }
        }
    }

    /// The connection is gone; what was being stored is; a new one begins in good weather.
    fn reconnect(&mut self) {
        self.weather = Weather::default();
        for at in [0, 1] {
            self.nodes[at].wire.clear();
            self.nodes[at].events.clear();
        }
        let greetings = [0, 1].map(|at| session(at, Some(&self.nodes[at]), self.now));
        for (at, (session, actions)) in greetings.into_iter().enumerate() {
            self.nodes[at].session = session;
            self.carry_out(at, actions);
        }
        self.broken = false;
        self.deliver_all();
        assert!(!self.broken && self.nodes.iter().all(|node| node.session.is_up()));
    }

    fn usable(&self, at: usize) -> BTreeSet<u64> {
        let stored = self.nodes[at].stored.iter();
        stored.filter(|(_, (phase, _))| *phase == Phase::Stored).map(|(n, _)| *n).collect()
    }
}

fn key(id: &str, flip: u8) -> ModuleKey {
    let seed: u64 = id[1..].parse().unwrap();
    let mut dice = Dice(seed);
    let mut bytes: Vec<u8> = (0..32).map(|_| dice.roll(256) as u8).collect();
    bytes[31] ^= flip;
    let came = Some(Provenance::direct(LinkId::parse("link").unwrap()));
    ModuleKey { id: id.into(), bytes: ClearBytes::from_vec(bytes), came }
}

fn play(seed: u64, weather: Weather) -> World {
    let mut world = World::new(seed, weather);
    for _ in 0..200 {
        if world.dice.hits(30) {
            world.propose();
        }
        world.step();
        if world.dice.hits(2) {
            world.tick(Duration::from_secs(7));
        }
        world.assert_equal_where_usable();
        if world.broken {
            break;
        }
    }
    world
}

#[test]
fn whatever_is_lost_repeated_or_out_of_order_is_settled_by_the_next_connection() {
    let mut agreed = 0;
    for seed in 0..300 {
        let weather = Weather {
            lose: seed % 20,
            repeat: seed % 15,
            reorder: seed % 30,
            differ: 10,
            missing: 5,
            unstored: 3,
            corrupt: 0,
        };
        let mut world = play(seed, weather);
        assert!(!world.broken, "seed {seed}: a good peer was called a bad one");
        world.reconnect();
        world.assert_equal_where_usable();
        assert_eq!(world.usable(0), world.usable(1), "seed {seed}");
        for node in &world.nodes {
            let open = node.stored.values().filter(|(phase, _)| *phase == Phase::Agreed);
            assert_eq!(open.count(), 0, "seed {seed}: not settled");
        }
        agreed += world.usable(0).len();
    }
    assert!(agreed > 3000, "hardly anything was agreed: {agreed}");
}

#[test]
fn corrupted_frames_never_make_different_bits_usable() {
    let mut closed = 0;
    for seed in 0..300 {
        let weather = Weather { corrupt: 5, reorder: 10, differ: 20, ..Weather::default() };
        let mut world = play(seed, weather);
        closed += u32::from(world.broken);
        world.reconnect();
        world.assert_equal_where_usable();
    }
    assert!(closed > 50, "corruption was hardly noticed: {closed}");
}

#[test]
fn different_bits_are_rejected_at_both_ends() {
    let mut world = World::new(1, Weather { differ: 30, ..Weather::default() });
    for _ in 0..60 {
        world.propose();
        world.deliver_all();
    }
    assert!(world.differing.len() > 5);
    for node in &world.nodes {
        let refused: BTreeSet<u64> = node.refused.keys().copied().collect();
        assert_eq!(refused, world.differing);
        assert!(node.refused.values().all(|why| *why == Rejection::Mismatch));
        assert_eq!(node.session.in_flight(), 0);
    }
    assert_eq!(world.usable(0).len() + world.differing.len(), 60);
    assert_eq!(world.usable(0), world.usable(1));
}

#[test]
fn nothing_hangs_when_everything_is_lost() {
    let mut world = World::new(2, Weather::default());
    for lost in [0, 1, 2] {
        // The proposal, the answer or the last word is lost.
        world.propose();
        for _ in 0..lost {
            world.step();
        }
        world.nodes[0].wire.clear();
        world.nodes[1].wire.clear();
        while world.nodes.iter().any(|node| !node.events.is_empty()) {
            world.step();
            world.nodes.iter_mut().for_each(|node| node.wire.clear());
        }
    }
    assert!(world.nodes[0].session.in_flight() > 0);
    world.tick(Duration::ZERO);
    world.weather.lose = 100;
    world.tick(AGREE_WITHIN + Duration::from_secs(1));
    for node in &world.nodes {
        assert_eq!(node.session.in_flight(), 0);
    }
}

/// The leader gives up while the follower stores: the block goes as soon as it is stored.
#[test]
fn a_block_given_up_while_it_is_stored_is_burned() {
    let mut world = World::new(3, Weather::default());
    world.propose();
    let number = 1;
    // The follower collects and begins to store.
    world.step();
    world.step();
    let Some(Event::Admitted { stored: true, .. }) = world.nodes[1].events.front() else {
        panic!("not storing: {:?}", world.nodes[1].events.front());
    };
    let why = Rejection::Late;
    let actions = world.nodes[1].session.on_frame(Frame::Reject { number, why }).unwrap();
    world.carry_out(1, actions);
    world.deliver_all();
    assert!(!world.nodes[1].stored.contains_key(&number));
    assert_eq!(world.nodes[1].session.in_flight(), 0);
}

#[test]
fn a_greeting_tells_how_long_keys_wait_at_the_peer() {
    let now = Instant::now();
    let ((mut north, _), (_, south_says)) = (session(0, None, now), session(1, None, now));
    let [Action::Send(hello)] = &south_says[..] else { panic!("{south_says:?}") };
    let actions = north.on_frame(hello.clone()).unwrap();
    let told = actions.iter().position(|a| matches!(a, Action::PeerKeyTtl(t) if t.as_secs() == 60));
    let up = actions.iter().position(|a| matches!(a, Action::Up));
    assert!(told.unwrap() < up.unwrap(), "known before the first run is assigned");
}

/// The follower's bound may be smaller than the leader's: it takes no more, asks its module for
/// nothing, and the leader stops spending keys on it but for one block at a time.
#[test]
fn a_full_follower_is_not_filled_further_and_the_leader_pauses() {
    let mut world = World::new(4, Weather::default());
    let proposed = |world: &mut World| {
        for _ in 0..2 * MAX_IN_FLIGHT {
            world.propose();
        }
        let begun = world.nodes[0].session.in_flight();
        world.deliver_all();
        begun
    };
    world.nodes[1].session.on_event(Event::Room(false));
    assert_eq!(proposed(&mut world), MAX_IN_FLIGHT);
    assert!(world.usable(1).is_empty() && world.nodes[1].session.in_flight() == 0);
    let refused: Vec<Rejection> = world.nodes[0].refused.values().copied().collect();
    assert_eq!(refused, vec![Rejection::Full; MAX_IN_FLIGHT]);
    assert_eq!(proposed(&mut world), 0, "it pauses");
    world.tick(FULL_PAUSE);
    assert_eq!(proposed(&mut world), 1, "then it tries one");
    world.nodes[1].session.on_event(Event::Room(true));
    assert_eq!(proposed(&mut world), 0);
    world.tick(FULL_PAUSE);
    assert_eq!(proposed(&mut world), 1);
    assert_eq!(proposed(&mut world), MAX_IN_FLIGHT, "and goes on as before when it is taken");
    assert_eq!(world.usable(0), world.usable(1));
}

//! Frames: every message survives its bytes; everything else is refused without being paid for.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use km_core::{
    ids::{BlockId, ClusterId, LinkId, MAX_BLOCK_NUMBER, PoolTag, SaeId},
    module::MAX_MODULE_ID,
    pad::{PadSpan, PadUse},
    peer::GivenBlock,
    provenance::{Grade, Origin, Provenance},
    route::{CipherPolicy, MAX_HOPS},
    run::{RunId, RunSpec},
    usage::kem::KemSet,
};
use proptest::{collection::vec, prelude::*};
use relay::{
    frame::{
        Assigned, Frame, FrameError, Frames, Hello, MAX_FRAME, MAX_LIST, MIN_KEY_TTL_MS, Proposal,
        Rejection, VERSION,
    },
    hop::{
        HopAnswer, HopFault, HopFrame, HopHead, Lock, MAX_MATERIAL, Piece, SupplyAsk, TransferId,
    },
};

fn name() -> impl Strategy<Value = String> {
    "[a-z0-9._:@-]{1,64}"
}

fn number() -> impl Strategy<Value = u64> {
    0..=MAX_BLOCK_NUMBER
}

fn grade() -> impl Strategy<Value = Grade> {
    prop::sample::select(&Grade::ALL[..])
}

fn given() -> impl Strategy<Value = Vec<GivenBlock>> {
    let one = (number(), any::<u16>());
    vec(one.prop_map(|(number, transfers)| GivenBlock { number, transfers }), 0..50)
}

fn run() -> impl Strategy<Value = RunSpec> {
    let sizes = (0u16..1000, 1u16..31, 1u16..=2048);
    (number(), sizes, name(), prop::collection::btree_set(name(), 1..16)).prop_map(
        |(number, (offset, key_len, count), master, slaves)| {
            let block = BlockId { pool: PoolTag::from_bits(7), number };
            let slaves: std::collections::BTreeSet<SaeId> =
                slaves.iter().map(|slave| SaeId::parse(slave).unwrap()).collect();
            let (id, slaves) = (RunId { block, offset }, slaves.into_iter().collect());
            RunSpec { id, key_len, count, master: SaeId::parse(&master).unwrap(), slaves }
        },
    )
}

fn hello() -> impl Strategy<Value = Frame> {
    (name(), number(), number(), vec(number(), 0..50), given(), MIN_KEY_TTL_MS..).prop_map(
        |(cluster, highest, floor, doubtful, given, key_ttl_ms)| {
            let (cluster, pool) = (ClusterId::parse(&cluster).unwrap(), PoolTag::from_bits(9));
            Frame::Hello(Hello { cluster, pool, highest, doubtful, floor, given, key_ttl_ms })
        },
    )
}

fn propose() -> impl Strategy<Value = Frame> {
    (number(), name(), name(), vec((".{1,16}", 1u16..), 1..50), any::<[u8; 16]>()).prop_map(
        |(number, owner, link, keys, tag)| {
            let owner = ClusterId::parse(&owner).unwrap();
            let provenance = Provenance::direct(LinkId::parse(&link).unwrap());
            Frame::Propose(Proposal { number, owner, provenance, combined: None, keys, tag })
        },
    )
}

fn frame() -> impl Strategy<Value = Frame> {
    let why = prop::sample::select(vec![
        Rejection::Mismatch,
        Rejection::Missing,
        Rejection::Used,
        Rejection::NotStored,
        Rejection::Late,
        Rejection::Full,
        Rejection::Path,
    ]);
    let result = prop_oneof![
        Just(Assigned::Durable),
        Just(Assigned::NoBlock),
        ".{0,40}".prop_map(Assigned::Refused),
        any::<u16>().prop_map(Assigned::Behind),
        Just(Assigned::NotPaired),
        Just(Assigned::NoRoom),
        grade().prop_map(Assigned::BelowGrade),
    ];
    prop_oneof![
        hello(),
        (vec(number(), 0..50), vec(number(), 0..50))
            .prop_map(|(have, lack)| Frame::Known { have, lack }),
        propose(),
        (any::<u64>(), any::<[u8; 16]>()).prop_map(|(number, tag)| Frame::Confirm { number, tag }),
        any::<u64>().prop_map(|number| Frame::Stored { number }),
        (any::<u64>(), why).prop_map(|(number, why)| Frame::Reject { number, why }),
        (any::<u64>(), run()).prop_map(|(request, run)| Frame::Assign { request, run }),
        (any::<u64>(), result)
            .prop_map(|(request, result)| Frame::AssignResult { request, result }),
        (run(), any::<u16>()).prop_map(|(run, handed_out)| Frame::RunEnded { run, handed_out }),
        given().prop_map(Frame::Given),
        (any::<u16>(), grade()).prop_map(|(count, grade)| Frame::AskBlocks(count, grade)),
        any::<u64>().prop_map(Frame::Ping),
        any::<u64>().prop_map(Frame::Pong),
        (0..=km_core::ids::MAX_BLOCK_NUMBER).prop_map(Frame::Floor),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_frame_survives_its_bytes_however_they_are_cut(
        frames in vec(frame(), 1..6), cut in 1usize..200
    ) {
        let mut bytes = Vec::new();
        frames.iter().for_each(|frame| frame.encode(&mut bytes));
        let (mut reader, mut read) = (Frames::default(), Vec::new());
        for part in bytes.chunks(cut) {
            reader.push(part);
            while let Some(frame) = reader.next_frame().unwrap() {
                read.push(frame);
            }
        }
        prop_assert_eq!(read, frames);
    }

    #[test]
    fn any_bytes_end_in_a_frame_or_an_error(bytes in vec(any::<u8>(), 0..300)) {
        let _ = Frame::decode(&bytes);
        let mut reader = Frames::default();
        reader.push(&bytes);
        while let Ok(Some(_)) = reader.next_frame() {}
    }

    #[test]
    fn a_cut_frame_is_never_taken_for_a_whole_one(frame in frame(), keep in any::<prop::sample::Index>()) {
        let mut bytes = Vec::new();
        frame.encode(&mut bytes);
        let body = &bytes[4..];
        prop_assert!(Frame::decode(&body[..keep.index(body.len())]).is_err());
    }
}

fn body(frame: &Frame) -> Vec<u8> {
    let mut bytes = Vec::new();
    frame.encode(&mut bytes);
    bytes.split_off(4)
}

fn sound_run() -> RunSpec {
    let block = BlockId { pool: PoolTag::from_bits(1), number: 1 };
    let sae = |name| SaeId::parse(name).unwrap();
    let id = RunId { block, offset: 0 };
    RunSpec { id, key_len: 32, count: 1, master: sae("m"), slaves: vec![sae("s")] }
}

#[test]
fn what_is_out_of_bounds_is_refused() {
    let proposal = |number, keys| {
        let owner = ClusterId::parse("n").unwrap();
        let provenance = Provenance::direct(LinkId::parse("l").unwrap());
        Frame::Propose(Proposal { number, owner, provenance, combined: None, keys, tag: [0; 16] })
    };
    let greeting = |highest, doubtful, key_ttl_ms| {
        let (cluster, pool) = (ClusterId::parse("n").unwrap(), PoolTag::from_bits(1));
        let (floor, given) = (0, vec![]);
        Frame::Hello(Hello { cluster, pool, highest, doubtful, floor, given, key_ttl_ms })
    };
    let hello = |highest, doubtful| greeting(highest, doubtful, MIN_KEY_TTL_MS);
    let key = |len: usize| ("k".repeat(len), 32u16);
    let long = vec![1; MAX_LIST + 1];
    let assign = |run| Frame::Assign { request: 1, run };
    let table = [
        hello(MAX_BLOCK_NUMBER + 1, vec![]),
        hello(u64::MAX, vec![]),
        hello(1, vec![u64::MAX]),
        hello(1, long.clone()),
        greeting(1, vec![], MIN_KEY_TTL_MS - 1),
        proposal(u64::MAX, vec![key(1)]),
        proposal(1, vec![]),
        proposal(1, vec![key(0)]),
        proposal(1, vec![key(MAX_MODULE_ID + 1)]),
        proposal(1, vec![("k".into(), 0)]),
        proposal(1, vec![key(1); 4097]),
        Frame::Known { have: long.clone(), lack: vec![] },
        Frame::Known { have: vec![], lack: long },
        Frame::Given(vec![GivenBlock { number: 1, transfers: 1 }; MAX_LIST + 1]),
        assign(RunSpec { key_len: 0, ..sound_run() }),
        assign(RunSpec { count: 2049, ..sound_run() }),
        assign(RunSpec { key_len: u16::MAX, count: 2, ..sound_run() }),
        assign(RunSpec { slaves: vec![], ..sound_run() }),
        assign(RunSpec { slaves: vec![SaeId::parse("s").unwrap(); 2], ..sound_run() }),
        Frame::RunEnded { run: RunSpec { count: 0, ..sound_run() }, handed_out: 0 },
        Frame::Supply(SupplyAsk { len: 0, ..ask() }),
        Frame::Supply(SupplyAsk { len: MAX_MATERIAL as u32 + 1, ..ask() }),
        Frame::Supply(SupplyAsk { route: vec![], ..ask() }),
        Frame::Supply(SupplyAsk { route: vec![ask().route[0].clone(); MAX_HOPS], ..ask() }),
    ];
    assert!(Frame::decode(&body(&assign(sound_run()))).is_ok());
    assert!(Frame::decode(&body(&hello(1, vec![1]))).is_ok());
    assert!(Frame::decode(&body(&Frame::Supply(ask()))).is_ok());
    for frame in table {
        let refused = Frame::decode(&body(&frame));
        assert_eq!(refused, Err(FrameError::Malformed("out of bounds")), "{frame:?}");
    }
}

#[test]
fn malformed_frames_say_what_is_wrong() {
    let mut other_version = body(&Frame::Ping(1));
    other_version[0] = VERSION + 1;
    assert_eq!(Frame::decode(&other_version), Err(FrameError::Version(VERSION + 1)));
    assert_eq!(Frame::decode(&[]), Err(FrameError::Malformed("it is empty")));
    let mut longer = body(&Frame::Ping(1));
    longer.push(0);
    assert_eq!(Frame::decode(&longer), Err(FrameError::Malformed("bytes follow its end")));
    let no_parse = Err(FrameError::Malformed("its contents do not parse"));
    assert_eq!(Frame::decode(&[VERSION, 200]), no_parse, "no such message");
    assert_eq!(Frame::decode(&[VERSION, 11, 0xFF]), no_parse, "a number that does not end");
    let bad_name = [&[VERSION, 0, 3], b"a/b".as_slice(), &[0; 8]].concat();
    assert_eq!(Frame::decode(&bad_name), no_parse, "a name with a slash");
}

#[test]
fn the_length_is_judged_before_the_bytes_are_waited_for() {
    for length in [0, MAX_FRAME as u32 + 1, u32::MAX] {
        let mut reader = Frames::default();
        reader.push(&length.to_be_bytes());
        assert_eq!(reader.next_frame(), Err(FrameError::Length(length as usize)));
    }
    let mut reader = Frames::default();
    reader.push(&(MAX_FRAME as u32).to_be_bytes());
    assert_eq!(reader.next_frame(), Ok(None));
}

/// Peak virtual memory of this process in KiB.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmPeak:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn a_small_frame_that_claims_a_huge_list_costs_nothing() {
    // 2^40 as a varint.
    let claim = [0x80, 0x80, 0x80, 0x80, 0x80, 0x20];
    let before = peak();
    for message in [1u8, 9] {
        let frame = [&[VERSION, message], claim.as_slice(), &[1; 32]].concat();
        assert_eq!(frame.len(), 40);
        assert!(matches!(Frame::decode(&frame), Err(FrameError::Malformed(_))));
    }
    let text = [&[VERSION, 7, 1, 2], claim.as_slice(), &[b'x'; 30]].concat();
    assert!(Frame::decode(&text).is_err());
    assert!(peak() - before < 16 << 10, "{} KiB were taken", peak() - before);
}

fn hop(lock: impl Fn(Piece) -> Lock) -> Frame {
    let lock = lock(Piece { span: sound_run().id, at: 0, len: 32 });
    let (from, to) = (ClusterId::parse("north").unwrap(), ClusterId::parse("south").unwrap());
    let head = HopHead {
        transfer: TransferId([7; 16]),
        from,
        route: vec![to],
        policy: CipherPolicy::OtpOnly,
        origin: Origin::Qrng,
        path: Vec::new(),
    };
    let body = if matches!(lock, Lock::Given(_)) { vec![] } else { vec![1, 2, 3] };
    Frame::Hop(Box::new(HopFrame { head, lock, body, tag: [0xA5; 16] }))
}

fn ask() -> SupplyAsk {
    let route = vec![ClusterId::parse("south").unwrap()];
    let (transfer, policy) = (TransferId([7; 16]), CipherPolicy::OtpOnly);
    SupplyAsk { transfer, route, policy, len: 4096 }
}

fn failed() -> HopAnswer {
    HopAnswer::Failed { at: ClusterId::parse("west").unwrap(), why: HopFault::NoPad }
}

/// Writes the seeds of the fuzz target; run with `QKM_WRITE_SEEDS=1` after the format changed.
#[test]
fn fuzz_seeds_hold_every_message() {
    let corpus = concat!(env!("CARGO_MANIFEST_DIR"), "/../fuzz/corpus/link_frame");
    let block = GivenBlock { number: 3, transfers: 1 };
    let cluster = ClusterId::parse("north").unwrap();
    let pool = PoolTag::from_bits(7);
    let (highest, doubtful, floor, given) = (5, vec![4, 5], 2, vec![block]);
    let key_ttl_ms = 86_400_000;
    let provenance = Provenance::direct(LinkId::parse("link").unwrap());
    let span = PadSpan { id: sound_run().id, len: 64 };
    let name = (cluster.clone(), TransferId([7; 16]));
    let keys = vec![("key-1".to_owned(), 32), ("key-2".to_owned(), 64)];
    let (owner, tag) = (cluster.clone(), [0xA5; 16]);
    let seeds = [
        (
            "hello",
            Frame::Hello(Hello { cluster, pool, highest, doubtful, floor, given, key_ttl_ms }),
        ),
        ("known", Frame::Known { have: vec![4], lack: vec![5] }),
        (
            "propose",
            Frame::Propose(Proposal { number: 6, owner, provenance, combined: None, keys, tag }),
        ),
        ("confirm", Frame::Confirm { number: 6, tag }),
        ("stored", Frame::Stored { number: 6 }),
        ("reject", Frame::Reject { number: 6, why: Rejection::Late }),
        ("full", Frame::Reject { number: 6, why: Rejection::Full }),
        ("assign", Frame::Assign { request: 1, run: sound_run() }),
        ("assign_result", Frame::AssignResult { request: 1, result: Assigned::Durable }),
        ("refused", Frame::AssignResult { request: 1, result: Assigned::Refused("no".into()) }),
        ("behind", Frame::AssignResult { request: 1, result: Assigned::Behind(640) }),
        ("not_paired", Frame::AssignResult { request: 1, result: Assigned::NotPaired }),
        (
            "below_grade",
            Frame::AssignResult { request: 1, result: Assigned::BelowGrade(Grade::ItsRelay) },
        ),
        ("run_ended", Frame::RunEnded { run: sound_run(), handed_out: 1 }),
        ("given", Frame::Given(vec![block])),
        ("ask_blocks", Frame::AskBlocks(16, Grade::ItsRelay)),
        ("ping", Frame::Ping(1)),
        ("pong", Frame::Pong(1)),
        ("floor", Frame::Floor(1)),
        ("lend", Frame::Lend { request: 1, span }),
        ("kem_offer", Frame::KemOffer { id: 1, set: KemSet::MlKem768, public: vec![1; 1184] }),
        ("kem_answer", Frame::KemAnswer { id: 1, ciphertext: vec![2; 1088] }),
        ("kem_ready", Frame::KemReady { id: 1, proof: vec![3; 48] }),
        ("order", Frame::Order(4096)),
        ("pads_used", Frame::PadsUsed(vec![PadUse { span, pad: 16, tag: 32 }])),
        ("pads_known", Frame::PadsKnown(vec![span.id])),
        ("hop_otp", hop(|piece| Lock::Otp(vec![piece]))),
        ("hop_given", hop(|piece| Lock::Given(vec![piece]))),
        ("hop_aes", hop(|key| Lock::Aes { key, counter: 3 })),
        ("hop_link", hop(|_| Lock::Link { key: 1, counter: 3 })),
        ("supply", Frame::Supply(ask())),
        ("arrived", Frame::HopAnswer { name: name.clone(), answer: HopAnswer::Arrived(vec![]) }),
        ("failed", Frame::HopAnswer { name, answer: failed() }),
    ];
    for (name, frame) in seeds {
        let mut bytes = Vec::new();
        frame.encode(&mut bytes);
        let path = format!("{corpus}/{name}");
        if std::env::var_os("QKM_WRITE_SEEDS").is_some() {
            std::fs::create_dir_all(corpus).unwrap();
            std::fs::write(&path, &bytes).unwrap();
        }
        assert_eq!(std::fs::read(&path).unwrap(), bytes, "{name}: the format changed");
    }
}

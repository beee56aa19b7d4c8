//! One hop and one middle node without sockets: frames that are lost, repeated, out of order and
//! changed, and nodes that answer for others.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use km_core::{
    ids::{BlockId, ClusterId, LinkId, PoolTag},
    material::ClearBytes,
    pad::{Pad, PadSpan},
    provenance::{Grade, Hop, HopCipher, Origin},
    route::CipherPolicy,
    run::RunId,
};
use relay::{
    frame::{Frame, Frames},
    hop::{
        HopAnswer, HopFault, HopFrame, HopHead, Lock, TransferId,
        cipher::{self, MOST_FRAMES},
        pads_in::{MAX_SPANS, PadsIn},
        pads_out::{IDLE, PadsOut},
        path::with_hop,
        transfers::{
            COLLECT_WITHIN, MAX_ARRIVED_FROM_ONE, MAX_PASSING, PASS_WITHIN, Step, Transfers,
        },
    },
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

    fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.roll(256) as u8).collect()
    }
}

fn name(text: &str) -> ClusterId {
    ClusterId::parse(text).unwrap()
}

fn head(number: u64) -> HopHead {
    let mut transfer = [0; 16];
    transfer[..8].copy_from_slice(&number.to_be_bytes());
    HopHead {
        transfer: TransferId(transfer),
        from: name("a"),
        route: vec![name("c")],
        policy: CipherPolicy::OtpOnly,
        origin: Origin::HsmRng,
        path: Vec::new(),
    }
}

/// Both ends of one KM link, holding the same spans.
struct Ends {
    dice: Dice,
    out: PadsOut,
    far: PadsIn,
    next_span: u16,
    now: Instant,
}

impl Ends {
    fn new(seed: u64) -> Self {
        let now = Instant::now();
        Self { dice: Dice(seed), out: PadsOut::new(now), far: PadsIn::default(), next_span: 0, now }
    }

    fn lend(&mut self, len: u16, grade: Grade) {
        self.lend_of("link", len, grade);
    }

    fn lend_of(&mut self, link: &str, len: u16, grade: Grade) {
        let block = BlockId { pool: PoolTag::from_bits(1), number: 1 + u64::from(self.next_span) };
        self.next_span += 1;
        let span = PadSpan { id: RunId { block, offset: 0 }, len };
        let bits = self.dice.bytes(usize::from(len));
        let link = LinkId::parse(link).ok();
        let pad = || Pad { span, bytes: ClearBytes::copy_from(&bits), grade, link: link.clone() };
        self.out.add(pad());
        self.far.add(pad());
    }

    fn seal(&mut self, number: u64, material: &[u8], how: u64) -> Option<HopFrame> {
        let clear = ClearBytes::copy_from(material);
        match how {
            0 => {
                let taken = self.out.take(material.len(), self.now)?;
                cipher::seal_otp(head(number), Lock::Otp(taken.pieces), &taken.bytes, &clear)
            }
            _ => {
                let (key, hop) = self.out.hop_key(self.now)?;
                let lock = Lock::Aes { key, counter: hop.next()? };
                hop.seal(head(number), lock, &clear)
            }
        }
    }
}

fn bytes_of(frame: &HopFrame) -> Vec<u8> {
    let mut bytes = Vec::new();
    Frame::Hop(Box::new(frame.clone())).encode(&mut bytes);
    bytes
}

fn frame_of(bytes: &[u8]) -> Option<HopFrame> {
    let mut frames = Frames::default();
    frames.push(bytes);
    match frames.next_frame() {
        Ok(Some(Frame::Hop(frame))) => Some(*frame),
        _ => None,
    }
}

#[test]
fn whatever_a_channel_does_a_batch_opens_once_unchanged_or_not_at_all() {
    let (mut opened, mut refused) = (0, BTreeMap::new());
    for seed in 0..200 {
        let mut ends = Ends::new(seed);
        let (mut sent, mut wire) = (BTreeMap::new(), Vec::new());
        let mut seen = BTreeSet::new();
        let mut forged = BTreeSet::new();
        for number in 0..40 {
            if ends.out.available() < 400 {
                let len = 64 + ends.dice.roll(900) as u16;
                ends.lend(len, Grade::ItsRelay);
            }
            let len = 1 + ends.dice.roll(200) as usize;
            let (material, how) = (ends.dice.bytes(len), ends.dice.roll(2));
            let Some(frame) = ends.seal(number, &material, how) else { continue };
            sent.insert(frame.head.transfer, material);
            let mut bytes = bytes_of(&frame);
            match ends.dice.roll(10) {
                0 => continue,
                1 => wire.push(bytes.clone()),
                2 => {
                    // The frame's own length aside, any bit.
                    let bit = 40 + ends.dice.roll((bytes.len() as u64 - 5) * 8) as usize;
                    bytes[bit / 8] ^= 1 << (bit % 8);
                    forged.insert(bytes.clone());
                }
                _ => {}
            }
            let place = match ends.dice.roll(5) {
                0 => ends.dice.roll(wire.len() as u64 + 1) as usize,
                _ => wire.len(),
            };
            wire.insert(place, bytes);
            if ends.dice.roll(3) > 0 && !wire.is_empty() {
                let bytes = wire.remove(0);
                let Some(frame) = frame_of(&bytes) else { continue };
                match ends.far.open(&frame) {
                    Ok(got) => {
                        assert!(!forged.contains(&bytes), "seed {seed}: a changed frame opened");
                        let got = got.material.expose(<[u8]>::to_vec);
                        assert_eq!(Some(&got), sent.get(&frame.head.transfer), "seed {seed}");
                        assert!(seen.insert(frame.head.transfer), "seed {seed}: opened twice");
                        opened += 1;
                    }
                    Err(why) => *refused.entry(why.to_string()).or_insert(0) += 1,
                }
            }
        }
    }
    assert!(opened > 2000, "hardly anything opened: {opened}");
    assert!(refused.len() >= 2 && refused.values().sum::<i32>() > 300, "{refused:?}");
}

#[test]
fn each_bit_of_a_frame_counts() {
    for how in [0, 1] {
        let mut changed = 0;
        for bit in 0.. {
            let mut ends = Ends::new(7);
            ends.lend(200, Grade::ItsRelay);
            let frame = ends.seal(1, &[0x5A; 40], how).unwrap();
            let mut bytes = bytes_of(&frame);
            if 32 + bit >= bytes.len() * 8 {
                break;
            }
            bytes[4 + bit / 8] ^= 1 << (bit % 8);
            let Some(frame) = frame_of(&bytes) else { continue };
            assert!(ends.far.open(&frame).is_err(), "bit {bit}");
            changed += 1;
        }
        assert!(changed > 600, "hardly any changed frame still parsed: {changed}");
    }
}

/// Of a full frame, 2,045 keys of 256 bits: both the pad it spends and the bytes it sends.
#[test]
fn one_time_pad_costs_less_than_one_percent_over_the_keys() {
    let mut ends = Ends::new(11);
    for _ in 0..2 {
        ends.lend(65_472, Grade::ItsRelay);
    }
    let keys = vec![0x5A; 2045 * 32];
    let frame = ends.seal(1, &keys, 0).unwrap();
    let Lock::Otp(pieces) = &frame.lock else { panic!() };
    let spent: usize = pieces.iter().map(|piece| usize::from(piece.len)).sum();
    let least = keys.len() * 101 / 100;
    assert!(spent < least && spent == keys.len() + 32, "{spent} bytes of pad");
    let sent = bytes_of(&frame).len();
    assert!(sent < least, "{sent} bytes on the wire");
    assert!(ends.far.open(&frame).is_ok());
    // Of the pad alone, 128 keys are enough.
    ends.lend(65_472, Grade::ItsRelay);
    let few = ends.seal(2, &keys[..128 * 32], 0).unwrap();
    let Lock::Otp(pieces) = &few.lock else { panic!() };
    let spent: usize = pieces.iter().map(|piece| usize::from(piece.len)).sum();
    assert!(spent * 100 < 128 * 32 * 101, "{spent} bytes of pad");
}

/// The tag is rebuilt from the description in the module's header.
#[test]
fn one_time_pad_is_addition_and_a_poly1305_tag_over_head_lock_and_ciphertext() {
    use poly1305::{Key, Poly1305, universal_hash::KeyInit};
    let mut ends = Ends::new(3);
    ends.lend(100, Grade::ItsRelay);
    let pad = Dice(3).bytes(100);
    let material = [0xC3; 50];
    let frame = ends.seal(9, &material, 0).unwrap();
    let expected: Vec<u8> = material.iter().zip(&pad[32..]).map(|(m, p)| m ^ p).collect();
    assert_eq!(frame.body, expected);
    let parts = postcard::to_extend(&(&frame.head, &frame.lock), Vec::new()).unwrap();
    let lengths = [parts.len() as u64, 50].map(u64::to_be_bytes);
    let message =
        [b"qkm hop 1\0".as_slice(), &lengths[0], &parts, &lengths[1], &frame.body].concat();
    let key: Key = <[u8; 32]>::try_from(&pad[..32]).unwrap().into();
    assert_eq!(frame.tag, <[u8; 16]>::from(Poly1305::new(&key).compute_unpadded(&message)));
}

#[test]
fn what_was_passed_on_is_what_the_pad_held() {
    let mut ends = Ends::new(4);
    ends.lend(40, Grade::ItsRelay);
    ends.lend(60, Grade::ItsRelay);
    let bits: Vec<u8> = {
        let mut dice = Dice(4);
        dice.bytes(100)
    };
    let taken = ends.out.take(68, ends.now).unwrap();
    assert_eq!(taken.pieces.len(), 2);
    let head = HopHead { origin: Origin::Qkd(LinkId::parse("link").unwrap()), ..head(1) };
    let given = cipher::seal_given(head, Lock::Given(taken.pieces), &taken.bytes);
    let (frame, material) = given.unwrap();
    assert!(frame.body.is_empty());
    assert_eq!(material.expose(<[u8]>::to_vec), bits[32..]);
    let opened = ends.far.open(&frame).unwrap();
    assert_eq!((opened.material, opened.cipher), (material, HopCipher::Shared));
    // Both spans are through, and all is accounted for.
    let through = ends.out.take_through();
    let sum = |part: fn(&km_core::pad::PadUse) -> u16| through.iter().map(part).sum::<u16>();
    assert_eq!((sum(|u| u.tag), sum(|u| u.pad), sum(|u| u.rest())), (32, 68, 0));
}

#[test]
fn pad_that_is_computational_itself_is_not_called_one_time_pad() {
    let mut ends = Ends::new(5);
    ends.lend(60, Grade::ItsRelay);
    ends.lend(60, Grade::Computational);
    let taken = ends.out.take(60, ends.now).unwrap();
    assert_eq!(taken.grade, Grade::Computational);
    let clear = ClearBytes::from_vec(vec![1; 60]);
    let frame = cipher::seal_otp(head(1), Lock::Otp(taken.pieces), &taken.bytes, &clear).unwrap();
    assert_eq!(ends.far.open(&frame).unwrap().cipher, HopCipher::OtpComputational);
}

#[test]
fn a_hop_key_is_changed_after_its_last_frame() {
    let mut ends = Ends::new(6);
    ends.lend(100, Grade::ItsRelay);
    let mut keys = BTreeSet::new();
    for number in 0..=MOST_FRAMES {
        let frame = ends.seal(number, &[1; 8], 1).unwrap();
        let Lock::Aes { key, counter } = frame.lock else { panic!() };
        assert_eq!(counter, number % MOST_FRAMES);
        keys.insert(key);
        ends.far.open(&frame).unwrap();
    }
    assert_eq!(keys.len(), 2);
}

/// Frames of another link, of an earlier connection, or put together from two.
#[test]
fn what_is_spliced_in_from_elsewhere_opens_nothing() {
    for how in [0, 1] {
        let (mut one, mut other) = (Ends::new(9), Ends::new(10));
        one.lend(2000, Grade::ItsRelay);
        other.lend(2000, Grade::ItsRelay);
        let sealed = |ends: &mut Ends, number| ends.seal(number, &[7; 100], how).unwrap();
        let foreign = sealed(&mut other, 1);
        assert_eq!(one.far.open(&foreign).unwrap_err(), HopFault::BadTag, "of another link");
        let lost = sealed(&mut one, 2);
        assert!(one.far.open(&lost).is_err(), "what the foreign frame named is spent");
        let (first, second) = (sealed(&mut one, 3), sealed(&mut one, 4));
        let mixed = HopFrame { body: second.body.clone(), ..first };
        assert_eq!(one.far.open(&mixed).unwrap_err(), HopFault::BadTag, "of two frames");
        let whole = HopFrame { head: head(9), ..second.clone() };
        assert_eq!(one.far.open(&whole).unwrap_err(), HopFault::BadTag, "under another head");
        let own = sealed(&mut other, 5);
        assert!(other.far.open(&own).is_ok());
        let late = sealed(&mut other, 6);
        other.far = PadsIn::default();
        assert_eq!(
            other.far.open(&late).unwrap_err(),
            HopFault::BadPad,
            "of an earlier connection"
        );
    }
}

#[test]
fn idle_spans_are_given_up_and_bounded_at_the_far_end() {
    let mut ends = Ends::new(8);
    for _ in 0..MAX_SPANS {
        assert!(ends.far.has_room());
        ends.lend(100, Grade::ItsRelay);
    }
    assert!(!ends.far.has_room());
    ends.out.take(10, ends.now).unwrap();
    ends.out.end_idle(ends.now + IDLE + Duration::from_secs(1));
    let through = ends.out.take_through();
    assert_eq!(through.len(), MAX_SPANS);
    assert_eq!(through.iter().map(|used| u64::from(used.rest())).sum::<u64>(), 6400 - 42);
    through.iter().for_each(|used| ends.far.remove(used.span.id));
    assert!(ends.far.has_room());
}

fn material() -> ClearBytes {
    ClearBytes::from_vec(vec![7; 64])
}

/// A batch that came to `b` from `a` and goes on to `c`.
fn passing(node: &mut Transfers, number: u64, now: Instant) -> Step {
    let mut head = head(number);
    head.path = with_hop(Vec::new(), &name("b"), HopCipher::Otp);
    node.opened(name("a"), head, material(), now)
}

#[test]
fn only_the_node_a_batch_was_passed_to_may_answer_for_it_and_once() {
    let (mut node, now) = (Transfers::new(name("b")), Instant::now());
    let Step::Forward { to, head, .. } = passing(&mut node, 1, now) else { panic!() };
    assert_eq!((to, head.route.len(), head.path.len()), (name("c"), 0, 1));
    let batch = (name("a"), head.transfer);
    let arrived = || HopAnswer::Arrived(Vec::new());
    assert!(node.answered(&name("d"), batch.clone(), arrived()).is_none());
    assert!(node.answered(&name("a"), batch.clone(), arrived()).is_none());
    let told = node.answered(&name("c"), batch.clone(), arrived());
    assert!(matches!(told, Some(Step::Answer { to, .. }) if to == name("a")));
    assert!(node.answered(&name("c"), batch, arrived()).is_none());

    let mut first = Transfers::new(name("a"));
    first.begin(head.transfer, name("b"));
    assert!(first.answered(&name("c"), (name("a"), head.transfer), arrived()).is_none());
    let done = first.answered(&name("b"), (name("a"), head.transfer), arrived());
    assert!(matches!(done, Some(Step::Done { .. })));
}

#[test]
fn a_batch_that_comes_twice_or_comes_back_is_refused() {
    let (mut node, now) = (Transfers::new(name("b")), Instant::now());
    assert!(matches!(passing(&mut node, 1, now), Step::Forward { .. }));
    let refused = |step: Step| {
        matches!(step, Step::Answer { answer: HopAnswer::Failed { why, .. }, .. }
            if why == HopFault::Refused)
    };
    assert!(refused(passing(&mut node, 1, now)));
    let looped = HopHead { route: vec![name("c"), name("b")], ..head(2) };
    assert!(refused(node.opened(name("a"), looped, material(), now)));
    let own = HopHead { from: name("b"), ..head(3) };
    assert!(refused(node.opened(name("a"), own, material(), now)));
}

#[test]
fn what_passes_and_what_waits_is_bounded_in_number_and_time() {
    let (mut node, now) = (Transfers::new(name("b")), Instant::now());
    let busy = |step: &Step| {
        matches!(step, Step::Answer { answer: HopAnswer::Failed { why, .. }, .. }
            if *why == HopFault::Busy)
    };
    let steps: Vec<Step> =
        (0..=MAX_PASSING as u64).map(|number| passing(&mut node, number, now)).collect();
    assert!(busy(&steps[MAX_PASSING]) && !steps[..MAX_PASSING].iter().any(busy));
    let arrive = |node: &mut Transfers, number| {
        let head = HopHead { route: Vec::new(), ..head(1000 + number) };
        node.opened(name("a"), head, material(), now)
    };
    let steps: Vec<Step> =
        (0..=MAX_ARRIVED_FROM_ONE as u64).map(|number| arrive(&mut node, number)).collect();
    assert!(busy(&steps[MAX_ARRIVED_FROM_ONE]) && !steps[..MAX_ARRIVED_FROM_ONE].iter().any(busy));
    // Another cluster is not kept out.
    let other = HopHead { from: name("z"), route: Vec::new(), ..head(1) };
    assert!(!busy(&node.opened(name("z"), other, material(), now)));
    let late = node.tick(now + PASS_WITHIN);
    assert_eq!(late.len(), MAX_PASSING);
    assert!(node.tick(now + COLLECT_WITHIN).is_empty());
    assert_eq!(node.counts(), (0, 0));
}

#[test]
fn what_arrived_is_collected_once_with_the_path_it_came() {
    let (mut node, now) = (Transfers::new(name("c")), Instant::now());
    let path = vec![
        Hop { to: name("b"), cipher: HopCipher::Otp },
        Hop { to: name("c"), cipher: HopCipher::Aes256Gcm },
    ];
    let head = HopHead { route: Vec::new(), path: path.clone(), ..head(1) };
    let batch = (name("a"), head.transfer);
    let step = node.opened(name("b"), head, material(), now);
    assert!(matches!(step, Step::Answer { answer: HopAnswer::Arrived(seen), .. } if seen == path));
    let (bytes, provenance) = node.collect(&batch).unwrap();
    assert_eq!((bytes, provenance.path.clone()), (material(), path));
    assert_eq!(provenance.grade(), Grade::Computational);
    assert!(node.collect(&batch).is_none());
}

/// Where another QKD link took over, no batch has bits of both, and each says which it was.
#[test]
fn a_key_that_is_passed_on_names_the_qkd_link_it_came_over() {
    let mut ends = Ends::new(7);
    let given = |ends: &mut Ends, number, len| {
        let taken = ends.out.take_alike(len, 2048, ends.now).unwrap();
        let origin = Origin::Qkd(taken.link.clone().unwrap());
        let head = HopHead { origin: origin.clone(), ..head(number) };
        let (frame, material) =
            cipher::seal_given(head, Lock::Given(taken.pieces), &taken.bytes).unwrap();
        (frame, origin, material)
    };
    let link = |name| Origin::Qkd(LinkId::parse(name).unwrap());
    for (name, len) in [("one", 3000), ("one", 1000), ("two", 6000), ("one", 3000)] {
        ends.lend_of(name, len, Grade::ItsRelay);
    }
    let expected =
        [(1500, "one", 1500), (3000, "one", 2436), (3000, "two", 3000), (2200, "two", 2200)];
    for (number, (want, name, len)) in (0..).zip(expected) {
        let (frame, origin, material) = given(&mut ends, number, want);
        assert_eq!((origin, material.len()), (link(name), len), "batch {number}");
        assert_eq!(ends.far.open(&frame).unwrap().material, material);
    }
    // What is left of the second link is too little for a batch, and is given up.
    let left = ends.out.available();
    let (mut frame, origin, _) = given(&mut ends, 9, 2500);
    assert_eq!((origin, ends.out.available()), (link("one"), 3000 - 2532));
    let burned: u16 = ends.out.take_through().iter().map(|used| used.rest()).sum();
    assert_eq!(usize::from(burned), left - 3000);
    frame.head.origin = link("two");
    assert_eq!(ends.far.open(&frame).unwrap_err(), HopFault::Refused, "the link is another");
}

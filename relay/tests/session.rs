//! Two sessions joined by hand: spans that open slowly, and ways that are told differently.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::Instant;

use km_core::{
    ids::{BlockId, ClusterId, LinkId, PoolTag},
    material::ClearBytes,
    module::ModuleKey,
    pad::{Pad, PadSpan, PadUse},
    provenance::{Grade, Hop, HopCipher, Origin, Provenance},
    run::RunId,
};
use relay::{
    frame::{Assigned, Frame, Hello, Rejection},
    hop::pads_in::MAX_SPANS,
    session::{Action, Event, Feed, Session, Start},
};

fn cluster(name: &str) -> ClusterId {
    ClusterId::parse(name).unwrap()
}

fn sent(actions: &[Action]) -> Option<Frame> {
    actions.iter().find_map(|action| match action {
        Action::Send(frame) => Some(frame.clone()),
        _ => None,
    })
}

/// A leader and a follower that greeted each other.
fn pair(feed: &Feed) -> [Session; 2] {
    let (a, c) = (cluster("a"), cluster("c"));
    let pool = PoolTag::of_pair(&a, &c);
    let begin = |here: &ClusterId, peer: &ClusterId| {
        let hello = Hello {
            cluster: here.clone(),
            pool,
            highest: 0,
            doubtful: Vec::new(),
            floor: 0,
            given: Vec::new(),
            key_ttl_ms: 60_000,
        };
        let (here, peer, feed) = (here.clone(), peer.clone(), Some(feed.clone()));
        Session::new(Start { here, peer, pool, feed, combine: None, hello }, Instant::now())
    };
    let ((mut leader, from_leader), (mut follower, from_follower)) = (begin(&a, &c), begin(&c, &a));
    leader.on_frame(sent(&from_follower).unwrap()).unwrap();
    follower.on_frame(sent(&from_leader).unwrap()).unwrap();
    [leader, follower]
}

fn span(number: u64) -> PadSpan {
    let block = BlockId { pool: PoolTag::of_pair(&cluster("a"), &cluster("c")), number };
    PadSpan { id: RunId { block, offset: 0 }, len: 64 }
}

fn pad(span: PadSpan) -> Option<Pad> {
    let bytes = ClearBytes::from_vec(vec![3; usize::from(span.len)]);
    Some(Pad { span, bytes, grade: Grade::ItsRelay, link: None })
}

/// The lender gives up a span the token here is slow to open: it takes no place once it is open.
#[test]
fn a_span_given_up_while_it_opens_takes_no_place() {
    let [_, mut session] = pair(&Feed::Qkd(vec![LinkId::parse("link").unwrap()]));
    let lend = |session: &mut Session, number| {
        let frame = Frame::Lend { request: number, span: span(number) };
        session.on_frame(frame).unwrap()
    };
    for number in 0..2 * MAX_SPANS as u64 {
        let actions = lend(&mut session, number);
        assert!(matches!(actions[..], [Action::Borrow { .. }]), "{actions:?}");
        let span = span(number);
        session.on_frame(Frame::PadsUsed(vec![PadUse::burned(span)])).unwrap();
        session.on_event(Event::Lent { id: span.id, pad: pad(span) });
    }
    // What does not open takes none either, but what opens still or is open does.
    for number in 1000..1000 + MAX_SPANS as u64 {
        lend(&mut session, number);
        session.on_event(Event::Lent { id: span(number).id, pad: None });
    }
    for number in 2000..2000 + MAX_SPANS as u64 {
        assert!(matches!(lend(&mut session, number)[..], [Action::Borrow { .. }]));
        if number % 2 == 0 {
            session.on_event(Event::Lent { id: span(number).id, pad: pad(span(number)) });
        }
    }
    let refused = sent(&lend(&mut session, 3000)).unwrap();
    assert_eq!(refused, Frame::AssignResult { request: 3000, result: Assigned::NoRoom });
}

fn relayed(ciphers: [HopCipher; 2]) -> ModuleKey {
    let hop = |(to, cipher)| Hop { to: cluster(to), cipher };
    let path = ["b", "c"].into_iter().zip(ciphers).map(hop).collect();
    let way = Provenance::relayed(Origin::Qkd(LinkId::parse("link").unwrap()), path);
    let bytes = ClearBytes::from_vec(vec![9; 2048]);
    ModuleKey { id: "batch".into(), bytes, came: Some(way) }
}

/// A node on the way alters what the destination says of the path: neither end stores the block.
#[test]
fn a_way_told_better_than_it_was_is_refused_at_both_ends() {
    use HopCipher::{Aes256Gcm, Otp, OtpComputational, Shared};
    let cases = [
        ([Shared, Otp], [Shared, Aes256Gcm], false),
        ([Shared, OtpComputational], [Shared, Aes256Gcm], false),
        ([Shared, Otp], [OtpComputational, Otp], false),
        ([Shared, Aes256Gcm], [Shared, Aes256Gcm], true),
        ([OtpComputational, Otp], [Shared, Otp], true),
    ];
    for (told, seen, stored) in cases {
        let [mut leader, mut follower] = pair(&Feed::Relay);
        let keys = vec![relayed(told)];
        let proposal = sent(&leader.on_event(Event::Keys { keys, owner: cluster("a") })).unwrap();
        let collecting = follower.on_frame(proposal).unwrap();
        let [Action::Collect { number, .. }] = collecting[..] else { panic!("{collecting:?}") };
        let keys = Ok(vec![relayed(seen)]);
        let actions = follower.on_event(Event::Collected { number, keys });
        if stored {
            let [Action::Admit(agreed)] = &actions[..] else { panic!("{actions:?}") };
            assert_eq!(Some(&agreed.provenance), relayed(told).came.as_ref());
            continue;
        }
        let why = Rejection::Path;
        assert!(matches!(actions[0], Action::Refused { why: Rejection::Path, .. }), "{actions:?}");
        assert_eq!(sent(&actions), Some(Frame::Reject { number, why }));
        let told = leader.on_frame(Frame::Reject { number, why }).unwrap();
        assert!(matches!(told[..], [Action::Refused { why: Rejection::Path, .. }]), "{told:?}");
        assert_eq!((leader.in_flight(), follower.in_flight()), (0, 0));
    }
}

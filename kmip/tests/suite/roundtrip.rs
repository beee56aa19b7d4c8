//! Bytes to tree to bytes, over random trees and random bytes.

use kmip::tag::Tag;
use kmip::ttlv::{HEADER, Limits, frame_len, parse};
use kmip::{RequestMessage, ResponseMessage};
use proptest::prelude::*;

use crate::tree::{decode, encode, structure};

proptest! {
    #[test]
    fn a_tree_survives_the_wire(value in structure(true)) {
        let frame = encode(Tag::RequestMessage, &value);
        prop_assert_eq!(frame_len(&frame, 1 << 20), Ok(Some(frame.len())));
        let (tag, back) = decode(&frame);
        prop_assert_eq!(tag, Tag::RequestMessage);
        prop_assert_eq!(&back, &value);
        prop_assert_eq!(encode(tag, &back), frame);
    }

    #[test]
    fn every_cut_is_refused(value in structure(true), cut in any::<prop::sample::Index>()) {
        let frame = encode(Tag::RequestMessage, &value);
        let short = &frame[..cut.index(frame.len())];
        prop_assert!(parse(short, &Limits::default()).is_err());
        if short.len() < HEADER {
            prop_assert_eq!(frame_len(short, 1 << 20), Ok(None));
        }
    }

    #[test]
    fn what_is_accepted_is_canonical(value in structure(true), at in any::<prop::sample::Index>(), bit in 0u8..8) {
        let mut frame = encode(Tag::RequestMessage, &value);
        let at = at.index(frame.len());
        frame[at] ^= 1 << bit;
        if let Ok(root) = parse(&frame, &Limits::default()) {
            let tree = kmip::ttlv::Value::from_item(&root).unwrap();
            prop_assert_eq!(encode(root.tag(), &tree), frame);
        }
    }

    #[test]
    fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        prop_assert!(RequestMessage::decode(&bytes).is_err());
        prop_assert!(ResponseMessage::decode(&bytes).is_err());
    }
}

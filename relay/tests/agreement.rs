//! The one-time tags: whatever differs between the ends changes them.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use km_core::{
    block::{MAX_BLOCK, TAG_KEYS},
    ids::{ClusterId, LinkId},
    material::ClearBytes,
    module::ModuleKey,
    provenance::Provenance,
};
use relay::{
    agreement::{MAX_RAW, MIN_RAW, Raw, Tag, equal},
    frame::Proposal,
};

fn keys(bytes: &[u8], each: usize) -> Vec<ModuleKey> {
    let key = |(at, part): (usize, &[u8])| ModuleKey {
        id: format!("k{at}"),
        bytes: ClearBytes::copy_from(part),
        came: None,
    };
    bytes.chunks(each).enumerate().map(key).collect()
}

fn proposal(keys: &[ModuleKey]) -> Proposal {
    Proposal {
        number: 7,
        owner: ClusterId::parse("north").unwrap(),
        provenance: Provenance::direct(LinkId::parse("link").unwrap()),
        combined: None,
        keys: keys.iter().map(|key| (key.id.clone(), key.bytes.len() as u16)).collect(),
        tag: Tag::default(),
    }
}

fn bits() -> Vec<u8> {
    (0..416u32).map(|i| (i * 37 % 251) as u8).collect()
}

/// RFC 8439, section 2.5.2: the key, the message and the tag given there. The function under test
/// takes no message of the caller's, so the same primitive is checked beside it, and the tag is
/// rebuilt from the description in the module's header.
#[test]
fn tags_are_poly1305_over_the_description_and_the_bits() {
    use poly1305::{Key, Poly1305, universal_hash::KeyInit};
    let compute = |key: &[u8], message: &[u8]| -> Tag {
        let key: Key = <[u8; 32]>::try_from(key).unwrap().into();
        Poly1305::new(&key).compute_unpadded(message).into()
    };
    let key = hex("85d6be7857556d337f4452fe42d506a80103808afb0db2fd4abff6af4149f51b");
    let tag = compute(&key, b"Cryptographic Forum Research Group");
    assert_eq!(tag.to_vec(), hex("a8061dc1305136c6c22b8baf0c0127a9"));

    let (bits, parts) = (bits(), keys(&bits(), 32));
    let (raw, proposal) = (Raw::join(&parts).unwrap(), proposal(&parts));
    let described = postcard::to_extend(
        &(
            proposal.number,
            &proposal.owner,
            &proposal.provenance,
            &proposal.combined,
            &proposal.keys,
        ),
        b"qkm propose 1\0".to_vec(),
    );
    let described = described.unwrap();
    let length = (described.len() as u64).to_be_bytes();
    let message = [length.as_slice(), &described, &bits[TAG_KEYS..]].concat();
    assert_eq!(raw.proposal_tag(&proposal), compute(&bits[..32], &message));
    let message = [b"qkm confirm 1\0".as_slice(), &7u64.to_be_bytes()].concat();
    assert_eq!(raw.confirm_tag(7), compute(&bits[32..64], &message));
}

fn hex(text: &str) -> Vec<u8> {
    let digit = |at: usize| u8::from_str_radix(&text[at..at + 2], 16).unwrap();
    (0..text.len()).step_by(2).map(digit).collect()
}

#[test]
fn one_flipped_bit_anywhere_changes_the_tag() {
    let right = keys(&bits(), 32);
    let proposal = proposal(&right);
    let tag = Raw::join(&right).unwrap().proposal_tag(&proposal);
    assert!(equal(&tag, &Raw::join(&keys(&bits(), 32)).unwrap().proposal_tag(&proposal)));
    for at in 0..bits().len() * 8 {
        let mut other = bits();
        other[at / 8] ^= 1 << (at % 8);
        let other = Raw::join(&keys(&other, 32)).unwrap();
        // The second tag key is not under the first tag; the confirmation proves it.
        let differs = match (32..64).contains(&(at / 8)) {
            true => !equal(&other.confirm_tag(7), &Raw::join(&right).unwrap().confirm_tag(7)),
            false => !equal(&other.proposal_tag(&proposal), &tag),
        };
        // Poly1305 clamps 22 bits of its key: they are worth nothing and harm nothing.
        let clamped = |byte: usize, bit: usize| match byte % 32 {
            3 | 7 | 11 | 15 => bit >= 4,
            4 | 8 | 12 => bit < 2,
            _ => false,
        };
        assert!(differs || (at / 8 < 64 && clamped(at / 8, at % 8)), "bit {at}");
    }
}

#[test]
fn order_owner_number_link_and_cut_are_under_the_tag() {
    let right = keys(&bits(), 32);
    let raw = Raw::join(&right).unwrap();
    let proposal = proposal(&right);
    let tag = raw.proposal_tag(&proposal);
    let mut swapped = keys(&bits(), 32);
    swapped.swap(3, 4);
    assert!(!equal(&Raw::join(&swapped).unwrap().proposal_tag(&proposal), &tag));
    let mut renamed = proposal.clone();
    renamed.keys.swap(3, 4);
    let mut cut = proposal.clone();
    cut.keys[0].1 += 1;
    let others = [
        Proposal { number: 8, ..proposal.clone() },
        Proposal { owner: ClusterId::parse("south").unwrap(), ..proposal.clone() },
        Proposal {
            provenance: Provenance::direct(LinkId::parse("link2").unwrap()),
            ..proposal.clone()
        },
        renamed,
        cut,
    ];
    for other in others {
        assert!(!equal(&raw.proposal_tag(&other), &tag), "{other:?}");
    }
    assert!(!equal(&raw.confirm_tag(8), &raw.confirm_tag(7)));
}

#[test]
fn sizes_are_bounded_and_the_tag_keys_are_not_handed_on() {
    assert!(Raw::join(&keys(&[1; MIN_RAW - 1], 32)).is_none());
    assert!(Raw::join(&keys(&[1; MAX_RAW + 1], 32)).is_none());
    assert!(Raw::join(&[]).is_none());
    let all: Vec<u8> = (0..MAX_RAW).map(|i| i as u8).collect();
    let usable = Raw::join(&keys(&all, 4096)).unwrap().into_bits();
    assert_eq!(usable.len(), MAX_BLOCK);
    usable.expose(|bytes| assert_eq!(bytes, &all[TAG_KEYS..]));
}

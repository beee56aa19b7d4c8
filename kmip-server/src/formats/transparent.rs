//! The fields of transparent keys.

use kmip::{
    tag::Tag,
    ttlv::{self, Item, Writer},
};
use wiped::Wiped;

use super::Encoded;

/// The fields that `fields` writes, without a structure around them.
pub(super) fn write(fields: impl FnOnce(&mut Writer)) -> Encoded {
    let mut w = Writer::default();
    fields(&mut w);
    w.finish()
}

/// `fields` with the structure around them, so that they can be read.
pub(super) fn whole(fields: &[u8]) -> Encoded {
    let mut w = Writer::with_capacity(fields.len() + ttlv::HEADER);
    w.structure(Tag::KeyMaterial, |w| w.encoded(fields));
    w.finish()
}

/// What [`whole`] made, as an item.
pub(super) fn open(whole: &[u8]) -> Option<Item<'_>> {
    ttlv::parse(whole, &ttlv::Limits::default()).ok()
}

/// A number that is not negative, without leading zeros.
pub(super) fn number<'a>(item: &Item<'a>, tag: Tag) -> Option<&'a [u8]> {
    let bytes = item.child(tag).ok()??.big_integer().ok()?;
    if bytes.first().is_some_and(|first| first & 0x80 != 0) {
        return None;
    }
    let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
    bytes.get(zeros..).filter(|bytes| !bytes.is_empty())
}

/// Writes a number that is not negative.
pub(super) fn put_number(w: &mut Writer, tag: Tag, bytes: &[u8]) {
    let mut signed = Wiped::with_capacity(bytes.len() + 1);
    signed.push(0);
    signed.append(bytes);
    let needed = bytes.first().is_none_or(|first| first & 0x80 != 0);
    w.big_integer(tag, if needed { &signed } else { bytes });
}

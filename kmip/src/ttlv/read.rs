//! The borrowed walk over one frame. Enter through [`parse`].
//!
//! Invariant: an [`Item`] exists only inside a frame that [`parse`] has accepted as a whole, so
//! iteration cannot leave the frame, recursion is bounded and text is UTF-8.

use super::{Error, HEADER, Limits, MAX_DEPTH, Result, Type, padding};
use crate::tag::Tag;

/// One item of an accepted frame; borrows the frame.
#[derive(Clone, Copy)]
pub struct Item<'a> {
    frame: &'a [u8],
    offset: usize,
    length: usize,
    tag: Tag,
    kind: Type,
}

/// Checks the whole of `frame` and returns its root.
///
/// # Errors
/// The first thing wrong, with its byte offset.
pub fn parse<'a>(frame: &'a [u8], limits: &Limits) -> Result<Item<'a>> {
    if frame.len() > limits.frame {
        return Err(Error::TooLong { length: frame.len() as u64, cap: limits.frame });
    }
    let root = Item::at(frame, 0, frame.len())?;
    if root.end() != frame.len() {
        return Err(malformed(root.end(), "bytes after the end of the message"));
    }
    walk(&root, limits)?;
    Ok(root)
}

/// Visits every item below `root` without recursion.
fn walk(root: &Item<'_>, limits: &Limits) -> Result<()> {
    let max_depth = limits.depth.min(MAX_DEPTH);
    let mut ends = [0usize; MAX_DEPTH];
    let mut depth = 0;
    let mut items = 1;
    let mut next = root.body_start();
    root.check_value()?;
    if root.kind == Type::Structure {
        if max_depth == 0 {
            return Err(malformed(root.offset, "nested too deeply"));
        }
        (ends[0], depth) = (next + root.length, 1);
    }
    while depth > 0 {
        let end = ends[depth - 1];
        if next == end {
            depth -= 1;
            continue;
        }
        let item = Item::at(root.frame, next, end)?;
        item.check_value()?;
        items += 1;
        if items > limits.items {
            return Err(malformed(item.offset, "too many items in one message"));
        }
        if item.kind == Type::Structure {
            if depth == max_depth {
                return Err(malformed(item.offset, "nested too deeply"));
            }
            (ends[depth], next) = (item.end(), item.body_start());
            depth += 1;
        } else {
            next = item.end();
        }
    }
    Ok(())
}

impl<'a> Item<'a> {
    /// Reads the header at `offset`; the item must end at or before `end`.
    fn at(frame: &'a [u8], offset: usize, end: usize) -> Result<Self> {
        let header = frame
            .get(offset..end)
            .and_then(|rest| rest.first_chunk::<HEADER>())
            .ok_or(malformed(offset, "truncated item header"))?;
        let kind = Type::from_wire(header[3]).ok_or(malformed(offset + 3, "unknown item type"))?;
        let length = u32::from_be_bytes([header[4], header[5], header[6], header[7]]) as usize;
        if kind.fixed_length().is_some_and(|fixed| fixed != length) {
            return Err(malformed(offset + 4, "length does not fit the type"));
        }
        let room = end - offset - HEADER;
        if length > room || padding(length) > room - length {
            return Err(malformed(offset + 4, "length reaches past the enclosing item"));
        }
        let tag = Tag::new(u32::from_be_bytes([0, header[0], header[1], header[2]]));
        Ok(Self { frame, offset, length, tag, kind })
    }

    /// Checks what the header alone does not tell.
    fn check_value(&self) -> Result<()> {
        let body = self.body();
        match self.kind {
            Type::Structure if !self.length.is_multiple_of(8) => {
                return Err(malformed(self.offset + 4, "structure length is no multiple of 8"));
            }
            Type::BigInteger if self.length == 0 || !self.length.is_multiple_of(8) => {
                return Err(malformed(self.offset + 4, "big integer length is no multiple of 8"));
            }
            Type::Boolean if !matches!(body, [0, 0, 0, 0, 0, 0, 0, 0 | 1]) => {
                return Err(malformed(self.body_start(), "boolean is neither 0 nor 1"));
            }
            Type::TextString if std::str::from_utf8(body).is_err() => {
                return Err(malformed(self.body_start(), "text is not UTF-8"));
            }
            _ => {}
        }
        let pad = self.body_start() + self.length;
        if self.frame.get(pad..self.end()).is_none_or(|zeros| zeros.iter().any(|b| *b != 0)) {
            return Err(malformed(pad, "padding is not zero"));
        }
        Ok(())
    }

    /// The tag.
    pub fn tag(&self) -> Tag {
        self.tag
    }

    /// The type.
    pub fn kind(&self) -> Type {
        self.kind
    }

    /// Where the item starts, in bytes from the start of the frame.
    pub fn offset(&self) -> usize {
        self.offset
    }

    /// Value bytes as they stand, without padding.
    pub fn body(&self) -> &'a [u8] {
        self.frame.get(self.body_start()..self.body_start() + self.length).unwrap_or_default()
    }

    fn body_start(&self) -> usize {
        self.offset + HEADER
    }

    fn end(&self) -> usize {
        self.body_start() + self.length + padding(self.length)
    }

    /// The items inside a structure.
    ///
    /// # Errors
    /// When this is no structure; likewise for the readers below.
    pub fn children(&self) -> Result<Items<'a>> {
        self.expect(Type::Structure)?;
        Ok(Items { frame: self.frame, next: self.body_start(), end: self.end() })
    }

    /// First child with `tag`, if there is one.
    pub fn child(&self, tag: Tag) -> Result<Option<Item<'a>>> {
        Ok(self.children()?.find(|item| item.tag == tag))
    }

    /// First child with `tag`.
    pub fn required(&self, tag: Tag) -> Result<Item<'a>> {
        self.child(tag)?.ok_or(Error::Missing { offset: self.offset, tag })
    }

    /// Integer, 32-bit.
    pub fn integer(&self) -> Result<i32> {
        self.expect(Type::Integer).map(|()| i32::from_be_bytes(self.fixed()))
    }

    /// Long Integer, 64-bit.
    pub fn long_integer(&self) -> Result<i64> {
        self.expect(Type::LongInteger).map(|()| i64::from_be_bytes(self.fixed()))
    }

    /// Big Integer: two's complement, big-endian.
    pub fn big_integer(&self) -> Result<&'a [u8]> {
        self.expect(Type::BigInteger).map(|()| self.body())
    }

    /// Enumeration, the bare number.
    pub fn enumeration(&self) -> Result<u32> {
        self.expect(Type::Enumeration).map(|()| u32::from_be_bytes(self.fixed()))
    }

    /// Boolean.
    pub fn boolean(&self) -> Result<bool> {
        self.expect(Type::Boolean).map(|()| self.body().last() == Some(&1))
    }

    /// Text String.
    pub fn text(&self) -> Result<&'a str> {
        self.expect(Type::TextString)?;
        std::str::from_utf8(self.body())
            .map_err(|_| malformed(self.body_start(), "text is not UTF-8"))
    }

    /// Byte String.
    pub fn bytes(&self) -> Result<&'a [u8]> {
        self.expect(Type::ByteString).map(|()| self.body())
    }

    /// Date-Time, seconds since 1970.
    pub fn date_time(&self) -> Result<i64> {
        self.expect(Type::DateTime).map(|()| i64::from_be_bytes(self.fixed()))
    }

    /// Interval, seconds.
    pub fn interval(&self) -> Result<u32> {
        self.expect(Type::Interval).map(|()| u32::from_be_bytes(self.fixed()))
    }

    /// Date-Time Extended, microseconds since 1970.
    pub fn date_time_extended(&self) -> Result<i64> {
        self.expect(Type::DateTimeExtended).map(|()| i64::from_be_bytes(self.fixed()))
    }

    fn expect(&self, expected: Type) -> Result<()> {
        if self.kind == expected {
            return Ok(());
        }
        Err(Error::WrongType { offset: self.offset, tag: self.tag, expected })
    }

    /// The first `N` value bytes; `Item::at` has checked the length of every fixed type.
    fn fixed<const N: usize>(&self) -> [u8; N] {
        self.body().first_chunk().copied().unwrap_or([0; N])
    }
}

/// The items of one structure, in order.
#[derive(Clone)]
pub struct Items<'a> {
    frame: &'a [u8],
    next: usize,
    end: usize,
}

impl<'a> Iterator for Items<'a> {
    type Item = Item<'a>;

    fn next(&mut self) -> Option<Item<'a>> {
        if self.next >= self.end {
            return None;
        }
        let item = Item::at(self.frame, self.next, self.end).ok()?;
        self.next = item.end();
        Some(item)
    }
}

fn malformed(offset: usize, what: &'static str) -> Error {
    Error::Malformed { offset, what }
}

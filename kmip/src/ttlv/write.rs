//! One-pass TTLV writer into a buffer that is overwritten when it is dropped or grows.

use wiped::Wiped;

use super::{HEADER, Type, padding};
use crate::tag::Tag;

/// Appends items; structures get their length patched in when they end.
pub struct Writer {
    out: Wiped,
}

/// A position to come back to with [`Writer::rollback`].
#[derive(Clone, Copy, Debug)]
pub struct Mark(usize);

impl Default for Writer {
    fn default() -> Self {
        Self::with_capacity(512)
    }
}

impl Writer {
    /// A writer with room for `bytes` before its first growth.
    pub fn with_capacity(bytes: usize) -> Self {
        Self { out: Wiped::with_capacity(bytes) }
    }

    /// A writer in the memory of `buffer`, whose content is overwritten first.
    pub fn over(mut buffer: Wiped) -> Self {
        buffer.clear();
        Self { out: buffer }
    }

    /// Bytes written so far.
    pub fn len(&self) -> usize {
        self.out.len()
    }

    /// Whether nothing has been written.
    pub fn is_empty(&self) -> bool {
        self.out.is_empty()
    }

    /// The finished bytes.
    pub fn finish(self) -> Wiped {
        self.out
    }

    /// Where the next item will start.
    pub fn mark(&self) -> Mark {
        Mark(self.out.len())
    }

    /// Forgets and overwrites everything written after `mark`.
    pub fn rollback(&mut self, mark: Mark) {
        self.out.truncate(mark.0);
    }

    /// A structure whose items `body` writes.
    pub fn structure<R>(&mut self, tag: Tag, body: impl FnOnce(&mut Self) -> R) -> R {
        let start = self.open(tag);
        let result = body(self);
        self.close(start);
        result
    }

    /// Starts a structure that [`Writer::close`] ends.
    pub(crate) fn open(&mut self, tag: Tag) -> Mark {
        let start = self.mark();
        self.header(tag, Type::Structure, 0);
        start
    }

    /// Ends the structure that started at `start`.
    pub(crate) fn close(&mut self, start: Mark) {
        let length = self.out.len().saturating_sub(start.0 + HEADER) as u32;
        self.patch(start.0 + 4, length);
    }

    /// Where the value of the last item stands, which must be an Integer, for
    /// [`Writer::patch_integer`].
    pub(crate) fn last_integer(&self) -> Mark {
        Mark(self.out.len().saturating_sub(8))
    }

    /// Overwrites an Integer found by [`Writer::last_integer`].
    pub(crate) fn patch_integer(&mut self, slot: Mark, value: i32) {
        self.patch(slot.0, value as u32);
    }

    fn patch(&mut self, at: usize, value: u32) {
        if let Some(place) = self.out.get_mut(at..at + 4) {
            place.copy_from_slice(&value.to_be_bytes());
        }
    }

    /// Integer.
    pub fn integer(&mut self, tag: Tag, value: i32) {
        self.item(tag, Type::Integer, &value.to_be_bytes());
    }

    /// Long Integer.
    pub fn long_integer(&mut self, tag: Tag, value: i64) {
        self.item(tag, Type::LongInteger, &value.to_be_bytes());
    }

    /// Big Integer from two's complement bytes; sign-extends to a multiple of eight.
    pub fn big_integer(&mut self, tag: Tag, value: &[u8]) {
        let fill = if value.first().is_some_and(|b| b & 0x80 != 0) { 0xFF } else { 0 };
        let pad = if value.is_empty() { 8 } else { padding(value.len()) };
        self.header(tag, Type::BigInteger, value.len() + pad);
        self.put(&[fill; 8][..pad]);
        self.put(value);
    }

    /// Enumeration.
    pub fn enumeration(&mut self, tag: Tag, value: u32) {
        self.item(tag, Type::Enumeration, &value.to_be_bytes());
    }

    /// Boolean.
    pub fn boolean(&mut self, tag: Tag, value: bool) {
        self.item(tag, Type::Boolean, &u64::from(value).to_be_bytes());
    }

    /// Text String.
    pub fn text(&mut self, tag: Tag, value: &str) {
        self.item(tag, Type::TextString, value.as_bytes());
    }

    /// Byte String.
    pub fn bytes(&mut self, tag: Tag, value: &[u8]) {
        self.item(tag, Type::ByteString, value);
    }

    /// Date-Time, seconds since 1970.
    pub fn date_time(&mut self, tag: Tag, seconds: i64) {
        self.item(tag, Type::DateTime, &seconds.to_be_bytes());
    }

    /// Interval, seconds.
    pub fn interval(&mut self, tag: Tag, seconds: u32) {
        self.item(tag, Type::Interval, &seconds.to_be_bytes());
    }

    /// Date-Time Extended, microseconds since 1970.
    pub fn date_time_extended(&mut self, tag: Tag, micros: i64) {
        self.item(tag, Type::DateTimeExtended, &micros.to_be_bytes());
    }

    /// Items that are already TTLV, such as the content of a payload kept as bytes.
    pub fn encoded(&mut self, items: &[u8]) {
        self.put(items);
    }

    fn item(&mut self, tag: Tag, kind: Type, value: &[u8]) {
        self.header(tag, kind, value.len());
        self.put(value);
        self.put(&[0; 8][..padding(value.len())]);
    }

    fn header(&mut self, tag: Tag, kind: Type, length: usize) {
        let [_, a, b, c] = tag.number().to_be_bytes();
        let [d, e, f, g] = (length as u32).to_be_bytes();
        self.put(&[a, b, c, kind as u8, d, e, f, g]);
    }

    /// The one place that appends.
    fn put(&mut self, bytes: &[u8]) {
        self.out.append(bytes);
    }
}

//! How a Rust type stands in a TTLV field: the trait [`Field`], the simple types, and the macro
//! `wire_struct!` for the many KMIP structures that are nothing but fields in order.
//!
//! A field says since which version (and until which) it exists; encoding leaves out what the
//! peer's version does not know. Decoding takes fields in any order, skips unknown tags and
//! refuses a single field that stands twice.

use wiped::Wiped;
use zeroize::Zeroizing;

use crate::tag::Tag;
use crate::ttlv::{Item, Result, Value, Writer};
use crate::version::Version;

/// A type with one encoding under a given tag.
pub trait Field: Sized {
    /// Reads the value of `item`.
    ///
    /// # Errors
    /// Wrong type, a missing or a repeated field, with its offset.
    fn read(item: &Item<'_>) -> Result<Self>;

    /// Writes the value under `tag`, without what `version` does not know.
    fn write(&self, w: &mut Writer, tag: Tag, version: Version);

    /// Whether `version` has a meaning for this value; optional fields that it does not know are
    /// not written.
    fn known(&self, _version: Version) -> bool {
        true
    }
}

macro_rules! simple_field {
    ($($(#[$m:meta])* $type:ty: $read:expr, $write:expr;)*) => {$(
        impl Field for $type {
            fn read(item: &Item<'_>) -> Result<Self> {
                let read: fn(&Item<'_>) -> Result<Self> = $read;
                read(item)
            }
            fn write(&self, w: &mut Writer, tag: Tag, _: Version) {
                let write: fn(&mut Writer, Tag, &Self) = $write;
                write(w, tag, self);
            }
        }
    )*};
}

simple_field! {
    i32: |i| i.integer(), |w, t, v| w.integer(t, *v);
    i64: |i| i.long_integer(), |w, t, v| w.long_integer(t, *v);
    bool: |i| i.boolean(), |w, t, v| w.boolean(t, *v);
    String: |i| i.text().map(str::to_owned), |w, t, v| w.text(t, v);
    Vec<u8>: |i| i.bytes().map(<[u8]>::to_vec), |w, t, v| w.bytes(t, v);
    DateTime: |i| i.date_time().map(DateTime), |w, t, v| w.date_time(t, v.0);
    DateTimeExtended: |i| i.date_time_extended().map(DateTimeExtended),
        |w, t, v| w.date_time_extended(t, v.0);
    Interval: |i| i.interval().map(Interval), |w, t, v| w.interval(t, v.0);
    BigInteger: |i| i.big_integer().map(|b| BigInteger(b.to_vec())),
        |w, t, v| w.big_integer(t, &v.0);
    Value: Value::from_item, |w, t, v| v.encode(w, t);
    SecretBytes: |i| i.bytes().map(SecretBytes::copy_from),
        |w, t, v| v.expose(|bytes| w.bytes(t, bytes));
    SecretText: |i| i.text().map(SecretText::copy_from),
        |w, t, v| v.expose(|text| w.text(t, text));
}

/// Seconds since 1970-01-01 UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DateTime(pub i64);

/// Microseconds since 1970-01-01 UTC (2.0).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DateTimeExtended(pub i64);

/// A length of time in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Interval(pub u32);

/// Two's complement, big-endian, public values only.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct BigInteger(pub Vec<u8>);

/// Secret bytes of a message: overwritten on drop, no `Clone`, `Debug` says only the length.
///
/// ```compile_fail
/// let key = kmip::SecretBytes::copy_from(&[7; 32]);
/// let copy = key.clone();
/// ```
pub struct SecretBytes(Wiped);

impl SecretBytes {
    /// Takes the buffer over.
    pub fn new(bytes: Wiped) -> Self {
        Self(bytes)
    }

    /// Copies; the caller stays answerable for the original.
    pub fn copy_from(bytes: &[u8]) -> Self {
        Self(Wiped::copy_of(bytes))
    }

    /// The one door to the bytes.
    pub fn expose<R>(&self, read: impl FnOnce(&[u8]) -> R) -> R {
        read(&self.0)
    }

    /// Gives the buffer away, still overwritten on drop.
    pub fn into_inner(self) -> Wiped {
        self.0
    }

    /// Length in bytes.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl std::fmt::Debug for SecretBytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SecretBytes({} bytes)", self.0.len())
    }
}

/// Secret text of a message, such as a password; see [`SecretBytes`].
pub struct SecretText(Zeroizing<String>);

impl SecretText {
    /// Copies; the caller stays answerable for the original.
    pub fn copy_from(text: &str) -> Self {
        Self(Zeroizing::new(text.to_owned()))
    }

    /// The one door to the text.
    pub fn expose<R>(&self, read: impl FnOnce(&str) -> R) -> R {
        read(&self.0)
    }
}

impl std::fmt::Debug for SecretText {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SecretText")
    }
}

/// Declares a KMIP structure: `name: one|opt|many Type = Tag @ since` and, where the field went
/// away again, `..= last`.
macro_rules! wire_struct {
    ($(#[$m:meta])* pub struct $name:ident { $(
        $(#[$fm:meta])* $field:ident: $kind:ident $type:ty = $tag:ident @ $since:ident
            $(..= $until:ident)?
    ),* $(,)? }) => {
        $(#[$m])*
        pub struct $name { $( $(#[$fm])* pub $field: wire_struct!(@type $kind $type), )* }

        impl $crate::wire::Field for $name {
            fn read(item: &$crate::ttlv::Item<'_>) -> $crate::ttlv::Result<Self> {
                $( let mut $field: wire_struct!(@slot $kind $type) = Default::default(); )*
                for child in item.children()? {
                    match child.tag() {
                        $( $crate::tag::Tag::$tag => wire_struct!(@set $kind $field child), )*
                        _ => {}
                    }
                }
                Ok(Self { $( $field: wire_struct!(@take $kind $field item $tag), )* })
            }

            fn write(
                &self,
                w: &mut $crate::ttlv::Writer,
                tag: $crate::tag::Tag,
                version: $crate::version::Version,
            ) {
                w.structure(tag, |w| { $(
                    let had = $crate::version::Version::$since..=wire_struct!(@until $($until)?);
                    if had.contains(&version) {
                        wire_struct!(@put $kind w self.$field $tag version);
                    }
                )* let _ = (w, version); })
            }

            fn known(&self, version: $crate::version::Version) -> bool {
                let _ = version;
                true $( && wire_struct!(@known $kind self.$field version) )*
            }
        }
    };
    (@until) => { $crate::version::Version::V2_1 };
    (@until $until:ident) => { $crate::version::Version::$until };
    (@type one $type:ty) => { $type };
    (@type opt $type:ty) => { Option<$type> };
    (@type many $type:ty) => { Vec<$type> };
    (@slot one $type:ty) => { Option<$type> };
    (@slot opt $type:ty) => { Option<$type> };
    (@slot many $type:ty) => { Vec<$type> };
    (@set many $field:ident $child:ident) => {
        $field.push($crate::wire::Field::read(&$child)?)
    };
    (@set $kind:ident $field:ident $child:ident) => {
        $crate::wire::set(&mut $field, &$child)?
    };
    (@take one $field:ident $item:ident $tag:ident) => {
        $field.ok_or($crate::ttlv::Error::Missing {
            offset: $item.offset(),
            tag: $crate::tag::Tag::$tag,
        })?
    };
    (@take $kind:ident $field:ident $item:ident $tag:ident) => { $field };
    (@put one $w:ident $self:ident.$field:ident $tag:ident $version:ident) => {
        $crate::wire::Field::write(&$self.$field, $w, $crate::tag::Tag::$tag, $version)
    };
    (@put opt $w:ident $self:ident.$field:ident $tag:ident $version:ident) => {
        if let Some(value) = &$self.$field {
            $crate::wire::put(value, $w, $crate::tag::Tag::$tag, $version);
        }
    };
    (@put many $w:ident $self:ident.$field:ident $tag:ident $version:ident) => {
        for value in &$self.$field {
            $crate::wire::put(value, $w, $crate::tag::Tag::$tag, $version);
        }
    };
    (@known one $self:ident.$field:ident $version:ident) => {
        $crate::wire::Field::known(&$self.$field, $version)
    };
    (@known $kind:ident $self:ident.$field:ident $version:ident) => { true };
}
pub(crate) use wire_struct;

/// Fills a single field; twice is an error.
pub(crate) fn set<T: Field>(slot: &mut Option<T>, item: &Item<'_>) -> Result<()> {
    if slot.is_some() {
        return Err(crate::ttlv::Error::Repeated { offset: item.offset(), tag: item.tag() });
    }
    *slot = Some(T::read(item)?);
    Ok(())
}

/// Writes a value that may be left out, unless `version` does not know it.
pub(crate) fn put<T: Field>(value: &T, w: &mut Writer, tag: Tag, version: Version) {
    if value.known(version) {
        value.write(w, tag, version);
    }
}

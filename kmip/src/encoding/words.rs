//! Values in words: what stands in an XML attribute, or in a JSON string or number.

use std::fmt::Write as _;

use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use wiped::Wiped;

use super::{Error, Result, out::Out};
use crate::{
    enums,
    tag::Tag,
    ttlv::{Item, Type, Writer},
};

/// Bits of the Cryptographic Usage Mask, from the lowest.
const USAGE: [&str; 24] = [
    "Sign",
    "Verify",
    "Encrypt",
    "Decrypt",
    "WrapKey",
    "UnwrapKey",
    "Export",
    "MACGenerate",
    "MACVerify",
    "DeriveKey",
    "ContentCommitment",
    "KeyAgreement",
    "CertificateSign",
    "CRLSign",
    "GenerateCryptogram",
    "ValidateCryptogram",
    "TranslateEncrypt",
    "TranslateDecrypt",
    "TranslateWrap",
    "TranslateUnwrap",
    "Authenticate",
    "Unrestricted",
    "FPEEncrypt",
    "FPEDecrypt",
];
/// Bits of the Storage Status Mask.
const STORAGE: [&str; 3] = ["OnlineStorage", "ArchivalStorage", "DestroyedStorage"];
/// Bits of the Protection Storage Mask.
const PROTECTION: [&str; 14] = [
    "Software",
    "Hardware",
    "OnProcessor",
    "OnSystem",
    "OffSystem",
    "Hypervisor",
    "OperatingSystem",
    "Container",
    "OnPremises",
    "OffPremises",
    "SelfManaged",
    "Outsourced",
    "Validated",
    "SameJurisdiction",
];

/// Writes a value that is no structure, no text and no bytes; `meaning` names its enumeration.
pub(super) fn write(item: &Item<'_>, meaning: Tag, out: &mut Out) -> Result<()> {
    let done = match item.kind() {
        Type::Integer => write!(out, "{}", item.integer()?),
        Type::LongInteger => write!(out, "{}", item.long_integer()?),
        Type::BigInteger => {
            out.push_hex(item.big_integer()?);
            Ok(())
        }
        Type::Enumeration => {
            let number = item.enumeration()?;
            match enums::name_of(meaning, number) {
                Some(name) => out.write_str(name),
                None => write!(out, "0x{number:08x}"),
            }
        }
        Type::Boolean => write!(out, "{}", item.boolean()?),
        Type::DateTime => {
            let seconds = item.date_time()?;
            match said(seconds) {
                Some(date) => out.write_str(&date),
                None => write!(out, "0x{seconds:016x}"),
            }
        }
        Type::Interval => write!(out, "{}", item.interval()?),
        Type::DateTimeExtended => write!(out, "0x{:016x}", item.date_time_extended()?),
        Type::Structure | Type::TextString | Type::ByteString => Ok(()),
    };
    done.map_err(|_| Error::Value(item.tag()))
}

/// A date of the calendar, where the year has four digits.
fn said(seconds: i64) -> Option<String> {
    let date = OffsetDateTime::from_unix_timestamp(seconds).ok()?;
    if !(0..=9999).contains(&date.year()) {
        return None;
    }
    date.format(&Rfc3339).ok()
}

/// Writes the value that `words` say to a frame; no structure.
pub(super) fn read(
    words: &str,
    kind: Type,
    (tag, meaning): (Tag, Tag),
    w: &mut Writer,
) -> Result<()> {
    let wrong = || Error::Value(tag);
    match kind {
        Type::Integer => w.integer(tag, integer(words, meaning).ok_or_else(wrong)?),
        Type::LongInteger => w.long_integer(tag, long(words).ok_or_else(wrong)?),
        Type::BigInteger => w.big_integer(tag, &big(words).ok_or_else(wrong)?),
        Type::Enumeration => {
            let number = hex32(words).or_else(|| words.parse().ok());
            let number = number.or_else(|| enums::number_of(meaning, words));
            w.enumeration(tag, number.ok_or_else(wrong)?);
        }
        Type::Boolean => w.boolean(tag, words.parse().map_err(|_| wrong())?),
        Type::TextString => w.text(tag, words),
        Type::ByteString => w.bytes(tag, &bytes(words).ok_or_else(wrong)?),
        Type::DateTime => {
            let seconds =
                || OffsetDateTime::parse(words, &Rfc3339).map(OffsetDateTime::unix_timestamp);
            let found = match hex64(words) {
                Some(found) => found,
                None => seconds().map_err(|_| wrong())?,
            };
            w.date_time(tag, found);
        }
        Type::Interval => {
            let seconds = hex32(words).or_else(|| words.parse().ok());
            w.interval(tag, seconds.ok_or_else(wrong)?);
        }
        Type::DateTimeExtended => {
            let micros = || {
                let date = OffsetDateTime::parse(words, &Rfc3339).ok()?;
                i64::try_from(date.unix_timestamp_nanos() / 1000).ok()
            };
            let found = hex64(words).or_else(micros).ok_or_else(wrong)?;
            w.date_time_extended(tag, found);
        }
        Type::Structure => return Err(wrong()),
    }
    Ok(())
}

fn hex32(words: &str) -> Option<u32> {
    u32::from_str_radix(words.strip_prefix("0x")?, 16).ok()
}

fn hex64(words: &str) -> Option<i64> {
    u64::from_str_radix(words.strip_prefix("0x")?, 16).ok().map(u64::cast_signed)
}

fn long(words: &str) -> Option<i64> {
    hex64(words).or_else(|| words.parse().ok())
}

/// A number, or the names of the bits of a mask.
fn integer(words: &str, meaning: Tag) -> Option<i32> {
    if let Some(number) = hex32(words).map(u32::cast_signed).or_else(|| words.parse().ok()) {
        return Some(number);
    }
    let names: &[&str] = match meaning {
        Tag::CryptographicUsageMask => &USAGE,
        Tag::StorageStatusMask => &STORAGE,
        Tag::ProtectionStorageMask => &PROTECTION,
        _ => return None,
    };
    let mut mask = 0;
    for word in words.split([' ', '|']).filter(|word| !word.is_empty()) {
        let number = || names.iter().position(|name| *name == word).map(|at| 1 << at);
        mask |= hex32(word).map(u32::cast_signed).or_else(number)?;
    }
    Some(mask)
}

/// Two's complement, made a multiple of eight bytes long by its sign.
fn big(words: &str) -> Option<Wiped> {
    let found = bytes(words.strip_prefix("0x").unwrap_or(words))?;
    let sign = if found.first()? & 0x80 == 0 { 0 } else { 0xFF };
    let missing = found.len().wrapping_neg() & 7;
    let mut whole = Wiped::with_capacity(found.len() + missing);
    whole.append(&vec![sign; missing]);
    whole.append(&found);
    Some(whole)
}

fn bytes(words: &str) -> Option<Wiped> {
    let digits = words.as_bytes();
    if !digits.len().is_multiple_of(2) {
        return None;
    }
    let mut found = Wiped::with_capacity(digits.len() / 2);
    for pair in digits.chunks_exact(2) {
        let [high, low] =
            [pair.first()?, pair.last()?].map(|digit| char::from(*digit).to_digit(16));
        found.push(u8::try_from(high? << 4 | low?).ok()?);
    }
    Some(found)
}

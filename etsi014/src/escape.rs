//! Takes needless escapes out of JSON before it is parsed.
//!
//! Several encoders write `/` as `\/` or `=` as `\u003d`. The parser would then copy the string
//! into a buffer that nobody overwrites; without escapes it borrows from the input.

use wiped::Wiped;

/// The same JSON text without escapes of base64 characters.
pub(crate) enum Plain<'a> {
    /// There were no escapes.
    Same(&'a [u8]),
    /// A rewritten copy, overwritten on drop.
    Rewritten(Wiped),
}

impl AsRef<[u8]> for Plain<'_> {
    fn as_ref(&self) -> &[u8] {
        match self {
            Self::Same(bytes) => bytes,
            Self::Rewritten(bytes) => bytes,
        }
    }
}

pub(crate) fn plain(json: &[u8]) -> Plain<'_> {
    if !json.contains(&b'\\') {
        return Plain::Same(json);
    }
    // Never grows, so never reallocates.
    let mut out = Wiped::with_capacity(json.len());
    let mut rest = json;
    while let Some((&byte, tail)) = rest.split_first() {
        if byte != b'\\' {
            out.push(byte);
            rest = tail;
            continue;
        }
        // An escape that stays is copied with the byte after the backslash, so that the second
        // half of an escaped backslash is never taken for the start of an escape.
        let kept = rest.len().min(2);
        let used = match needless(tail) {
            Some((byte, used)) => {
                out.push(byte);
                used
            }
            None => {
                out.append(&rest[..kept]);
                kept
            }
        };
        rest = &rest[used..];
    }
    Plain::Rewritten(out)
}

/// The base64 character that an escape stands for, and the escape's length; `tail` starts after
/// the backslash.
fn needless(tail: &[u8]) -> Option<(u8, usize)> {
    match tail {
        [b'/', ..] => Some((b'/', 2)),
        [b'u', b'0', b'0', high, low, ..] => {
            let digit = |b: u8| char::from(b).to_digit(16);
            let byte = u8::try_from(digit(*high)? * 16 + digit(*low)?).ok()?;
            let base64 = byte.is_ascii_alphanumeric() || b"+/=".contains(&byte);
            base64.then_some((byte, 6))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_needless_escapes_go() {
        for (from, to) in [
            (r#""a\\/b""#, r#""a\\/b""#),
            (r#""a\/b\u003d\u002B""#, r#""a/b=+""#),
            (r#""\\\/\"\n\u0022\u00e9""#, r#""\\/\"\n\u0022\u00e9""#),
            (r"\", r"\"),
            (r"\u00", r"\u00"),
        ] {
            assert_eq!(plain(from.as_bytes()).as_ref(), to.as_bytes());
        }
    }
}

//! Looks at XML before a parser does, once over the bytes: depth, attributes and namespaces are
//! what parsers spend more than linear time or much stack on.

use super::{Error, Result};
use crate::ttlv::MAX_DEPTH;

/// Deepest nesting of elements in a text that is parsed at all.
const DEEPEST: usize = 4 * MAX_DEPTH;
/// Most attributes of an element: `type`, `value`, `tag`, `name`, and some of others.
const ATTRIBUTES: usize = 8;
/// Most namespaces a document declares.
const NAMESPACES: usize = 8;

/// # Errors
/// [`Error::TooDeep`]; [`Error::Syntax`] for what passes the other bounds, for document types, and
/// for tags and comments without an end.
pub(super) fn check(text: &str) -> Result<()> {
    let (mut depth, mut namespaces) = (0usize, 0usize);
    let mut rest = text.as_bytes();
    while let Some(at) = rest.iter().position(|byte| *byte == b'<') {
        rest = &rest[at..];
        let passed = match rest {
            [b'<', b'!', b'-', b'-', ..] => 4 + end(&rest[4..], b"-->")?,
            [b'<', b'!', b'[', ..] => 3 + end(&rest[3..], b"]]>")?,
            [b'<', b'!', ..] => return Err(refused("document types are not read")),
            [b'<', b'?', ..] => 2 + end(&rest[2..], b"?>")?,
            [b'<', b'/', ..] => {
                depth = depth.saturating_sub(1);
                2 + end(&rest[2..], b">")?
            }
            _ => {
                let (len, empty) = element(rest, &mut namespaces)?;
                depth += usize::from(!empty);
                len
            }
        };
        if depth > DEEPEST {
            return Err(Error::TooDeep);
        }
        rest = &rest[passed..];
    }
    Ok(())
}

fn refused(text: &str) -> Error {
    Error::Syntax(text.to_owned())
}

/// Bytes until after `mark`.
fn end(rest: &[u8], mark: &[u8]) -> Result<usize> {
    let at = rest.windows(mark.len()).position(|bytes| bytes == mark);
    at.map(|at| at + mark.len()).ok_or_else(|| refused("a tag or comment has no end"))
}

/// Bytes of the tag that `rest` begins with, and whether nothing is inside its element.
fn element(rest: &[u8], namespaces: &mut usize) -> Result<(usize, bool)> {
    let (mut quote, mut attributes) = (None, 0);
    for (at, byte) in rest.iter().enumerate() {
        match (quote, byte) {
            (Some(open), byte) if open == byte => quote = None,
            (Some(_), _) => {}
            (None, b'"' | b'\'') => {
                quote = Some(byte);
                attributes += 1;
                if attributes > ATTRIBUTES {
                    let text = format!("an element has at most {ATTRIBUTES} attributes");
                    return Err(Error::Syntax(text));
                }
            }
            (None, b'x') if rest[at..].starts_with(b"xmlns") => {
                *namespaces += 1;
                if *namespaces > NAMESPACES {
                    let text = format!("a message declares at most {NAMESPACES} namespaces");
                    return Err(Error::Syntax(text));
                }
            }
            (None, b'>') => return Ok((at + 1, rest[at - 1] == b'/')),
            _ => {}
        }
    }
    Err(refused("a tag or comment has no end"))
}

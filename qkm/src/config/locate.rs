//! From a byte offset to a line and a column.

use std::fmt;

use crate::fault::Place;

/// The place of byte `offset` in `text`, which is called `origin`.
pub(super) fn place(text: &str, offset: usize, origin: &dyn fmt::Display) -> Place {
    let mut offset = offset.min(text.len());
    while !text.is_char_boundary(offset) {
        offset -= 1;
    }
    let before = &text[..offset];
    let start = before.rfind('\n').map_or(0, |at| at + 1);
    Place {
        file: origin.to_string(),
        line: before.matches('\n').count() + 1,
        column: text[start..offset].chars().count() + 1,
        text: text[start..].lines().next().unwrap_or_default().chars().take(120).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_and_columns_count_from_one_in_characters() {
        let text = "a = 1\nß = \"x\"\n";
        let at = place(text, text.find('x').unwrap(), &"f");
        assert_eq!((at.line, at.column, at.text.as_str()), (2, 6, "ß = \"x\""));
        assert_eq!(place(text, 0, &"f").line, 1);
        assert_eq!(place("", 9, &"f").column, 1);
    }
}

//! Plain tables: columns padded to their widest cell. Enter through [`print`].

use std::io::{self, Write};

/// Writes `rows` under `head` to standard output.
pub(super) fn print(head: &[&str], rows: &[Vec<String>]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(render(head, rows).as_bytes())?;
    out.flush()
}

fn render(head: &[&str], rows: &[Vec<String>]) -> String {
    let width = |cell: &str| cell.chars().count();
    let widths: Vec<usize> = head
        .iter()
        .enumerate()
        .map(|(at, name)| {
            let cells = rows.iter().filter_map(|row| row.get(at)).map(|cell| width(cell));
            cells.max().unwrap_or(0).max(width(name))
        })
        .collect();
    let line = |cells: Vec<&str>| {
        let padded = cells
            .iter()
            .zip(&widths)
            .map(|(cell, to)| format!("{cell}{}", " ".repeat(to.saturating_sub(width(cell)))));
        padded.collect::<Vec<_>>().join("  ").trim_end().to_owned() + "\n"
    };
    let mut text = line(head.to_vec());
    for row in rows {
        text += &line(row.iter().map(String::as_str).collect());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let rows = vec![vec!["süd".into(), "1".into()], vec!["x".into(), "22".into()]];
        assert_eq!(render(&["PEER", "N"], &rows), "PEER  N\nsüd   1\nx     22\n");
    }
}

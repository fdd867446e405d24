//! Columns of text.

use std::fmt::Write as _;

/// Rows under a title and a head, each column as wide as its widest cell.
pub fn render<const N: usize>(title: &str, head: [&str; N], rows: &[[String; N]]) -> String {
    let mut text = format!("{title}\n");
    if rows.is_empty() {
        text.push_str("  none\n\n");
        return text;
    }
    let width = |column: usize| {
        rows.iter()
            .map(|row| row[column].chars().count())
            .chain([head[column].chars().count()])
            .max()
            .unwrap_or(0)
    };
    let widths: [usize; N] = std::array::from_fn(width);
    let head = head.map(str::to_owned);
    for row in std::iter::once(&head).chain(rows) {
        let mut line = String::from(" ");
        for (cell, width) in row.iter().zip(widths) {
            let _ = write!(line, " {cell:<width$} ");
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text.push('\n');
    text
}

/// Columns as docker prints them: a head also without rows, at least ten characters wide, three
/// spaces apart.
pub fn columns<const N: usize>(head: [&str; N], rows: &[[String; N]]) -> String {
    const LEAST: usize = 7;
    let head = head.map(str::to_owned);
    let width = |column: usize| {
        rows.iter()
            .chain([&head])
            .map(|row| row[column].chars().count())
            .max()
            .unwrap_or(0)
            .max(LEAST)
    };
    let widths: [usize; N] = std::array::from_fn(width);
    let mut text = String::new();
    for row in std::iter::once(&head).chain(rows) {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(widths) {
            let _ = write!(line, "{cell:<width$}   ");
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [["a".to_owned(), "bbb".to_owned()]];
        assert_eq!(
            render("T", ["long", "b"], &rows),
            "T\n  long  b\n  a     bbb\n\n"
        );
        assert_eq!(render("T", ["a"], &[]), "T\n  none\n\n");
    }
    #[test]
    fn columns_have_a_head_without_rows() {
        assert_eq!(columns(["NAME", "VNI"], &[]), "NAME      VNI\n");
        let rows = [["a-long-name".to_owned(), "4097".to_owned()]];
        assert_eq!(
            columns(["NAME", "VNI"], &rows),
            "NAME          VNI\na-long-name   4097\n"
        );
    }
}

//! How answers look: aligned tables for people, one JSON value for programs. Colours respect `NO_COLOR` and pipes.

use anstyle::{AnsiColor, Style};
use comfy_table::presets::NOTHING;
use comfy_table::{CellAlignment, Table};

/// Green, for what is good.
pub const GOOD: Style = AnsiColor::Green.on_default();
/// Red, for what is not.
pub const BAD: Style = AnsiColor::Red.on_default().bold();
/// Dim, for what is beside the point.
pub const DIM: Style = Style::new().dimmed();

/// Prints one line to standard output.
pub fn say(text: &str) {
    anstream::println!("{text}");
}

/// `text` in `style`.
#[must_use]
pub fn paint(style: Style, text: &str) -> String {
    format!("{style}{text}{style:#}")
}

/// Prints a JSON value over several lines.
pub fn json(value: &impl serde::Serialize) {
    let text = serde_json::to_string_pretty(value).expect("what is printed holds only types that JSON writes");
    anstream::println!("{text}");
}

/// An aligned table without lines: a head and rows. Columns named in `right` are aligned right.
/// Painted cells belong into the last column: colours count as width.
#[must_use]
pub fn table(head: &[&str], rows: &[Vec<String>], right: &[&str]) -> String {
    let mut table = Table::new();
    table
        .load_style(NOTHING)
        .set_header(head.iter().map(|h| h.to_uppercase()));
    for row in rows {
        table.add_row(row);
    }
    for (i, name) in head.iter().enumerate() {
        if let (true, Some(column)) = (right.contains(name), table.column_mut(i)) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    let text = table.to_string();
    text.lines().map(str::trim_end).collect::<Vec<_>>().join("\n")
}

/// `1.2 MB` and the like.
#[must_use]
pub fn bytes(n: u64) -> String {
    const UNITS: [(u64, &str); 3] = [(1_000_000_000, "GB"), (1_000_000, "MB"), (1_000, "kB")];
    match UNITS.iter().find(|(unit, _)| n >= *unit) {
        Some((unit, name)) => format!("{}.{} {name}", n / unit, n % unit * 10 / unit),
        None => format!("{n} B"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_rounded_down_to_one_decimal() {
        assert_eq!(
            [bytes(999), bytes(1_250), bytes(3_163_737)],
            ["999 B", "1.2 kB", "3.1 MB"]
        );
    }

    #[test]
    fn a_table_aligns_its_columns_and_leaves_no_trailing_blanks() {
        let text = table(
            &["name", "bytes"],
            &[vec!["a".into(), "1".into()], vec!["bb".into(), "22".into()]],
            &["bytes"],
        );
        let widths: Vec<usize> = text.lines().map(str::len).collect();
        assert_eq!(widths.len(), 3);
        assert!(widths.windows(2).all(|w| w[0] == w[1]), "{text}");
    }
}

//! Tables for people: a line of headings, columns two spaces apart, numbers to the right, no rules. On a terminal the
//! sentences of the last column are wrapped at its edge, so that the columns before stay under each other.

use tabled::builder::Builder;
use tabled::settings::object::{Columns, Rows};
use tabled::settings::{Alignment, Color, Modify, Padding, Style};

use super::output::{Ink, Paint};

/// Spaces between two columns.
const GAP: usize = 2;

/// A last column narrower than this would be a tower of single words; the terminal breaks the lines instead.
const NARROWEST: usize = 16;

/// How a column stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Align {
    /// Text.
    Left,
    /// Numbers.
    Right,
}

/// A cell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cell {
    text: String,
    ink: Option<Ink>,
}

impl Cell {
    /// Text that stands out.
    pub(crate) fn inked(ink: Ink, text: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            ink: Some(ink),
        }
    }
}

impl<T: ToString> From<T> for Cell {
    fn from(text: T) -> Self {
        Self {
            text: text.to_string(),
            ink: None,
        }
    }
}

/// A table under way.
#[derive(Clone, Debug)]
pub(crate) struct Table {
    columns: Vec<(&'static str, Align)>,
    rows: Vec<Vec<Cell>>,
}

impl Table {
    /// An empty table with these columns.
    pub(crate) fn new(columns: &[(&'static str, Align)]) -> Self {
        Self {
            columns: columns.to_vec(),
            rows: Vec::new(),
        }
    }

    /// Adds a row with a cell for each column.
    pub(crate) fn row<const N: usize>(&mut self, cells: [Cell; N]) {
        debug_assert_eq!(N, self.columns.len(), "a cell for each column");
        self.rows.push(cells.into());
    }

    /// The columns that the last one has on a terminal of `width` columns; `None` if it is not to be wrapped.
    fn room(&self, width: usize) -> Option<usize> {
        let (_, others) = self.columns.split_last()?;
        let taken: usize = others
            .iter()
            .enumerate()
            .map(|(column, (name, _))| {
                let cells = self.rows.iter().map(|row| columns(&row[column].text));
                cells.fold(columns(name), Ord::max) + GAP
            })
            .sum();
        width.checked_sub(taken).filter(|room| *room >= NARROWEST)
    }

    /// The table as text; an empty one as `none`, so that nobody takes it for an answer cut off.
    pub(crate) fn render(&self, none: &str, paint: Paint) -> String {
        if self.rows.is_empty() {
            return format!("{none}\n");
        }
        let mut builder = Builder::default();
        builder.push_record(self.columns.iter().map(|(name, _)| *name));
        let room = paint.width().and_then(|width| self.room(width));
        let last = self.columns.len() - 1;
        for row in &self.rows {
            builder.push_record(row.iter().enumerate().map(|(column, cell)| match room {
                Some(room) if column == last => wrap(&cell.text, room).join("\n"),
                _ => cell.text.clone(),
            }));
        }
        let mut table = builder.build();
        table.with(Style::empty()).with(Padding::new(0, GAP, 0, 0));
        for (column, (_, align)) in self.columns.iter().enumerate() {
            if *align == Align::Right {
                table.with(Modify::new(Columns::one(column)).with(Alignment::right()));
            }
        }
        if paint.is_colour() {
            table.with(Modify::new(Rows::first()).with(Color::BOLD));
            for (row, cells) in self.rows.iter().enumerate() {
                for (column, cell) in cells.iter().enumerate() {
                    if let Some(ink) = cell.ink {
                        table.with(Modify::new((row + 1, column)).with(colour(ink)));
                    }
                }
            }
        }
        let mut text = String::new();
        for line in table.to_string().lines() {
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

/// How many columns a text takes.
pub(super) fn columns(text: &str) -> usize {
    text.chars().count()
}

/// Breaks text into lines of at most `width` columns, or one word: a longer word may be a name or a command to copy.
pub(super) fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if columns(line) + 1 + columns(word) <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

fn colour(ink: Ink) -> Color {
    match ink {
        Ink::Bold => Color::BOLD,
        Ink::Dim => Color::new("\u{1b}[2m", "\u{1b}[22m"),
        Ink::Good => Color::FG_GREEN,
        Ink::Bad => Color::FG_RED,
        Ink::Notable => Color::FG_YELLOW,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_lines_end_clean() {
        let mut table = Table::new(&[
            ("PORT", Align::Left),
            ("BYTES", Align::Right),
            ("STATE", Align::Left),
        ]);
        table.row(["vm1".into(), 1_234_567.into(), Cell::inked(Ink::Good, "up")]);
        table.row(["a-long-name".into(), 7.into(), "".into()]);
        assert_eq!(
            table.render("none", Paint::new(false)),
            "PORT           BYTES  STATE\nvm1          1234567  up\na-long-name        7\n"
        );
        assert!(table.render("none", Paint::new(true)).contains("\u{1b}[32mup"));
    }

    #[test]
    fn a_long_last_column_is_wrapped_on_a_terminal() {
        let mut table = Table::new(&[("PORT", Align::Left), ("REASON", Align::Left)]);
        table.row(["vm1".into(), "there is no device `eth1`".into()]);
        table.row(["vm2".into(), "".into()]);
        let plain = Paint::new(false);
        assert_eq!(
            table.render("none", plain.within(23)),
            "PORT  REASON\nvm1   there is no\n      device `eth1`\nvm2\n"
        );
        let whole = "PORT  REASON\nvm1   there is no device `eth1`\nvm2\n";
        assert_eq!(table.render("none", plain.within(31)), whole);
        assert_eq!(table.render("none", plain), whole, "a pipe has no edge");
        assert_eq!(
            table.render("none", plain.within(12)),
            whole,
            "too narrow to wrap"
        );
    }

    #[test]
    fn an_empty_table_says_so() {
        let table = Table::new(&[("PORT", Align::Left)]);
        assert_eq!(table.render("no ports", Paint::new(false)), "no ports\n");
    }
}

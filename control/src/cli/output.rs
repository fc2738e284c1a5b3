//! Standard output: one writer, three forms, colour only where it is wanted.

use std::io::{self, IsTerminal as _, Write};

use clap::ValueEnum;
use ratatui::crossterm::style::{Attribute, Color, ContentStyle, StyledContent};
use ratatui::crossterm::terminal::window_size;
use serde::Serialize;

use super::error::CliError;

/// Form of the output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people.
    Table,
    /// For programs: the API's documents.
    Json,
    /// The same data as YAML.
    Yaml,
}

/// Whether to colour a stream: it is a terminal, and the user has not said `NO_COLOR` (no-color.org).
pub(crate) fn colour_wanted(terminal: bool) -> bool {
    let no_colour = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let dumb = std::env::var_os("TERM").is_some_and(|value| value == "dumb");
    terminal && !no_colour && !dumb
}

/// Columns of the terminal, where it knows them.
fn terminal_width() -> Option<usize> {
    let size = window_size().ok()?;
    Some(usize::from(size.columns)).filter(|columns| *columns > 0)
}

/// How a piece of text stands out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ink {
    /// A heading or a name.
    Bold,
    /// Of less interest.
    Dim,
    /// Well.
    Good,
    /// Not well.
    Bad,
    /// Worth a look.
    Notable,
}

/// What the text is shown on: whether it takes colour, and where its edge is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Paint {
    colour: bool,
    width: Option<usize>,
}

impl Paint {
    /// Paints only if `colour`.
    pub(crate) fn new(colour: bool) -> Self {
        Self { colour, width: None }
    }

    /// The same on a terminal with so many columns.
    pub(crate) fn within(self, width: usize) -> Self {
        Self {
            width: Some(width),
            ..self
        }
    }

    /// Columns of the terminal; `None` where lines may be as long as they are, as in a pipe or a file.
    pub(crate) fn width(self) -> Option<usize> {
        self.width
    }

    /// Whether anything is painted at all.
    pub(crate) fn is_colour(self) -> bool {
        self.colour
    }

    /// `text` in `ink`.
    pub(crate) fn paint(self, ink: Ink, text: &str) -> String {
        if !self.colour || text.is_empty() {
            return text.to_owned();
        }
        let mut style = ContentStyle::new();
        match ink {
            Ink::Bold => style.attributes.set(Attribute::Bold),
            Ink::Dim => style.attributes.set(Attribute::Dim),
            Ink::Good => style.foreground_color = Some(Color::DarkGreen),
            Ink::Bad => style.foreground_color = Some(Color::DarkRed),
            Ink::Notable => style.foreground_color = Some(Color::DarkYellow),
        }
        StyledContent::new(style, text).to_string()
    }
}

/// Where a command writes what it was asked for.
pub(crate) struct Output {
    writer: io::BufWriter<Box<dyn Write>>,
    format: Format,
    paint: Paint,
    terminal: bool,
}

impl Output {
    /// Standard output.
    pub(crate) fn stdout(format: Format) -> Self {
        let terminal = io::stdout().is_terminal();
        let paint = Paint::new(colour_wanted(terminal));
        let width = terminal.then(terminal_width).flatten();
        Self {
            writer: io::BufWriter::new(Box::new(io::stdout())),
            format,
            paint: width.map_or(paint, |width| paint.within(width)),
            terminal,
        }
    }

    /// The form that was asked for.
    pub(crate) fn format(&self) -> Format {
        self.format
    }

    /// How to paint.
    pub(crate) fn paint(&self) -> Paint {
        self.paint
    }

    /// Whether a person is looking.
    pub(crate) fn is_terminal(&self) -> bool {
        self.terminal
    }

    /// The writer itself.
    pub(crate) fn raw(&mut self) -> &mut dyn Write {
        &mut self.writer
    }

    /// Writes text as it is.
    pub(crate) fn text(&mut self, text: &str) -> Result<(), CliError> {
        Ok(self.writer.write_all(text.as_bytes())?)
    }

    /// Writes a line.
    pub(crate) fn line(&mut self, line: &str) -> Result<(), CliError> {
        Ok(writeln!(self.writer, "{line}")?)
    }

    /// Writes a document in the form that was asked for; `table` makes the form for people.
    pub(crate) fn document<T: Serialize>(
        &mut self,
        document: &T,
        table: impl FnOnce(Paint) -> String,
    ) -> Result<(), CliError> {
        match self.format {
            Format::Table => {
                let text = table(self.paint);
                self.text(&text)
            }
            Format::Json => self.json(document),
            Format::Yaml => {
                let text = yaml(document)?;
                self.text(&text)
            }
        }
    }

    /// Writes a document as JSON, indented.
    pub(crate) fn json<T: Serialize>(&mut self, document: &T) -> Result<(), CliError> {
        serde_json::to_writer_pretty(&mut self.writer, document).map_err(io::Error::from)?;
        self.line("")
    }

    /// Writes a row of a stream: in JSON one line (NDJSON), in YAML an item of a list, else what `line` makes.
    pub(crate) fn row<T: Serialize>(
        &mut self,
        row: &T,
        line: impl FnOnce(Paint) -> String,
    ) -> Result<(), CliError> {
        match self.format {
            Format::Table => {
                let line = line(self.paint);
                self.line(&line)
            }
            Format::Json => {
                serde_json::to_writer(&mut self.writer, row).map_err(io::Error::from)?;
                self.line("")
            }
            Format::Yaml => {
                let text = yaml(&[row])?;
                self.text(&text)
            }
        }
    }

    /// Hands everything to the reader.
    pub(crate) fn flush(&mut self) -> Result<(), CliError> {
        Ok(self.writer.flush()?)
    }
}

/// A document as YAML in block form, with a line feed at its end.
pub(crate) fn yaml<T: Serialize>(document: &T) -> Result<String, CliError> {
    let mut text = serde_saphyr::to_string(document).map_err(|error| CliError::Document {
        message: error.to_string(),
    })?;
    if !text.ends_with('\n') {
        text.push('\n');
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paint_only_when_wanted() {
        assert_eq!(Paint::new(false).paint(Ink::Bad, "down"), "down");
        let painted = Paint::new(true).paint(Ink::Bold, "vs0");
        assert!(
            painted.starts_with("\u{1b}[") && painted.contains("vs0"),
            "{painted:?}"
        );
    }

    #[test]
    fn yaml_ends_with_a_line_feed() {
        let text = yaml(&serde_json::json!({"a": {"b": [1, "100"]}})).unwrap();
        assert_eq!(text, "a:\n  b:\n  - 1\n  - \"100\"\n");
    }
}

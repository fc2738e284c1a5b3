//! Errors of a configuration, printed as a compiler prints them: the place, the line itself, what is wrong, what to do.

use std::fmt;

use miette::{
    Diagnostic, GraphicalReportHandler, GraphicalTheme, LabeledSpan, NamedSource, SourceCode, SourceOffset,
    SourceSpan,
};

use super::output::Paint;
use crate::api::model::Problem;

/// A longer line is not shown, octets: it says nothing to a reader, and miette can't print a mark that is wider than 65535
/// columns.
const LONGEST_LINE: usize = 1000;

/// A longer message is cut, characters: it quotes what stands in the file, which may be anything.
const LONGEST_MESSAGE: usize = 400;

/// Renders all problems of the configuration `text`, which is called `name`.
pub(crate) fn render(name: &str, text: &str, problems: &[Problem], paint: Paint) -> String {
    let theme = if paint.is_colour() {
        GraphicalTheme::unicode()
    } else {
        GraphicalTheme::unicode_nocolor()
    };
    let handler = GraphicalReportHandler::new_themed(theme)
        .with_links(false)
        .with_context_lines(1)
        .with_width(110);
    let source = NamedSource::new(name, text.to_owned());
    let mut out = String::new();
    for problem in problems {
        let report = Report {
            problem,
            source: (problem.line > 0 && is_shown(text, problem.line)).then_some(&source),
            span: span(text, problem),
            name,
        };
        if handler.render_report(&mut out, &report).is_err() {
            out.push_str(&format!(
                "{name}:{}:{}: {}\n",
                problem.line, problem.column, problem.message
            ));
        }
        out.push('\n');
    }
    out
}

/// Whether a line and its neighbours, which are printed around it, are short enough to be shown.
fn is_shown(text: &str, line: usize) -> bool {
    text.lines()
        .skip(line.saturating_sub(2))
        .take(3)
        .all(|line| line.len() <= LONGEST_LINE)
}

/// The word at the problem's place: up to the end of the key or scalar that starts there.
fn span(text: &str, problem: &Problem) -> SourceSpan {
    if problem.line == 0 {
        return SourceSpan::from((0, 0));
    }
    let start = SourceOffset::from_location(text, problem.line, problem.column.max(1)).offset();
    let rest = text[start.min(text.len())..].lines().next().unwrap_or_default();
    let word = match rest.chars().next() {
        Some(quote @ ('"' | '\'')) => rest[1..].find(quote).map_or(rest.len(), |end| end + 2),
        Some('{' | '[') => 1,
        _ => rest.find([':', ',', '}', ']', '#', ' ']).unwrap_or(rest.len()),
    };
    SourceSpan::from((start, word.max(1).min(rest.len().max(1))))
}

struct Report<'a> {
    problem: &'a Problem,
    source: Option<&'a NamedSource<String>>,
    span: SourceSpan,
    name: &'a str,
}

impl fmt::Display for Report<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let message = &self.problem.message;
        match message.char_indices().nth(LONGEST_MESSAGE) {
            Some((end, _)) => write!(f, "{}…", &message[..end])?,
            None => f.write_str(message)?,
        }
        // Without a line to point at, the numbers and the path say where.
        if self.source.is_none() && self.problem.line > 0 {
            write!(
                f,
                " [{}:{}:{}]",
                self.name, self.problem.line, self.problem.column
            )?;
        }
        if self.source.is_none() && (1..=LONGEST_LINE).contains(&self.problem.path.len()) {
            write!(f, " ({})", self.problem.path)?;
        }
        Ok(())
    }
}

impl fmt::Debug for Report<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.problem, f)
    }
}

impl std::error::Error for Report<'_> {}

impl Diagnostic for Report<'_> {
    fn severity(&self) -> Option<miette::Severity> {
        Some(miette::Severity::Error)
    }

    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        self.problem
            .help
            .as_ref()
            .map(|help| Box::new(help) as Box<dyn fmt::Display>)
    }

    fn source_code(&self) -> Option<&dyn SourceCode> {
        self.source.map(|source| source as &dyn SourceCode)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        self.source?;
        let path = (!self.problem.path.is_empty()).then(|| self.problem.path.clone());
        Some(Box::new(std::iter::once(LabeledSpan::new_with_span(
            path, self.span,
        ))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "version: 1\nswitches:\n  vs0:\n    port-groups:\n      web: { vlna: 100 }\n";

    fn problem(line: usize, column: usize) -> Problem {
        Problem {
            message: "unknown key `vlna`".into(),
            path: "switches.vs0.port-groups.web.vlna".into(),
            line,
            column,
            help: Some("did you mean `vlan`?".into()),
        }
    }

    #[test]
    fn place_line_and_help() {
        let text = render("switch.yaml", TEXT, &[problem(5, 14)], Paint::new(false));
        for part in [
            "unknown key `vlna`",
            "switch.yaml:5:14",
            "web: { vlna: 100 }",
            "port-groups.web.vlna",
            "did you mean",
        ] {
            assert!(text.contains(part), "{part} is missing in:\n{text}");
        }
        assert!(!text.contains('\u{1b}'));
    }

    #[test]
    fn a_line_without_end_is_told_of_and_not_shown() {
        let long = "x".repeat(100_000);
        let text = format!("version: 1\nswitches:\n  {long}: 1\n  b: 2\n");
        for line in 2..=4 {
            let mut problem = problem(line, 3);
            problem.message = format!("unknown key `{long}`");
            let shown = render("switch.yaml", &text, &[problem], Paint::new(false));
            assert!(shown.contains(&format!("switch.yaml:{line}:3")), "{shown}");
            assert!(shown.len() < 2000, "{} octets", shown.len());
        }
    }

    #[test]
    fn places_outside_the_text_do_no_harm() {
        for (line, column) in [(0, 0), (5, 400), (400, 1), (1, 0)] {
            assert!(render("a", TEXT, &[problem(line, column)], Paint::new(false)).contains("unknown key"));
            assert!(render("a", "", &[problem(line, column)], Paint::new(true)).contains("unknown key"));
        }
    }
}

//! Errors of a configuration, printed as a compiler prints them: the place, the line itself, what is wrong, what to do.

use std::fmt;

use miette::{
    Diagnostic, GraphicalReportHandler, GraphicalTheme, LabeledSpan, NamedSource, SourceCode, SourceOffset,
    SourceSpan,
};

use super::output::Paint;
use crate::api::model::Problem;

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
            source: (problem.line > 0).then_some(&source),
            span: span(text, problem),
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
}

impl fmt::Display for Report<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.problem.message)?;
        // Without a line to point at, the path says where.
        if self.source.is_none() && !self.problem.path.is_empty() {
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
    fn places_outside_the_text_do_no_harm() {
        for (line, column) in [(0, 0), (5, 400), (400, 1), (1, 0)] {
            assert!(render("a", TEXT, &[problem(line, column)], Paint::new(false)).contains("unknown key"));
            assert!(render("a", "", &[problem(line, column)], Paint::new(true)).contains("unknown key"));
        }
    }
}

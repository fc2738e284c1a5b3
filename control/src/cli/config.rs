//! The commands about the whole configuration: `apply`, `confirm`, `diff`, `config`, `history`, `rollback`, `validate`, `schema`.

use std::path::Path;

use hyper::Method;
use serde_json::{Value, json};

use super::args::{ApplyArgs, DiffArgs};
use super::client::Client;
use super::error::CliError;
use super::output::{Format, Ink, Output, Paint, yaml};
use super::table::{Align, Cell, Table};
use super::units::count;
use crate::api::model::{ApiError, ApplyReport, ApplyRequest, Change, ChangeAction, HistoryRow};
use crate::config::text;

/// A configuration's text and what to call it.
pub(crate) struct Text {
    pub(crate) text: String,
    pub(crate) name: String,
}

impl Text {
    /// Reads a file, or standard input for `-`.
    pub(crate) fn read(path: &Path) -> Result<Self, CliError> {
        let (text, name) = if path == Path::new("-") {
            (text::read_text(std::io::stdin()), "standard input".to_owned())
        } else {
            (text::read_file(path), path.display().to_string())
        };
        match text {
            Ok(text) => Ok(Self { text, name }),
            Err(source) => Err(CliError::File {
                action: "read",
                path: name.into(),
                source,
            }),
        }
    }

    /// An error of the daemon that has problems belongs to this text.
    fn rejected(self, error: CliError, consequence: Option<&'static str>) -> CliError {
        match error {
            CliError::Refused(problems) if !problems.problems.is_empty() => CliError::Rejected {
                name: self.name,
                text: self.text,
                problems,
                consequence,
            },
            other => other,
        }
    }
}

/// `apply`
pub(crate) async fn apply(client: &Client, output: &mut Output, args: ApplyArgs) -> Result<(), CliError> {
    let text = Text::read(&args.file)?;
    // A daemon counts whole seconds; a part of one counts as one.
    let confirm_seconds = args.confirm.map(|time| time.as_millis().div_ceil(1000) as u64);
    let request = ApplyRequest {
        text: text.text.clone(),
        name: text.name.clone(),
        dry_run: args.dry_run,
        confirm_seconds,
        comment: args.comment,
    };
    let answer = client
        .send(Method::PUT, "config", &request)
        .await
        .map_err(|error| text.rejected(error, Some("nothing was changed")))?;
    report(
        client,
        output,
        &answer,
        About::All {
            dry_run: args.dry_run,
        },
    )?;
    let applied = answer.get("applied").and_then(Value::as_bool).unwrap_or(false);
    if let Some(seconds) = confirm_seconds
        && applied
        && output.format() == Format::Table
    {
        output.line(&format!(
            "Goes back to the configuration before unless `vswitchctl confirm` comes within {seconds} s."
        ))?;
    }
    Ok(())
}

/// What a report is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum About<'a> {
    /// The whole configuration.
    All {
        /// Nothing was to be changed.
        dry_run: bool,
    },
    /// One port: warnings about others are left out.
    Port(&'a str),
}

/// Prints what an apply, a rollback or a small edit did.
pub(crate) fn report(
    client: &Client,
    output: &mut Output,
    answer: &Value,
    about: About<'_>,
) -> Result<(), CliError> {
    if output.format() != Format::Table {
        return output.document(answer, |_| String::new());
    }
    let report: ApplyReport = client.typed(answer)?;
    let paint = output.paint();
    output.text(&render_changes(&report.changes, paint))?;
    let concerns = |warning: &&String| match (about, warning.strip_prefix("port ")) {
        (About::Port(port), Some(rest)) => rest.split_whitespace().next() == Some(port),
        _ => true,
    };
    for warning in report.warnings.iter().filter(concerns) {
        output.line(&format!("{} {warning}", paint.paint(Ink::Notable, "warning:")))?;
    }
    let changes = count(report.changes.len(), "change");
    let generation = report.generation;
    output.line(&if report.applied {
        format!("{changes} applied; generation {generation} is in force.")
    } else if report.changes.is_empty() {
        format!("Nothing differs; generation {generation} stays in force.")
    } else if about == (About::All { dry_run: true }) {
        format!("{changes} would be applied; generation {generation} stays in force.")
    } else {
        format!("{changes} not applied; generation {generation} stays in force.")
    })
}

/// `confirm`
pub(crate) async fn confirm(client: &Client, output: &mut Output) -> Result<(), CliError> {
    let answer = client.call(Method::POST, "confirm").await?;
    let generation = answer.get("generation").and_then(Value::as_u64);
    output.document(&answer, |_| match generation {
        Some(generation) => format!("Generation {generation} stays in force.\n"),
        None => "The configuration stays in force.\n".to_owned(),
    })
}

/// `diff`
pub(crate) async fn diff(client: &Client, output: &mut Output, args: DiffArgs) -> Result<(), CliError> {
    let text = Text::read(&args.file)?;
    let request = ApplyRequest {
        text: text.text.clone(),
        name: text.name.clone(),
        dry_run: true,
        confirm_seconds: None,
        comment: None,
    };
    let answer = client
        .send(Method::PUT, "config", &request)
        .await
        .map_err(|error| text.rejected(error, None))?;
    let report: ApplyReport = client.typed(&answer)?;
    output.document(&answer.get("changes"), |paint| {
        if report.changes.is_empty() {
            return format!("Nothing differs from generation {}.\n", report.generation);
        }
        render_changes(&report.changes, paint)
    })?;
    if args.exit_code && !report.changes.is_empty() {
        return Err(CliError::Differs);
    }
    Ok(())
}

fn render_changes(changes: &[Change], paint: Paint) -> String {
    let mut out = String::new();
    for change in changes {
        let path = &change.path;
        let value = |value: &Option<Value>| value.as_ref().map(flow).unwrap_or_default();
        let (ink, line) = match change.action {
            ChangeAction::Add => (Ink::Good, format!("+ {path}: {}", value(&change.to))),
            ChangeAction::Remove => (Ink::Bad, format!("- {path}: {}", value(&change.from))),
            ChangeAction::Change => (
                Ink::Notable,
                format!("~ {path}: {} → {}", value(&change.from), value(&change.to)),
            ),
        };
        out.push_str(&paint.paint(ink, line.trim_end_matches(": ")));
        out.push('\n');
    }
    out
}

/// A value in YAML's flow form: `{ vlan: 100, tap: vm1 }`.
pub(crate) fn flow(value: &Value) -> String {
    match value {
        Value::Object(map) if map.is_empty() => "{}".to_owned(),
        Value::Object(map) => {
            let pairs: Vec<String> = map
                .iter()
                .map(|(key, value)| format!("{key}: {}", flow(value)))
                .collect();
            format!("{{ {} }}", pairs.join(", "))
        }
        Value::Array(items) => format!("[{}]", items.iter().map(flow).collect::<Vec<_>>().join(", ")),
        // YAML reads these without quotes as what they are; everything else JSON quotes as YAML does.
        Value::String(text) if is_plain(text) => text.clone(),
        other => other.to_string(),
    }
}

fn is_plain(text: &str) -> bool {
    let word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/');
    text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/')
        && text.chars().all(word)
        && !matches!(
            text.to_ascii_lowercase().as_str(),
            "true" | "false" | "null" | "yes" | "no" | "on" | "off" | "y" | "n"
        )
}

/// `config`
pub(crate) async fn show(
    client: &Client,
    output: &mut Output,
    generation: Option<u64>,
) -> Result<(), CliError> {
    let answer = match generation {
        None => client.get("config").await?,
        Some(generation) => client.get(&format!("history/{generation}")).await?,
    };
    let config = answer.get("config").cloned().unwrap_or(Value::Null);
    match output.format() {
        Format::Json => output.json(&config),
        Format::Table | Format::Yaml => {
            let text = yaml(&config)?;
            output.text(&text)
        }
    }
}

/// `history`
pub(crate) async fn history(client: &Client, output: &mut Output) -> Result<(), CliError> {
    let answer = client.get("history").await?;
    let rows: Vec<HistoryRow> = client.typed(&answer)?;
    output.document(&answer, |paint| {
        let mut table = Table::new(&[
            ("", Align::Left),
            ("GENERATION", Align::Right),
            ("TIME", Align::Left),
            ("AUTHOR", Align::Left),
            ("CHANGES", Align::Right),
            ("COMMENT", Align::Left),
        ]);
        for row in rows {
            table.row([
                match (row.pending, row.current) {
                    (true, _) => Cell::inked(Ink::Notable, "?"),
                    (false, true) => Cell::inked(Ink::Good, "*"),
                    (false, false) => "".into(),
                },
                row.generation.into(),
                whole_seconds(&row.time).into(),
                row.author.into(),
                row.changes.into(),
                if row.pending {
                    format!("{} (waits for `vswitchctl confirm`)", row.comment).into()
                } else {
                    row.comment.into()
                },
            ]);
        }
        table.render(
            "No configuration has been applied yet; `vswitchctl apply -f FILE` does.",
            paint,
        )
    })
}

/// A time of RFC 3339 without its fraction: generations are seldom so close.
fn whole_seconds(time: &str) -> String {
    match time.split_once('.') {
        Some((seconds, fraction)) => format!(
            "{seconds}{}",
            fraction.trim_start_matches(|c: char| c.is_ascii_digit())
        ),
        None => time.to_owned(),
    }
}

/// `rollback`
pub(crate) async fn rollback(
    client: &Client,
    output: &mut Output,
    generation: Option<u64>,
) -> Result<(), CliError> {
    let generation = match generation {
        Some(generation) => generation,
        None => {
            let rows: Vec<HistoryRow> = client.typed(&client.get("history").await?)?;
            let current = rows
                .iter()
                .find(|row| row.current)
                .map_or(u64::MAX, |row| row.generation);
            let before = rows
                .iter()
                .map(|row| row.generation)
                .filter(|generation| *generation < current)
                .max();
            before.ok_or_else(|| {
                CliError::Failed(
                    "there is no configuration before this one to go back to; see `vswitchctl history`"
                        .into(),
                )
            })?
        }
    };
    let answer = client
        .send(Method::POST, "rollback", &json!({ "generation": generation }))
        .await?;
    report(client, output, &answer, About::All { dry_run: false })
}

/// `validate`
pub(crate) fn validate(output: &mut Output, file: &Path) -> Result<(), CliError> {
    let text = Text::read(file)?;
    match text::load(&text.text) {
        Ok(valid) => output.document(&json!([]), |_| {
            let groups = valid
                .config()
                .switches
                .values()
                .map(|switch| switch.port_groups.len())
                .sum();
            let uplinks = valid.ports().iter().filter(|port| port.is_uplink()).count();
            let mut parts = vec![count(valid.switches().len(), "switch")];
            parts.extend((uplinks > 0).then(|| count(uplinks, "uplink")));
            parts.push(count(groups, "port group"));
            parts.push(count(valid.ports().len() - uplinks, "port"));
            format!("{} is valid: {}.\n", text.name, parts.join(", "))
        }),
        Err(problems) => {
            if output.format() != Format::Table {
                output.document(&problems, |_| String::new())?;
            }
            Err(CliError::Rejected {
                problems: ApiError {
                    error: format!("{} in {}", count(problems.len(), "error"), text.name),
                    problems,
                },
                name: text.name,
                text: text.text,
                consequence: None,
            })
        }
    }
}

/// `schema`
pub(crate) fn schema(output: &mut Output) -> Result<(), CliError> {
    let schema = crate::config::schema::schema();
    match output.format() {
        Format::Yaml => output.document(&schema, |_| String::new()),
        Format::Table | Format::Json => output.json(&schema),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds() {
        for (time, want) in [
            ("2026-01-31T12:00:00.123Z", "2026-01-31T12:00:00Z"),
            ("2026-01-31T12:00:00.1+01:00", "2026-01-31T12:00:00+01:00"),
            ("2026-01-31T12:00:00Z", "2026-01-31T12:00:00Z"),
        ] {
            assert_eq!(whole_seconds(time), want);
        }
    }

    #[test]
    fn flow_form() {
        let value = json!({"trunk": [100, "200-299"], "tap": "vm1", "mac": "52:54:00:00:00:01", "s": {}, "b": true, "n": "no"});
        assert_eq!(
            flow(&value),
            r#"{ trunk: [100, "200-299"], tap: vm1, mac: "52:54:00:00:00:01", s: {}, b: true, n: "no" }"#
        );
    }

    #[test]
    fn changes_as_lines() {
        let change = |action, from, to| Change {
            action,
            path: "switches.vs0.mtu".into(),
            from,
            to,
        };
        let text = render_changes(
            &[
                change(ChangeAction::Add, None, Some(json!(9000))),
                change(ChangeAction::Remove, Some(json!(9000)), None),
                change(ChangeAction::Change, Some(json!(1500)), Some(json!(9000))),
                change(ChangeAction::Remove, None, None),
            ],
            Paint::new(false),
        );
        assert_eq!(
            text,
            "+ switches.vs0.mtu: 9000\n- switches.vs0.mtu: 9000\n~ switches.vs0.mtu: 1500 → 9000\n- switches.vs0.mtu\n"
        );
    }
}

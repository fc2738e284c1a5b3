//! The text of a configuration file, YAML 1.2 or its subset JSON, read and written.
//!
//! Reading finds every error at once, those of form and those of meaning ([`Config::validate`]) alike, each with its
//! line, its column and its path. An error that only follows from another is not told.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use serde_json::Value;

use super::de::{MAX_ERRORS, read};
use super::model::Config;
use super::tree::{MAX_TEXT, Tree, TreeError};
use super::validate::{ConfigError, ValidConfig};
use crate::api::model::Problem;

/// Reads the text itself: never more of it than a configuration may have, whatever stands behind the reader.
///
/// # Errors
/// Those of the reader, a text that is too long, and one that is not UTF-8.
pub fn read_text(reader: impl Read) -> io::Result<String> {
    let mut bytes = Vec::new();
    reader.take(MAX_TEXT as u64 + 1).read_to_end(&mut bytes)?;
    if bytes.len() > MAX_TEXT {
        return Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            format!(
                "it is longer than {} MiB, the most that a configuration may have",
                MAX_TEXT >> 20
            ),
        ));
    }
    String::from_utf8(bytes).map_err(|error| {
        let before = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line_start = before.iter().rposition(|b| *b == b'\n').map_or(0, |at| at + 1);
        let line = before.iter().filter(|b| **b == b'\n').count() + 1;
        let column = String::from_utf8_lossy(&before[line_start..]).chars().count() + 1;
        let message = format!("it is not UTF-8 (line {line}, column {column}); save it as UTF-8");
        io::Error::new(io::ErrorKind::InvalidData, message)
    })
}

/// As [`read_text`], from a file.
///
/// # Errors
/// As [`read_text`].
pub fn read_file(path: &Path) -> io::Result<String> {
    read_text(File::open(path)?)
}

/// Reads the form of a configuration.
///
/// # Errors
/// All errors of form, in the order of the text.
pub fn parse(text: &str) -> Result<Config, Vec<Problem>> {
    let (mut tree, mut errors) = Tree::parse(text).map_err(|error| vec![error.into()])?;
    match read(&mut tree, &mut errors) {
        Some(config) if errors.is_empty() => Ok(config),
        _ => Err(problems(errors)),
    }
}

/// Reads and validates a configuration.
///
/// # Errors
/// All errors of form and meaning, in the order of the text.
pub fn load(text: &str) -> Result<ValidConfig, Vec<Problem>> {
    let (tree, errors) = Tree::parse(text).map_err(|error| vec![error.into()])?;
    judge(tree, errors)
}

/// As [`load`], for a configuration that was built or changed as a JSON value; lines and columns are 0.
///
/// # Errors
/// All errors of form and meaning.
pub fn load_value(value: &Value) -> Result<ValidConfig, Vec<Problem>> {
    let tree = Tree::from_json(value).map_err(|error| vec![error.into()])?;
    judge(tree, Vec::new())
}

fn judge(mut tree: Tree, mut errors: Vec<TreeError>) -> Result<ValidConfig, Vec<Problem>> {
    let Some(config) = read::<Config>(&mut tree, &mut errors) else {
        return Err(problems(errors));
    };
    match config.validate() {
        Ok(valid) if errors.is_empty() => Ok(valid),
        Ok(_) => Err(problems(errors)),
        Err(more) => {
            let news = more
                .into_iter()
                .filter(|error| !error.depends.iter().any(|path| tree.is_pruned(path)))
                .take(MAX_ERRORS);
            errors.extend(news.map(|error| locate(&tree, error)));
            Err(problems(errors))
        }
    }
}

fn locate(tree: &Tree, error: ConfigError) -> TreeError {
    let (mark, path) = tree.locate(&error.path);
    TreeError {
        message: error.message,
        help: error.help,
        path,
        mark,
    }
}

/// Errors in the order of the text, not too many of them.
fn problems(mut errors: Vec<TreeError>) -> Vec<Problem> {
    errors.sort_by_key(|error| error.mark);
    let more = errors.len() >= MAX_ERRORS;
    errors.truncate(MAX_ERRORS);
    let mut problems: Vec<Problem> = errors.into_iter().map(Problem::from).collect();
    if more {
        problems.push(Problem {
            message: format!("there may be more errors than these {MAX_ERRORS}"),
            path: String::new(),
            line: 0,
            column: 0,
            help: Some("correct these first".to_owned()),
        });
    }
    problems
}

impl From<TreeError> for Problem {
    fn from(error: TreeError) -> Self {
        Self {
            message: error.message,
            path: error.path.to_string(),
            line: error.mark.line,
            column: error.mark.column,
            help: error.help,
        }
    }
}

impl Config {
    /// The configuration as a JSON value, keys in the owner's order.
    pub fn to_value(&self) -> Value {
        serde_json::to_value(self).expect("a configuration is made of maps with text keys")
    }

    /// The configuration as YAML, which [`parse`] reads back to the same.
    pub fn to_yaml(&self) -> String {
        serde_saphyr::to_string(self).expect("a configuration is made of maps with text keys")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_without_end_is_not_read_to_its_end() {
        let error = read_file(Path::new("/dev/zero")).unwrap_err();
        assert!(error.to_string().contains("longer than 16 MiB"), "{error}");
        // The last octet that is read may be in the middle of a character.
        let error = read_text("é".repeat(MAX_TEXT).as_bytes()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::FileTooLarge);
        assert_eq!(
            read_text(" ".repeat(MAX_TEXT).as_bytes()).unwrap().len(),
            MAX_TEXT
        );
    }
}

//! The text of a configuration file, YAML 1.2 or its subset JSON, read and written.

use super::model::Config;
use super::validate::ValidConfig;
use crate::api::model::Problem;

/// Reads the form of a configuration: every error at once, each with its place.
///
/// # Errors
/// All errors of form, in the order of the text.
pub fn parse(text: &str) -> Result<Config, Vec<Problem>> {
    serde_saphyr::from_str(text).map_err(|error| {
        vec![Problem {
            message: error.to_string(),
            path: String::new(),
            line: 0,
            column: 0,
            help: None,
        }]
    })
}

/// Reads and validates a configuration: every error at once, each with its place.
///
/// # Errors
/// All errors of form and meaning, in the order of the text.
pub fn load(text: &str) -> Result<ValidConfig, Vec<Problem>> {
    parse(text)?.validate().map_err(|errors| {
        errors
            .into_iter()
            .map(|error| Problem {
                message: error.message,
                path: error.path.to_string(),
                line: 0,
                column: 0,
                help: error.help,
            })
            .collect()
    })
}

impl Config {
    /// The configuration as a JSON value, keys in the owner's order.
    pub fn to_value(&self) -> serde_json::Value {
        serde_json::to_value(self).expect("a configuration is made of maps with text keys")
    }

    /// The configuration as YAML, which [`parse`] reads back to the same.
    pub fn to_yaml(&self) -> String {
        serde_saphyr::to_string(self).expect("a configuration is made of maps with text keys")
    }
}

/// As [`load`], for a configuration that was built or changed as a JSON value; lines and columns are 0.
///
/// # Errors
/// All errors of form and meaning.
pub fn load_value(value: &serde_json::Value) -> Result<ValidConfig, Vec<Problem>> {
    load(&value.to_string())
}

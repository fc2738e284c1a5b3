//! The JSON Schema of the configuration file, from the model itself (JSON Schema draft 2020-12).

use serde_json::Value;

use super::model::Config;

/// The schema, with the documentation of each key as its description and the defaults.
pub fn schema() -> Value {
    schemars::schema_for!(Config).to_value()
}

//! The difference between two configurations, as a pure function of their values: whatever the model grows, nothing is forgotten.

use serde_json::{Map, Value};

use super::model::Config;
use super::path::Path;
use crate::api::model::{Change, ChangeAction};

/// What leads from one configuration to another, in the order of the new one; what it no longer has comes after its siblings.
///
/// Only what is written counts: a default spelt out differs from one left out. A switch, a group or a port that is added or removed
/// is one difference.
pub fn diff(from: &Config, to: &Config) -> Vec<Change> {
    let mut changes = Vec::new();
    maps(&to_map(from), &to_map(to), &Path::root(), &mut changes);
    changes
}

fn to_map(config: &Config) -> Map<String, Value> {
    match config.to_value() {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

fn maps(from: &Map<String, Value>, to: &Map<String, Value>, path: &Path, changes: &mut Vec<Change>) {
    for (key, new) in to {
        let path = path.key(key);
        match from.get(key) {
            None => changes.push(Change {
                action: ChangeAction::Add,
                path: path.to_string(),
                from: None,
                to: Some(new.clone()),
            }),
            Some(Value::Object(old)) if let Value::Object(new) = new => maps(old, new, &path, changes),
            Some(old) if old != new => changes.push(Change {
                action: ChangeAction::Change,
                path: path.to_string(),
                from: Some(old.clone()),
                to: Some(new.clone()),
            }),
            Some(_) => {}
        }
    }
    for (key, old) in from {
        if !to.contains_key(key) {
            changes.push(Change {
                action: ChangeAction::Remove,
                path: path.key(key).to_string(),
                from: Some(old.clone()),
                to: None,
            });
        }
    }
}

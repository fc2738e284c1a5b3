//! Reads a [`Tree`] into the model through serde, so that an error keeps the place of what it is about.
//!
//! serde stops at the first error. [`read`] therefore records it, prunes the node that is in error from the tree, and begins again, until
//! nothing is wrong: each round finds one more error, and the number of rounds is bounded.

use std::fmt;

use serde::de::{
    DeserializeOwned, DeserializeSeed, Deserializer, Expected, IntoDeserializer, MapAccess, SeqAccess,
    Unexpected, Visitor,
};
use serde::forward_to_deserialize_any;

use super::path::{Path, Segment};
use super::tree::{Entry, Item, Mark, NodeId, Scalar, Slot, Tree, TreeError, Value, excerpt, resolve};
use super::validate::{nearest, suggest};

/// The most errors that are looked for.
pub const MAX_ERRORS: usize = 100;

/// Reads the tree; what is in error is left out, and the errors are returned beside what is left of it.
pub(super) fn read<T: DeserializeOwned>(tree: &mut Tree, errors: &mut Vec<TreeError>) -> Option<T> {
    loop {
        if errors.len() >= MAX_ERRORS {
            return None;
        }
        let root = NodeReader {
            tree,
            node: tree.root(),
            trail: None,
        };
        let fault = match T::deserialize(root) {
            Ok(value) => return Some(value),
            Err(fault) => fault,
        };
        let site = fault.site.unwrap_or_else(|| Site {
            path: Path::root(),
            mark: tree.node(tree.root()).mark,
            node: tree.root(),
            slot: None,
        });
        if let What::Missing(key) = fault.what {
            let known = tree.has_pruned(site.node, key)
                || alternative(key).is_some_and(|(other, _)| tree.has_pruned(site.node, other));
            if !known {
                errors.push(describe(&What::Missing(key), &site));
            }
            match site.slot {
                Some(slot) => {
                    tree.prune(slot, None);
                }
                // Of the root only the version is required; what else is wrong is to be found without it.
                None => tree.supply(key, 1),
            }
            continue;
        }
        let meant = match &fault.what {
            What::UnknownKey(key, known) => nearest(key, known.iter().copied()),
            _ => None,
        };
        errors.push(describe(&fault.what, &site));
        match site.slot {
            Some(slot) if tree.prune(slot, meant) => {}
            _ => return None,
        }
    }
}

/// What is wrong; worded once the place is known.
#[derive(Debug)]
enum What {
    UnknownKey(String, &'static [&'static str]),
    UnknownWord(String, &'static [&'static str]),
    Missing(&'static str),
    Other(String, Option<String>),
}

#[derive(Debug)]
struct Site {
    path: Path,
    mark: Mark,
    node: NodeId,
    /// `None`: the root.
    slot: Option<Slot>,
}

/// An error on its way out of serde.
#[derive(Debug)]
pub(super) struct Fault {
    what: What,
    site: Option<Site>,
}

impl Fault {
    fn new(what: What) -> Self {
        Self { what, site: None }
    }

    /// Gives the error its place; the innermost that it passes wins.
    fn at(mut self, site: impl FnOnce() -> Site) -> Self {
        self.site.get_or_insert_with(site);
        self
    }
}

fn describe(what: &What, site: &Site) -> TreeError {
    let error = |message: String, help: Option<String>| TreeError {
        message,
        help,
        path: site.path.clone(),
        mark: site.mark,
    };
    match what {
        What::UnknownKey(key, _) if is_later_key(&site.path) => error(
            format!("`{key}` is not supported by this version"),
            Some(format!("take `{key}` out")),
        ),
        What::UnknownKey(key, known) => error(
            format!("unknown key `{}`", excerpt(key)),
            suggest(key, "known keys", known.iter().copied()),
        ),
        What::UnknownWord(word, known) if LATER_WORDS.contains(&word.as_str()) => error(
            format!("`{word}` is not supported by this version"),
            Some(format!("supported: {}", known.join(", "))),
        ),
        What::UnknownWord(word, known) => error(
            format!("unknown value `{}`", excerpt(word)),
            suggest(word, "known values", known.iter().copied()),
        ),
        What::Missing(key) if let Some((other, help)) = alternative(key) => {
            error(format!("`{key}` or `{other}` is missing"), Some(help.to_owned()))
        }
        What::Missing(key) => error(
            format!("`{key}` is missing"),
            (*key == "version").then(|| "write `version: 1`".to_owned()),
        ),
        What::Other(message, help) => error(message.clone(), help.clone()),
    }
}

/// The key that may stand in the place of a required one, and what to do where neither is there.
fn alternative(key: &str) -> Option<(&'static str, &'static str)> {
    (key == "trunk").then_some(("dot1q-tunnel", "a port in one VLAN is written `vlan: 100`"))
}

/// Values that later versions will know.
const LATER_WORDS: &[&str] = &["nat", "host-only", "internal", "load", "beacon"];

/// Whether a key is one that later versions will know, at its place.
fn is_later_key(path: &Path) -> bool {
    const GROUP: &[&str] = &[
        "acl",
        "addresses",
        "arp-inspection",
        "dhcp-guard",
        "dhcp-server",
        "gateway",
        "marking",
        "multicast",
        "private-vlan",
        "ra-guard",
        "router",
        "shaping",
        "storm",
    ];
    let keys: Vec<&str> = path
        .segments()
        .iter()
        .map(|segment| match segment {
            Segment::Key(key) => key.as_str(),
            Segment::Index(_) => "",
        })
        .collect();
    match keys.as_slice() {
        [key] => ["acls", "cluster", "sets", "export"].contains(key),
        ["switches", _, key] => ["mirrors", "overlay"].contains(key),
        ["switches", _, "port-groups", _, key] => GROUP.contains(key),
        ["switches", _, "ports", _, key] => GROUP.contains(key),
        _ => false,
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.what)
    }
}

impl std::error::Error for Fault {}

impl serde::de::Error for Fault {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self::new(What::Other(message.to_string(), None))
    }

    fn invalid_type(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        let expected = match expected.to_string().as_str() {
            "u8" | "u16" | "u32" | "u64" | "usize" | "i8" | "i16" | "i32" | "i64" => {
                "a whole number".to_owned()
            }
            "a boolean" => "`true` or `false`".to_owned(),
            "a string" | "string" | "str" => "a text".to_owned(),
            "a sequence" => "a list".to_owned(),
            other => other.to_owned(),
        };
        let help = match found {
            Unexpected::Str(text) if expected.contains("true") => match text.to_lowercase().as_str() {
                "yes" | "on" | "y" => Some("YAML 1.2 knows no other words for it: write `true`".to_owned()),
                "no" | "off" | "n" => Some("YAML 1.2 knows no other words for it: write `false`".to_owned()),
                "true" | "false" => Some("leave the quotes out".to_owned()),
                _ => None,
            },
            Unexpected::Str(text) if expected.contains("number") && text.parse::<u64>().is_ok() => {
                Some("leave the quotes out".to_owned())
            }
            Unexpected::Bool(value) if expected == "a text" => {
                Some(format!("as a text it is written \"{value}\""))
            }
            _ => None,
        };
        let found = match found {
            Unexpected::Bool(value) => format!("`{value}`"),
            Unexpected::Unsigned(value) => format!("the number {value}"),
            Unexpected::Signed(value) => format!("the number {value}"),
            Unexpected::Float(value) => format!("the number {value}"),
            Unexpected::Str(text) => format!("the text `{}`", excerpt(text)),
            Unexpected::Unit | Unexpected::Option => "nothing".to_owned(),
            Unexpected::Seq => "a list".to_owned(),
            Unexpected::Map => "a map".to_owned(),
            other => other.to_string(),
        };
        Self::new(What::Other(format!("expected {expected}, found {found}"), help))
    }

    fn invalid_value(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::invalid_type(found, expected)
    }

    fn unknown_variant(variant: &str, expected: &'static [&'static str]) -> Self {
        Self::new(What::UnknownWord(variant.to_owned(), expected))
    }

    fn unknown_field(field: &str, expected: &'static [&'static str]) -> Self {
        Self::new(What::UnknownKey(field.to_owned(), expected))
    }

    fn missing_field(field: &'static str) -> Self {
        Self::new(What::Missing(field))
    }
}

/// The way from the root to a node, kept on the stack.
#[derive(Clone, Copy)]
struct Trail<'a> {
    up: Option<&'a Trail<'a>>,
    step: Step<'a>,
    slot: Slot,
}

#[derive(Clone, Copy)]
enum Step<'a> {
    Key(&'a str),
    Index(usize),
}

impl Trail<'_> {
    fn path(&self) -> Path {
        let mut segments = Vec::new();
        let mut trail = Some(self);
        while let Some(step) = trail {
            segments.push(match step.step {
                Step::Key(key) => Segment::Key(key.to_owned()),
                Step::Index(index) => Segment::Index(index),
            });
            trail = step.up;
        }
        segments.into_iter().rev().collect()
    }
}

/// Reads one node.
#[derive(Clone, Copy)]
struct NodeReader<'t, 'a> {
    tree: &'t Tree,
    node: NodeId,
    trail: Option<&'a Trail<'a>>,
}

impl<'t> NodeReader<'t, '_> {
    fn value(&self) -> &'t Value {
        &self.tree.node(self.node).value
    }

    fn is_null(&self) -> bool {
        matches!(self.value(), Value::Scalar { text, plain: true } if resolve(text) == Scalar::Null)
    }
}

impl<'t> Deserializer<'t> for NodeReader<'t, '_> {
    type Error = Fault;

    fn deserialize_any<V: Visitor<'t>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self.value() {
            Value::Scalar { text, plain: false } => visitor.visit_borrowed_str(text),
            Value::Scalar { text, plain: true } => match resolve(text) {
                Scalar::Null => visitor.visit_unit(),
                Scalar::Bool(value) => visitor.visit_bool(value),
                Scalar::Unsigned(value) => visitor.visit_u64(value),
                Scalar::Signed(value) => visitor.visit_i64(value),
                Scalar::Float(value) => visitor.visit_f64(value),
                Scalar::Text => visitor.visit_borrowed_str(text),
            },
            Value::Map(entries) => visitor.visit_map(MapReader {
                reader: self,
                rest: entries.iter().enumerate(),
                value: None,
            }),
            Value::List(items) => visitor.visit_seq(ListReader {
                reader: self,
                rest: items.iter().enumerate(),
            }),
        }
    }

    /// Where a text is wanted, a plain scalar that looks like a number is its text: `port-group: 100`.
    fn deserialize_str<V: Visitor<'t>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self.value() {
            Value::Scalar { text, plain: true }
                if matches!(
                    resolve(text),
                    Scalar::Unsigned(_) | Scalar::Signed(_) | Scalar::Float(_)
                ) =>
            {
                visitor.visit_borrowed_str(text)
            }
            _ => self.deserialize_any(visitor),
        }
    }

    fn deserialize_string<V: Visitor<'t>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.deserialize_str(visitor)
    }

    fn deserialize_option<V: Visitor<'t>>(self, visitor: V) -> Result<V::Value, Fault> {
        if self.is_null() {
            visitor.visit_none()
        } else {
            visitor.visit_some(self)
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'t>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Fault> {
        visitor.visit_newtype_struct(self)
    }

    /// `web:` with nothing behind it is a map without keys.
    fn deserialize_map<V: Visitor<'t>>(self, visitor: V) -> Result<V::Value, Fault> {
        if self.is_null() {
            return visitor.visit_map(MapReader {
                reader: self,
                rest: [].iter().enumerate(),
                value: None,
            });
        }
        self.deserialize_any(visitor)
    }

    fn deserialize_struct<V: Visitor<'t>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        match self.value() {
            // serde would also take a list of the fields' values.
            Value::List(_) => Err(serde::de::Error::invalid_type(Unexpected::Seq, &visitor)),
            _ => self.deserialize_map(visitor),
        }
    }

    fn deserialize_enum<V: Visitor<'t>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        match self.value() {
            Value::Scalar { .. } if self.is_null() => {
                Err(serde::de::Error::invalid_type(Unexpected::Unit, &visitor))
            }
            Value::Scalar { text, .. } => visitor.visit_enum(text.as_str().into_deserializer()),
            Value::Map(_) => Err(serde::de::Error::invalid_type(Unexpected::Map, &visitor)),
            Value::List(_) => Err(serde::de::Error::invalid_type(Unexpected::Seq, &visitor)),
        }
    }

    fn deserialize_ignored_any<V: Visitor<'t>>(self, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_unit()
    }

    forward_to_deserialize_any! {
        <V: Visitor<'t>>
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char bytes byte_buf unit unit_struct seq tuple tuple_struct identifier
    }
}

struct MapReader<'t, 'a> {
    reader: NodeReader<'t, 'a>,
    rest: std::iter::Enumerate<std::slice::Iter<'t, Entry>>,
    value: Option<(usize, &'t Entry)>,
}

impl<'t> MapAccess<'t> for MapReader<'t, '_> {
    type Error = Fault;

    fn next_key_seed<K: DeserializeSeed<'t>>(&mut self, seed: K) -> Result<Option<K::Value>, Fault> {
        let Some((at, entry)) = self.rest.find(|(_, entry)| !entry.pruned) else {
            return Ok(None);
        };
        self.value = Some((at, entry));
        let key: serde::de::value::BorrowedStrDeserializer<'t, Fault> =
            serde::de::value::BorrowedStrDeserializer::new(&entry.key);
        let slot = (self.reader.node, at);
        seed.deserialize(key).map(Some).map_err(|fault| {
            fault.at(|| Site {
                path: Trail {
                    up: self.reader.trail,
                    step: Step::Key(&entry.key),
                    slot,
                }
                .path(),
                mark: entry.mark,
                node: entry.value,
                slot: Some(slot),
            })
        })
    }

    fn next_value_seed<S: DeserializeSeed<'t>>(&mut self, seed: S) -> Result<S::Value, Fault> {
        let (at, entry) = self.value.take().expect("serde asks for the key first");
        let trail = Trail {
            up: self.reader.trail,
            step: Step::Key(&entry.key),
            slot: (self.reader.node, at),
        };
        descend(self.reader.tree, entry.value, &trail, seed)
    }
}

struct ListReader<'t, 'a> {
    reader: NodeReader<'t, 'a>,
    rest: std::iter::Enumerate<std::slice::Iter<'t, Item>>,
}

impl<'t> SeqAccess<'t> for ListReader<'t, '_> {
    type Error = Fault;

    fn next_element_seed<S: DeserializeSeed<'t>>(&mut self, seed: S) -> Result<Option<S::Value>, Fault> {
        let Some((at, item)) = self.rest.find(|(_, item)| !item.pruned) else {
            return Ok(None);
        };
        let trail = Trail {
            up: self.reader.trail,
            // As it stands in the text, whatever was left out before it.
            step: Step::Index(at),
            slot: (self.reader.node, at),
        };
        descend(self.reader.tree, item.value, &trail, seed).map(Some)
    }
}

fn descend<'t, S: DeserializeSeed<'t>>(
    tree: &'t Tree,
    node: NodeId,
    trail: &Trail<'_>,
    seed: S,
) -> Result<S::Value, Fault> {
    let reader = NodeReader {
        tree,
        node,
        trail: Some(trail),
    };
    seed.deserialize(reader).map_err(|fault| {
        fault.at(|| Site {
            path: trail.path(),
            mark: tree.mark_of(trail.slot, node),
            node,
            slot: Some(trail.slot),
        })
    })
}

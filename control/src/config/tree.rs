//! A YAML document as a tree whose every node knows its place in the text, so that an error can be shown where it stands.
//!
//! Bounds, whatever the text: its length ([`MAX_TEXT`]), the depth of nesting ([`MAX_DEPTH`]), and the number of nodes after
//! aliases are put in ([`MAX_NODES`]). Tags and further documents are refused; a key that is there twice is an error. Scalars follow the core
//! schema of YAML 1.2: `yes`, `no`, `on` and `off` are texts.

use std::collections::{HashMap, HashSet};

use saphyr_parser::{Event, Marker, Parser, ScalarStyle};
use serde_json::Value as Json;

use super::path::{Path, Segment};

/// Longest text, octets.
pub const MAX_TEXT: usize = 16 << 20;
/// Deepest nesting of maps and lists.
pub const MAX_DEPTH: usize = 64;
/// The most nodes, those that an alias stands for counted each time.
pub const MAX_NODES: usize = 2_000_000;

/// A place in the text. 0 where there is no text.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub(super) struct Mark {
    /// From 1.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
}

impl From<&Marker> for Mark {
    fn from(marker: &Marker) -> Self {
        Self {
            line: marker.line(),
            column: marker.col() + 1,
        }
    }
}

/// Index of a node in its tree.
pub(super) type NodeId = usize;

/// What holds a child: the node and the position among its children.
pub(super) type Slot = (NodeId, usize);

#[derive(Debug)]
pub(super) struct Node {
    pub mark: Mark,
    pub value: Value,
    /// Number of nodes with everything below.
    weight: usize,
}

#[derive(Debug)]
pub(super) enum Value {
    Scalar {
        text: String,
        /// Neither quoted nor a block: it may be a number, a truth value or nothing.
        plain: bool,
    },
    Map(Vec<Entry>),
    List(Vec<Item>),
}

#[derive(Debug)]
pub(super) struct Entry {
    pub key: String,
    pub mark: Mark,
    pub value: NodeId,
    /// In error: passed over from now on.
    pub pruned: bool,
    /// The known key that is meant by a misspelt one.
    pub meant: Option<&'static str>,
}

#[derive(Debug)]
pub(super) struct Item {
    pub value: NodeId,
    pub pruned: bool,
}

/// An error in the form of the text.
#[derive(Debug)]
pub(super) struct TreeError {
    pub message: String,
    pub help: Option<String>,
    pub path: Path,
    pub mark: Mark,
}

#[derive(Debug, Default)]
pub(super) struct Tree {
    nodes: Vec<Node>,
    root: NodeId,
}

/// A map or a list whose end has not come yet.
struct Open {
    mark: Mark,
    anchor: usize,
    value: Value,
    weight: usize,
    /// Of a map: the key whose value comes next.
    key: Option<(String, Mark)>,
    /// Of a map: the keys seen, and where.
    seen: HashMap<String, Mark>,
    tagged: bool,
}

struct Builder {
    nodes: Vec<Node>,
    open: Vec<Open>,
    anchors: HashMap<usize, NodeId>,
    /// Anchors whose node is still open.
    unfinished: HashSet<usize>,
    errors: Vec<TreeError>,
    root: Option<NodeId>,
}

impl Tree {
    /// Reads a text. Errors that leave the rest readable are returned beside the tree.
    pub fn parse(text: &str) -> Result<(Self, Vec<TreeError>), TreeError> {
        let at_start = |message: String, help: &str| TreeError {
            message,
            help: Some(help.to_owned()),
            path: Path::root(),
            mark: Mark { line: 1, column: 1 },
        };
        if text.len() > MAX_TEXT {
            let message = format!(
                "the text has {} octets; at most {MAX_TEXT} are allowed",
                text.len()
            );
            return Err(at_start(message, "is this the right file?"));
        }
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let mut builder = Builder::new();
        let mut documents = 0;
        let mut parser = Parser::new_from_str(text);
        while let Some(event) = parser.next_event() {
            let (event, span) = event.map_err(|error| TreeError {
                message: format!("not YAML: {}", error.info()),
                help: None,
                path: builder.path(),
                mark: error.marker().into(),
            })?;
            let mark = Mark::from(&span.start);
            match event {
                Event::DocumentStart(_) => {
                    documents += 1;
                    if documents > 1 {
                        return Err(TreeError {
                            message: "a second document begins here; one is expected".to_owned(),
                            help: Some(
                                "take out the line `---`, or put the documents into files of their own"
                                    .to_owned(),
                            ),
                            path: Path::root(),
                            mark,
                        });
                    }
                }
                Event::Alias(anchor) => builder.alias(anchor, mark)?,
                Event::Scalar(text, style, anchor, tag) => {
                    let value = Value::Scalar {
                        text: text.into_owned(),
                        plain: style == ScalarStyle::Plain,
                    };
                    builder.scalar(value, mark, anchor, tag.is_some())?;
                }
                Event::SequenceStart(anchor, tag) => {
                    builder.begin(Value::List(Vec::new()), mark, anchor, tag.is_some())?;
                }
                Event::MappingStart(anchor, tag) => {
                    builder.begin(Value::Map(Vec::new()), mark, anchor, tag.is_some())?;
                }
                Event::SequenceEnd | Event::MappingEnd => builder.end()?,
                Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => {}
            }
        }
        Ok(builder.finish())
    }

    /// The tree of a JSON value; its marks are all zero.
    pub fn from_json(value: &Json) -> Result<Self, TreeError> {
        let mut builder = Builder::new();
        builder.json(value)?;
        Ok(builder.finish().0)
    }

    pub fn root(&self) -> NodeId {
        self.root
    }

    pub fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id]
    }

    /// Passes over a child from now on. False if it was so before.
    pub fn prune(&mut self, slot: Slot, meant: Option<&'static str>) -> bool {
        let pruned = match &mut self.nodes[slot.0].value {
            Value::Map(entries) => {
                let entry = &mut entries[slot.1];
                entry.meant = entry.meant.or(meant);
                &mut entry.pruned
            }
            Value::List(items) => &mut items[slot.1].pruned,
            Value::Scalar { .. } => return false,
        };
        !std::mem::replace(pruned, true)
    }

    /// Whether a map has `key`, or a misspelling of it, that is passed over.
    pub fn has_pruned(&self, map: NodeId, key: &str) -> bool {
        let Value::Map(entries) = &self.nodes[map].value else {
            return false;
        };
        entries
            .iter()
            .any(|entry| entry.pruned && (entry.key == key || entry.meant == Some(key)))
    }

    /// Puts a number into the root, under a key that it lacks.
    pub fn supply(&mut self, key: &str, number: u32) {
        let value = self.nodes.len();
        self.nodes.push(Node {
            mark: Mark::default(),
            value: Value::Scalar {
                text: number.to_string(),
                plain: true,
            },
            weight: 1,
        });
        let entry = Entry {
            key: key.to_owned(),
            mark: Mark::default(),
            value,
            pruned: false,
            meant: None,
        };
        let root = &mut self.nodes[self.root].value;
        match root {
            Value::Map(entries) => entries.push(entry),
            Value::Scalar { .. } | Value::List(_) => *root = Value::Map(vec![entry]),
        }
    }

    /// Where the thing at `path` stands, or the nearest thing around it that is there; and its path in the text, where positions
    /// count what is passed over too.
    pub fn locate(&self, path: &Path) -> (Mark, Path) {
        let mut node = self.root;
        let mut mark = self.nodes[node].mark;
        let mut segments = path.segments().to_vec();
        for segment in &mut segments {
            let Some((slot, next)) = self.child(node, segment, false) else {
                break;
            };
            if let Segment::Index(index) = segment {
                *index = slot.1;
            }
            mark = self.mark_of(slot, next);
            node = next;
        }
        (mark, segments.into_iter().collect())
    }

    /// A scalar is shown where it stands, a map or a list where its key does.
    pub fn mark_of(&self, slot: Slot, node: NodeId) -> Mark {
        match (&self.nodes[slot.0].value, &self.nodes[node].value) {
            (Value::Map(entries), Value::Map(_) | Value::List(_)) => entries[slot.1].mark,
            // An empty value has no place of its own.
            (Value::Map(entries), Value::Scalar { text, plain: true }) if text.is_empty() => {
                entries[slot.1].mark
            }
            _ => self.nodes[node].mark,
        }
    }

    /// Whether the thing at `path`, or something around it, is passed over.
    pub fn is_pruned(&self, path: &Path) -> bool {
        let mut node = self.root;
        for segment in path.segments() {
            let Some((slot, next)) = self.child(node, segment, true) else {
                return false;
            };
            let pruned = match &self.nodes[slot.0].value {
                Value::Map(entries) => entries[slot.1].pruned,
                Value::List(items) => items[slot.1].pruned,
                Value::Scalar { .. } => false,
            };
            if pruned {
                return true;
            }
            node = next;
        }
        false
    }

    fn child(&self, node: NodeId, segment: &Segment, misspelt: bool) -> Option<(Slot, NodeId)> {
        match (&self.nodes[node].value, segment) {
            (Value::Map(entries), Segment::Key(key)) => {
                let at = entries.iter().position(|entry| entry.key == *key).or_else(|| {
                    entries
                        .iter()
                        .position(|entry| misspelt && entry.meant == Some(key))
                })?;
                Some(((node, at), entries[at].value))
            }
            // Positions count what is left, as the model does.
            (Value::List(items), Segment::Index(index)) => {
                let (at, item) = items
                    .iter()
                    .enumerate()
                    .filter(|(_, item)| !item.pruned)
                    .nth(*index)?;
                Some(((node, at), item.value))
            }
            _ => None,
        }
    }
}

impl Builder {
    fn new() -> Self {
        Self {
            nodes: Vec::new(),
            open: Vec::new(),
            anchors: HashMap::new(),
            unfinished: HashSet::new(),
            errors: Vec::new(),
            root: None,
        }
    }

    fn finish(mut self) -> (Tree, Vec<TreeError>) {
        let root = self.root.unwrap_or_else(|| {
            self.nodes.push(Node {
                mark: Mark { line: 1, column: 1 },
                value: Value::Scalar {
                    text: String::new(),
                    plain: true,
                },
                weight: 1,
            });
            self.nodes.len() - 1
        });
        let tree = Tree {
            nodes: self.nodes,
            root,
        };
        (tree, self.errors)
    }

    /// The path of what comes next.
    fn path(&self) -> Path {
        self.open
            .iter()
            .filter_map(|open| match &open.value {
                Value::Map(_) => open.key.as_ref().map(|(key, _)| Segment::Key(key.clone())),
                Value::List(items) => Some(Segment::Index(items.len())),
                Value::Scalar { .. } => None,
            })
            .collect()
    }

    fn error(&self, message: impl Into<String>, mark: Mark) -> TreeError {
        TreeError {
            message: message.into(),
            help: None,
            path: self.path(),
            mark,
        }
    }

    fn scalar(&mut self, value: Value, mark: Mark, anchor: usize, tagged: bool) -> Result<(), TreeError> {
        if self.takes_key() {
            let Value::Scalar { text, .. } = value else {
                return Err(self.error("a key must be a text", mark));
            };
            if tagged || anchor != 0 {
                return Err(self.error("a key takes neither a tag nor an anchor", mark));
            }
            if let Some(open) = self.open.last_mut() {
                open.key = Some((text, mark));
            }
            return Ok(());
        }
        let id = self.push(mark, value, 1, anchor)?;
        self.place(id, tagged)
    }

    fn begin(&mut self, value: Value, mark: Mark, anchor: usize, tagged: bool) -> Result<(), TreeError> {
        if self.takes_key() {
            return Err(self.error("a key must be a text, not a map or a list", mark));
        }
        if self.open.len() >= MAX_DEPTH {
            return Err(self.error(format!("nested deeper than {MAX_DEPTH} levels"), mark));
        }
        if anchor != 0 {
            self.unfinished.insert(anchor);
        }
        self.open.push(Open {
            mark,
            anchor,
            value,
            weight: 1,
            key: None,
            seen: HashMap::new(),
            tagged,
        });
        Ok(())
    }

    fn end(&mut self) -> Result<(), TreeError> {
        let Some(open) = self.open.pop() else {
            return Ok(());
        };
        self.unfinished.remove(&open.anchor);
        let id = self.push(open.mark, open.value, open.weight, open.anchor)?;
        self.place(id, open.tagged)
    }

    fn alias(&mut self, anchor: usize, mark: Mark) -> Result<(), TreeError> {
        if self.takes_key() {
            return Err(self.error("a key must be a text, not an alias", mark));
        }
        if self.unfinished.contains(&anchor) {
            return Err(self.error("the alias stands inside what it stands for", mark));
        }
        match self.anchors.get(&anchor) {
            Some(id) => self.place(*id, false),
            None => Err(self.error("the alias names no anchor", mark)),
        }
    }

    fn takes_key(&self) -> bool {
        self.open
            .last()
            .is_some_and(|open| matches!(open.value, Value::Map(_)) && open.key.is_none())
    }

    fn push(&mut self, mark: Mark, value: Value, weight: usize, anchor: usize) -> Result<NodeId, TreeError> {
        if self.nodes.len() >= MAX_NODES {
            return Err(self.too_many(mark));
        }
        let id = self.nodes.len();
        self.nodes.push(Node { mark, value, weight });
        if anchor != 0 {
            self.anchors.insert(anchor, id);
        }
        Ok(id)
    }

    fn too_many(&self, mark: Mark) -> TreeError {
        self.error(format!("more than {MAX_NODES} values, aliases put in"), mark)
    }

    /// Puts a finished node where it belongs.
    fn place(&mut self, id: NodeId, tagged: bool) -> Result<(), TreeError> {
        let (mark, weight) = (self.nodes[id].mark, self.nodes[id].weight);
        if tagged {
            let mut error = self.error("tags are not supported", mark);
            error.help = Some("take out the word with the `!`".to_owned());
            self.errors.push(error);
        }
        let path = self.path();
        let Some(open) = self.open.last_mut() else {
            self.root.get_or_insert(id);
            return Ok(());
        };
        open.weight = open.weight.saturating_add(weight);
        if open.weight > MAX_NODES {
            return Err(self.too_many(mark));
        }
        match &mut open.value {
            Value::Map(entries) => {
                let (key, key_mark) = open.key.take().expect("a value follows its key");
                let first = open.seen.get(&key).copied();
                if let Some(first) = first {
                    self.errors.push(TreeError {
                        message: format!("`{}` is there twice", excerpt(&key)),
                        help: Some(format!("it is first on line {}", first.line)),
                        path,
                        mark: key_mark,
                    });
                } else {
                    open.seen.insert(key.clone(), key_mark);
                }
                entries.push(Entry {
                    key,
                    mark: key_mark,
                    value: id,
                    pruned: tagged || first.is_some(),
                    meant: None,
                });
            }
            Value::List(items) => items.push(Item {
                value: id,
                pruned: tagged,
            }),
            Value::Scalar { .. } => {}
        }
        Ok(())
    }

    fn json(&mut self, value: &Json) -> Result<(), TreeError> {
        let mark = Mark::default();
        let mut scalar =
            |text: String, plain: bool| self.scalar(Value::Scalar { text, plain }, mark, 0, false);
        match value {
            Json::Null => scalar("null".to_owned(), true),
            Json::Bool(value) => scalar(value.to_string(), true),
            Json::Number(value) => scalar(value.to_string(), true),
            Json::String(text) => scalar(text.clone(), false),
            Json::Array(items) => {
                self.begin(Value::List(Vec::with_capacity(items.len())), mark, 0, false)?;
                for item in items {
                    self.json(item)?;
                }
                self.end()
            }
            Json::Object(entries) => {
                self.begin(Value::Map(Vec::with_capacity(entries.len())), mark, 0, false)?;
                for (key, value) in entries {
                    let text = key.clone();
                    self.scalar(Value::Scalar { text, plain: false }, mark, 0, false)?;
                    self.json(value)?;
                }
                self.end()
            }
        }
    }
}

/// A text short enough for a message, without control characters.
pub(super) fn excerpt(text: &str) -> String {
    const SHOWN: usize = 60;
    let mut short: String = text.chars().take(SHOWN).flat_map(char::escape_debug).collect();
    if text.chars().nth(SHOWN).is_some() {
        short.push('…');
    }
    short
}

/// What a plain scalar is in the core schema of YAML 1.2 (section 10.3.2).
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) enum Scalar {
    Null,
    Bool(bool),
    Unsigned(u64),
    Signed(i64),
    Float(f64),
    Text,
}

/// Resolves a plain scalar.
pub(super) fn resolve(text: &str) -> Scalar {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Scalar::Null,
        "true" | "True" | "TRUE" => return Scalar::Bool(true),
        "false" | "False" | "FALSE" => return Scalar::Bool(false),
        _ => {}
    }
    let radix = |digits: &str, radix: u32| {
        let legal = !digits.is_empty() && digits.chars().all(|c| c.is_digit(radix));
        legal.then(|| {
            u64::from_str_radix(digits, radix).map_or(Scalar::Float(f64::INFINITY), Scalar::Unsigned)
        })
    };
    if let Some(hex) = text.strip_prefix("0x") {
        return radix(hex, 16).unwrap_or(Scalar::Text);
    }
    if let Some(octal) = text.strip_prefix("0o") {
        return radix(octal, 8).unwrap_or(Scalar::Text);
    }
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    if !unsigned.starts_with(|c: char| c.is_ascii_digit() || c == '.') {
        return Scalar::Text;
    }
    if unsigned.bytes().all(|b| b.is_ascii_digit()) {
        if let Ok(value) = text.parse::<u64>() {
            return Scalar::Unsigned(value);
        }
        if let Ok(value) = text.parse::<i64>() {
            return Scalar::Signed(value);
        }
    }
    let float = unsigned
        .bytes()
        .all(|b| b.is_ascii_digit() || matches!(b, b'.' | b'e' | b'E' | b'+' | b'-'));
    match text.parse::<f64>() {
        Ok(value) if float => Scalar::Float(value),
        _ => Scalar::Text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scalars_follow_the_core_schema_of_yaml_1_2() {
        for (text, scalar) in [
            ("", Scalar::Null),
            ("~", Scalar::Null),
            ("true", Scalar::Bool(true)),
            ("FALSE", Scalar::Bool(false)),
            ("no", Scalar::Text),
            ("on", Scalar::Text),
            ("1500", Scalar::Unsigned(1500)),
            ("+7", Scalar::Unsigned(7)),
            ("-7", Scalar::Signed(-7)),
            ("0x10", Scalar::Unsigned(16)),
            ("0o17", Scalar::Unsigned(15)),
            ("0x", Scalar::Text),
            ("0xg", Scalar::Text),
            ("1_000", Scalar::Text),
            ("1.5", Scalar::Float(1.5)),
            ("1e3", Scalar::Float(1000.0)),
            (
                "18446744073709551616",
                Scalar::Float(18_446_744_073_709_551_616.0),
            ),
            ("52:54:00:00:00:01", Scalar::Text),
            ("200-299", Scalar::Text),
            ("-", Scalar::Text),
            (".", Scalar::Text),
            ("infinity", Scalar::Text),
        ] {
            assert_eq!(resolve(text), scalar, "{text}");
        }
    }

    #[test]
    fn nodes_know_their_place() {
        let (tree, errors) = Tree::parse("a:\n  b: [1, x]\n  c: {d: e}\n").unwrap();
        assert!(errors.is_empty());
        for (path, line, column) in [
            (Path::root(), 1, 1),
            (Path::keys(["a"]), 1, 1),
            (Path::keys(["a", "b"]), 2, 3),
            (Path::keys(["a", "b"]).index(1), 2, 10),
            (Path::keys(["a", "c", "d"]), 3, 10),
            (Path::keys(["a", "c", "nothing"]), 3, 3),
        ] {
            assert_eq!(tree.locate(&path), (Mark { line, column }, path));
        }
    }
}

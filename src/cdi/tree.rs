//! YAML and JSON as a tree, within limits.
//!
//! Scalars without quotes keep their text: whether `0` is a number or a device's name is decided by the field, as the
//! engines' library does.

use core::fmt;

use saphyr_parser::{Event, Parser, ScalarStyle};
use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};

/// Nesting; a specification has seven levels.
const MAX_DEPTH: usize = 32;
/// Scalars and collections, those that aliases repeat included.
const MAX_NODES: usize = 1 << 18;
/// Bytes of all scalars, those that aliases repeat included.
const MAX_TEXT: usize = 16 << 20;

/// Keys of one mapping; each new one is compared with all others.
const MAX_KEYS: usize = 1024;

/// The key under which `serde_json` hands out a number when it keeps its digits.
const NUMBER: &str = "$serde_json::private::Number";

/// A node.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Tree {
    /// A scalar without quotes: a number, a literal, or text.
    Plain(String),
    /// A scalar that is text for certain.
    Text(String),
    /// A list.
    List(Vec<Self>),
    /// A mapping, no key twice.
    Map(Vec<(String, Self)>),
}

impl Tree {
    /// Whether it says that there is nothing.
    pub(crate) fn is_null(&self) -> bool {
        matches!(self, Self::Plain(text) if matches!(text.as_str(), "" | "~" | "null" | "Null" | "NULL"))
    }

    /// Reads JSON.
    pub(crate) fn json(bytes: &[u8]) -> Result<Self, String> {
        serde_json::from_slice(bytes).map_err(|e| e.to_string())
    }

    /// Reads a stream of exactly one YAML document.
    pub(crate) fn yaml(text: &str) -> Result<Self, String> {
        let mut builder = Builder::default();
        let mut parser = Parser::new_from_str(text);
        while let Some(event) = parser.next_event() {
            let (event, span) = event.map_err(|e| format!("line {}: {}", e.marker().line(), e.info()))?;
            builder
                .event(event)
                .map_err(|e| format!("line {}: {e}", span.start.line()))?;
        }
        builder.root.ok_or_else(|| "it is empty".to_owned())
    }

    fn weight(&self) -> (usize, usize) {
        let sum = |a: (usize, usize), b: (usize, usize)| (a.0 + b.0, a.1 + b.1);
        match self {
            Self::Plain(text) | Self::Text(text) => (1, text.len()),
            Self::List(items) => items.iter().map(Self::weight).fold((1, 0), sum),
            Self::Map(entries) => entries
                .iter()
                .map(|(k, v)| sum((1, k.len()), v.weight()))
                .fold((1, 0), sum),
        }
    }
}

/// A collection that is not closed yet.
enum Open {
    List(Vec<Tree>),
    Map(Vec<(String, Tree)>, Option<String>),
}

#[derive(Default)]
struct Builder {
    open: Vec<(Open, usize)>,
    anchors: Vec<(usize, Tree)>,
    root: Option<Tree>,
    nodes: usize,
    text: usize,
}

impl Builder {
    fn event(&mut self, event: Event<'_>) -> Result<(), String> {
        match event {
            Event::DocumentStart(_) if self.root.is_some() => {
                return Err("there is a second document".to_owned());
            }
            Event::Scalar(text, style, anchor, _) => {
                let text = text.into_owned();
                let tree = if style == ScalarStyle::Plain {
                    Tree::Plain(text)
                } else {
                    Tree::Text(text)
                };
                return self.close(tree, anchor);
            }
            Event::SequenceStart(anchor, _) => self.enter(Open::List(Vec::new()), anchor)?,
            Event::MappingStart(anchor, _) => self.enter(Open::Map(Vec::new(), None), anchor)?,
            Event::SequenceEnd | Event::MappingEnd => {
                let tree = match self.open.pop() {
                    Some((Open::List(items), anchor)) => (Tree::List(items), anchor),
                    Some((Open::Map(entries, None), anchor)) => (Tree::Map(entries), anchor),
                    _ => return Err("a collection ends where none can".to_owned()),
                };
                return self.close(tree.0, tree.1);
            }
            Event::Alias(id) => {
                let found = self.anchors.iter().find(|(anchor, _)| *anchor == id);
                let Some((_, tree)) = found else {
                    return Err("an alias of what is not complete".to_owned());
                };
                let copy = tree.clone();
                // Every copy counts, or ten lines could fill the memory.
                let weight = copy.weight();
                self.count(weight)?;
                return self.add(copy);
            }
            _ => {}
        }
        Ok(())
    }

    fn enter(&mut self, open: Open, anchor: usize) -> Result<(), String> {
        if self.open.len() >= MAX_DEPTH {
            return Err(format!("it is nested deeper than {MAX_DEPTH} levels"));
        }
        self.open.push((open, anchor));
        Ok(())
    }

    fn close(&mut self, tree: Tree, anchor: usize) -> Result<(), String> {
        let text = match &tree {
            Tree::Plain(text) | Tree::Text(text) => text.len(),
            _ => 0,
        };
        self.count((1, text))?;
        if anchor != 0 {
            let weight = tree.weight();
            self.count(weight)?;
            self.anchors.push((anchor, tree.clone()));
        }
        self.add(tree)
    }

    fn count(&mut self, (nodes, text): (usize, usize)) -> Result<(), String> {
        self.nodes += nodes;
        self.text += text;
        if self.nodes > MAX_NODES || self.text > MAX_TEXT {
            return Err("it holds too much".to_owned());
        }
        Ok(())
    }

    fn add(&mut self, tree: Tree) -> Result<(), String> {
        match self.open.last_mut() {
            None => self.root = Some(tree),
            Some((Open::List(items), _)) => items.push(tree),
            Some((Open::Map(entries, key), _)) => match key.take() {
                Some(key) => entries.push((key, tree)),
                None => match tree {
                    Tree::Plain(name) | Tree::Text(name) => {
                        if entries.len() >= MAX_KEYS || entries.iter().any(|(known, _)| *known == name) {
                            return Err(format!("key `{name}` is given twice, or is one of too many"));
                        }
                        *key = Some(name);
                    }
                    _ => return Err("a key is no text".to_owned()),
                },
            },
        }
        Ok(())
    }
}

impl<'de> Deserialize<'de> for Tree {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        d.deserialize_any(TreeVisitor)
    }
}

struct TreeVisitor;

impl<'de> Visitor<'de> for TreeVisitor {
    type Value = Tree;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_bool<E>(self, v: bool) -> Result<Tree, E> {
        Ok(Tree::Plain(v.to_string()))
    }

    fn visit_i64<E>(self, v: i64) -> Result<Tree, E> {
        Ok(Tree::Plain(v.to_string()))
    }

    fn visit_u64<E>(self, v: u64) -> Result<Tree, E> {
        Ok(Tree::Plain(v.to_string()))
    }

    fn visit_f64<E>(self, v: f64) -> Result<Tree, E> {
        Ok(Tree::Plain(v.to_string()))
    }

    fn visit_str<E>(self, v: &str) -> Result<Tree, E> {
        Ok(Tree::Text(v.to_owned()))
    }

    fn visit_unit<E>(self) -> Result<Tree, E> {
        Ok(Tree::Plain("null".to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Tree, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element()? {
            items.push(item);
        }
        Ok(Tree::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Tree, A::Error> {
        let mut entries: Vec<(String, Tree)> = Vec::new();
        while let Some((key, value)) = map.next_entry::<String, Tree>()? {
            match value {
                Tree::Text(digits) if key == NUMBER => return Ok(Tree::Plain(digits)),
                value if entries.len() < MAX_KEYS && entries.iter().all(|(known, _)| *known != key) => {
                    entries.push((key, value));
                }
                _ => {
                    return Err(A::Error::custom(format_args!(
                        "key `{key}` is given twice, or is one of too many"
                    )));
                }
            }
        }
        Ok(Tree::Map(entries))
    }
}

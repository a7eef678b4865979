//! YAML and JSON as a tree, within limits.
//!
//! Scalars without quotes keep their text. The field decides if `0` is a number or a device's name,
//! as in the engines' library. An alias shares the nodes that it repeats.

use core::cell::Cell;
use core::fmt;
use std::collections::{HashMap, HashSet};
use std::rc::Rc;

use saphyr_parser::{Event, Parser, ScalarStyle, Tag};
use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};

use crate::sys::budget::{Budget, Exceeded};

/// The deepest nesting; a specification has seven levels.
const MAX_DEPTH: usize = 32;
/// The most scalars and collections, with those that aliases and merge keys repeat.
const MAX_NODES: usize = 1 << 18;
/// The most bytes of all scalars, with those that aliases repeat.
const MAX_TEXT: usize = 16 << 20;
/// The most keys of one mapping.
const MAX_KEYS: usize = 1024;
/// The most keys that are compared with each other; more keys get an index.
const FEW_KEYS: usize = 16;

/// The most tokens that saphyr-parser may keep at once, of 104 bytes each. It returns none of a
/// flow collection (`[…]`) before the collection ends, since a colon behind it makes it a key.
const MAX_TOKENS: usize = 600_000;
/// The most tokens that it may move: it inserts such a key's mark before the kept tokens.
const MAX_MOVED: usize = 1 << 24;

/// The key under which `serde_json` returns a number whose digits it keeps.
const NUMBER: &str = "$serde_json::private::Number";

/// A node. Copies share their contents.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Tree {
    /// A scalar without quotes: a number, a literal, or text.
    Plain(Rc<str>),
    /// A quoted scalar, which is text.
    Text(Rc<str>),
    /// A list.
    List(Rc<[Self]>),
    /// A mapping, no key twice.
    Map(Rc<Map>),
}

/// The entries of a mapping.
#[derive(Debug, Eq, PartialEq)]
pub(crate) struct Map {
    /// Its own, in order, with a merge key (`<<`).
    pub(crate) own: Vec<(Rc<str>, Tree)>,
    /// Those of a merge key whose keys are not its own; of two with one key the first counts.
    pub(crate) merged: Vec<(Rc<str>, Tree)>,
}

impl Map {
    fn new(own: Vec<(Rc<str>, Tree)>) -> Self {
        let merged = Vec::new();
        Self { own, merged }
    }

    /// Its own entries, then those that are merged.
    pub(crate) fn all(&self) -> impl Iterator<Item = &(Rc<str>, Tree)> {
        self.own.iter().chain(&self.merged)
    }
}

impl Tree {
    /// Whether it is null.
    pub(crate) fn is_null(&self) -> bool {
        matches!(self, Self::Plain(text) if matches!(&**text, "" | "~" | "null" | "Null" | "NULL"))
    }

    /// Reads JSON.
    pub(crate) fn json(bytes: &[u8], budget: &Budget) -> Result<Self, Unreadable> {
        let counter = Counter::new(budget);
        let mut json = serde_json::Deserializer::from_slice(bytes);
        let read = Json(&counter).deserialize(&mut json).and_then(|tree| {
            json.end()?;
            Ok(tree)
        });
        read.map_err(|e| match counter.exceeded.get() {
            Some(exceeded) => Unreadable::Exceeded(exceeded),
            None => Unreadable::Broken(e.to_string()),
        })
    }

    /// Reads a stream of exactly one YAML document.
    pub(crate) fn yaml(text: &str, budget: &Budget) -> Result<Self, Unreadable> {
        if !is_scanned_in_bounds(text) {
            return Err("it holds too much".to_owned().into());
        }
        let mut builder = Builder {
            open: Vec::new(),
            anchors: HashMap::new(),
            root: None,
            counter: Counter::new(budget),
        };
        let mut parser = Parser::new_from_str(text);
        while let Some(event) = parser.next_event() {
            let (event, span) = event.map_err(|e| format!("line {}: {}", e.marker().line(), e.info()))?;
            builder.event(event).map_err(|e| match e {
                Unreadable::Broken(why) => Unreadable::Broken(format!("line {}: {why}", span.start.line())),
                exceeded @ Unreadable::Exceeded(_) => exceeded,
            })?;
        }
        builder.root.ok_or_else(|| "it is empty".to_owned().into())
    }
}

/// Whether saphyr-parser needs bounded memory and time for `text`, by the most tokens that each
/// byte can make. One call of the parser may scan all of it, so the budget cannot interrupt it.
fn is_scanned_in_bounds(text: &str) -> bool {
    let (mut tokens, mut keys, mut before) = (0, 0, b'\n');
    for byte in text.bytes() {
        // With a plain scalar behind it; for a colon also the start, key and end of a mapping.
        tokens += match byte {
            b':' => 5,
            b'?' => 3,
            b'[' | b'{' | b',' | b'&' | b'*' | b'!' => 2,
            b']' | b'}' | b'"' | b'\'' => 1,
            _ => 0,
        };
        // At the start of a line it may follow a comment that follows a collection.
        keys += usize::from(byte == b':' && matches!(before, b']' | b'}' | b'\r' | b'\n'));
        if !matches!(byte, b' ' | b'\t') {
            before = byte;
        }
    }
    tokens <= MAX_TOKENS && keys * tokens <= MAX_MOVED
}

/// The reason why a document could not be read.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Unreadable {
    /// It is not well-formed, or beyond the limits of one document.
    Broken(String),
    /// The budget of the command is spent.
    Exceeded(Exceeded),
}

impl From<String> for Unreadable {
    fn from(why: String) -> Self {
        Self::Broken(why)
    }
}

impl From<Exceeded> for Unreadable {
    fn from(exceeded: Exceeded) -> Self {
        Self::Exceeded(exceeded)
    }
}

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Broken(why) => f.write_str(why),
            Self::Exceeded(exceeded) => exceeded.fmt(f),
        }
    }
}

/// Nodes and bytes of text, as if nothing were shared, since a walk visits each copy.
type Weight = (usize, usize);

/// The size of a document so far.
struct Counter<'a> {
    weight: Cell<Weight>,
    budget: &'a Budget,
    exceeded: Cell<Option<Exceeded>>,
}

impl<'a> Counter<'a> {
    fn new(budget: &'a Budget) -> Self {
        Self {
            weight: Cell::default(),
            budget,
            exceeded: Cell::default(),
        }
    }

    /// Charges one more node, with `text` bytes.
    fn node(&self, text: usize) -> Result<(), Unreadable> {
        self.spend(self.budget.entry())?;
        self.add((1, text))
    }

    fn spend(&self, spent: Result<(), Exceeded>) -> Result<(), Unreadable> {
        spent.map_err(|exceeded| {
            self.exceeded.set(Some(exceeded));
            exceeded.into()
        })
    }

    /// Charges nodes and their text. An alias is charged as its copy, since the reader copies it.
    fn add(&self, (nodes, text): Weight) -> Result<(), Unreadable> {
        /// The approximate size of a node without its text.
        const NODE: usize = 64;
        self.spend(self.budget.keep((NODE * nodes + text) as u64))?;
        let (n, t) = self.weight.get();
        let sum = (n + nodes, t + text);
        self.weight.set(sum);
        if sum.0 > MAX_NODES || sum.1 > MAX_TEXT {
            return Err("it holds too much".to_owned().into());
        }
        Ok(())
    }

    fn since(&self, (nodes, text): Weight) -> Weight {
        let (n, t) = self.weight.get();
        (n - nodes, t - text)
    }
}

/// The keys of a mapping that is being read.
#[derive(Default)]
struct Keys {
    /// All keys, if there are more than a few.
    index: HashSet<Rc<str>>,
}

impl Keys {
    /// Whether `name` may be one more key.
    fn admit(&mut self, entries: &[(Rc<str>, Tree)], name: &Rc<str>) -> bool {
        if entries.len() < FEW_KEYS {
            return entries.iter().all(|(known, _)| known != name);
        }
        if self.index.is_empty() {
            self.index
                .extend(entries.iter().map(|(known, _)| Rc::clone(known)));
        }
        entries.len() < MAX_KEYS && self.index.insert(Rc::clone(name))
    }
}

/// A collection that is not closed yet.
enum Open {
    List(Vec<Tree>),
    Map(Vec<(Rc<str>, Tree)>, Option<Rc<str>>, Keys),
}

struct Builder<'a> {
    /// Each with its anchor, and the document's size before it.
    open: Vec<(Open, usize, Weight)>,
    anchors: HashMap<usize, (Tree, Weight)>,
    root: Option<Tree>,
    counter: Counter<'a>,
}

impl Builder<'_> {
    fn event(&mut self, event: Event<'_>) -> Result<(), Unreadable> {
        self.counter.budget.step()?;
        match event {
            Event::DocumentStart(_) if self.root.is_some() => {
                return Err("there is a second document".to_owned().into());
            }
            Event::Scalar(text, style, anchor, tag) => {
                self.tag(tag.as_deref())?;
                let before = self.counter.weight.get();
                self.counter.node(text.len())?;
                let text = Rc::from(&*text);
                let tree = if style == ScalarStyle::Plain {
                    Tree::Plain(text)
                } else {
                    Tree::Text(text)
                };
                return self.close(tree, anchor, before);
            }
            Event::SequenceStart(anchor, tag) => {
                self.tag(tag.as_deref())?;
                self.enter(Open::List(Vec::new()), anchor)?;
            }
            Event::MappingStart(anchor, tag) => {
                self.tag(tag.as_deref())?;
                self.enter(Open::Map(Vec::new(), None, Keys::default()), anchor)?;
            }
            Event::SequenceEnd | Event::MappingEnd => {
                let (tree, anchor, before) = match self.open.pop() {
                    Some((Open::List(items), anchor, before)) => (Tree::List(items.into()), anchor, before),
                    Some((Open::Map(own, None, _), anchor, before)) => {
                        let mut map = Map::new(own);
                        self.merge(&mut map)?;
                        (Tree::Map(Rc::new(map)), anchor, before)
                    }
                    _ => return Err("a collection ends where none can".to_owned().into()),
                };
                return self.close(tree, anchor, before);
            }
            Event::Alias(id) => {
                let Some((tree, weight)) = self.anchors.get(&id) else {
                    return Err("an alias of what is not complete".to_owned().into());
                };
                // Every copy counts: ten lines of nested aliases can make a billion nodes.
                self.counter.add(*weight)?;
                let tree = tree.clone();
                return self.add(tree);
            }
            _ => {}
        }
        Ok(())
    }

    /// Charges a tag. The parser copies it, with the prefix of a directive.
    fn tag(&self, tag: Option<&Tag>) -> Result<(), Unreadable> {
        let bytes = tag.map_or(0, |tag| tag.handle.len() + tag.suffix.len());
        Ok(self.counter.budget.unpack(bytes as u64)?)
    }

    fn enter(&mut self, open: Open, anchor: usize) -> Result<(), Unreadable> {
        if self.open.len() >= MAX_DEPTH {
            return Err(format!("it is nested deeper than {MAX_DEPTH} levels").into());
        }
        let before = self.counter.weight.get();
        self.counter.node(0)?;
        self.open.push((open, anchor, before));
        Ok(())
    }

    /// Adds the entries of a merge key: those of one mapping, or of a list of mappings.
    fn merge(&self, map: &mut Map) -> Result<(), Unreadable> {
        let sources: Vec<&Tree> = match map.own.iter().find(|(key, _)| &**key == "<<") {
            None => return Ok(()),
            Some((_, Tree::List(all))) => all.iter().collect(),
            Some((_, one)) => vec![one],
        };
        let mut known: HashSet<&str> = map.own.iter().map(|(key, _)| &**key).collect();
        let mut merged = Vec::new();
        for source in sources {
            let Tree::Map(source) = source else { continue };
            for (key, tree) in source.all() {
                self.counter.add((1, 0))?;
                if known.insert(key) {
                    self.counter.node(0)?;
                    merged.push((Rc::clone(key), tree.clone()));
                }
            }
        }
        map.merged = merged;
        Ok(())
    }

    fn close(&mut self, tree: Tree, anchor: usize, before: Weight) -> Result<(), Unreadable> {
        if anchor != 0 {
            let weight = self.counter.since(before);
            self.anchors.insert(anchor, (tree.clone(), weight));
        }
        self.add(tree)
    }

    fn add(&mut self, tree: Tree) -> Result<(), Unreadable> {
        match self.open.last_mut() {
            None => self.root = Some(tree),
            Some((Open::List(items), ..)) => items.push(tree),
            Some((Open::Map(entries, key, keys), ..)) => match key.take() {
                Some(key) => entries.push((key, tree)),
                None => match tree {
                    Tree::Plain(name) | Tree::Text(name) => {
                        if !keys.admit(entries, &name) {
                            return Err(twice(&name).into());
                        }
                        *key = Some(name);
                    }
                    _ => return Err("a key is no text".to_owned().into()),
                },
            },
        }
        Ok(())
    }
}

fn twice(key: &str) -> String {
    format!("key `{key}` is given twice, or is one of too many")
}

/// Reads a node of JSON and counts it.
#[derive(Clone, Copy)]
struct Json<'c, 'b>(&'c Counter<'b>);

impl<'de> DeserializeSeed<'de> for Json<'_, '_> {
    type Value = Tree;

    fn deserialize<D: Deserializer<'de>>(self, d: D) -> Result<Tree, D::Error> {
        d.deserialize_any(self)
    }
}

impl Json<'_, '_> {
    fn scalar<E: serde::de::Error>(self, text: &str) -> Result<Rc<str>, E> {
        self.0.node(text.len()).map_err(E::custom)?;
        Ok(text.into())
    }
}

impl<'de> Visitor<'de> for Json<'_, '_> {
    type Value = Tree;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_bool<E: serde::de::Error>(self, v: bool) -> Result<Tree, E> {
        self.scalar(if v { "true" } else { "false" }).map(Tree::Plain)
    }

    fn visit_i64<E: serde::de::Error>(self, v: i64) -> Result<Tree, E> {
        self.scalar(&v.to_string()).map(Tree::Plain)
    }

    fn visit_u64<E: serde::de::Error>(self, v: u64) -> Result<Tree, E> {
        self.scalar(&v.to_string()).map(Tree::Plain)
    }

    fn visit_f64<E: serde::de::Error>(self, v: f64) -> Result<Tree, E> {
        self.scalar(&v.to_string()).map(Tree::Plain)
    }

    fn visit_str<E: serde::de::Error>(self, v: &str) -> Result<Tree, E> {
        self.scalar(v).map(Tree::Text)
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<Tree, E> {
        self.scalar("null").map(Tree::Plain)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Tree, A::Error> {
        self.0.node(0).map_err(A::Error::custom)?;
        let mut items = Vec::new();
        while let Some(item) = seq.next_element_seed(self)? {
            items.push(item);
        }
        Ok(Tree::List(items.into()))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Tree, A::Error> {
        self.0.node(0).map_err(A::Error::custom)?;
        let mut own: Vec<(Rc<str>, Tree)> = Vec::new();
        let mut keys = Keys::default();
        while let Some(key) = map.next_key::<String>()? {
            let key: Rc<str> = self.scalar(&key)?;
            match map.next_value_seed(self)? {
                Tree::Text(digits) if &*key == NUMBER => return Ok(Tree::Plain(digits)),
                value if keys.admit(&own, &key) => own.push((key, value)),
                _ => return Err(A::Error::custom(twice(&key))),
            }
        }
        Ok(Tree::Map(Rc::new(Map::new(own))))
    }
}

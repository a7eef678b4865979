//! Finds the tables and keys of a TOML text.

use std::ops::Range;
use std::rc::Rc;

use toml_edit::{Document, Item, Key, TableLike};

use super::super::text::{line_end, line_indent, line_start};

/// The keys that lead to a value or table. Entries share those above them, so a long header is not
/// copied for each key.
#[derive(Clone, Debug, Default)]
pub(super) struct Keys {
    above: Option<Rc<Self>>,
    last: String,
    pub(super) len: usize,
}

impl Keys {
    fn below(above: &Rc<Self>, last: &str) -> Rc<Self> {
        Rc::new(Self {
            above: Some(above.clone()),
            last: last.to_owned(),
            len: above.len + 1,
        })
    }

    /// Whether the keys are `path`.
    fn are(&self, path: &[&str]) -> bool {
        self.len == path.len() && self.starts_with(path)
    }

    /// Whether the keys are `path` or a prefix of it.
    pub(super) fn lead_to(&self, path: &[&str]) -> bool {
        path.get(..self.len).is_some_and(|outer| self.are(outer))
    }

    fn starts_with(&self, prefix: &[&str]) -> bool {
        let mut at = self;
        let mut rest = prefix;
        loop {
            if let Some((last, outer)) = rest.split_last().filter(|_| at.len == rest.len()) {
                if at.last != **last {
                    return false;
                }
                rest = outer;
            }
            match &at.above {
                Some(above) if !rest.is_empty() => at = above,
                _ => return rest.is_empty(),
            }
        }
    }
}

/// A table with a header, the document itself included.
#[derive(Clone, Debug, Default)]
pub(super) struct Block {
    pub(super) path: Rc<Keys>,
    pub(super) header: Range<usize>,
    pub(super) first_key: Option<usize>,
    /// The end of the last value, or of the header.
    pub(super) end: usize,
}

impl Block {
    pub(super) fn is_root(&self) -> bool {
        self.path.len == 0
    }

    /// Its lines, with the blank one above.
    pub(super) fn lines(&self, text: &str) -> Range<usize> {
        let start = line_start(text, self.header.start);
        let above = text.get(..start).unwrap_or_default();
        let blank = above
            .strip_suffix('\n')
            .map(|a| a.strip_suffix('\r').unwrap_or(a))
            .filter(|a| a.is_empty() || a.ends_with('\n'));
        blank.map_or(start, str::len)..line_end(text, self.end)
    }
}

/// A key with a value that is written after an equals sign.
#[derive(Clone, Debug)]
pub(super) struct Leaf {
    pub(super) path: Rc<Keys>,
    /// The first byte of the key (the last one of a dotted key).
    pub(super) start: usize,
    pub(super) value: Range<usize>,
    /// The number of the inline table that holds it.
    pub(super) within: Option<usize>,
    is_inline_table: bool,
}

/// The place of a path's value in the text.
pub(super) enum Slot<'i, 'p> {
    /// The value itself.
    Value(&'i Leaf),
    /// An inline table above it, and the keys from there on.
    InlineTable(&'i Leaf, &'p [&'p str]),
    /// A table above it to which no header may add.
    Closed,
    /// The header of the table that holds the key.
    Header(&'i Block),
    /// No such place exists.
    Nowhere,
}

/// The positions of the tables and keys of a text.
#[derive(Clone, Debug, Default)]
pub(in super::super) struct Index {
    pub(super) blocks: Vec<Block>,
    pub(super) leaves: Vec<Leaf>,
    /// Tables made by dotted keys alone, and arrays of tables: no header may add to them.
    closed: Vec<Rc<Keys>>,
}

/// The position of the walk through a document.
#[derive(Clone, Copy)]
struct At {
    block: usize,
    /// The index of the surrounding inline table.
    within: Option<usize>,
}

impl Index {
    /// Finds the positions; `None` if the text is not valid.
    pub(in super::super) fn new(text: &str) -> Option<Self> {
        let doc = Document::parse(text).ok()?;
        let mut index = Self::default();
        index.blocks.push(Block::default());
        let at = At {
            block: 0,
            within: None,
        };
        index.add_table(doc.as_table(), &Rc::default(), at)?;
        Some(index)
    }

    fn add_table(&mut self, table: &dyn TableLike, path: &Rc<Keys>, at: At) -> Option<()> {
        for (name, _) in table.iter() {
            let (key, item) = table.get_key_value(name)?;
            let here = Keys::below(path, name);
            match item {
                Item::Value(value) => self.add_value(key, value, &here, at)?,
                Item::Table(t) if t.is_dotted() => {
                    self.closed.push(here.clone());
                    self.add_table(t, &here, at)?;
                }
                Item::Table(t) => {
                    let mut block = at.block;
                    if let Some(header) = t.span().filter(|_| !t.is_implicit()) {
                        block = self.blocks.len();
                        self.blocks.push(Block {
                            path: here.clone(),
                            end: header.end,
                            header,
                            first_key: None,
                        });
                    }
                    self.add_table(t, &here, At { block, ..at })?;
                }
                Item::ArrayOfTables(_) => self.closed.push(here),
                Item::None => {}
            }
        }
        Some(())
    }

    fn add_value(&mut self, key: &Key, value: &toml_edit::Value, here: &Rc<Keys>, at: At) -> Option<()> {
        let (start, span) = (key.span()?.start, value.span()?);
        let owner = self.blocks.get_mut(at.block)?;
        owner.end = owner.end.max(span.end);
        owner.first_key = Some(owner.first_key.map_or(start, |f| f.min(start)));
        let inner = value.as_inline_table();
        if let Some(t) = inner.filter(|t| t.is_dotted()) {
            self.closed.push(here.clone());
            return self.add_table(t, here, at);
        }
        let inside = At {
            within: Some(self.leaves.len()),
            ..at
        };
        self.leaves.push(Leaf {
            path: here.clone(),
            start,
            value: span,
            within: at.within,
            is_inline_table: inner.is_some(),
        });
        match inner {
            Some(t) => self.add_table(t, here, inside),
            None => Some(()),
        }
    }

    pub(super) fn slot<'p>(&self, path: &'p [&'p str]) -> Slot<'_, 'p> {
        if let Some(leaf) = self.leaf(path) {
            return Slot::Value(leaf);
        }
        let inline = self
            .leaves
            .iter()
            .filter(|l| l.is_inline_table && l.path.lead_to(path))
            .max_by_key(|l| l.path.len);
        if let Some(table) = inline {
            return Slot::InlineTable(table, path.get(table.path.len..).unwrap_or_default());
        }
        if self.closed.iter().any(|c| c.lead_to(path)) {
            return Slot::Closed;
        }
        let parent = path.split_last().map_or(path, |(_, parent)| parent);
        self.block(parent).map_or(Slot::Nowhere, Slot::Header)
    }

    pub(super) fn leaf(&self, path: &[&str]) -> Option<&Leaf> {
        self.leaves.iter().find(|l| l.path.are(path))
    }

    pub(super) fn block(&self, path: &[&str]) -> Option<&Block> {
        self.blocks.iter().find(|b| b.path.are(path))
    }

    pub(super) fn blocks_below<'a>(&'a self, path: &'a [&str]) -> impl Iterator<Item = &'a Block> {
        self.blocks.iter().filter(|b| b.path.starts_with(path))
    }

    pub(super) fn leaves_below<'a>(&'a self, path: &'a [&str]) -> impl Iterator<Item = &'a Leaf> {
        self.leaves.iter().filter(|l| l.path.starts_with(path))
    }

    /// The position of the inline table that holds `leaf`.
    pub(super) fn within(&self, leaf: &Leaf) -> Option<Range<usize>> {
        self.leaves.get(leaf.within?).map(|l| l.value.clone())
    }

    /// The indentation of keys below their table's header: in this table, else in any other of the
    /// file.
    pub(super) fn unit<'t>(&self, text: &'t str, block: &Block) -> &'t str {
        let own = |b: &Block| -> Option<&'t str> {
            let first = b.first_key.filter(|_| !b.is_root())?;
            line_indent(text, first).strip_prefix(line_indent(text, b.header.start))
        };
        own(block)
            .or_else(|| self.blocks.iter().filter_map(own).find(|u| !u.is_empty()))
            .unwrap_or_default()
    }
}

//! From the tree of a file to the stations' structs, with every problem found.
//!
//! A deserializer that a struct derives stops at its first error. So a value that fails
//! is reported with its place, left out, and all is read again, until nothing fails:
//! every setting has a default, so the rest reads on. Also here, for every struct alike:
//! unknown keys with the nearest known one, `${NAME}`, and secrets from files (`x_file`
//! or `{ file = "…" }` for a text `x`).

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::path::Path;
use std::sync::OnceLock;

use serde::de::value::{MapAccessDeserializer, StringDeserializer};
use serde::de::{
    DeserializeOwned, DeserializeSeed, Deserializer, Expected, IntoDeserializer, MapAccess,
    SeqAccess, Unexpected, Visitor,
};
use serde::forward_to_deserialize_any;

use super::env::{Env, substitute};
use super::error::{Place, Problem};
use super::node::{Entry, Kind, Node};

/// A newtype struct of this name takes its texts as they stand: `${…}` in a plugin's
/// rules belongs to the plugin.
pub(super) const VERBATIM: &str = "$kasho::verbatim";

/// What was found on the way.
pub(super) struct Context<'a> {
    pub(super) env: Env<'a>,
    /// The folder of the file; paths of secrets are relative to it.
    pub(super) folder: &'a Path,
    pub(super) problems: RefCell<Vec<Problem>>,
    /// The values that failed, by their id.
    failed: RefCell<BTreeSet<usize>>,
    /// Every value that was read: its place, and a fingerprint of what it said.
    pub(super) values: RefCell<BTreeMap<String, (Place, u64)>>,
    /// Every key that could have been set in the tables that were read.
    pub(super) known: RefCell<BTreeSet<String>>,
}

impl<'a> Context<'a> {
    pub(super) fn new(env: Env<'a>, folder: &'a Path) -> Context<'a> {
        let (problems, failed) = (RefCell::default(), RefCell::default());
        Context {
            env,
            folder,
            problems,
            failed,
            values: RefCell::default(),
            known: RefCell::default(),
        }
    }

    /// Reads the whole tree; `T` must be readable from an empty one.
    pub(super) fn read<T: DeserializeOwned + Default>(&self, root: &Node) -> T {
        // Each pass leaves out one value more, so this ends.
        loop {
            let failed_before = self.failed.borrow().len();
            match T::deserialize(Reader::new(root, self)) {
                Ok(all) => return all,
                Err(_) if self.failed.borrow().len() > failed_before => {}
                Err(failed) => {
                    self.report(&root.place, "", failed.message);
                    return T::default();
                }
            }
        }
    }

    fn report(&self, place: &Place, key: &str, message: String) {
        let problem = Problem { place: place.clone(), key: key.to_owned(), message };
        let mut problems = self.problems.borrow_mut();
        if !problems.contains(&problem) {
            problems.push(problem);
        }
    }

    /// Reports a value that could not be read, unless that is because of a value in it
    /// that is reported already.
    fn fail(&self, node: &Node, path: &str, failed: Failed) -> Failed {
        if !failed.reported {
            let left_out = failed.missing.and_then(|key| node.get(key));
            let consequence = left_out.is_some_and(|n| self.failed.borrow().contains(&n.id));
            if !consequence {
                self.report(&node.place, path, failed.message);
            }
            self.failed.borrow_mut().insert(node.id);
        }
        Failed { reported: true, message: String::new(), missing: None }
    }

    fn is_left_out(&self, node: &Node) -> bool {
        self.failed.borrow().contains(&node.id)
    }

    fn saw(&self, path: &str, place: &Place, said: &impl std::hash::Hash) {
        // Keyed at random: a fingerprint in a core dump tells nothing.
        static FINGERPRINT: OnceLock<RandomState> = OnceLock::new();
        let hash = FINGERPRINT.get_or_init(RandomState::new).hash_one(said);
        self.values.borrow_mut().insert(path.to_owned(), (place.clone(), hash));
    }
}

/// Reads one value.
#[derive(Clone)]
struct Reader<'a> {
    node: &'a Node,
    path: String,
    context: &'a Context<'a>,
    /// Texts stand for themselves.
    verbatim: bool,
    /// The text is the path of a file that holds the value.
    from_file: bool,
}

impl<'a> Reader<'a> {
    fn new(node: &'a Node, context: &'a Context<'a>) -> Reader<'a> {
        Reader { node, path: String::new(), context, verbatim: false, from_file: false }
    }

    fn below(&self, node: &'a Node, path: String) -> Reader<'a> {
        Reader { node, path, context: self.context, verbatim: self.verbatim, from_file: false }
    }

    fn child_path(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    /// What a text of the file means.
    fn text(&self, text: &str) -> Result<String, Failed> {
        if self.verbatim {
            return Ok(text.to_owned());
        }
        let text = substitute(text, self.context.env).map_err(Failed::because)?;
        if self.from_file { self.file(&text) } else { Ok(text) }
    }

    /// The content of a file, without the line end that an editor leaves.
    fn file(&self, path: &str) -> Result<String, Failed> {
        let path = self.context.folder.join(path);
        let content = std::fs::read_to_string(&path);
        let content =
            content.map_err(|e| Failed::because(format!("cannot read {}: {e}", path.display())))?;
        let content = content.strip_suffix('\n').unwrap_or(&content);
        Ok(content.strip_suffix('\r').unwrap_or(content).to_owned())
    }

    /// The text itself, where a text is asked for: `{ file = "…" }` is one too.
    fn resolved(&self) -> Result<Option<String>, Failed> {
        let text = match &self.node.kind {
            Kind::Text(text) => self.text(text)?,
            Kind::Verbatim(text) => text.clone(),
            Kind::Table(entries) if !self.verbatim => match entries.as_slice() {
                [Entry { key, value: Node { kind: Kind::Text(path), .. }, .. }]
                    if key == "file" =>
                {
                    self.file(&substitute(path, self.context.env).map_err(Failed::because)?)?
                }
                _ => return Ok(None),
            },
            _ => return Ok(None),
        };
        self.context.saw(&self.path, &self.node.place, &text);
        Ok(Some(text))
    }

    fn table(self, entries: Vec<(&'a str, Reader<'a>)>) -> Table<'a> {
        self.context.saw(&self.path, &self.node.place, &"table");
        Table { entries: entries.into_iter(), value: None }
    }

    /// All entries, for a map.
    fn all_entries(&self, entries: &'a [Entry]) -> Vec<(&'a str, Reader<'a>)> {
        let kept = entries.iter().filter(|entry| !self.context.is_left_out(&entry.value));
        let read = |entry: &'a Entry| {
            (entry.key.as_str(), self.below(&entry.value, self.child_path(&entry.key)))
        };
        kept.map(read).collect()
    }

    /// The entries that a struct has fields for; the others are reported.
    fn known_entries(
        &self,
        entries: &'a [Entry],
        fields: &'static [&'static str],
    ) -> Vec<(&'a str, Reader<'a>)> {
        let mut known = Vec::new();
        for entry in entries.iter().filter(|entry| !self.context.is_left_out(&entry.value)) {
            let mut read = self.below(&entry.value, self.child_path(&entry.key));
            let key = entry.key.as_str();
            let of_file = key.strip_suffix("_file").filter(|field| fields.contains(field));
            if fields.contains(&key) {
                known.push((key, read));
            } else if let Some(field) = of_file {
                read.from_file = true;
                if entries.iter().any(|other| other.key == field) {
                    let message = format!("{field} is set too: keep one of the two");
                    self.context.report(&entry.place, &read.path, message);
                } else {
                    known.push((field, read));
                }
            } else {
                self.context.report(&entry.place, &read.path, unknown("key", key, fields));
            }
        }
        known
    }
}

/// "unknown key", with the nearest known one or, where there are few, all.
fn unknown(what: &str, key: &str, known: &[&str]) -> String {
    let near = known.iter().map(|name| (strsim::jaro_winkler(key, name), *name));
    let near = near.max_by(|a, b| a.0.total_cmp(&b.0)).filter(|(likeness, _)| *likeness > 0.75);
    match near {
        Some((_, name)) => format!("unknown {what}; did you mean \"{name}\"?"),
        None => format!("unknown {what}; there are: {}", known.join(", ")),
    }
}

impl<'de> Deserializer<'de> for Reader<'de> {
    type Error = Failed;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failed> {
        match &self.node.kind {
            Kind::Text(text) => {
                let text = self.text(text)?;
                self.context.saw(&self.path, &self.node.place, &text);
                visitor.visit_string(text)
            }
            Kind::Verbatim(text) => visitor.visit_string(text.clone()),
            Kind::Integer(number) => {
                self.context.saw(&self.path, &self.node.place, number);
                match (i64::try_from(*number), u64::try_from(*number)) {
                    (Ok(number), _) => visitor.visit_i64(number),
                    (_, Ok(number)) => visitor.visit_u64(number),
                    _ => Err(Failed::because("the number is too large".to_owned())),
                }
            }
            Kind::Float(number) => {
                self.context.saw(&self.path, &self.node.place, &number.to_bits());
                visitor.visit_f64(*number)
            }
            Kind::Boolean(yes) => {
                self.context.saw(&self.path, &self.node.place, yes);
                visitor.visit_bool(*yes)
            }
            Kind::List(list) => {
                self.context.saw(&self.path, &self.node.place, &list.len());
                visitor.visit_seq(List { list: self.clone(), elements: list.iter().enumerate() })
            }
            Kind::Table(entries) => {
                let entries = self.all_entries(entries);
                visitor.visit_map(self.table(entries))
            }
        }
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failed> {
        match self.resolved()? {
            Some(text) => visitor.visit_string(text),
            None => self.deserialize_any(visitor),
        }
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failed> {
        self.deserialize_str(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failed> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        mut self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Failed> {
        self.verbatim |= name == VERBATIM;
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Failed> {
        match &self.node.kind {
            Kind::Text(text) => {
                let text = self.text(text)?;
                self.context.saw(&self.path, &self.node.place, &text);
                let text: StringDeserializer<Failed> = text.into_deserializer();
                visitor.visit_enum(text)
            }
            Kind::Table(entries) if entries.len() == 1 => {
                let entries = self.all_entries(entries);
                visitor.visit_enum(MapAccessDeserializer::new(self.table(entries)))
            }
            _ => self.deserialize_any(visitor),
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Failed> {
        let Kind::Table(entries) = &self.node.kind else { return self.deserialize_any(visitor) };
        let known = fields.iter().map(|field| self.child_path(field));
        self.context.known.borrow_mut().extend(known);
        let entries = self.known_entries(entries, fields);
        visitor.visit_map(self.table(entries))
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char bytes byte_buf unit
        unit_struct seq tuple tuple_struct map identifier ignored_any
    }
}

struct Table<'a> {
    entries: std::vec::IntoIter<(&'a str, Reader<'a>)>,
    value: Option<Reader<'a>>,
}

impl<'de> MapAccess<'de> for Table<'de> {
    type Error = Failed;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Failed> {
        let Some((key, value)) = self.entries.next() else { return Ok(None) };
        self.value = Some(value);
        seed.deserialize(key.into_deserializer()).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Failed> {
        let value = self.value.take().ok_or_else(|| Failed::because("no value".to_owned()))?;
        read_value(value, seed)
    }
}

struct List<'a> {
    list: Reader<'a>,
    elements: std::iter::Enumerate<std::slice::Iter<'a, Node>>,
}

impl<'de> SeqAccess<'de> for List<'de> {
    type Error = Failed;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, Failed> {
        let context = self.list.context;
        let Some((i, node)) = self.elements.find(|(_, node)| !context.is_left_out(node)) else {
            return Ok(None);
        };
        let path = format!("{}[{i}]", self.list.path);
        read_value(self.list.below(node, path), seed).map(Some)
    }
}

fn read_value<'de, S: DeserializeSeed<'de>>(
    value: Reader<'de>,
    seed: S,
) -> Result<S::Value, Failed> {
    let (node, path, context) = (value.node, value.path.clone(), value.context);
    seed.deserialize(value).map_err(|failed| context.fail(node, &path, failed))
}

/// Why a value could not be read. Never quotes a text.
#[derive(Debug)]
pub(super) struct Failed {
    message: String,
    /// The key whose absence it is.
    missing: Option<&'static str>,
    /// It is in the list of problems already.
    reported: bool,
}

impl Failed {
    fn because(message: String) -> Failed {
        Failed { message, missing: None, reported: false }
    }
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failed {}

impl serde::de::Error for Failed {
    fn custom<T: fmt::Display>(message: T) -> Failed {
        Failed::because(message.to_string())
    }

    fn invalid_type(found: Unexpected<'_>, expected: &dyn Expected) -> Failed {
        let found = match found {
            Unexpected::Str(_) | Unexpected::Bytes(_) | Unexpected::Char(_) => "a text".to_owned(),
            Unexpected::Seq => "a list".to_owned(),
            Unexpected::Map => "a table".to_owned(),
            other => other.to_string(),
        };
        // A number's type says nothing to whoever writes one.
        let expected = match expected.to_string() {
            int if ["u8", "u16", "u32", "u64", "usize"].contains(&int.as_str()) => {
                "a whole number".to_owned()
            }
            other => other,
        };
        Failed::because(format!("expected {expected}, found {found}"))
    }

    fn invalid_value(found: Unexpected<'_>, expected: &dyn Expected) -> Failed {
        Failed::invalid_type(found, expected)
    }

    fn unknown_variant(variant: &str, expected: &'static [&'static str]) -> Failed {
        Failed::because(unknown("value", variant, expected))
    }

    fn missing_field(field: &'static str) -> Failed {
        let message = format!("the key \"{field}\" is missing");
        Failed { message, missing: Some(field), reported: false }
    }
}

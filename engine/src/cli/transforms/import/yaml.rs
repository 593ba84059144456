//! YAML as a tree of texts with their lines: all that rules are made of.
//!
//! What can go wrong: it is no YAML, or more of it than rules need (several documents,
//! anchors that go round are the reader's to refuse). Nothing of the file is repeated.

use saphyr::{LoadableYamlNode, MarkedYaml, Scalar, YamlData};

/// A node.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Node {
    /// Its line, from 1.
    pub(super) line: usize,
    /// What it is.
    pub(super) data: Data,
}

/// What a node is.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Data {
    /// A text, or what stands for none.
    Text(String),
    /// A whole number.
    Integer(i64),
    /// Another number.
    Float(f64),
    /// True or false.
    Bool(bool),
    /// Nothing.
    Null,
    /// Keys and values in their order.
    Map(Vec<(Node, Node)>),
    /// Anything else.
    Other,
}

impl Node {
    /// The keys and values of a mapping; of nothing, none.
    pub(super) fn map(&self) -> Option<&[(Node, Node)]> {
        match &self.data {
            Data::Map(entries) => Some(entries),
            Data::Null => Some(&[]),
            _ => None,
        }
    }

    /// What is written, where it is no mapping.
    pub(super) fn text(&self) -> Option<&str> {
        match &self.data {
            Data::Text(text) => Some(text),
            Data::Integer(0) => Some("0"),
            _ => None,
        }
    }
}

/// Reads a document.
///
/// # Errors
/// Where it is none.
pub(super) fn read(text: &str) -> Result<Node, String> {
    let documents = MarkedYaml::load_from_str(text).map_err(|e| {
        let at = e.marker();
        format!("no YAML: line {}, column {}: {}", at.line(), at.col() + 1, e.info())
    })?;
    match &documents[..] {
        [one] => Ok(node(one)),
        [] => Err("no transforms.yml: it is empty".to_owned()),
        _ => Err("no transforms.yml: it holds several documents".to_owned()),
    }
}

fn node(from: &MarkedYaml<'_>) -> Node {
    let data = match &from.data {
        YamlData::Value(Scalar::String(text)) => Data::Text(text.to_string()),
        YamlData::Value(Scalar::Integer(n)) => Data::Integer(*n),
        YamlData::Value(Scalar::FloatingPoint(x)) => Data::Float(x.into_inner()),
        YamlData::Value(Scalar::Boolean(truth)) => Data::Bool(*truth),
        YamlData::Value(Scalar::Null) => Data::Null,
        YamlData::Mapping(map) => {
            Data::Map(map.iter().map(|(key, value)| (node(key), node(value))).collect())
        }
        _ => Data::Other,
    };
    Node { line: from.span.start.line(), data }
}

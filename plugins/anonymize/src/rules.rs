//! The rules of a binding, read and checked before any table is known.
//!
//! A rule is a transform's name, or a table of its options; what there is stands in
//! [`crate::catalog`]. What a transform does not know, or knows and cannot do, is an error
//! that names the rule.

mod domains;

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use kasho_plugin_sdk::{Error, Normaliser, Result};
use serde_json::{Map, Value as Json};

use crate::catalog::{self, Entry, Maker};
use crate::dictionary;
use crate::make::Make;
use crate::paths::{self, Path};
use domains::Domains;

/// What the result depends on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum By {
    /// The value.
    Value,
    /// The row's identity.
    Row,
    /// These columns of the row.
    Columns(Vec<String>),
}

/// How a value is hashed for a keyed transform.
#[derive(Clone, Debug)]
pub(crate) struct Keying {
    /// Domain of the hash.
    pub(crate) domain: String,
    /// What is made equal first.
    pub(crate) normaliser: Normaliser,
    /// Different values have different results, because a rule says so.
    pub(crate) unique: bool,
    /// What is hashed.
    pub(crate) by: By,
}

/// One rule.
#[derive(Clone, Debug)]
pub(crate) struct Rule {
    /// Its transform.
    pub(crate) entry: &'static Entry,
    /// What it does.
    pub(crate) make: Make,
    /// Set for keyed transforms.
    pub(crate) keying: Option<Keying>,
    /// Of `json`: the rules of its paths.
    pub(crate) paths: Vec<(Path, Rule)>,
    /// All that its output depends on besides value and key.
    pub(crate) fingerprint: String,
}

impl Rule {
    /// Whether different values have different results because a rule says so.
    pub(crate) fn unique(&self) -> bool {
        self.keying.as_ref().is_some_and(|keying| keying.unique)
    }

    /// What the result depends on.
    pub(crate) fn by(&self) -> &By {
        self.keying.as_ref().map_or(&By::Value, |keying| &keying.by)
    }
}

/// The options of a rule as they are written.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    /// Its transform.
    pub(crate) entry: &'static Entry,
    set: Map<String, Json>,
    paths: Vec<(String, Options)>,
}

impl Options {
    /// A text.
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        self.set.get(name)?.as_str()
    }

    /// A text that must be there.
    pub(crate) fn needs(&self, name: &str) -> Result<&str> {
        let missing = || Error::new(format!("`{}` needs `{name} = \"…\"`", self.entry.name));
        self.text(name).ok_or_else(missing)
    }

    /// A text, a list of them, or nothing.
    pub(crate) fn texts(&self, name: &str) -> Vec<String> {
        match self.set.get(name) {
            Some(Json::String(text)) => vec![text.clone()],
            Some(Json::Array(list)) => {
                list.iter().filter_map(Json::as_str).map(str::to_owned).collect()
            }
            _ => Vec::new(),
        }
    }

    /// A flag.
    pub(crate) fn flag(&self, name: &str) -> bool {
        self.set.get(name).and_then(Json::as_bool).unwrap_or_else(|| self.default(name) == "true")
    }

    /// Whether it is written.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.set.contains_key(name)
    }

    /// A number within a range.
    pub(crate) fn integer(&self, name: &str, range: RangeInclusive<u64>) -> Result<u64> {
        let written = self.set.get(name).and_then(Json::as_u64);
        let n = written.or_else(|| self.default(name).parse().ok()).unwrap_or(0);
        if range.contains(&n) {
            return Ok(n);
        }
        Err(Error::new(format!("`{name}` is between {} and {}", range.start(), range.end())))
    }

    /// The same, as a length or count.
    pub(crate) fn size(&self, name: &str, range: RangeInclusive<u64>) -> Result<usize> {
        let n = self.integer(name, range)?;
        usize::try_from(n).map_err(|_| Error::new(format!("`{name}` is too large")))
    }

    /// A number, as it is written.
    pub(crate) fn number(&self, name: &str) -> Option<String> {
        self.set.get(name).map(Json::to_string)
    }

    fn default(&self, name: &str) -> &'static str {
        self.entry.options().find(|o| o.name == name).map_or("", |o| o.default)
    }

    fn knows(&self, name: &str) -> bool {
        self.entry.options().any(|o| o.name == name)
    }

    fn by(&self) -> By {
        match self.texts("by") {
            none if none.is_empty() => By::Value,
            one if one == ["row"] => By::Row,
            columns => By::Columns(columns),
        }
    }
}

/// Reads all rules, by the column they are about.
///
/// # Errors
/// What is wrong with the first that is wrong.
pub(crate) fn read(rules: BTreeMap<String, Json>) -> Result<Vec<(String, Rule)>> {
    let mut read = Vec::with_capacity(rules.len());
    for (column, written) in rules {
        let options = options(written, true).map_err(|e| e.at(&column))?;
        read.push((column, options));
    }
    let domains = Domains::settle(&read)?;
    read.into_iter()
        .map(|(column, options)| {
            let rule = rule(&options, &domains).map_err(|e| e.at(&column))?;
            Ok((column, rule))
        })
        .collect()
}

fn options(written: Json, top: bool) -> Result<Options> {
    let (name, mut set) = match written {
        Json::String(transform) => (transform, Map::new()),
        Json::Object(mut table) => match table.remove("transform") {
            Some(Json::String(transform)) => (transform, table),
            _ => return Err(Error::new("a rule needs `transform = \"…\"`, a transform's name")),
        },
        _ => return Err(Error::new("a rule is a transform's name or a table of its options")),
    };
    let Some(entry) = catalog::named(&name) else {
        let all: Vec<&str> = catalog::entries().map(|entry| entry.name).collect();
        let text = format!("no transform `{name}`; there are {}", all.join(", "));
        return Err(Error::new(text));
    };
    if !top && is_whole(entry) {
        return Err(Error::new(format!("`{}` is for whole columns", entry.name)));
    }
    known(entry, &set)?;
    let mut paths = Vec::new();
    if let Some(Json::Object(inner)) = set.get_mut("paths").map(Json::take) {
        for (path, rule) in inner {
            let inner = options(rule, false).map_err(|e| at_path(&path, &e))?;
            if inner.by() != By::Value {
                return Err(at_path(&path, &Error::new("inside JSON there is no `by`")));
            }
            paths.push((path, inner));
        }
    }
    Ok(Options { entry, set, paths })
}

/// An error about the rule of a path; which column it is in is told by others.
fn at_path(path: &str, error: &Error) -> Error {
    Error::new(format!("path {path}: {error}"))
}

/// Whether a transform works on whole columns only.
fn is_whole(entry: &Entry) -> bool {
    let hashes =
        matches!(entry.maker, Maker::Bcrypt | Maker::Scrypt | Maker::Pbkdf2 | Maker::Argon2id);
    hashes || matches!(entry.maker, Maker::Json | Maker::Template)
}

/// Whether a transform has all options that are set, with values of their kind.
fn known(entry: &Entry, set: &Map<String, Json>) -> Result<()> {
    for (name, value) in set {
        let Some(option) = entry.options().find(|o| o.name == name) else {
            let known: Vec<&str> = entry.options().map(|o| o.name).collect();
            let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
            let text = format!("`{}` has no option `{name}`; it has {known}", entry.name);
            return Err(Error::new(text));
        };
        if !option.kind.fits(value) {
            return Err(Error::new(format!("`{name}` is of kind {}", option.kind.name())));
        }
    }
    Ok(())
}

fn rule(options: &Options, domains: &Domains) -> Result<Rule> {
    let keying = domains.keying(options);
    if keying.as_ref().is_some_and(|k| k.unique && k.by != By::Value) {
        let text = "`by` and `unique` exclude one another: what is unique depends on its value";
        return Err(Error::new(text));
    }
    let make = Make::read(options)?;
    let mut paths = Vec::with_capacity(options.paths.len());
    for (path, inner) in &options.paths {
        let inner = rule(inner, domains).map_err(|e| at_path(path, &e))?;
        paths.push((Path::read(path)?, inner));
    }
    let named: Vec<(&str, &Path)> =
        options.paths.iter().zip(&paths).map(|((name, _), (path, _))| (&**name, path)).collect();
    paths::apart(&named)?;
    if matches!(options.entry.maker, Maker::Json) && paths.is_empty() {
        return Err(Error::new("`json` needs `paths = { \"a.b\" = \"pass\", … }`"));
    }
    let mut fingerprint = format!("{}/{}", options.entry.name, options.entry.version);
    fingerprint += &make.fingerprint(|| written(options));
    for ((path, _), (_, inner)) in options.paths.iter().zip(&paths) {
        fingerprint += &format!(";{path:?}=({})", inner.fingerprint);
    }
    if let Some(Keying { domain, normaliser, unique, by }) = &keying {
        fingerprint += &format!(";domain={domain}");
        match by {
            By::Value if options.knows("normalise") => {
                fingerprint += &format!(";norm={}", normaliser.name());
            }
            By::Value => {}
            By::Row => fingerprint += ";by=row",
            By::Columns(columns) => fingerprint += &format!(";by={columns:?}"),
        }
        if *unique {
            fingerprint += ";unique";
        }
    }
    Ok(Rule { entry: options.entry, make, keying, paths, fingerprint })
}

/// The options that are no one else's concern, in the order of their names.
fn written(options: &Options) -> String {
    let mut text = String::new();
    if matches!(options.entry.maker, Maker::Words | Maker::Sentence | Maker::Paragraph) {
        text += &format!(";dict={}", dictionary::VERSION);
    }
    let common = ["domain", "normalise", "unique", "by", "paths"];
    let mut names: Vec<&str> =
        options.entry.options().map(|o| o.name).filter(|name| !common.contains(name)).collect();
    names.sort_unstable();
    for name in names {
        let value = options.set.get(name).map(Json::to_string);
        let value = value.unwrap_or_else(|| options.default(name).to_owned());
        if !value.is_empty() {
            text += &format!(";{name}={value}");
        }
    }
    text
}

#[cfg(test)]
mod tests;

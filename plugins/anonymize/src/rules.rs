//! The rules of a binding, read and checked before any table is known.
//!
//! A rule is a transform's name, or a table of its options. What a transform does not
//! know, or knows and cannot do, is an error that names the rule.

use std::collections::BTreeMap;

use kasho_plugin_sdk::{Error, Normaliser, Result};
use regex_lite::Regex;
use serde::Deserialize;
use serde_json::Value as Json;

use crate::dictionary;
use crate::fake::Words;

/// A rule as it is written.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Options {
    transform: String,
    domain: Option<String>,
    normalise: Option<String>,
    unique: Option<bool>,
    length: Option<usize>,
    keep_first: Option<usize>,
    keep_last: Option<usize>,
    char: Option<String>,
    value: Option<String>,
    pattern: Option<String>,
    replacement: Option<String>,
    on_no_match: Option<String>,
    constant: Option<String>,
}

/// What a transform does.
#[derive(Clone, Debug)]
pub(crate) enum Transform {
    /// Leave the column as it is.
    Pass,
    /// NULL.
    Null,
    /// Always the same text.
    Constant(String),
    /// All but the first and last characters replaced.
    Mask {
        /// Kept at the beginning.
        first: usize,
        /// Kept at the end.
        last: usize,
        /// What stands in place of the others.
        with: char,
    },
    /// A pattern replaced.
    Regex(Box<Replace>),
    /// The keyed hash, in so many hexadecimal digits.
    Hash(usize),
    /// A fake of dictionary words.
    Words(Words),
    /// A phone number.
    Phone,
}

/// The transform `regex`.
#[derive(Clone, Debug)]
pub(crate) struct Replace {
    /// What is looked for.
    pub(crate) pattern: Regex,
    /// What every match becomes.
    pub(crate) replacement: String,
    /// What a value without a match becomes.
    pub(crate) otherwise: Otherwise,
}

/// What the transform `regex` makes of a value that its pattern is not in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Otherwise {
    /// The row is in error.
    Error,
    /// NULL.
    Null,
    /// This text.
    Constant(String),
}

/// How a value is hashed for a keyed transform.
#[derive(Clone, Debug)]
pub(crate) struct Keying {
    /// Domain of the hash.
    pub(crate) domain: String,
    /// What is made equal first.
    pub(crate) normaliser: Normaliser,
    /// Different values have different fakes.
    pub(crate) unique: bool,
}

/// One rule.
#[derive(Clone, Debug)]
pub(crate) struct Rule {
    /// The transform's name.
    pub(crate) name: String,
    /// What it does.
    pub(crate) transform: Transform,
    /// Set for keyed transforms.
    pub(crate) keying: Option<Keying>,
    /// All that its output depends on besides value and key.
    pub(crate) fingerprint: String,
}

/// Name, options, and for keyed ones the default domain and normaliser.
type Known = (&'static str, &'static [&'static str], Option<(&'static str, Normaliser)>);

const TRANSFORMS: [Known; 11] = [
    ("pass", &[], None),
    ("null", &[], None),
    ("constant", &["value"], None),
    ("mask", &["keep_first", "keep_last", "char"], None),
    ("regex", &["pattern", "replacement", "on_no_match", "constant"], None),
    ("hash", &["length", "domain", "normalise"], Some(("hash", Normaliser::Exact))),
    ("fake_name", KEYED, Some(("person", Normaliser::Trim))),
    ("fake_first_name", KEYED, Some(("person", Normaliser::Trim))),
    ("fake_last_name", KEYED, Some(("person", Normaliser::Trim))),
    ("fake_email", KEYED, Some(("email", Normaliser::Lower))),
    ("fake_phone", KEYED, Some(("phone", Normaliser::Trim))),
];

const KEYED: &[&str] = &["domain", "normalise", "unique"];

/// Reads all rules, by the column they are about.
///
/// # Errors
/// What is wrong with the first that is wrong.
pub(crate) fn read(rules: BTreeMap<String, Json>) -> Result<Vec<(String, Rule)>> {
    let mut read = Vec::with_capacity(rules.len());
    for (column, written) in rules {
        let options = options(written).map_err(|e| e.at(&column))?;
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

fn options(written: Json) -> Result<Options> {
    let options: Options = match written {
        Json::String(transform) => Options { transform, ..Options::default() },
        table @ Json::Object(_) => {
            serde_json::from_value(table).map_err(|e| Error::new(e.to_string()))?
        }
        _ => return Err(Error::new("a rule is a transform's name or a table of its options")),
    };
    let Some((_, known, _)) = TRANSFORMS.iter().find(|(name, ..)| *name == options.transform)
    else {
        let all: Vec<&str> = TRANSFORMS.iter().map(|(name, ..)| *name).collect();
        let text = format!("no transform `{}`; there are {}", options.transform, all.join(", "));
        return Err(Error::new(text));
    };
    if let Some(other) = options.set().into_iter().find(|option| !known.contains(option)) {
        let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
        let text = format!("`{}` has no option `{other}`; it has {known}", options.transform);
        return Err(Error::new(text));
    }
    Ok(options)
}

impl Options {
    /// The options that are set.
    fn set(&self) -> Vec<&'static str> {
        let all = [
            ("domain", self.domain.is_some()),
            ("normalise", self.normalise.is_some()),
            ("unique", self.unique.is_some()),
            ("length", self.length.is_some()),
            ("keep_first", self.keep_first.is_some()),
            ("keep_last", self.keep_last.is_some()),
            ("char", self.char.is_some()),
            ("value", self.value.is_some()),
            ("pattern", self.pattern.is_some()),
            ("replacement", self.replacement.is_some()),
            ("on_no_match", self.on_no_match.is_some()),
            ("constant", self.constant.is_some()),
        ];
        all.into_iter().filter(|(_, set)| *set).map(|(name, _)| name).collect()
    }

    /// Its domain and that domain's default normaliser, if it is keyed.
    fn domain(&self) -> Option<(&str, Normaliser)> {
        let (.., keyed) = TRANSFORMS.iter().find(|(name, ..)| *name == self.transform)?;
        let (domain, normaliser) = (*keyed)?;
        Some((self.domain.as_deref().unwrap_or(domain), normaliser))
    }
}

/// What the rules of one domain have in common: without it, the same value would have
/// different fakes in different columns.
#[derive(Debug, Default)]
struct Domains(BTreeMap<String, Shared>);

#[derive(Debug, Default)]
struct Shared {
    /// Transforms of which some rule asked for unique fakes: then all rules have them.
    unique: Vec<String>,
    /// The normaliser that was written, and by which rule.
    written: Option<(Normaliser, String)>,
    /// The default of its first rule.
    default: Normaliser,
}

impl Domains {
    fn settle(rules: &[(String, Options)]) -> Result<Domains> {
        let mut domains = Domains::default();
        for (column, options) in rules {
            let Some((domain, default)) = options.domain() else { continue };
            if domain.is_empty() || domain.contains([';', '=']) {
                return Err(Error::new("a domain is a plain word").at(column));
            }
            let shared = domains
                .0
                .entry(domain.to_owned())
                .or_insert_with(|| Shared { default, ..Shared::default() });
            if options.unique == Some(true) {
                shared.unique.push(options.transform.clone());
            }
            let Some(name) = &options.normalise else { continue };
            let Some(normaliser) = Normaliser::named(name) else {
                let text = format!("`{name}` is not one of exact, trim, lower, numeric");
                return Err(Error::new(text).at(column));
            };
            match &shared.written {
                Some((other, first)) if *other != normaliser => {
                    return Err(Error::new(format!(
                        "normalise = \"{name}\", but \"{}\" in {first}: a domain has one \
                         normaliser, or the same value would have different fakes",
                        other.name()
                    ))
                    .at(column));
                }
                _ => shared.written = Some((normaliser, column.clone())),
            }
        }
        Ok(domains)
    }

    fn keying(&self, options: &Options) -> Option<Keying> {
        let (domain, _) = options.domain()?;
        let shared = self.0.get(domain)?;
        let unique = shared.unique.contains(&options.transform);
        // Where fakes must differ whenever values do, nothing may be made equal unasked.
        let default = if shared.unique.is_empty() { shared.default } else { Normaliser::Exact };
        let normaliser = shared.written.as_ref().map_or(default, |(normaliser, _)| *normaliser);
        Some(Keying { domain: domain.to_owned(), normaliser, unique })
    }
}

fn rule(options: &Options, domains: &Domains) -> Result<Rule> {
    let keying = domains.keying(options);
    let transform = transform(options)?;
    let name = options.transform.clone();
    let mut fingerprint = format!("{name}/1");
    match &transform {
        Transform::Pass | Transform::Null | Transform::Phone => {}
        Transform::Constant(value) => fingerprint += &format!(";value={value:?}"),
        Transform::Mask { first, last, with } => {
            fingerprint += &format!(";first={first};last={last};char={with:?}");
        }
        Transform::Regex(r) => {
            let (pattern, otherwise) = (r.pattern.as_str(), &r.otherwise);
            fingerprint += &format!(";{pattern:?};{:?};{otherwise:?}", r.replacement);
        }
        Transform::Hash(length) => fingerprint += &format!(";length={length}"),
        Transform::Words(_) => fingerprint += &format!(";dict={}", dictionary::VERSION),
    }
    if let Some(Keying { domain, normaliser, unique }) = &keying {
        fingerprint += &format!(";domain={domain};norm={}", normaliser.name());
        if *unique {
            fingerprint += ";unique";
        }
    }
    Ok(Rule { name, transform, keying, fingerprint })
}

fn transform(options: &Options) -> Result<Transform> {
    Ok(match options.transform.as_str() {
        "null" => Transform::Null,
        "constant" => {
            let value = options.value.clone();
            Transform::Constant(value.ok_or("`constant` needs `value = \"…\"`")?)
        }
        "mask" => {
            let with = options.char.as_deref().unwrap_or("*");
            let mut chars = with.chars();
            let (Some(with), None) = (chars.next(), chars.next()) else {
                return Err(Error::new("`char` is one character"));
            };
            if with.is_control() {
                return Err(Error::new("`char` is a character that can be seen"));
            }
            let first = options.keep_first.unwrap_or(0);
            Transform::Mask { first, last: options.keep_last.unwrap_or(0), with }
        }
        "regex" => Transform::Regex(Box::new(replace(options)?)),
        "hash" => match options.length.unwrap_or(32) {
            length @ 8..=32 => Transform::Hash(length),
            _ => return Err(Error::new("`length` is between 8 and 32 hexadecimal digits")),
        },
        "fake_name" => Transform::Words(Words::Name),
        "fake_first_name" => Transform::Words(Words::FirstName),
        "fake_last_name" => Transform::Words(Words::LastName),
        "fake_email" => Transform::Words(Words::Email),
        "fake_phone" => Transform::Phone,
        _ => Transform::Pass,
    })
}

fn replace(options: &Options) -> Result<Replace> {
    let pattern = options.pattern.as_deref().ok_or("`regex` needs `pattern = \"…\"`")?;
    let pattern = Regex::new(pattern).map_err(|e| Error::new(format!("`pattern`: {e}")))?;
    let replacement = options.replacement.clone();
    let replacement = replacement.ok_or("`regex` needs `replacement = \"…\"`")?;
    let constant = options.constant.clone();
    let otherwise = match (options.on_no_match.as_deref().unwrap_or("error"), constant) {
        ("error", None) => Otherwise::Error,
        ("null", None) => Otherwise::Null,
        ("constant", Some(text)) => Otherwise::Constant(text),
        ("constant", None) => {
            return Err(Error::new("`on_no_match = \"constant\"` needs `constant = \"…\"`"));
        }
        ("error" | "null", Some(_)) => {
            return Err(Error::new("`constant` goes with `on_no_match = \"constant\"`"));
        }
        (other, _) => {
            let text = format!("on_no_match = \"{other}\" is not one of error, null, constant");
            return Err(Error::new(text));
        }
    };
    Ok(Replace { pattern, replacement, otherwise })
}

#[cfg(test)]
mod tests;

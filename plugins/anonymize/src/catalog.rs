//! The table of all transforms: the one place that says what there is.
//!
//! Rules are read against it, the README's table and the metadata in the `.wasm`
//! (`transforms.json`) are made from it, and tests hold all of them together. Nothing can go
//! wrong here but a wrong entry, which those tests find.

mod people;
mod things;
mod tools;

use kasho_plugin_sdk::Normaliser;
use serde_json::{Value as Json, json};

use crate::make::fake::Part;

/// What an option's value is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A text.
    Text,
    /// A whole number that is not negative.
    Integer,
    /// A number.
    Number,
    /// `true` or `false`.
    Flag,
    /// A list of texts, or one text.
    Texts,
    /// A table of rules.
    Rules,
}

impl Kind {
    /// Its name in messages and metadata.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Kind::Text => "text",
            Kind::Integer => "integer",
            Kind::Number => "number",
            Kind::Flag => "boolean",
            Kind::Texts => "texts",
            Kind::Rules => "rules",
        }
    }

    /// Whether `value` is one.
    #[must_use]
    pub fn fits(self, value: &Json) -> bool {
        let texts = |list: &Vec<Json>| list.iter().all(Json::is_string);
        match self {
            Kind::Text => value.is_string(),
            Kind::Integer => value.is_u64(),
            Kind::Number => value.is_number(),
            Kind::Flag => value.is_boolean(),
            Kind::Texts => value.is_string() || value.as_array().is_some_and(texts),
            Kind::Rules => value.is_object(),
        }
    }
}

/// An option of a transform.
#[derive(Clone, Copy, Debug)]
pub struct Opt {
    /// Its name.
    pub name: &'static str,
    /// What its value is.
    pub kind: Kind,
    /// The default as TOML has it; empty if there is none.
    pub default: &'static str,
    /// One sentence.
    pub doc: &'static str,
}

/// What a transform can offer where values must stay different.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unique {
    /// Nothing: different values may become equal.
    No,
    /// With `unique = true`, 80 bits of the hash behind the fake.
    Suffix,
    /// With `unique = true`, a permutation: exact.
    Permutation,
    /// Always exact.
    Exact,
    /// By chance: so many bits that no two values meet.
    Bits,
    /// From 80 bits on.
    Length,
    /// If it holds one field that is unique itself.
    Field,
    /// NULL is equal to nothing.
    Null,
}

impl Unique {
    /// How the README says it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Unique::No => "",
            Unique::Suffix => "suffix",
            Unique::Permutation => "permutation",
            Unique::Exact => "always",
            Unique::Bits => "95 bits",
            Unique::Length => "from 20 digits",
            Unique::Field => "by its field",
            Unique::Null => "NULL",
        }
    }
}

/// What a transform makes, so what columns it can be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Makes {
    /// Anything, the same for every value, or nothing.
    Any,
    /// Text.
    Text,
    /// Text or a whole number.
    Integer,
    /// Text or a number with decimals.
    Number,
    /// Text, a boolean, or 1 and 0.
    Bool,
    /// Text, a date or a timestamp.
    Date,
    /// Text, or a number of any kind.
    Numeric,
    /// Text or a uuid.
    Uuid,
    /// Text or JSON.
    Json,
    /// One of its own values, if they are of the type.
    Values,
}

impl Makes {
    /// How the README says it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Makes::Any => "any",
            Makes::Text => "text",
            Makes::Integer => "text, integers, numeric",
            Makes::Number => "text, numeric, floats",
            Makes::Bool => "text, bool, integers",
            Makes::Date => "text, date, timestamps",
            Makes::Numeric => "text, integers, numeric, floats",
            Makes::Uuid => "text, uuid",
            Makes::Json => "text, json, jsonb",
            Makes::Values => "text, enums, what can be checked",
        }
    }
}

/// Which code makes it.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Maker {
    Pass,
    Null,
    Constant,
    Mask,
    Regex,
    Hash,
    Token,
    /// Parts of dictionaries and digits.
    Fake(&'static [Part]),
    Phone,
    Ssn,
    Card,
    Bool,
    Birth,
    /// Degrees: at most so many.
    Degrees(u32),
    Words,
    Sentence,
    Paragraph,
    Characters,
    Digits,
    Permute,
    Uuid,
    Shift,
    Noise,
    Choice,
    Json,
    Template,
    Bcrypt,
    Scrypt,
    Pbkdf2,
    Argon2id,
}

/// An example: options beside the name (TOML), the column's type, a value. What becomes of
/// it stands in the metadata, where a test puts it.
#[derive(Clone, Copy, Debug)]
pub struct Example {
    /// The options, as TOML between braces.
    pub options: &'static str,
    /// The column, as `testing::table` writes it.
    pub column: &'static str,
    /// The value.
    pub input: &'static str,
}

/// A transform.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// Its name in rules.
    pub name: &'static str,
    /// The names it has elsewhere, accepted too.
    pub aliases: &'static [&'static str],
    /// One sentence.
    pub doc: &'static str,
    /// An example.
    pub example: Example,
    /// Its options, in groups.
    pub options: &'static [&'static [Opt]],
    /// Of keyed ones: the default domain and normaliser.
    pub keyed: Option<(&'static str, Normaliser)>,
    /// Which columns it is for.
    pub makes: Makes,
    /// What it can offer where values must stay different.
    pub unique: Unique,
    /// Version of what it makes, for fingerprints.
    pub version: u32,
    pub(crate) maker: Maker,
}

impl Entry {
    /// A dictionary fake: text, keyed, unique by a suffix.
    const fn fake(
        name: &'static str,
        aliases: &'static [&'static str],
        keyed: (&'static str, Normaliser),
        parts: &'static [Part],
    ) -> Entry {
        Entry {
            name,
            aliases,
            doc: "",
            example: Example { options: "", column: "text", input: "secret" },
            options: &[KEYED, UNIQUE, BY],
            keyed: Some(keyed),
            makes: Makes::Text,
            unique: Unique::Suffix,
            version: 1,
            maker: Maker::Fake(parts),
        }
    }

    /// Something that needs no key.
    const fn plain(name: &'static str, aliases: &'static [&'static str], maker: Maker) -> Entry {
        Entry {
            options: &[],
            keyed: None,
            unique: Unique::No,
            maker,
            ..Entry::fake(name, aliases, ("", Normaliser::Exact), &[])
        }
    }

    const fn doc(self, doc: &'static str) -> Entry {
        Entry { doc, ..self }
    }

    /// Without a suffix, for short and small things.
    const fn small(self) -> Entry {
        Entry { unique: Unique::No, options: &[KEYED, BY], ..self }
    }

    const fn made(self, makes: Makes, maker: Maker) -> Entry {
        Entry { makes, maker, ..self }
    }

    const fn unique(self, unique: Unique) -> Entry {
        Entry { unique, ..self }
    }

    const fn version(self, version: u32) -> Entry {
        Entry { version, ..self }
    }

    const fn with(self, options: &'static [&'static [Opt]]) -> Entry {
        Entry { options, ..self }
    }

    const fn keyed(self, domain: &'static str, normaliser: Normaliser) -> Entry {
        Entry { keyed: Some((domain, normaliser)), ..self }
    }

    const fn example(
        self,
        options: &'static str,
        column: &'static str,
        input: &'static str,
    ) -> Entry {
        Entry { example: Example { options, column, input }, ..self }
    }

    /// Its options.
    pub fn options(&self) -> impl Iterator<Item = &'static Opt> {
        self.options.iter().flat_map(|group| group.iter())
    }

    /// The default of an option, of the domain and normaliser too.
    #[must_use]
    pub fn default(&self, option: &Opt) -> String {
        match (option.name, self.keyed) {
            ("domain", Some((domain, _))) => format!("\"{domain}\""),
            ("normalise", Some((_, normaliser))) => format!("\"{}\"", normaliser.name()),
            _ => option.default.to_owned(),
        }
    }

    /// What the metadata says of it, but for the example's output.
    #[must_use]
    pub fn json(&self, output: &str) -> Json {
        let Example { options, column, input } = self.example;
        let rule = match options {
            "" => format!("\"{}\"", self.name),
            options => format!("{{ transform = \"{}\", {options} }}", self.name),
        };
        let described: Vec<Json> = self
            .options()
            .map(|o| {
                json!({"name": o.name, "type": o.kind.name(), "default": self.default(o), "doc": o.doc})
            })
            .collect();
        json!({
            "name": self.name, "aliases": self.aliases, "doc": self.doc,
            "columns": self.makes.name(), "unique": self.unique.name(), "options": described,
            "example": {"rule": rule, "column": column, "in": input, "out": output},
        })
    }
}

const fn opt(name: &'static str, kind: Kind, default: &'static str, doc: &'static str) -> Opt {
    Opt { name, kind, default, doc }
}

const KEYED: &[Opt] = &[
    opt("domain", Kind::Text, "", "Same value, same result in every column of the domain."),
    opt(
        "normalise",
        Kind::Text,
        "",
        "What is made equal first: exact, trim, lower, numeric, char or citext.",
    ),
];

const UNIQUE: &[Opt] =
    &[opt("unique", Kind::Flag, "false", "Different values have different results.")];

const BY: &[Opt] = &[opt(
    "by",
    Kind::Texts,
    "",
    "What the result depends on in place of the value: \"row\" (its identity), or columns.",
)];

/// All transforms.
pub fn entries() -> impl Iterator<Item = &'static Entry> {
    people::ENTRIES.iter().chain(things::ENTRIES).chain(tools::ENTRIES)
}

/// The transform of this name.
#[must_use]
pub fn named(name: &str) -> Option<&'static Entry> {
    entries().find(|entry| entry.name == name || entry.aliases.contains(&name))
}

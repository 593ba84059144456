//! What transforms do, one variant each, read from the options of a rule.
//!
//! What can go wrong is an option's value, and is told when rules are read.

pub(crate) mod card;
pub(crate) mod date;
pub(crate) mod fake;
pub(crate) mod noise;
pub(crate) mod password;
pub(crate) mod slug;
pub(crate) mod template;
pub(crate) mod text;
pub(crate) mod token;

use kasho_plugin_sdk::{Error, Result};
use regex_lite::Regex;

use crate::catalog::Maker;
use crate::dictionary;
use crate::rules::Options;

use date::Birth;
use fake::Part;
use noise::Noise;
use password::Password;
use template::Template;
use text::Text;

/// What a transform does.
#[derive(Clone, Debug)]
pub(crate) enum Make {
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
    /// A text for a text, one to one.
    Token,
    /// A fake of dictionary words and digits.
    Fake(&'static [Part]),
    /// A phone number.
    Phone,
    /// A social security number.
    Ssn,
    /// A card number.
    Card,
    /// True or false.
    Bool,
    /// A day.
    Birth(Birth),
    /// Degrees: at most so many.
    Degrees(u32),
    /// Text of some size.
    Text(Text),
    /// Digits for digits, one to one.
    Permute,
    /// A uuid for a uuid, one to one.
    Uuid,
    /// A date moved by at most so many days.
    Shift(u32),
    /// A number near another.
    Noise(Noise),
    /// One of some texts.
    Choice(Vec<String>),
    /// Parts of JSON; its rules are the rule's.
    Json,
    /// Text made of the row.
    Template(Template),
    /// The hash of a new password.
    Password(Box<Password>),
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

impl Make {
    /// What a rule's options say.
    pub(crate) fn read(options: &Options) -> Result<Make> {
        Ok(match options.entry.maker {
            Maker::Pass => Make::Pass,
            Maker::Null => Make::Null,
            Maker::Constant => Make::Constant(options.needs("value")?.to_owned()),
            Maker::Mask => mask(options)?,
            Maker::Regex => Make::Regex(Box::new(replace(options)?)),
            Maker::Hash => match options.size("length", 8..=32) {
                Ok(length) => Make::Hash(length),
                Err(_) => {
                    return Err(Error::new("`length` is between 8 and 32 hexadecimal digits"));
                }
            },
            Maker::Token => Make::Token,
            Maker::Fake(parts) => Make::Fake(parts),
            Maker::Phone => Make::Phone,
            Maker::Ssn => Make::Ssn,
            Maker::Card => Make::Card,
            Maker::Bool => Make::Bool,
            Maker::Birth => Make::Birth(Birth::read(options)?),
            Maker::Degrees(most) => Make::Degrees(most),
            Maker::Words
            | Maker::Sentence
            | Maker::Paragraph
            | Maker::Characters
            | Maker::Digits => Make::Text(Text::read(options)?),
            Maker::Permute => Make::Permute,
            Maker::Uuid => Make::Uuid,
            Maker::Shift => {
                let days = options.integer("days", 1..=36_525)?;
                Make::Shift(u32::try_from(days).unwrap_or(1))
            }
            Maker::Noise => Make::Noise(Noise::read(options)?),
            Maker::Choice => match options.texts("values") {
                none if none.is_empty() => {
                    return Err(Error::new("`choice` needs `values = [\"…\", …]`"));
                }
                values => Make::Choice(values),
            },
            Maker::Json => Make::Json,
            Maker::Template => Make::Template(Template::read(options.needs("template")?)?),
            Maker::Bcrypt | Maker::Scrypt | Maker::Pbkdf2 | Maker::Argon2id => {
                Make::Password(Box::new(Password::read(options)?))
            }
        })
    }

    /// What its output depends on; `written` are the options as they are.
    pub(crate) fn fingerprint(&self, written: impl Fn() -> String) -> String {
        match self {
            Make::Pass | Make::Null | Make::Phone => String::new(),
            Make::Constant(value) => format!(";value={value:?}"),
            Make::Mask { first, last, with } => format!(";first={first};last={last};char={with:?}"),
            Make::Regex(r) => {
                let (pattern, otherwise) = (r.pattern.as_str(), &r.otherwise);
                format!(";{pattern:?};{:?};{otherwise:?}", r.replacement)
            }
            Make::Hash(length) => format!(";length={length}"),
            Make::Fake(_) => format!(";dict={}", dictionary::VERSION),
            _ => written(),
        }
    }

    /// The most characters it writes, where that does not depend on the value.
    pub(crate) fn longest(&self, unique: bool) -> Option<usize> {
        match self {
            Make::Constant(value) => Some(value.chars().count()),
            Make::Choice(values) => values.iter().map(|value| value.chars().count()).max(),
            Make::Hash(length) => Some(*length),
            Make::Fake(parts) => Some(fake::longest(parts, unique)),
            Make::Phone if !unique => Some(fake::PLAIN_PHONE),
            Make::Ssn if !unique => Some(fake::PLAIN_SSN),
            Make::Card if !unique => Some(card::PLAIN),
            Make::Bool => Some(5),
            Make::Text(text) => Some(text.longest()),
            Make::Password(password) => Some(password.longest()),
            // As long as the value, or checked row by row, or of a type without a length.
            _ => None,
        }
    }

    /// How many results there are, where they are few. A shifted date is near its own, so it
    /// has as many as there are dates.
    pub(crate) fn results(&self) -> Option<u128> {
        match self {
            Make::Fake(parts) => Some(fake::results(parts)),
            Make::Bool => Some(2),
            Make::Birth(birth) => Some(u128::from(birth.days)),
            Make::Choice(values) => Some(values.len() as u128),
            Make::Text(text) => text.results(),
            _ => None,
        }
    }

    /// The columns whose values it is made of.
    pub(crate) fn fields(&self) -> &[String] {
        match self {
            Make::Template(template) => &template.fields,
            Make::Password(password) => &password.cleartext.fields,
            _ => &[],
        }
    }
}

fn mask(options: &Options) -> Result<Make> {
    let mut chars = options.text("char").unwrap_or("*").chars();
    let (Some(with), None) = (chars.next(), chars.next()) else {
        return Err(Error::new("`char` is one character"));
    };
    if with.is_control() {
        return Err(Error::new("`char` is a character that can be seen"));
    }
    let first = options.size("keep_first", 0..=u64::from(u32::MAX))?;
    Ok(Make::Mask { first, last: options.size("keep_last", 0..=u64::from(u32::MAX))?, with })
}

fn replace(options: &Options) -> Result<Replace> {
    let pattern = options.needs("pattern")?;
    let pattern = Regex::new(pattern).map_err(|e| Error::new(format!("`pattern`: {e}")))?;
    let replacement = options.needs("replacement")?.to_owned();
    let constant = options.text("constant").map(str::to_owned);
    let otherwise = match (options.text("on_no_match").unwrap_or("error"), constant) {
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

//! `kasho transforms detokenize`: tokens of the plugin `tokenize`, turned back into values by
//! whoever has the key. Talks to nobody.
//!
//! Tokens are arguments, or lines of standard input; an empty line stays one. What goes
//! wrong: no key, or a text that is no token of it, which is told by its number.

use std::io::{BufRead, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow, bail};
use clap::Args;

use crate::config::Config;
use crate::transform::{Encoding, Key, KeySource, Opener};

/// Arguments of `kasho transforms detokenize`.
#[derive(Debug, Args)]
pub struct Arguments {
    /// The domain of the rule: without one, a rule's domain is its column's name.
    #[arg(long)]
    domain: String,
    /// The prefix of the rule.
    #[arg(long, default_value = "")]
    prefix: String,
    /// The encoding of the rule.
    #[arg(long, value_enum, default_value = "base64url")]
    encoding: Written,
    /// The key's name under [keys], where there are several.
    #[arg(long, conflicts_with = "key_file")]
    key: Option<String>,
    /// The key's file, in place of a configuration.
    #[arg(long, value_name = "FILE")]
    key_file: Option<PathBuf>,
    /// Tokens; without any, the lines of standard input.
    tokens: Vec<String>,
}

/// An encoding, as rules name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Written {
    /// Base 64 for URLs, no padding.
    #[value(name = "base64url")]
    Base64Url,
    /// Hexadecimal digits.
    Hex,
}

/// Prints the values, a line each.
///
/// # Errors
/// There is no key, or a text is no token of it.
pub(super) fn run(arguments: &Arguments, path: &Path) -> anyhow::Result<()> {
    let encoding = match arguments.encoding {
        Written::Base64Url => Encoding::Base64Url,
        Written::Hex => Encoding::Hex,
    };
    let key = key(arguments, path)?;
    let opener = Opener::new(&key, &arguments.domain, &arguments.prefix, encoding);
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    let mut open = |number: usize, token: &str| -> anyhow::Result<()> {
        let value = match token {
            "" => String::new(),
            token => opener.open(token).map_err(|e| anyhow!("token {number}: {e}"))?,
        };
        Ok(writeln!(out, "{value}")?)
    };
    if !arguments.tokens.is_empty() {
        let mut tokens = arguments.tokens.iter().enumerate();
        tokens.try_for_each(|(at, token)| open(at + 1, token))?;
    } else {
        for (at, line) in std::io::stdin().lock().lines().enumerate() {
            open(at + 1, &line.context("standard input")?)?;
        }
    }
    Ok(out.flush()?)
}

fn key(arguments: &Arguments, path: &Path) -> anyhow::Result<Key> {
    if let Some(file) = &arguments.key_file {
        return Ok(Key::read("--key-file", &KeySource::File(file.clone()))?);
    }
    let config = Config::load_parts(path, &["keys"]);
    let config = config.map_err(|errors| {
        anyhow!("{errors}\nor name the key's file, without a configuration: --key-file FILE")
    })?;
    let named = match &arguments.key {
        Some(name) => config.keys.get_key_value(name),
        None if config.keys.len() > 1 => bail!("there are several keys: say which, --key NAME"),
        None => config.keys.iter().next(),
    };
    let (name, source) = named.context("there is no such key under [keys]: see --key-file")?;
    Ok(Key::read(name, source)?)
}

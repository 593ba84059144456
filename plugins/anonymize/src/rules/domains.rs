//! What the rules of one domain have in common: without it, the same value would have
//! different fakes in different columns.
//!
//! What can go wrong is that two rules do not agree, and then both are named.

use std::collections::BTreeMap;

use kasho_plugin_sdk::{Error, Normaliser, Result};

use super::{By, Keying, Options};

/// The domains of all rules.
#[derive(Debug, Default)]
pub(super) struct Domains(BTreeMap<String, Shared>);

#[derive(Debug, Default)]
struct Shared {
    /// Transforms of which some rule asked for unique fakes: then all rules have them.
    unique: Vec<&'static str>,
    /// The normaliser that was written, and by which rule.
    written: Option<(Normaliser, String)>,
    /// The defaults of its rules, each with the first that has it.
    defaults: Vec<(Normaliser, String)>,
}

impl Shared {
    /// The normaliser of all its rules.
    fn normaliser(&self) -> Normaliser {
        // Where fakes must differ whenever values do, nothing may be made equal unasked.
        let unique = !self.unique.is_empty();
        let default = self.defaults.first().filter(|_| !unique).map(|(normaliser, _)| *normaliser);
        let written = self.written.as_ref().map(|(normaliser, _)| *normaliser);
        written.or(default).unwrap_or_default()
    }

    fn write(&mut self, name: &str, column: &str) -> Result<()> {
        let Some(normaliser) = Normaliser::named(name) else {
            let all: Vec<&str> = Normaliser::ALL.iter().map(|n| n.name()).collect();
            return Err(Error::new(format!("`{name}` is not one of {}", all.join(", "))));
        };
        match &self.written {
            Some((other, first)) if *other != normaliser => Err(Error::new(format!(
                "normalise = \"{name}\", but \"{}\" in {first}: a domain has one normaliser, or \
                 the same value would have different fakes",
                other.name()
            ))),
            _ => {
                self.written = Some((normaliser, column.to_owned()));
                Ok(())
            }
        }
    }

    /// Whether the defaults say one thing, where nothing else does.
    fn agree(&self, domain: &str) -> Result<()> {
        let [(a, first), (b, second), ..] = &self.defaults[..] else { return Ok(()) };
        if self.written.is_some() || !self.unique.is_empty() {
            return Ok(());
        }
        Err(Error::new(format!(
            "domain {domain} is normalised by \"{}\" in {first} and by \"{}\" here: say which by \
             `normalise` in one of them, or the same value would have different fakes",
            a.name(),
            b.name()
        ))
        .at(second))
    }
}

impl Domains {
    /// Brings the rules together.
    pub(super) fn settle(rules: &[(String, Options)]) -> Result<Domains> {
        let mut domains = Domains::default();
        for (column, options) in rules {
            domains.add(column, options)?;
            for (path, inner) in &options.paths {
                domains.add(&format!("{column}, path {path}"), inner)?;
            }
        }
        domains.0.iter().try_for_each(|(name, shared)| shared.agree(name))?;
        Ok(domains)
    }

    fn add(&mut self, column: &str, options: &Options) -> Result<()> {
        let Some((domain, default)) = keyed(options) else { return Ok(()) };
        if domain.is_empty() || domain.contains([';', '=']) {
            return Err(Error::new("a domain is a plain word").at(column));
        }
        let shared = self.0.entry(domain.to_owned()).or_default();
        if options.flag("unique") {
            shared.unique.push(options.entry.name);
        }
        let by_value = options.by() == By::Value;
        match options.text("normalise") {
            Some(_) if !by_value => {
                return Err(Error::new("`normalise` is about values, not `by`").at(column));
            }
            Some(name) => shared.write(name, column).map_err(|e| e.at(column))?,
            None => {}
        }
        let stranger = !shared.defaults.iter().any(|(normaliser, _)| *normaliser == default);
        if by_value && stranger && options.knows("normalise") {
            shared.defaults.push((default, column.to_owned()));
        }
        Ok(())
    }

    /// How the values of a rule are hashed.
    pub(super) fn keying(&self, options: &Options) -> Option<Keying> {
        let (domain, _) = keyed(options)?;
        let shared = self.0.get(domain)?;
        Some(Keying {
            domain: domain.to_owned(),
            normaliser: shared.normaliser(),
            unique: shared.unique.contains(&options.entry.name),
            by: options.by(),
        })
    }
}

/// A rule's domain and that domain's default normaliser, if it is keyed.
fn keyed(options: &Options) -> Option<(&str, Normaliser)> {
    let (domain, normaliser) = options.entry.keyed?;
    Some((options.text("domain").unwrap_or(domain), normaliser))
}

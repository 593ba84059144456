//! Text put together from columns: `{{.first}}.{{.last | lower}}@example.com`.
//!
//! The notation is the part of Go's `text/template` that rules are written in: fields,
//! `index . "odd name"`, pipes, and the helpers `lower`, `upper`, `slugify`, `before` and
//! `after`. Anything else (`if`, `range`, variables) is refused when rules are read.

use kasho_plugin_sdk::{Error, Result};

use super::slug;

/// A template.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Template {
    parts: Vec<Part>,
    /// The columns it names, each once.
    pub(crate) fields: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    /// Index among the fields, and what is done with its value.
    Field(usize, Vec<Helper>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Helper {
    Lower,
    Upper,
    Slugify,
    Before(String),
    After(String),
}

impl Template {
    /// Reads a template.
    pub(crate) fn read(text: &str) -> Result<Template> {
        let mut template = Template::default();
        let mut rest = text;
        while let Some(at) = rest.find("{{") {
            let (before, open) = rest.split_at(at);
            let Some((inside, after)) = open.get(2..).and_then(|open| open.split_once("}}")) else {
                return Err(Error::new("`template`: `{{` is not closed by `}}`"));
            };
            let (inside, left) = match inside.strip_prefix("- ") {
                Some(inside) => (inside, true),
                None => (inside, false),
            };
            let (inside, right) = match inside.strip_suffix(" -") {
                Some(inside) => (inside, true),
                None => (inside, false),
            };
            template.text(if left { before.trim_end() } else { before });
            template.action(inside.trim())?;
            rest = if right { after.trim_start() } else { after };
        }
        template.text(rest);
        Ok(template)
    }

    fn text(&mut self, text: &str) {
        if !text.is_empty() {
            self.parts.push(Part::Text(text.to_owned()));
        }
    }

    fn action(&mut self, inside: &str) -> Result<()> {
        let words = words(inside)?;
        let mut stages = words.split(|word| *word == Word::Pipe);
        let first = stages.next().unwrap_or_default();
        let (field, mut helpers) = match first {
            [Word::Field(field)] => (field.clone(), Vec::new()),
            [Word::Name(index), Word::Dot, Word::Text(field)] if index == "index" => {
                (field.clone(), Vec::new())
            }
            [Word::Name(name), arguments @ ..] => {
                let field = arguments.iter().find_map(|word| match word {
                    Word::Field(field) => Some(field.clone()),
                    _ => None,
                });
                let rest: Vec<&Word> =
                    arguments.iter().filter(|w| !matches!(w, Word::Field(_))).collect();
                let field = field.ok_or_else(|| unknown(inside))?;
                (field, vec![helper(name, &rest, inside)?])
            }
            _ => return Err(unknown(inside)),
        };
        for stage in stages {
            let [Word::Name(name), arguments @ ..] = stage else { return Err(unknown(inside)) };
            helpers.push(helper(name, &arguments.iter().collect::<Vec<_>>(), inside)?);
        }
        let known = self.fields.iter().position(|f| *f == field);
        let index = known.unwrap_or_else(|| {
            self.fields.push(field);
            self.fields.len() - 1
        });
        self.parts.push(Part::Field(index, helpers));
        Ok(())
    }

    /// If the template is one field as it is between texts: different values of it make
    /// different texts.
    pub(crate) fn only_field(&self) -> Option<&str> {
        let mut fields = self.parts.iter().filter(|part| matches!(part, Part::Field(..)));
        match (fields.next(), fields.next()) {
            (Some(Part::Field(at, helpers)), None) if helpers.is_empty() => {
                self.fields.get(*at).map(String::as_str)
            }
            _ => None,
        }
    }

    /// Whether it holds all of a field, spelt as it is or otherwise; two parts of one may be
    /// all of it.
    pub(crate) fn holds(&self, field: &str) -> bool {
        let cuts = |helper: &Helper| matches!(helper, Helper::Before(_) | Helper::After(_));
        let of = |part: &Part| match part {
            Part::Field(at, helpers) if self.fields.get(*at).is_some_and(|name| name == field) => {
                Some(helpers.iter().any(cuts))
            }
            _ => None,
        };
        let parts: Vec<bool> = self.parts.iter().filter_map(of).collect();
        parts.len() > 1 || parts.contains(&false)
    }

    /// The text for these values of its fields.
    pub(crate) fn fill(&self, values: &[&str]) -> String {
        let mut text = String::new();
        for part in &self.parts {
            match part {
                Part::Text(part) => text.push_str(part),
                Part::Field(at, helpers) => {
                    let value = values.get(*at).copied().unwrap_or_default();
                    match helpers.is_empty() {
                        true => text.push_str(value),
                        false => {
                            let start = value.to_owned();
                            text.push_str(
                                &helpers.iter().fold(start, |v, helper| helper.apply(&v)),
                            );
                        }
                    }
                }
            }
        }
        text
    }
}

impl Helper {
    fn apply(&self, text: &str) -> String {
        match self {
            Helper::Lower => text.to_lowercase(),
            Helper::Upper => text.to_uppercase(),
            Helper::Slugify => slug::slugify(text),
            Helper::Before(mark) => slug::before(text, mark).to_owned(),
            Helper::After(mark) => slug::after(text, mark).to_owned(),
        }
    }
}

fn helper(name: &str, arguments: &[&Word], inside: &str) -> Result<Helper> {
    match (name, arguments) {
        ("lower", []) => Ok(Helper::Lower),
        ("upper", []) => Ok(Helper::Upper),
        ("slugify", []) => Ok(Helper::Slugify),
        ("before", [Word::Text(mark)]) if !mark.is_empty() => Ok(Helper::Before(mark.clone())),
        ("after", [Word::Text(mark)]) if !mark.is_empty() => Ok(Helper::After(mark.clone())),
        _ => Err(unknown(inside)),
    }
}

fn unknown(inside: &str) -> Error {
    Error::new(format!(
        "`template`: `{{{{{inside}}}}}` is not understood; there are `{{{{.column}}}}`, `index . \
         \"odd name\"`, and lower, upper, slugify, before \"x\", after \"x\", before it or behind `|`"
    ))
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Word {
    Pipe,
    Dot,
    Field(String),
    Name(String),
    Text(String),
}

fn words(inside: &str) -> Result<Vec<Word>> {
    let mut words = Vec::new();
    let mut rest = inside.trim_start();
    while let Some(c) = rest.chars().next() {
        let name = |text: &str| {
            text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len())
        };
        let taken = match c {
            '|' => {
                words.push(Word::Pipe);
                1
            }
            '.' => {
                let after = rest.get(1..).unwrap_or_default();
                let end = name(after);
                let field = after.get(..end).unwrap_or_default().to_owned();
                words.push(if field.is_empty() { Word::Dot } else { Word::Field(field) });
                1 + end
            }
            '"' => {
                let after = rest.get(1..).unwrap_or_default();
                let Some((text, _)) = after.split_once('"') else { return Err(unknown(inside)) };
                words.push(Word::Text(text.to_owned()));
                text.len() + 2
            }
            _ => {
                let end = name(rest);
                if end == 0 {
                    return Err(unknown(inside));
                }
                words.push(Word::Name(rest.get(..end).unwrap_or_default().to_owned()));
                end
            }
        };
        rest = rest.get(taken..).unwrap_or_default().trim_start();
    }
    Ok(words)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that meets one has failed")]

    use super::*;

    fn filled(text: &str, values: &[&str]) -> String {
        Template::read(text).unwrap().fill(values)
    }

    #[test]
    fn fields_pipes_and_helpers() {
        assert_eq!(filled("{{.a}}.{{ .b | lower }}@x", &["Ada", "LOVE"]), "Ada.love@x");
        assert_eq!(filled("{{upper .a}}{{.a}}", &["x"]), "Xx");
        assert_eq!(filled("{{before .a \"@\"}}", &["x@y"]), "x");
        assert_eq!(filled("{{before \"@\" .a}}", &["x@y"]), "x");
        assert_eq!(filled("{{.a | after \"@\" | upper | slugify}}", &["x@y z"]), "y-z");
        assert_eq!(filled("{{index . \"Odd name\"}}!", &["x"]), "x!");
        assert_eq!(filled("a {{- .a -}} b", &["x"]), "axb");
        assert_eq!(filled("plain", &[]), "plain");
        let template = Template::read("u-{{.id}}@x").unwrap();
        assert_eq!(template.only_field(), Some("id"));
        assert_eq!(Template::read("{{.id}}{{.id}}").unwrap().only_field(), None);
        assert_eq!(Template::read("{{.id | lower}}").unwrap().only_field(), None);
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        for text in [
            "{{.a",
            "{{if .a}}",
            "{{.}}",
            "{{lower}}",
            "{{.a | title}}",
            "{{.a .b}}",
            "{{$x}}",
            "{{}}",
        ] {
            assert!(Template::read(text).is_err(), "{text}");
        }
    }
}

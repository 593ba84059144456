//! Paths into JSON, as rules write them: `a.b`, `list[*].x`, `"odd.name"`, `*` for any name.
//!
//! A path that is none is told when rules are read.

use kasho_plugin_sdk::{Error, Result};

/// One step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// A member of an object.
    Name(String),
    /// Any member.
    Any,
    /// Every element of a list.
    Elements,
}

impl Step {
    /// Whether it goes into the member called `name`.
    pub(crate) fn names(&self, name: &str) -> bool {
        match self {
            Step::Name(own) => own == name,
            Step::Any => true,
            Step::Elements => false,
        }
    }
}

/// A path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Path {
    /// From the outermost value; without a step, that value.
    pub(crate) steps: Vec<Step>,
}

impl Path {
    /// Reads a path; a `$` or `$.` in front is nothing.
    pub(crate) fn read(text: &str) -> Result<Path> {
        let wrong = || {
            Error::new(format!(
                "`{text}` is no path: write `a.b`, `list[*].x`, `\"odd.name\"`, `*` for any name"
            ))
        };
        let mut rest = text.strip_prefix('$').unwrap_or(text);
        rest = rest.strip_prefix('.').unwrap_or(rest);
        let mut steps = Vec::new();
        while !rest.is_empty() {
            if let Some(after) = rest.strip_prefix("[*]") {
                steps.push(Step::Elements);
                rest = after;
            } else if let Some(quoted) = rest.strip_prefix('"') {
                let (name, after) = quoted.split_once('"').ok_or_else(wrong)?;
                steps.push(Step::Name(name.to_owned()));
                rest = after;
            } else {
                let end = rest.find(['.', '[', '"']).unwrap_or(rest.len());
                let (name, after) = rest.split_at(end);
                steps.push(match name {
                    "" => return Err(wrong()),
                    "*" => Step::Any,
                    name => Step::Name(name.to_owned()),
                });
                rest = after;
            }
            match rest.strip_prefix('.') {
                Some("") => return Err(wrong()),
                Some(after) => rest = after,
                None if rest.is_empty() || rest.starts_with('[') => {}
                None => return Err(wrong()),
            }
        }
        Ok(Path { steps })
    }

    /// How exactly it says where it goes.
    pub(crate) fn weight(&self) -> usize {
        self.steps.iter().filter(|step| **step != Step::Any).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_read() {
        let name = |text: &str| Step::Name(text.to_owned());
        for (text, want) in [
            ("a", vec![name("a")]),
            ("$.a.b", vec![name("a"), name("b")]),
            ("a[*].b", vec![name("a"), Step::Elements, name("b")]),
            ("[*][*]", vec![Step::Elements, Step::Elements]),
            ("*.\"x.y\"", vec![Step::Any, name("x.y")]),
            ("$", vec![]),
        ] {
            assert_eq!(Path::read(text).map(|path| path.steps), Ok(want), "{text}");
        }
        for text in ["a.", "a..b", "a[0]", "a[", "\"a", "a\"b\""] {
            assert!(Path::read(text).is_err(), "{text}");
        }
    }
}

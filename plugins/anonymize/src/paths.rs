//! Paths into JSON, as rules write them: `a.b`, `list[*].x`, `"odd.name"`, `*` for any name.
//!
//! A path that is none is told when rules are read, and so are two of which neither is the
//! more exact one where both lead.

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
#[derive(Clone, Debug, Default, PartialEq, Eq)]
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

    /// Whether every value that it leads to is one that `other` leads to.
    fn within(&self, other: &Path) -> bool {
        let within = |(own, other): (&Step, &Step)| {
            own == other || *other == Step::Any && matches!(own, Step::Name(_))
        };
        self.steps.len() == other.steps.len() && self.steps.iter().zip(&other.steps).all(within)
    }

    /// Whether some value is one that both lead to.
    fn meets(&self, other: &Path) -> bool {
        let meets = |(own, other): (&Step, &Step)| match (own, other) {
            (Step::Any, Step::Name(_)) | (Step::Name(_), Step::Any) => true,
            (own, other) => own == other,
        };
        self.steps.len() == other.steps.len() && self.steps.iter().zip(&other.steps).all(meets)
    }

    /// How exactly it says where it goes; of two that meet, [`apart`], the heavier one is the
    /// more exact one.
    pub(crate) fn weight(&self) -> usize {
        self.steps.iter().filter(|step| **step != Step::Any).count()
    }
}

/// Whether of any two paths that end at one value one is the more exact one.
///
/// # Errors
/// Two of which neither is.
pub(crate) fn apart(paths: &[(&str, &Path)]) -> Result<()> {
    for (i, (name, path)) in paths.iter().enumerate() {
        for (first, other) in paths.iter().take(i) {
            if path.meets(other) && path.within(other) == other.within(path) {
                let text = format!(
                    "paths {first} and {name} lead to one value and neither is the more exact one, \
                     so its rule is in doubt: drop one, or name the members of one in place of `*`"
                );
                return Err(Error::new(text));
            }
        }
    }
    Ok(())
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

    #[test]
    fn of_two_that_meet_one_is_more_exact() {
        let of = |a: &str, b: &str| {
            let (one, two) = (Path::read(a).unwrap_or_default(), Path::read(b).unwrap_or_default());
            apart(&[(a, &one), (b, &two)]).is_ok()
        };
        for (a, b) in [("*.ssn", "who.*"), ("ssn", "$.ssn"), ("a", "\"a\""), ("a.*.*", "*.b.c")] {
            assert!(!of(a, b) && !of(b, a), "{a} {b}");
        }
        for (a, b) in
            [("who", "who.ssn"), ("*", "a"), ("a.b", "b.a"), ("a[*]", "a.*"), ("*.*", "a.*")]
        {
            assert!(of(a, b) && of(b, a), "{a} {b}");
        }
    }
}

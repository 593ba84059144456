//! Where the rules of a binding stand in the configuration file, so that what is wrong with
//! one can be told with its line and column. A binding is the same wherever its rules stand.
//!
//! Nothing can go wrong here: a rule whose place nobody knows is told without one.

use std::collections::BTreeMap;

use super::config::Config;
use super::error::LoadError;

/// The places of one binding's rules.
#[derive(Clone, Debug, Default)]
pub struct Places(BTreeMap<String, String>);

impl PartialEq for Places {
    fn eq(&self, _: &Places) -> bool {
        true
    }
}

impl FromIterator<(String, String)> for Places {
    /// From rules, and the place of each as it is told: `kasho.toml:12:1`.
    fn from_iter<I: IntoIterator<Item = (String, String)>>(places: I) -> Places {
        Places(places.into_iter().collect())
    }
}

impl Places {
    /// The place of the rule that an error is about.
    fn of(&self, error: &LoadError) -> Option<&str> {
        let LoadError { at, text, .. } = error;
        let whole = |rule: &str, text: &str| {
            text.strip_prefix(rule).is_some_and(|rest| rest.starts_with(": "))
        };
        // The host tells the column of its table in words.
        let column = |rule: &str| {
            let column = rule.strip_prefix(at.as_str()).and_then(|rest| rest.strip_prefix('.'));
            column.is_some_and(|column| {
                let named = |word: &str| word.trim_end_matches([',', ':']) == column;
                text.split(' ').any(named)
            })
        };
        let exact = self.0.iter().filter(|(rule, _)| *rule == at || whole(rule, text));
        let exact = exact.max_by_key(|(rule, _)| rule.len());
        let place = exact.or_else(|| self.0.iter().find(|(rule, _)| column(rule)));
        place.map(|(_, place)| place.as_str())
    }
}

/// Adds to each error of a rule where that stands.
pub(super) fn place(config: &Config, errors: &mut [LoadError]) {
    for error in errors {
        let binding = config.transform.iter().find(|b| error.binding.as_ref() == Some(&b.name));
        if let Some(place) = binding.and_then(|binding| binding.places.of(error)) {
            error.text = format!("{} ({place})", error.text);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_placed_by_the_rule_that_it_names() {
        let rules = ["public.users.email", "public.users.email.transform", "public.users", "a.b"];
        let places = rules.into_iter().zip(1..).map(|(rule, line)| (rule, format!("f:{line}:1")));
        let places: Places = places.map(|(rule, place)| (rule.to_owned(), place)).collect();
        let place = |at: &str, text: &str| {
            places.of(&LoadError::binding("mask", at, text)).map(str::to_owned)
        };
        assert_eq!(place("a.wasm", "public.users.email: no such").as_deref(), Some("f:1:1"));
        assert_eq!(place("a.b", "it is not there").as_deref(), Some("f:4:1"));
        assert_eq!(place("public.users", "it is").as_deref(), Some("f:3:1"));
        assert_eq!(place("x.wasm", "it is no module"), None);
        let other: Places =
            [("public.users.email".to_owned(), "f:9:1".to_owned())].into_iter().collect();
        let told = LoadError::binding("mask", "public.users", "the rules name column email, which");
        assert_eq!(other.of(&told), Some("f:9:1"));
        assert_eq!(other, places, "a binding is the same wherever it stands");
    }
}

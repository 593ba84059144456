//! Columns that are about to be renamed, or have been while the stream lags behind: a
//! binding names what its rules call a column and what else it may be called. Of these names
//! a table has exactly one, as the stream's own description says, and the plugin is told of
//! it under the name that its rules know. So one set of rules holds on both sides of an
//! ALTER TABLE, and nobody has to be there when the stream comes to it.
//!
//! What can go wrong: a table that has none of the names, or several.

use std::collections::BTreeMap;
use std::sync::Arc;

use kasho_plugin_sdk::Relation;
use kasho_plugin_sdk::pattern::{Part, parts};

/// What one column may be called.
#[derive(Clone, Debug)]
pub(super) struct Called {
    /// Schema, table and column, as the rules name them.
    path: [Part; 3],
    /// Its other names.
    others: Vec<String>,
}

/// Reads the setting.
///
/// # Errors
/// The path that is none or has no names, and why.
pub(super) fn read(
    setting: &BTreeMap<String, Vec<String>>,
) -> Result<Vec<Called>, (String, String)> {
    let one = |(text, others): (&String, &Vec<String>)| {
        let path: Option<[Part; 3]> = parts(text).ok().and_then(|parts| parts.try_into().ok());
        let path = path.filter(|path| !path.iter().any(Part::is_glob));
        let path = path.ok_or_else(|| {
            let why = "is no column: write schema.table.column, without *";
            (text.clone(), why.to_owned())
        })?;
        if others.is_empty()
            || others.iter().any(|other| other.is_empty() || other == path[2].text())
        {
            let why = "needs the other names that it may have: [\"new_name\"]";
            return Err((text.clone(), why.to_owned()));
        }
        Ok(Called { path, others: others.clone() })
    };
    setting.iter().map(one).collect()
}

/// What else a column may be called, by schema, table and the name that the rules have for it.
pub(super) fn others(all: &[Called], (schema, table, column): (&str, &str, &str)) -> Vec<String> {
    let path = [schema, table, column];
    let this = |called: &&Called| called.path.iter().map(Part::text).eq(path);
    all.iter().filter(this).flat_map(|called| called.others.iter().cloned()).collect()
}

/// The table as the rules know it; what is wrong with it.
pub(super) fn as_ruled(all: &[Called], relation: &Arc<Relation>) -> (Arc<Relation>, Vec<String>) {
    let (mut known, mut wrong) = (Arc::clone(relation), Vec::new());
    let here =
        |r: &&Called| r.path[0].text() == relation.schema && r.path[1].text() == relation.table;
    for called in all.iter().filter(here) {
        let name = called.path[2].text();
        let names = || std::iter::once(name).chain(called.others.iter().map(String::as_str));
        let there: Vec<&str> = names().filter(|name| relation.column(name).is_some()).collect();
        match there[..] {
            [one] if one == name => {}
            [one] => {
                let columns = &mut Arc::make_mut(&mut known).columns;
                if let Some(column) = columns.iter_mut().find(|column| column.name == one) {
                    name.clone_into(&mut column.name);
                }
            }
            [] => wrong.push(format!(
                "{} has no column called {}: one of these has to be there: mend [transform.also_called]",
                relation.qualified(),
                names().collect::<Vec<_>>().join(" or ")
            )),
            _ => wrong.push(format!(
                "{} has the columns {}, and they are to be one under different names \
                 ([transform.also_called]): give each a rule of its own",
                relation.qualified(),
                there.join(" and ")
            )),
        }
    }
    (known, wrong)
}

/// What a column that the rules know under this name is called in the table; `known` is the
/// table as they know it.
pub(super) fn as_known(known: &Relation, relation: &Relation, column: &str) -> String {
    let there = known.column(column).and_then(|place| relation.columns.get(place));
    there.map_or(column, |there| there.name.as_str()).to_owned()
}

#[cfg(test)]
mod tests {
    use super::super::testing::table;
    use super::*;

    fn setting(others: &[&str]) -> BTreeMap<String, Vec<String>> {
        let others = others.iter().map(|name| (*name).to_owned()).collect();
        BTreeMap::from([("public.users.email".to_owned(), others)])
    }

    fn ruled(columns: &[&str]) -> (Vec<String>, String) {
        let all = read(&setting(&["mail", "address"])).unwrap();
        let (known, wrong) = as_ruled(&all, &table(7, "users", columns));
        (known.columns.iter().map(|c| c.name.clone()).collect(), wrong.join("; "))
    }

    #[test]
    fn exactly_one_of_the_names_is_there() {
        for column in ["email", "mail", "address"] {
            assert_eq!(ruled(&["id!", column]), (vec!["id".into(), "email".into()], String::new()));
        }
        assert!(ruled(&["id!"]).1.contains("no column called email or mail or address"));
        assert!(ruled(&["email", "mail"]).1.contains("has the columns email and mail"));
        let other = table(8, "orders", &["id!"]);
        let (known, wrong) = as_ruled(&read(&setting(&["mail"])).unwrap(), &other);
        assert!(Arc::ptr_eq(&known, &other) && wrong.is_empty());
    }

    #[test]
    fn settings_that_make_no_sense_are_told() {
        assert!(read(&setting(&[])).unwrap_err().1.contains("needs the other names"));
        assert!(read(&setting(&["email"])).unwrap_err().1.contains("needs the other names"));
        for path in ["public.users", "public.*.email", "a.b.c.d"] {
            let all = BTreeMap::from([(path.to_owned(), vec!["x".to_owned()])]);
            let (at, text) = read(&all).unwrap_err();
            assert!(at == path && text.contains("is no column"), "{path}");
        }
    }
}

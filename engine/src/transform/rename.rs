//! New names of tables and columns, as they leave: by a plugin's answer, or by the table
//! `[transform.rename]` of the configuration, which needs no plugin.
//!
//! Everything before the sink speaks source names: rules, dead letters, the status, later
//! plugins. What can go wrong: a name that is none, a column that is not there, two sources
//! that would leave under one name, two answers that differ ([`Renames::leaving`]).

use std::collections::{BTreeMap, BTreeSet};

use kasho_plugin_sdk::abi::Rename;
use kasho_plugin_sdk::event::quote_identifier;
use kasho_plugin_sdk::pattern::{Part, parts};
use kasho_plugin_sdk::{Column, Relation};

use super::called;
use super::config::{Binding, Config};
use super::gate;
use super::plan::{Fate, RelationPlan};

/// Schema and table.
type TableName = (String, String);

/// All renames of a configuration's own tables.
#[derive(Clone, Debug, Default)]
pub(super) struct Renames {
    tables: BTreeMap<TableName, Named>,
    /// Of each table, by the names that the rules have for its columns.
    columns: BTreeMap<TableName, BTreeMap<String, Named>>,
    /// Nothing gets another name, whoever gives one.
    off: bool,
}

/// A new name, and who gave it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Named {
    to: TableName,
    by: String,
    /// What else the column may be called in the source.
    others: Vec<String>,
}

/// How a relation leaves, where that is not as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Leaving {
    pub(super) schema: String,
    pub(super) table: String,
    /// Names by place.
    pub(super) columns: Vec<String>,
}

impl Renames {
    /// Those of a configuration that has been checked.
    pub(super) fn of(config: &Config) -> Renames {
        let mut renames = Renames::default();
        for binding in &config.transform {
            // What is none has been told.
            let called = called::read(&binding.also_called).unwrap_or_default();
            for (from, to) in &binding.rename {
                let Ok(rename) = read(from, to) else { continue };
                let by = || format!("transform `{}`", binding.name);
                match rename {
                    One::Table(table, to) => {
                        let named = Named { to, by: by(), others: Vec::new() };
                        renames.tables.insert(table, named);
                    }
                    One::Column(table, column, to) => {
                        let others = called::others(&called, (&table.0, &table.1, &column));
                        let named = Named { to: (String::new(), to), by: by(), others };
                        renames.columns.entry(table).or_default().insert(column, named);
                    }
                }
            }
        }
        renames
    }

    /// Those of somebody who looks at everything under the source's names.
    pub(super) fn none() -> Renames {
        Renames { off: true, ..Renames::default() }
    }

    /// Whether there is none.
    pub(super) fn is_empty(&self) -> bool {
        self.tables.is_empty() && self.columns.is_empty()
    }

    /// The tables that are named, themselves or by a column.
    pub(super) fn sources(&self) -> BTreeSet<&TableName> {
        self.tables.keys().chain(self.columns.keys()).collect()
    }

    /// How a table leaves whose description nobody has seen.
    pub(super) fn table(&self, schema: &str, table: &str) -> Option<String> {
        let named = self.tables.get(&(schema.to_owned(), table.to_owned()))?;
        Some(qualified(&named.to))
    }

    /// How a relation leaves; none if as it came. `answers`: those of the plugins, each with
    /// the binding's name; `kept`: places of the columns that leave.
    ///
    /// # Errors
    /// Why it cannot.
    pub(super) fn leaving<'a>(
        &self,
        relation: &Relation,
        answers: impl Iterator<Item = (&'a str, &'a Rename)>,
        kept: &[usize],
    ) -> Result<Option<Leaving>, String> {
        if self.off {
            return Ok(None);
        }
        let own = (relation.schema.clone(), relation.table.clone());
        let mut table: Option<Named> = self.tables.get(&own).cloned();
        let mut columns = self.columns_of(&own, relation)?;
        for (binding, answer) in answers {
            let by = format!("transform `{binding}`");
            if let Some(to) = &answer.table {
                let named = Named { to: table_name(to)?, by: by.clone(), others: Vec::new() };
                agree(table.replace(named.clone()), &named, &relation.qualified())?;
            }
            for (column, to) in &answer.columns {
                let to = (String::new(), to.clone());
                let named = Named { to, by: by.clone(), others: Vec::new() };
                let before = columns.insert(column.clone(), named.clone());
                agree(before, &named, &gate::harmless(column))?;
            }
        }
        if table.is_none() && columns.is_empty() {
            return Ok(None);
        }
        if relation.is_virtual() {
            return Err("what stands for events cannot be renamed: take that out".to_owned());
        }
        if let Some(column) = columns.keys().find(|column| relation.column(column).is_none()) {
            let column = gate::harmless(column);
            return Err(format!(
                "column {column} is renamed, and does not exist: mend the name, or take the rename out"
            ));
        }
        let name = |column: &Column| match columns.get(&column.name) {
            Some(named) => named.to.1.clone(),
            None => column.name.clone(),
        };
        let names: Vec<String> = relation.columns.iter().map(name).collect();
        one_each(relation, &names, kept)?;
        let (schema, table) = table.map_or(own, |named| named.to);
        Ok(Some(Leaving { schema, table, columns: names }))
    }

    /// The new names of a table's columns by what they are called in it now.
    fn columns_of(
        &self,
        own: &TableName,
        relation: &Relation,
    ) -> Result<BTreeMap<String, Named>, String> {
        let mut columns: BTreeMap<String, Named> = BTreeMap::new();
        for (ruled, named) in self.columns.get(own).into_iter().flatten() {
            let names = std::iter::once(ruled).chain(&named.others);
            let is = names.into_iter().find(|name| relation.column(name).is_some());
            let is = is.unwrap_or(ruled);
            agree(columns.insert(is.clone(), named.clone()), named, &gate::harmless(is))?;
        }
        Ok(columns)
    }
}

/// Two that name the same thing have to name it the same.
fn agree(before: Option<Named>, now: &Named, what: &str) -> Result<(), String> {
    match before.filter(|before| before.to != now.to) {
        None => Ok(()),
        Some(before) => Err(format!(
            "{what} is renamed in two ways, by {} and by {}: leave one",
            before.by, now.by
        )),
    }
}

fn one_each(relation: &Relation, names: &[String], kept: &[usize]) -> Result<(), String> {
    let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
    for place in kept {
        let name = names[*place].as_str();
        if name.is_empty() {
            let column = quote_identifier(&relation.columns[*place].name);
            return Err(format!("column {column} is renamed to nothing: give it a name"));
        }
        if let Some(other) = seen.insert(name, *place) {
            let [a, b] = [other, *place].map(|at| quote_identifier(&relation.columns[at].name));
            let name = gate::harmless(name);
            return Err(format!(
                "columns {a} and {b} would both leave as {name}: rename one of them otherwise"
            ));
        }
    }
    Ok(())
}

/// Sources that would leave under one name: each but the first, with what is wrong.
pub(super) fn collisions<'a>(
    leaving: impl Iterator<Item = (&'a Relation, &'a Relation)>,
) -> Vec<(String, String)> {
    let mut taken: BTreeMap<String, String> = BTreeMap::new();
    let mut wrong = Vec::new();
    for (source, target) in leaving {
        let (from, to) = (source.qualified(), target.qualified());
        if let Some(other) = taken.insert(to.clone(), from.clone()) {
            wrong.push((from, taken_by(&to, &other)));
        }
    }
    wrong
}

/// What is wrong with a target that another table has.
fn taken_by(target: &str, other: &str) -> String {
    format!("it would leave as {target}, as {other} does: rename one of them otherwise")
}

/// What each table of a stream is called and leaves as, by its id.
#[derive(Debug, Default)]
pub(super) struct Targets(BTreeMap<u32, (String, String)>);

impl Targets {
    /// Takes the name that a relation leaves under.
    ///
    /// # Errors
    /// Another table has it. One of the same name was dropped and made again, and is not in
    /// the way.
    pub(super) fn claim(&mut self, plan: &RelationPlan) -> Result<(), String> {
        if plan.fate != Fate::Pass {
            return Ok(());
        }
        let (id, source) = (plan.relation.id, plan.relation.qualified());
        let target = plan.leaving().qualified();
        let other = |(other, (from, to)): &(&u32, &(String, String))| {
            **other != id && *from != source && *to == target
        };
        if let Some((_, (from, _))) = self.0.iter().find(other) {
            return Err(taken_by(&target, from));
        }
        self.0.insert(id, (source, target));
        Ok(())
    }
}

/// One line of `[transform.rename]`.
enum One {
    Table(TableName, TableName),
    Column(TableName, String, String),
}

/// What is wrong with a `[transform.rename]`: the line, and why.
pub(super) fn check(rename: &BTreeMap<String, String>) -> Vec<(String, String)> {
    let mut seen = BTreeSet::new();
    let mut wrong = Vec::new();
    for (from, to) in rename {
        let what = match read(from, to) {
            Ok(One::Table(table, _)) => (table, None),
            Ok(One::Column(table, column, _)) => (table, Some(column)),
            Err(text) => {
                wrong.push((from.clone(), text));
                continue;
            }
        };
        if !seen.insert(what) {
            wrong.push((from.clone(), "is renamed twice: leave one".to_owned()));
        }
    }
    wrong
}

/// What bindings would rename in two ways: the later one, its line, and why.
pub(super) fn conflicts(bindings: &[Binding]) -> Vec<(usize, String, String)> {
    let mut seen: BTreeMap<(TableName, Option<String>), Named> = BTreeMap::new();
    let mut wrong = Vec::new();
    for (i, binding) in bindings.iter().enumerate() {
        for (from, to) in &binding.rename {
            let (what, to) = match read(from, to) {
                Ok(One::Table(table, to)) => ((table, None), to),
                Ok(One::Column(table, column, to)) => ((table, Some(column)), (String::new(), to)),
                Err(_) => continue,
            };
            let by = format!("transform `{}`", binding.name);
            let named = Named { to, by, others: Vec::new() };
            let before = seen.entry(what).or_insert_with(|| named.clone());
            // Twice in one binding has been told.
            if before.by != named.by
                && let Err(text) = agree(Some(before.clone()), &named, "it")
            {
                wrong.push((i, from.clone(), text));
            }
        }
    }
    wrong
}

fn read(from: &str, to: &str) -> Result<One, String> {
    let literal = |part: &Part| match part.is_glob() {
        true => {
            Err("a rename names one table or column, without *: give each its own line".to_owned())
        }
        false => Ok(part.text().to_owned()),
    };
    let names = parts(from)?.iter().map(literal).collect::<Result<Vec<_>, _>>()?;
    match <[String; 2]>::try_from(names) {
        Ok([schema, table]) => Ok(One::Table((schema, table), table_name(to)?)),
        Err(names) => match <[String; 3]>::try_from(names) {
            Ok([schema, table, column]) if !to.is_empty() => {
                Ok(One::Column((schema, table), column, to.to_owned()))
            }
            Ok(_) => Err("a column is renamed to nothing: give it a name".to_owned()),
            Err(_) => {
                Err("is no table and no column: write schema.table or schema.table.column"
                    .to_owned())
            }
        },
    }
}

/// `schema.table`, literally.
fn table_name(text: &str) -> Result<TableName, String> {
    let wrong = || {
        let text = gate::harmless(text);
        format!("`{text}` is no name of a table: write schema.table")
    };
    let parts = parts(text).map_err(|_| wrong())?;
    match <[Part; 2]>::try_from(parts) {
        Ok([schema, table]) if !schema.is_glob() && !table.is_glob() => {
            Ok((schema.text().to_owned(), table.text().to_owned()))
        }
        _ => Err(wrong()),
    }
}

fn qualified((schema, table): &TableName) -> String {
    format!("{}.{}", quote_identifier(schema), quote_identifier(table))
}

#[cfg(test)]
mod tests {
    use super::super::testing::users;
    use super::*;

    fn renames(lines: &[(&str, &str)]) -> Renames {
        let mut config = Config::default();
        let mut binding = super::super::Binding::new("names", "", &[]);
        binding.rename =
            lines.iter().map(|(from, to)| ((*from).to_owned(), (*to).to_owned())).collect();
        config.transform.push(binding);
        Renames::of(&config)
    }

    #[test]
    fn tables_and_columns_get_their_names() {
        let lines = [("public.users", "crm.\"People\""), ("public.users.email", "mail")];
        let leaving = renames(&lines).leaving(&users(), std::iter::empty(), &[0, 1]).unwrap();
        let leaving = leaving.unwrap();
        assert_eq!((leaving.schema.as_str(), leaving.table.as_str()), ("crm", "People"));
        assert_eq!(leaving.columns, ["id", "mail"]);
        assert_eq!(renames(&lines).table("public", "users").unwrap(), "crm.\"People\"");
        let other = renames(&[("public.orders", "public.o")]);
        assert_eq!(other.leaving(&users(), std::iter::empty(), &[0, 1]), Ok(None));
    }

    #[test]
    fn what_cannot_be_is_told() {
        let none = || std::iter::empty();
        for (lines, want) in [
            (
                &[("public.users.emial", "mail")][..],
                "column emial is renamed, and does not exist: mend the name, or take the rename out",
            ),
            (
                &[("public.users.email", "id")],
                "columns id and email would both leave as id: rename one of them otherwise",
            ),
        ] {
            let wrong = renames(lines).leaving(&users(), none(), &[0, 1]).unwrap_err();
            assert_eq!(wrong, want);
        }
        let swapped = [("public.users.email", "id"), ("public.users.id", "email")];
        let leaving = renames(&swapped).leaving(&users(), none(), &[0, 1]).unwrap().unwrap();
        assert_eq!(leaving.columns, ["email", "id"]);
        let dropped = renames(&[("public.users.email", "id")]);
        assert!(dropped.leaving(&users(), none(), &[1]).is_ok(), "the other one never leaves");
        let answer = Rename { table: Some("public.b".to_owned()), columns: BTreeMap::new() };
        let both = renames(&[("public.users", "public.a")]);
        let wrong = both.leaving(&users(), [("p", &answer)].into_iter(), &[0, 1]).unwrap_err();
        let want = "public.users is renamed in two ways, by transform `names` and by transform `p`: leave one";
        assert_eq!(wrong, want);
        for (from, to, want) in [
            (
                "users",
                "public.x",
                "is no table and no column: write schema.table or schema.table.column",
            ),
            (
                "public.*",
                "public.x",
                "a rename names one table or column, without *: give each its own line",
            ),
            ("public.users", "people", "`people` is no name of a table: write schema.table"),
            ("public.users.email", "", "a column is renamed to nothing: give it a name"),
        ] {
            let lines = BTreeMap::from([(from.to_owned(), to.to_owned())]);
            assert_eq!(check(&lines), [(from.to_owned(), want.to_owned())]);
        }
        let twice = [("public.users", "a.b"), ("public.\"users\"", "a.c")];
        let twice = twice.map(|(from, to)| (from.to_owned(), to.to_owned())).into();
        assert_eq!(check(&twice)[0].1, "is renamed twice: leave one");
    }
}

//! A candidate while it is held against the tables and against the generation before.
//!
//! Everything that is wrong is collected, to be told at once. What does not fit tables that
//! the stream has not reached yet is only a warning: there the stream decides.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use kasho_plugin_sdk::Relation;
use kasho_plugin_sdk::abi::{self, Use};
use kasho_plugin_sdk::pattern::TablePattern;

use crate::batch::{ddl_relation, message_relation};

use super::called::as_ruled;
use super::catalog::Catalog;
use super::config::{Config, OnError, Unruled};
use super::coverage::{Coverage, name};
use super::ddl::Ddl;
use super::error::LoadError;
use super::gate;
use super::generation::{Bound, Unfit, has_column};
use super::host::Host;
use super::instance::Instance;
use super::load::{Errors, Options};
use super::loosen::{self, Loosened};
use super::plan::{Fate, LinkPlan, Policy, RelationPlan, impostor};
use super::rename::{self, Renames};
use super::seal::key_columns;

/// What each binding does with a relation, in the order of the chain.
type Answers = (Arc<Relation>, Vec<Option<Arc<LinkPlan>>>);

/// A candidate while it is held against the tables and the running generation.
pub(super) struct Draft<'a> {
    host: &'a Host,
    config: &'a Config,
    catalog: &'a Catalog,
    /// What keeps it from being taken.
    pub(super) errors: Errors,
    /// What an operator should know of it.
    pub(super) warnings: Vec<String>,
    /// New names by the configuration's own tables.
    pub(super) renames: Renames,
    /// Tables of which some answer is not known yet.
    unknown: BTreeSet<String>,
    /// Bindings that may mask where their answer is not known.
    doubt: BTreeSet<String>,
    /// Tables that would stop the stream, and why.
    halts: BTreeMap<String, String>,
}

impl<'a> Draft<'a> {
    pub(super) fn new(
        (host, config, catalog): (&'a Host, &'a Config, &'a Catalog),
        errors: Errors,
    ) -> Draft<'a> {
        Draft {
            host,
            config,
            catalog,
            errors,
            warnings: Vec::new(),
            renames: Renames::of(config),
            unknown: BTreeSet::new(),
            doubt: BTreeSet::new(),
            halts: BTreeMap::new(),
        }
    }

    /// What does not fit the catalogue: wrong for good only once the stream has reached it.
    fn unfit(&mut self, error: LoadError) {
        match self.catalog.caught_up {
            true => self.errors.push(error),
            false => self.warnings.push(error.to_string()),
        }
    }

    /// A masking key is the same under its name for a whole epoch: with another one a
    /// person would have two fakes, and nobody's row would be found again.
    pub(super) fn same_keys(
        &mut self,
        links: &[(Arc<Bound>, Instance)],
        running: Option<&BTreeMap<String, String>>,
    ) {
        let used: BTreeMap<&str, &str> = links
            .iter()
            .filter_map(|(bound, _)| bound.key.as_deref())
            .map(|key| (key.name(), key.check_value()))
            .collect();
        for (name, was) in running.into_iter().flatten() {
            let Some(is) = used.get(name.as_str()).filter(|is| *is != was) else { continue };
            let text = format!(
                "key `{name}` is not the one that rows were masked with (check values {is}, {was} \
                 before): put the former one back, or begin a new epoch with this one: `kasho \
                 reset`, then `kasho bootstrap`"
            );
            self.errors.push(LoadError::whole("keys", text));
        }
    }

    /// Names of tables and columns that exist nowhere.
    pub(super) fn check_needs(&mut self, links: &[(Arc<Bound>, Instance)]) {
        for (bound, _) in links {
            for (text, pattern) in bound.config.tables.iter().zip(&bound.patterns) {
                if !pattern.is_glob() && !self.exists(pattern) && !is_event(pattern) {
                    let text = format!(
                        "there is no published table {text}: mend the name, or add it to the publication"
                    );
                    self.unfit(LoadError::binding(&bound.name, "tables", text));
                }
            }
            for (table, columns) in &bound.needs.needs {
                self.check_rule(bound, table, columns);
            }
        }
    }

    fn check_rule(&mut self, bound: &Bound, table: &str, columns: &[String]) {
        let wrong = |text: String| LoadError::binding(&bound.name, gate::harmless(table), text);
        let pattern = match TablePattern::parse(table) {
            Ok(pattern) => pattern,
            Err(e) => return self.errors.push(wrong(e)),
        };
        if is_event(&pattern) {
            return;
        }
        let catalog = self.catalog;
        let matched: Vec<_> = catalog.relations.iter().filter(|r| pattern.matches(r)).collect();
        if matched.is_empty() {
            return self.unfit(wrong(
                "the rules name a table that is not published, or does not exist: mend the name, take the \
                 rule out, or add the table to the publication".to_owned(),
            ));
        }
        if !matched.iter().any(|r| bound.names(r)) {
            return self.errors.push(wrong(
                "the rules name it, but `tables` does not, so the rule would never apply: add it there, or \
                 take the rule out".to_owned(),
            ));
        }
        // A literal table's columns are checked with its answer.
        let has = |r: &Arc<Relation>, column: &str| {
            bound.names(r) && has_column(&as_ruled(&bound.called, r).0, column)
        };
        for column in columns.iter().filter(|_| pattern.is_glob()) {
            if !matched.iter().any(|r| has(r, column)) {
                let column = gate::harmless(column);
                let text = format!(
                    "no table that it matches has a column {column}: mend the name, or take the rule out"
                );
                self.unfit(wrong(text));
            }
        }
    }

    /// Names of tables that are renamed, and are not there. Columns are looked for with the
    /// table's plan.
    pub(super) fn check_renames(&mut self) {
        let missing: Vec<String> = self
            .renames
            .sources()
            .into_iter()
            .filter(|(schema, table)| self.catalog.relation(schema, table).is_none())
            .map(name)
            .collect();
        for table in missing {
            let text = "it is renamed, and is not published, or does not exist: mend the name, or take the rename \
                        out";
            self.unfit(LoadError::whole(table, text));
        }
    }

    fn exists(&self, pattern: &TablePattern) -> bool {
        self.catalog.relations.iter().any(|r| pattern.matches(r))
    }

    /// Asks every binding about every relation it names.
    pub(super) fn plan(
        &mut self,
        links: &mut [(Arc<Bound>, Instance)],
    ) -> (Vec<Arc<RelationPlan>>, Policy) {
        let catalog = self.catalog;
        let mut answers = Vec::new();
        for relation in catalog.relations.iter().chain(&events()) {
            let row = links.iter_mut().map(|(bound, instance)| self.ask(bound, instance, relation));
            answers.push((Arc::clone(relation), row.collect::<Vec<_>>()));
        }
        self.ask_about_bytes(links);
        let policy = self.policy(links, &answers);
        self.look_at_ddl(policy);
        let new_columns: Vec<_> = self.config.plugged().map(|b| b.new_columns).collect();
        let on_error: Vec<_> = self.config.plugged().map(|b| b.on_error).collect();
        let names: Vec<&str> = self.config.plugged().map(|b| b.name.as_str()).collect();
        let mut plans = Vec::new();
        for (relation, row) in answers {
            let plan = RelationPlan::new(&relation, row, &new_columns, policy);
            let plan = plan.renamed(&self.renames, &names).losing(&on_error, false);
            self.look_at(&plan);
            plans.push(Arc::new(plan));
        }
        let leaving = plans.iter().filter(|plan| plan.fate == Fate::Pass);
        let leaving = leaving.map(|plan| (&*plan.relation, &**plan.leaving()));
        for (table, text) in rename::collisions(leaving) {
            self.unfit(LoadError::whole(table, text));
        }
        (plans, policy)
    }

    fn policy(&self, links: &[(Arc<Bound>, Instance)], answers: &[Answers]) -> Policy {
        let rewrites =
            |l: &LinkPlan| l.slots.iter().any(|s| matches!(s.usage, Use::Mask | Use::Drop));
        let answered = |at: usize| answers.iter().filter_map(move |(_, row)| row[at].as_deref());
        let may = |at: usize, bound: &Bound| {
            let mut known = answered(at).peekable();
            // What has answered, and masks nothing there, is not taken for a mask elsewhere.
            let reads = known.peek().is_some() && !known.any(rewrites);
            // A binding whose tables are not there yet may mask them when they come.
            let tables = !bound.patterns.iter().all(is_event);
            let unseen = tables && !self.catalog.relations.iter().any(|r| bound.names(r));
            unseen || (self.doubt.contains(&bound.config.name) && !reads)
        };
        let masks = |at: usize, bound: &Bound| answered(at).any(rewrites) || may(at, bound);
        let masks = links.iter().enumerate().any(|(at, (bound, _))| masks(at, bound));
        Policy { masks, unruled: self.config.unruled_tables, ddl: self.config.ddl }
    }

    /// Statements as they are written carry values.
    fn look_at_ddl(&mut self, policy: Policy) {
        if policy.masks && policy.ddl == Some(Ddl::Text) && !self.config.allow_unmasked {
            let text = "\"text\" lets schema changes out as they are written, with every value in \
                        them: say allow_unmasked = true beside it, or ddl = \"structural\"";
            self.errors.push(LoadError::whole("ddl".to_owned(), text.to_owned()));
        }
    }

    /// What a plan says that an operator has to know.
    fn look_at(&mut self, plan: &RelationPlan) {
        let (relation, table) = (&plan.relation, plan.relation.qualified());
        self.found_again(plan);
        if let Some(reason) = impostor(relation) {
            self.errors.push(LoadError::whole(table.clone(), reason));
        }
        // Messages that nobody subscribes to stop the stream when one comes, not the load. Where
        // an answer is not known, it has been told why, and a rule may be all but lacking.
        let told = relation.is_virtual() || self.unknown.contains(&table);
        if let (Fate::Halt(reason), false) = (&plan.fate, told) {
            self.unfit(LoadError::whole(table.clone(), reason.clone()));
            self.halts.insert(table.clone(), reason.clone());
        }
        for column in &plan.open {
            let column = &relation.columns[*column].name;
            self.warnings
                .push(format!("{table}: column {column} passes, by new_columns = \"pass\""));
        }
    }

    /// A row that is set aside has to be found again.
    fn found_again(&mut self, plan: &RelationPlan) {
        let relation = &plan.relation;
        if relation.is_virtual() || !key_columns(relation).is_empty() {
            return;
        }
        let bindings = self.config.plugged().zip(&plan.links);
        let aside = bindings.filter(|(b, l)| l.is_some() && b.on_error == OnError::DeadLetter);
        let errors: Vec<LoadError> = aside
            .map(|(binding, _)| {
                let text = format!(
                    "on_error = \"dead_letter\" sets rows of {} aside, and it has no primary key by which \
                     one could be found again: give it one, or choose another policy",
                    relation.qualified()
                );
                LoadError::binding(&binding.name, relation.qualified(), text)
            })
            .collect();
        errors.into_iter().for_each(|error| self.unfit(error));
    }

    fn ask(
        &mut self,
        bound: &Bound,
        instance: &mut Instance,
        relation: &Arc<Relation>,
    ) -> Option<Arc<LinkPlan>> {
        if !bound.names(relation) {
            return None;
        }
        match bound.ask(self.host, instance, relation) {
            Ok(plan) => plan,
            Err(wrong) => {
                let table = relation.qualified();
                self.doubt.insert(bound.config.name.clone());
                self.unknown.insert(table.clone());
                for text in wrong.told() {
                    // A guest names the table it was asked about, which is told already.
                    let own = text.strip_prefix(&table).and_then(|rest| rest.strip_prefix(": "));
                    let text = own.unwrap_or(&text);
                    let error = LoadError::binding(&bound.name, table.clone(), text);
                    // What stands for events is not the catalogue's, and no stream differs.
                    match relation.is_virtual() {
                        true => self.errors.push(error),
                        false => self.unfit(error),
                    }
                }
                None
            }
        }
    }

    /// Messages whose content is no text are described otherwise; not everybody has any.
    fn ask_about_bytes(&mut self, links: &mut [(Arc<Bound>, Instance)]) {
        let bytes = message_relation(true);
        for (bound, instance) in links.iter_mut().filter(|(bound, _)| bound.names(&bytes)) {
            let told = bound.ask(self.host, instance, &bytes).err();
            let told = told.map(Unfit::told).unwrap_or_default();
            self.warnings.extend(told.into_iter().map(|text| {
                let error = LoadError::binding(&bound.name, bytes.qualified(), text);
                format!(
                    "{error} (of messages whose content is no text: the first one stops the stream)"
                )
            }));
        }
    }

    pub(super) fn check_keys(&mut self, coverage: &Coverage) {
        for broken in coverage.broken_keys(self.catalog) {
            let line = broken.add.and_then(|(like, column)| {
                let rules = self.config.transform.iter().find_map(|b| b.rules.get(&like))?;
                Some(format!(": {} = {rules}", toml::Value::String(column)))
            });
            let text = format!("{}{}", broken.text, line.unwrap_or_default());
            self.unfit(LoadError::whole(broken.at, text));
        }
    }

    /// The loosening guard, and that identities do not move. What cannot be compared is
    /// carried over into `coverage`.
    pub(super) fn compare(&mut self, coverage: &mut Coverage, digest: &str, options: Options<'_>) {
        let Some(running) = options.running else { return };
        let accepted = options.accepts(self.config, digest);
        let confirmed = accepted || self.config.accept_unmask;
        let said = (self.config.unruled_tables == Some(Unruled::Pass), self.catalog.caught_up);
        for loosened in loosen::loosened(running, coverage, &self.unknown, said) {
            self.judge(&loosened, confirmed, digest);
        }
        self.newly_halted(running, coverage, options.digest == Some(digest));
        let identity = loosen::moved(running, coverage, &self.unknown, self.catalog);
        let reloading = |table: &String| options.reloading.is_some_and(|all| all.contains(table));
        let tables: BTreeSet<&String> = identity.iter().map(|(table, _)| table).collect();
        let again: String = tables.iter().map(|table| format!(" --table {table}")).collect();
        let whole = tables.iter().all(|table| reloading(table));
        for (_, at) in identity.iter().filter(|_| !accepted && !whole && !options.fresh) {
            let text = format!(
                "it says where rows are, and this configuration maps it otherwise: rows already \
                 loaded would no longer be found. Load what it moves again (`kasho bootstrap{again}`): \
                 this configuration is taken where that load begins. Or confirm with \
                 accept = \"{digest}\", and see to the rows that are there yourself"
            );
            self.errors.push(LoadError::whole(at.clone(), text));
        }
        let renamed = loosen::renamed(running, coverage, &self.unknown);
        for loosen::Renamed { table, at, was, is } in renamed {
            // Where it is loaded again is told by its former name, before this would be taken:
            // so that load does not stand for it.
            if !accepted && !options.fresh {
                let text = format!(
                    "it left as {was}, and with this configuration it leaves as {is}: rows already \
                     loaded stand under the former name. Confirm with accept = \"{digest}\", then \
                     load the table again (`kasho bootstrap --table {table}`)"
                );
                self.errors.push(LoadError::whole(at, text));
            }
        }
        loosen::carry(running, coverage, &self.unknown, !confirmed);
        if !options.fresh {
            let loaded = |id: u32| options.loaded.is_some_and(|all| all.contains(&id));
            loosen::carry_rows(running, coverage, &self.unknown, loaded);
        }
        self.warnings.extend(coverage.told_of_older(self.catalog));
    }

    fn judge(&mut self, loosened: &Loosened, confirmed: bool, digest: &str) {
        let Loosened { at, said, was, say } = loosened;
        let text = match (said, confirmed) {
            (true, true) => {
                self.warnings.push(format!("{at}: {was}; it leaves from now on"));
                return;
            }
            (true, false) => format!(
                "{was}, and this configuration lets it out: confirm with accept_unmask = true, or \
                 this candidate alone with accept = \"{digest}\""
            ),
            (false, _) => format!(
                "{was}, and this configuration lets it out without saying so: restore the rule, or \
                 say so by name ({})",
                say.as_deref().unwrap_or("a rule of its own")
            ),
        };
        self.errors.push(LoadError::whole(at.clone(), text));
    }

    /// A table whose rows went on and that would now stop the stream. Files that did not
    /// change are not refused for what the tables have become.
    fn newly_halted(&mut self, running: &Coverage, coverage: &Coverage, same: bool) {
        if same || self.catalog.caught_up {
            return;
        }
        for (table, reason) in std::mem::take(&mut self.halts) {
            let id = coverage.tables.get(&table).map_or(0, |table| table.id);
            let went_on = running.find(id, &table).is_some_and(|(_, before)| !before.closed);
            if went_on && !self.unknown.contains(&table) {
                self.errors.push(LoadError::whole(table, reason));
            }
        }
    }
}

/// What is asked about beside tables: whatever is in force must be known of them too.
fn events() -> [Arc<Relation>; 2] {
    [message_relation(false), ddl_relation()]
}

fn is_event(pattern: &TablePattern) -> bool {
    let name = (pattern.schema.text(), pattern.table.text());
    !pattern.is_glob() && [abi::DDL_RELATION, abi::MESSAGE_RELATION].contains(&name)
}

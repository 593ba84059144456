//! One immutable chain: bindings, compiled and asked, with what they cover.
//!
//! A generation that is in force was made by [`super::load`], of files or of what was kept
//! of an earlier one; [`super::probe`] makes stand-ins of two. A [`super::Chain`] runs it, and
//! notes what rows show of tables. What can go wrong here is a guest that does not start, or
//! that answers otherwise than when it was loaded.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use std::time::SystemTime;

use kasho_plugin_sdk::Relation;
use kasho_plugin_sdk::abi::{self, Answer, Needs};
use kasho_plugin_sdk::pattern::TablePattern;

use super::archive::Kept;
use super::called::{Called, as_known, as_ruled};
use super::config::Binding;
use super::coverage::Coverage;
use super::figures::Figures;
use super::gate;
use super::host::{Compiled, Host, hex};
use super::imports::LogLines;
use super::instance::{Ceilings, Failure, Instance, complaint};
use super::keys::Key;
use super::plan::{LinkPlan, Named, Policy, RelationPlan};
use super::rename::Renames;
use super::seal::DeadKey;
use super::seen::{Seen, Viewer};

/// A plugin of a generation, for status.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct PluginInfo {
    /// Name of the binding.
    pub binding: String,
    /// File name.
    pub plugin: String,
    /// SHA-256 of the file, hexadecimal.
    pub sha256: String,
    /// Its version, if it says one.
    pub version: Option<String>,
    /// Its patterns.
    pub tables: Vec<String>,
    /// Policies `pass` that it runs under.
    pub unmasked: Vec<&'static str>,
    /// How long the compiler took, or finding its work of before.
    pub compiled: Duration,
}

/// A binding, ready to run.
#[derive(Debug)]
pub(super) struct Bound {
    pub(super) config: Binding,
    pub(super) name: Arc<str>,
    pub(super) patterns: Vec<TablePattern>,
    pub(super) called: Vec<Called>,
    pub(super) compiled: Arc<Compiled>,
    pub(super) key: Option<Arc<Key>>,
    pub(super) init: abi::Init,
    pub(super) needs: Needs,
    pub(super) ceilings: Ceilings,
    pub(super) figures: Arc<Figures>,
}

/// The word of generations in a row that are one but for what they know of the rows before
/// them, also from start to start: nothing else was in force between any two of them.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Run(String);

impl Run {
    /// That of a first one: nobody else's.
    #[must_use]
    pub fn new() -> Run {
        let mut word = [0; 16];
        match getrandom::fill(&mut word) {
            Ok(()) => Run(hex(&word)),
            // Two that were taken for one would be told less of than is so: a moment is another
            // one each time, too.
            Err(_) => Run(format!("{:?}", SystemTime::now())),
        }
    }
}

impl Default for Run {
    fn default() -> Run {
        Run::new()
    }
}

/// What a plugin answered to a relation.
pub(super) type Asked = Result<Option<Arc<LinkPlan>>, Unfit>;

/// Why a plugin has no answer to a relation that can be used.
#[derive(Debug)]
pub(super) enum Unfit {
    /// The call failed.
    Failed(Failure),
    /// It refuses, or its answer does not fit the table.
    Wrong(Vec<String>),
}

impl Unfit {
    /// Everything that is wrong.
    pub(super) fn told(self) -> Vec<String> {
        match self {
            Unfit::Failed(failure) => vec![failure.to_string()],
            Unfit::Wrong(wrong) => wrong,
        }
    }
}

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Unfit::Failed(failure) => failure.fmt(f),
            Unfit::Wrong(wrong) => f.write_str(&wrong.join("; ")),
        }
    }
}

impl Bound {
    /// Whether the binding names this relation. Events that are not rows are named only
    /// word by word: `*.*` means tables.
    pub(super) fn names(&self, relation: &Relation) -> bool {
        let word = relation.is_virtual();
        self.patterns.iter().any(|p| p.matches(relation) && !(word && p.is_glob()))
    }

    /// A fresh instance that has been through init; with ten times the time if once was
    /// not enough, for it did start when it was loaded.
    pub(super) fn start(&self, host: &Host) -> Result<Instance, Failure> {
        match self.start_within(host, &self.ceilings) {
            Err(Failure::Deadline { .. }) => self.start_within(host, &self.ceilings.patient()),
            started => started,
        }
    }

    fn start_within(&self, host: &Host, ceilings: &Ceilings) -> Result<Instance, Failure> {
        let (instance, needs) =
            start(host, &self.compiled, ceilings, &self.init, self.key.as_deref())?;
        if needs != self.needs {
            return Err(Failure::Fickle(
                "its init answers otherwise than when it was loaded: it must not depend on anything but the \
                 rules".to_owned(),
            ));
        }
        Ok(instance)
    }

    /// Asks an instance that has seen no row what it does with a relation. One that has no
    /// answer in time makes room for a fresh one, which has ten times as long.
    pub(super) fn ask(
        &self,
        host: &Host,
        instance: &mut Instance,
        relation: &Arc<Relation>,
    ) -> Asked {
        let (known, mut wrong) = as_ruled(&self.called, relation);
        wrong.extend(self.missing_columns(&known));
        let mut answer = instance.relation(&known);
        if matches!(answer, Err(Failure::Deadline { .. })) {
            let patient = self.ceilings.patient();
            *instance = self.start_within(host, &patient).map_err(Unfit::Failed)?;
            answer = instance.relation(&known);
        }
        // Rows come under the description that the source gives.
        if answer.is_ok() {
            instance.announced.insert(relation.id, Arc::clone(relation));
        }
        match answer.map_err(Unfit::Failed)? {
            None if wrong.is_empty() => return Ok(None),
            Some(Answer::Ok(wanted))
                if wanted.commit_time && !self.uses(abi::FEATURE_COMMIT_TIME) =>
            {
                let text = "the plugin asks for commit times without the feature `commit_time` among \
                            what it uses: declare it at init (ABI.md, kasho_init)";
                wrong.push(text.to_owned());
            }
            Some(Answer::Ok(wanted)) if wrong.is_empty() => {
                let mut plan = LinkPlan::new(&known, &wanted, |own| self.mapping(own))
                    .map_err(Unfit::Wrong)?;
                let of = |column: &str| self.named(relation, Some(column));
                plan.name(self.named(relation, None), of);
                let columns = plan.rename.iter_mut().flat_map(|rename| &mut rename.columns);
                let columns = columns.map(|(column, to)| (column.clone(), to.clone()));
                let columns = columns.map(|(column, to)| (as_known(&known, relation, &column), to));
                let columns = columns.collect();
                if let Some(rename) = &mut plan.rename {
                    rename.columns = columns;
                }
                plan.relation = Arc::clone(relation);
                return Ok(Some(Arc::new(plan)));
            }
            Some(Answer::Error(text)) => wrong.push(complaint(&text)),
            None | Some(Answer::Ok(_)) => {}
        }
        Err(Unfit::Wrong(wrong))
    }

    fn uses(&self, feature: &str) -> bool {
        self.needs.uses.iter().any(|used| used == feature)
    }

    /// How exactly the rules name a table, or a column of it.
    fn named(&self, relation: &Relation, column: Option<&str>) -> Named {
        let speaks = |columns: &[String]| column.is_none_or(|c| columns.iter().any(|n| n == c));
        let named = self.needs.needs.iter().filter(|(_, columns)| speaks(columns));
        let named = named.filter_map(|(table, _)| TablePattern::parse(table).ok());
        let named = named.filter(|pattern| pattern.matches(relation));
        let exact = |p: TablePattern| if p.is_glob() { Named::Pattern } else { Named::Exactly };
        named.map(exact).max().unwrap_or_default()
    }

    /// Columns that the rules name in this very table and that it does not have.
    fn missing_columns(&self, relation: &Relation) -> Vec<String> {
        let tables = self.needs.needs.iter().filter(|(table, _)| {
            TablePattern::parse(table).is_ok_and(|p| !p.is_glob() && p.matches(relation))
        });
        let columns = tables.flat_map(|(_, columns)| columns);
        columns
            .filter(|pattern| !has_column(relation, pattern))
            .map(|column| {
                format!(
                    "the rules name column {}, which {} does not have: mend the name, or take the rule out",
                    gate::harmless(column),
                    relation.qualified()
                )
            })
            .collect()
    }

    /// The fingerprint of a rewritten column, with the key. One that has none of its own
    /// is as changeable as the plugin's code and rules.
    fn mapping(&self, own: Option<&str>) -> String {
        let key = self.key.as_deref().filter(|_| !self.needs.domains.is_empty());
        let key = key.map(|k| format!(";key={}:{}", k.name(), k.check_value())).unwrap_or_default();
        match own {
            Some(own) => format!("{own}{key}"),
            None => format!("{};rules={}{key}", self.compiled.sha256, self.init.rules),
        }
    }

    /// The same with figures and log lines that nobody sees, and another key.
    pub(super) fn stand_in(&self, key: Option<Arc<Key>>) -> Bound {
        Bound {
            config: self.config.clone(),
            name: Arc::clone(&self.name),
            patterns: self.patterns.clone(),
            called: self.called.clone(),
            compiled: Arc::clone(&self.compiled),
            key,
            init: self.init.clone(),
            needs: self.needs.clone(),
            ceilings: Ceilings { lines: LogLines::unseen(), ..self.ceilings.clone() },
            figures: Arc::default(),
        }
    }

    fn info(&self) -> PluginInfo {
        let config = &self.config;
        let mut unmasked = Vec::new();
        if config.on_error == super::OnError::Pass {
            unmasked.push("on_error");
        }
        if config.new_columns == super::NewColumns::Pass {
            unmasked.push("new_columns");
        }
        PluginInfo {
            binding: config.name.clone(),
            plugin: config.plugin.clone(),
            sha256: self.compiled.sha256.clone(),
            version: Some(self.compiled.checked.description.version.clone())
                .filter(|version| !version.is_empty()),
            tables: config.tables.clone(),
            unmasked,
            compiled: self.compiled.took,
        }
    }
}

/// Whether a relation has a column of this name or pattern.
pub(super) fn has_column(relation: &Relation, pattern: &str) -> bool {
    let exact = relation.columns.iter().any(|c| c.name == pattern);
    let parts = kasho_plugin_sdk::pattern::parts(pattern);
    let part = parts.ok().and_then(|parts| <[_; 1]>::try_from(parts).ok());
    exact || part.is_some_and(|[part]| relation.columns.iter().any(|c| part.matches(&c.name)))
}

/// Instantiates and initialises; the answer has been checked for its bounds.
pub(super) fn start(
    host: &Host,
    compiled: &Compiled,
    ceilings: &Ceilings,
    init: &abi::Init,
    key: Option<&Key>,
) -> Result<(Instance, Needs), Failure> {
    let mut instance = Instance::new(host, compiled, ceilings)?;
    let needs = match instance.init(init)? {
        Answer::Ok(needs) => needs,
        Answer::Error(text) => return Err(Failure::Fickle(complaint(&text))),
    };
    if let Some(wrong) = out_of_bounds(&needs, key.is_some()) {
        return Err(Failure::Fickle(wrong));
    }
    let state = instance.state();
    state.counters = vec![0; needs.texts.len()];
    if let Some(key) = key {
        state.domains = needs.domains.iter().map(|domain| key.domain(domain)).collect();
    }
    Ok((instance, needs))
}

fn out_of_bounds(needs: &Needs, keyed: bool) -> Option<String> {
    let bad = |all: &[String]| {
        all.len() > abi::MAX_TEXTS
            || all.iter().any(|t| t.len() > abi::MAX_TEXT_BYTES || t.chars().any(char::is_control))
    };
    if bad(&needs.texts) || bad(&needs.domains) {
        return Some(format!(
            "it declares more than {} texts or domains, or one beyond {} bytes or with control \
             characters: declare fewer, or shorter ones",
            abi::MAX_TEXTS,
            abi::MAX_TEXT_BYTES
        ));
    }
    let uses_prf = needs.uses.iter().any(|u| u == abi::FEATURE_PRF) || !needs.domains.is_empty();
    if uses_prf && !keyed {
        return Some(
            "its rules need a masking key, and there is none: add `k1 = { file = \"…\" }` under \
             [keys] (`openssl rand -hex 32` makes one)"
                .to_owned(),
        );
    }
    let known = [abi::FEATURE_PRF, abi::FEATURE_COMMIT_TIME];
    let unknown = needs.uses.iter().find(|u| !known.contains(&u.as_str()))?;
    let unknown = gate::harmless(unknown);
    Some(format!(
        "it uses the feature `{unknown}`, which this host does not have: take a newer host, or the \
         plugin made for it"
    ))
}

/// An immutable chain.
pub struct Generation {
    pub(super) number: u64,
    pub(super) run: Run,
    pub(super) digest: String,
    pub(super) since: SystemTime,
    pub(super) host: Arc<Host>,
    pub(super) bound: Vec<Arc<Bound>>,
    pub(super) policy: Policy,
    pub(super) renames: Renames,
    pub(super) coverage: Coverage,
    pub(super) warnings: Vec<String>,
    pub(super) plans: Vec<Arc<RelationPlan>>,
    pub(super) ready: Mutex<Option<Vec<Instance>>>,
    /// What the keys of rows that are set aside are sealed under.
    pub(super) dead: Option<Arc<DeadKey>>,
    pub(super) kept: Arc<Kept>,
    /// What rows have shown of tables, to it and to those before it.
    pub(super) seen: Arc<Seen>,
    /// Number of the newest sight that it was held against when it was loaded.
    pub(super) told: u64,
}

impl fmt::Debug for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Generation({}, {})", self.number, self.digest)
    }
}

impl Generation {
    /// Its number, in the order of adoption; the field `g` of what it let through.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Digest of everything that shapes what it lets through: plugins, rules, policies,
    /// keys' check values.
    #[must_use]
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// The run that it belongs to.
    #[must_use]
    pub fn run(&self) -> &Run {
        &self.run
    }

    /// The same one, which goes on with what another process had in force last.
    #[must_use]
    pub fn going_on(self, run: Run) -> Generation {
        Generation { run, ..self }
    }

    /// When it was loaded.
    #[must_use]
    pub fn since(&self) -> SystemTime {
        self.since
    }

    /// The same under another number.
    #[must_use]
    pub fn numbered(self, number: u64) -> Generation {
        Generation { number, ..self }
    }

    /// What it is made of, to be kept.
    #[must_use]
    pub fn kept(&self) -> &Arc<Kept> {
        &self.kept
    }

    /// What it masks, drops and filters, of the tables that there are by what rows have
    /// shown of them since it was loaded.
    #[must_use]
    pub fn covered(&self) -> Coverage {
        self.seen.over(self.viewer())
    }

    /// How much rows have shown of tables: more than before if [`Generation::covered`] says more.
    #[must_use]
    pub fn learned(&self) -> u64 {
        self.seen.newest()
    }

    pub(super) fn viewer(&self) -> Viewer<'_> {
        Viewer { digest: &self.digest, told: self.told, coverage: &self.coverage }
    }

    /// What it masks, drops and filters, by the tables that it was loaded with.
    #[must_use]
    pub fn coverage(&self) -> &Coverage {
        &self.coverage
    }

    /// The name that a table of the source leaves under; both as in
    /// [`kasho_plugin_sdk::Relation::qualified`].
    #[must_use]
    pub fn leaves_as(&self, table: &str) -> String {
        let known = self.coverage.tables.get(table).and_then(|known| known.leaves_as.clone());
        let named = || match &TablePattern::parse(table) {
            Ok(name) => self.renames.table(name.schema.text(), name.table.text()),
            Err(_) => None,
        };
        known.or_else(named).unwrap_or_else(|| table.to_owned())
    }

    /// What an operator should know of it.
    #[must_use]
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Its plugins.
    #[must_use]
    pub fn plugins(&self) -> Vec<PluginInfo> {
        self.bound.iter().map(|b| b.info()).collect()
    }

    /// What each binding did, by its name.
    #[must_use]
    pub fn figures(&self) -> BTreeMap<String, &Figures> {
        self.bound.iter().map(|b| (b.config.name.clone(), &*b.figures)).collect()
    }

    /// Goes on where the generation before it stands: with its figures, and with what rows
    /// have shown of tables. To be called before anybody runs it.
    pub(super) fn go_on(&mut self, before: &Generation) {
        self.seen = Arc::clone(&before.seen);
        // A service begins with one that nothing passes.
        if self.digest == before.digest && before.number > 0 {
            self.run = before.run.clone();
        }
        // Nobody else has them yet.
        for bound in self.bound.iter_mut().filter_map(Arc::get_mut) {
            if let Some(same) = before.bound.iter().find(|other| other.name == bound.name) {
                bound.figures = Arc::clone(&same.figures);
            }
        }
    }

    /// Check values of the keys it uses, by name.
    #[must_use]
    pub fn key_checks(&self) -> BTreeMap<String, String> {
        let keys = self.bound.iter().filter_map(|b| b.key.as_ref());
        keys.map(|k| (k.name().to_owned(), k.check_value().to_owned())).collect()
    }

    /// The instances that were made to check it, for the first chain that runs it.
    pub(super) fn take_ready(&self) -> Option<Vec<Instance>> {
        self.ready.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

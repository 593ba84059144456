//! From configuration and files to a generation, or to everything that is wrong with them.
//!
//! Nothing here touches what runs: a candidate is checked, compiled, started and asked
//! about every table in throw-away instances under the limits of production, and only
//! then handed over. It blocks (files, the compiler): call it off the runtime.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use kasho_plugin_sdk::abi::{self, Needs, Use};
use kasho_plugin_sdk::pattern::TablePattern;
use sha2::{Digest, Sha256};

use super::catalog::Catalog;
use super::config::{Binding, Config, Unruled};
use super::coverage::Coverage;
use super::error::LoadError;
use super::generation::{Bound, Figures, Generation, has_column, start};
use super::host::{Host, hex};
use super::instance::{Ceilings, Instance};
use super::keys::Key;
use super::plan::{Fate, LinkPlan, Policy, RelationPlan, is_virtual};

/// What a candidate is held against.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options<'a> {
    /// What the running generation covers, or the checkpoint's: a candidate may not cover
    /// less without being told so twice.
    pub running: Option<&'a Coverage>,
    /// Digests of candidates that somebody confirmed.
    pub accepted: Option<&'a BTreeSet<String>>,
    /// Check values of the running generation's masking keys, by name.
    pub keys: Option<&'a BTreeMap<String, String>>,
    /// Number of the new generation.
    pub number: u64,
}

type Errors = Vec<LoadError>;

/// Loads a generation.
///
/// # Errors
/// Everything that is wrong, at once.
pub fn load(
    host: &Arc<Host>,
    config: &Config,
    catalog: &Catalog,
    options: Options<'_>,
) -> Result<Generation, Vec<LoadError>> {
    let mut errors = settings(config);
    let keys = read_keys(config, &mut errors);
    let mut links = Vec::new();
    for binding in &config.transform {
        match bind(host, config, binding, &keys) {
            Ok((bound, instance)) => links.push((Arc::new(bound), instance)),
            Err(wrong) => errors.extend(wrong),
        }
    }
    if !errors.is_empty() {
        return Err(errors);
    }
    let mut draft = Draft { config, catalog, errors, warnings: Vec::new(), doubt: false };
    draft.check_needs(&links);
    draft.same_keys(&links, options.keys);
    let (plans, policy) = draft.plan(&mut links);
    let names: Vec<&str> = config.transform.iter().map(|b| b.name.as_str()).collect();
    let coverage = Coverage::of(plans.iter().map(Arc::as_ref), &names, policy);
    let digest = digest(config, &links, policy);
    draft.check_keys(&coverage);
    draft.compare(&coverage, &digest, options);
    let Draft { errors, warnings, .. } = draft;
    if !errors.is_empty() {
        return Err(errors);
    }
    let (bound, instances): (Vec<_>, Vec<_>) = links.into_iter().unzip();
    Ok(Generation {
        number: options.number,
        digest,
        since: SystemTime::now(),
        host: Arc::clone(host),
        bound,
        policy,
        coverage,
        warnings,
        // While the stream lags behind the catalogue, its own descriptions decide.
        plans: if catalog.caught_up { plans } else { Vec::new() },
        ready: Mutex::new(Some(instances)),
    })
}

/// Settings that contradict one another.
fn settings(config: &Config) -> Errors {
    let name = |i: usize| config.transform.get(i).map_or("", |binding| binding.name.as_str());
    let error = |(binding, at, text): (Option<usize>, String, String)| match binding {
        Some(i) => LoadError::binding(name(i), at, text),
        None => LoadError::whole(at, text),
    };
    config.check().into_iter().map(error).collect()
}

fn read_keys(config: &Config, errors: &mut Errors) -> BTreeMap<String, Arc<Key>> {
    let mut keys = BTreeMap::new();
    for (name, source) in &config.keys {
        match Key::read(name, source) {
            Ok(key) => drop(keys.insert(name.clone(), Arc::new(key))),
            Err(e) => errors.push(LoadError::whole("keys", e.to_string())),
        }
    }
    keys
}

/// Everything about one binding that needs no table.
fn bind(
    host: &Host,
    config: &Config,
    binding: &Binding,
    keys: &BTreeMap<String, Arc<Key>>,
) -> Result<(Bound, Instance), Errors> {
    let wrong = |at: &str, text: String| LoadError::binding(&binding.name, at, text);
    let mut errors = Vec::new();
    // What is no pattern has been told.
    let patterns = binding.tables.iter().filter_map(|table| TablePattern::parse(table).ok());
    let patterns = patterns.collect();
    let key = choose_key(binding, keys);
    let compiled = read(&config.plugins.folder, binding).and_then(|wasm| {
        pinned(binding, &wasm)?;
        host.compile(&wasm, (binding.max_file_mib as usize) << 20)
    });
    let compiled = compiled.map_err(|e| errors.push(wrong(&binding.plugin, e))).ok();
    let (Some(compiled), true) = (compiled, errors.is_empty()) else { return Err(errors) };
    let ceilings = Ceilings {
        binding: Arc::from(binding.name.as_str()),
        memory_bytes: (binding.memory_mib as usize) << 20,
        deadline_ms: u64::from(binding.deadline_ms),
        init_ms: u64::from(binding.init_ms),
    };
    let init = init(binding, key.is_some());
    let (instance, needs) = start(host, &compiled, &ceilings, &init, key.as_deref())
        .map_err(|failure| vec![wrong(&binding.plugin, failure.to_string())])?;
    errors.extend(above(binding, &needs).into_iter().map(|(at, text)| wrong(at, text)));
    if !errors.is_empty() {
        return Err(errors);
    }
    let (name, figures) = (Arc::clone(&ceilings.binding), Arc::<Figures>::default());
    let config = binding.clone();
    Ok((Bound { config, name, patterns, compiled, key, init, needs, ceilings, figures }, instance))
}

fn init(binding: &Binding, keyed: bool) -> abi::Init {
    let mut features = vec![abi::FEATURE_COMMIT_TIME.to_owned()];
    if keyed {
        features.push(abi::FEATURE_PRF.to_owned());
    }
    abi::Init {
        abi: abi::VERSION.to_owned(),
        host: env!("CARGO_PKG_VERSION").to_owned(),
        features,
        rules: binding.rules_json(),
        limits: abi::Limits { memory_mib: binding.memory_mib, deadline_ms: binding.deadline_ms },
    }
}

/// What a plugin asks for beyond the binding's ceilings.
fn above(binding: &Binding, needs: &Needs) -> Vec<(&'static str, String)> {
    let asked = [
        ("memory_mib", needs.memory_mib, binding.memory_mib),
        ("deadline_ms", needs.deadline_ms, binding.deadline_ms),
    ];
    let above = asked
        .into_iter()
        .filter_map(|(at, asked, may)| Some((at, asked.filter(|n| *n > may)?, may)));
    above
        .map(|(at, n, may)| {
            (at, format!("the plugin asks for {n}, it may have {may}: set {at} = {n}"))
        })
        .collect()
}

/// That there is one to choose has been checked.
fn choose_key(binding: &Binding, keys: &BTreeMap<String, Arc<Key>>) -> Option<Arc<Key>> {
    match &binding.key {
        Some(name) => keys.get(name).cloned(),
        None => keys.values().next().cloned(),
    }
}

/// A plugin's file; its name is a name, never a path out of the folder.
fn read(folder: &Path, binding: &Binding) -> Result<Vec<u8>, String> {
    let name = Path::new(&binding.plugin);
    let plain = name.components().all(|c| matches!(c, std::path::Component::Normal(_)));
    if !plain {
        return Err("a plugin is a file in the plugin folder (plugins.folder)".to_owned());
    }
    let path = folder.join(name);
    let limit = u64::from(binding.max_file_mib) << 20;
    let size = std::fs::metadata(&path).map_err(|e| format!("{}: {e}", path.display()))?.len();
    if size > limit {
        return Err(format!("{} MiB, above max_file_mib = {}", size >> 20, binding.max_file_mib));
    }
    std::fs::read(&path).map_err(|e| format!("{}: {e}", path.display()))
}

fn pinned(binding: &Binding, wasm: &[u8]) -> Result<(), String> {
    let Some(pin) = &binding.sha256 else { return Ok(()) };
    let is = hex(&Sha256::digest(wasm));
    match pin.eq_ignore_ascii_case(&is) {
        true => Ok(()),
        false => Err(format!("the file's SHA-256 is {is}, the binding pins {pin}")),
    }
}

fn digest(config: &Config, links: &[(Arc<Bound>, Instance)], policy: Policy) -> String {
    let mut hash = Sha256::new();
    let mut add = |text: &str| {
        hash.update((text.len() as u64).to_le_bytes());
        hash.update(text);
    };
    add(abi::VERSION);
    add(&format!("{:?}", policy.unnamed()));
    for ((bound, _), binding) in links.iter().zip(&config.transform) {
        add(&bound.compiled.sha256);
        add(&serde_json::to_string(binding).unwrap_or_default());
        add(&bound.init.rules.to_string());
        add(bound.key.as_ref().map_or("", |key| key.check_value()));
    }
    hex(&hash.finalize())
}

/// A candidate while it is held against the tables and the running generation.
struct Draft<'a> {
    config: &'a Config,
    catalog: &'a Catalog,
    errors: Errors,
    warnings: Vec<String>,
    /// Some answer is not known yet.
    doubt: bool,
}

impl Draft<'_> {
    /// What does not fit the catalogue: wrong for good only once the stream has reached it.
    fn unfit(&mut self, error: LoadError) {
        match self.catalog.caught_up {
            true => self.errors.push(error),
            false => self.warnings.push(error.to_string()),
        }
    }

    /// A masking key is the same under its name for a whole epoch: with another one a
    /// person would have two fakes, and nobody's row would be found again.
    fn same_keys(
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
    fn check_needs(&mut self, links: &[(Arc<Bound>, Instance)]) {
        for (bound, _) in links {
            for (text, pattern) in bound.config.tables.iter().zip(&bound.patterns) {
                if !pattern.is_glob() && !self.exists(pattern) && !is_event(pattern) {
                    let text = format!("there is no published table {text}");
                    self.unfit(LoadError::binding(&bound.name, "tables", text));
                }
            }
            for (table, columns) in &bound.needs.needs {
                self.check_rule(bound, table, columns);
            }
        }
    }

    fn check_rule(&mut self, bound: &Bound, table: &str, columns: &[String]) {
        let wrong = |text: String| LoadError::binding(&bound.name, table, text);
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
                "the rules name a table that is not published, or does not exist".to_owned(),
            ));
        }
        if !matched.iter().any(|r| bound.names(r)) {
            return self.errors.push(wrong(
                "the rules name it, but `tables` does not: the rule would never apply".to_owned(),
            ));
        }
        // A literal table's columns are checked with its answer.
        for column in columns.iter().filter(|_| pattern.is_glob()) {
            if !matched.iter().any(|r| bound.names(r) && has_column(r, column)) {
                let text = format!("no table that it matches has a column {column}");
                self.unfit(wrong(text));
            }
        }
    }

    fn exists(&self, pattern: &TablePattern) -> bool {
        self.catalog.relations.iter().any(|r| pattern.matches(r))
    }

    /// Asks every binding about every table it names.
    fn plan(&mut self, links: &mut [(Arc<Bound>, Instance)]) -> (Vec<Arc<RelationPlan>>, Policy) {
        let catalog = self.catalog;
        let mut answers = Vec::new();
        for relation in &catalog.relations {
            let mut row = Vec::new();
            for (bound, instance) in links.iter_mut() {
                row.push(self.ask(bound, instance, relation));
            }
            answers.push((relation, row));
        }
        let rewrites =
            |l: &LinkPlan| l.slots.iter().any(|s| matches!(s.usage, Use::Mask | Use::Drop));
        let told = answers.iter().flat_map(|(_, row)| row.iter().flatten()).any(|l| rewrites(l));
        // A binding whose tables are not there yet may mask them when they come.
        let tables = |b: &Bound| !b.patterns.iter().all(is_event);
        let unseen = |b: &Bound| !catalog.relations.iter().any(|r| b.names(r));
        let may = self.doubt || links.iter().any(|(b, _)| tables(b) && unseen(b));
        let policy = Policy { masks: told || may, unruled: self.config.unruled_tables };
        let new_columns: Vec<_> = self.config.transform.iter().map(|b| b.new_columns).collect();
        let mut plans = Vec::new();
        for (relation, row) in answers {
            let plan = RelationPlan::new(relation, row, &new_columns, policy);
            if let Fate::Halt(reason) = &plan.fate {
                self.unfit(LoadError::whole(relation.qualified(), reason.clone()));
            }
            for column in &plan.open {
                let (table, column) = (relation.qualified(), &relation.columns[*column].name);
                self.warnings
                    .push(format!("{table}: column {column} passes, by new_columns = \"pass\""));
            }
            plans.push(Arc::new(plan));
        }
        (plans, policy)
    }

    fn ask(
        &mut self,
        bound: &Bound,
        instance: &mut Instance,
        relation: &Arc<kasho_plugin_sdk::Relation>,
    ) -> Option<Arc<LinkPlan>> {
        if !bound.names(relation) || is_virtual(relation) {
            return None;
        }
        match bound.ask(instance, relation) {
            Ok(plan) => plan,
            Err(wrong) => {
                self.doubt = true;
                for text in wrong {
                    self.unfit(LoadError::binding(&bound.name, relation.qualified(), text));
                }
                None
            }
        }
    }

    fn check_keys(&mut self, coverage: &Coverage) {
        for (at, text) in coverage.broken_keys(self.catalog) {
            self.unfit(LoadError::whole(at, text));
        }
    }

    /// The loosening guard, and that identities do not move.
    fn compare(&mut self, coverage: &Coverage, digest: &str, options: Options<'_>) {
        let Some(running) = options.running else { return };
        let accepted = options.accepted.is_some_and(|a| a.contains(digest));
        let pass_said = self.config.unruled_tables == Some(Unruled::Pass);
        for loosened in running.loosened_by(coverage, pass_said) {
            let (at, was) = (&loosened.at, loosened.was);
            if !loosened.said {
                let text = format!(
                    "{was}, and this configuration lets it out without saying so: restore the rule, or pass it by name (\"{at}\" = \"pass\")"
                );
                self.errors.push(LoadError::whole(at.clone(), text));
            } else if !accepted && !self.config.accept_unmask {
                let text = format!(
                    "{was}, and this configuration lets it out: confirm with accept_unmask = true, or accept the candidate {digest}"
                );
                self.errors.push(LoadError::whole(at.clone(), text));
            } else {
                self.warnings.push(format!("{at}: {was}; it leaves from now on"));
            }
        }
        let (identity, other) = running.moved_by(coverage, self.catalog);
        for at in identity.iter().filter(|_| !accepted) {
            let text = format!(
                "it says where rows are, and this configuration maps it otherwise: rows already loaded would no longer be found. Load the table again, or accept the candidate {digest}"
            );
            self.errors.push(LoadError::whole(at.clone(), text));
        }
        let note = |at: &String| format!("{at}: rows that left before carry the old mapping");
        self.warnings.extend(other.iter().map(note));
    }
}

fn is_event(pattern: &TablePattern) -> bool {
    let name = (pattern.schema.text(), pattern.table.text());
    !pattern.is_glob() && [abi::DDL_RELATION, abi::MESSAGE_RELATION].contains(&name)
}

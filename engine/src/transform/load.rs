//! From configuration and files to a generation, or to everything that is wrong with them.
//!
//! Nothing here touches what runs: a candidate is checked, compiled, started and asked
//! about every table in throw-away instances under the limits of production, and only
//! then handed over. It blocks (files, the compiler): call it off the runtime.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use kasho_plugin_sdk::abi::{self, Needs};
use kasho_plugin_sdk::pattern::TablePattern;
use sha2::{Digest, Sha256};

use super::archive::{Kept, KeySources};
use super::called;
use super::catalog::Catalog;
use super::config::{Binding, Config};
use super::coverage::Coverage;
use super::draft::Draft;
use super::error::LoadError;
use super::figures::Figures;
use super::generation::{Bound, Generation, Run, start};
use super::host::{Compiled, Host, hex};
use super::instance::{Ceilings, Failure, Instance};
use super::keys::Key;
use super::places;
use super::plan::{Policy, RelationPlan};
use super::rename::Renames;
use super::seal::DeadKey;

/// What a candidate is held against.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options<'a> {
    /// What the running generation covers, or the checkpoint's: a candidate may not cover
    /// less without being told so twice.
    pub running: Option<&'a Coverage>,
    /// How much rows had shown of tables when that was asked for: [`Generation::learned`].
    pub learned: u64,
    /// The digest of that generation.
    pub digest: Option<&'a str>,
    /// Check values of the running generation's masking keys, by name.
    pub keys: Option<&'a BTreeMap<String, String>>,
    /// Tables that are loaded again from where the candidate is taken: it may map what says
    /// where their rows are otherwise.
    pub reloading: Option<&'a BTreeSet<String>>,
    /// Tables that have been loaded again by the running generation, all of their rows; by id.
    pub loaded: Option<&'a BTreeSet<u32>>,
    /// Digests that somebody has accepted, beside the file's own.
    pub accepted: &'a [String],
    /// No epoch is under way: nothing is loaded that keys and identities would have to fit.
    pub fresh: bool,
    /// Not the files are the candidate, but what was kept of an earlier one; its keys may
    /// be where these say.
    pub kept: Option<(&'a Kept, &'a KeySources)>,
    /// Number of the new generation.
    pub number: u64,
}

impl Options<'_> {
    /// Whether the candidate with this digest is accepted as it is.
    pub(super) fn accepts(&self, config: &Config, digest: &str) -> bool {
        config.accept.as_deref() == Some(digest) || self.accepted.iter().any(|a| a == digest)
    }
}

pub(super) type Errors = Vec<LoadError>;

/// A candidate that was not taken.
#[derive(Debug)]
pub struct Rejected {
    /// Its digest, by which it could be accepted; none if it does not come so far.
    pub digest: Option<String>,
    /// Everything that is wrong with it.
    pub reasons: Vec<LoadError>,
}

impl From<Errors> for Rejected {
    fn from(reasons: Errors) -> Rejected {
        Rejected { digest: None, reasons }
    }
}

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
    candidate(host, config, catalog, options).map_err(|rejected| rejected.reasons)
}

/// The same, saying which candidate it is.
///
/// # Errors
/// Everything that is wrong, at once.
pub fn candidate(
    host: &Arc<Host>,
    config: &Config,
    catalog: &Catalog,
    options: Options<'_>,
) -> Result<Generation, Rejected> {
    attempt(host, config, catalog, options).map_err(|mut rejected| {
        places::place(config, &mut rejected.reasons);
        rejected
    })
}

fn attempt(
    host: &Arc<Host>,
    config: &Config,
    catalog: &Catalog,
    options: Options<'_>,
) -> Result<Generation, Rejected> {
    let mut warnings = Vec::new();
    let (mut links, dead) = match options.kept {
        Some((kept, known)) => {
            let mut errors = settings(config);
            let keys = kept.read_keys(known, &mut errors);
            let dead = kept.read_dead(known, &mut warnings);
            (bind_all(host, config, Some(kept), &keys, errors)?, dead)
        }
        None => links(host, config)?,
    };
    let mut draft = Draft::new((host, config, catalog), Vec::new());
    draft.warnings = warnings;
    draft.check_needs(&links);
    draft.check_renames();
    draft.same_keys(&links, options.keys.filter(|_| !options.fresh));
    let (mut plans, policy) = draft.plan(&mut links);
    let names: Vec<&str> = config.plugged().map(|b| b.name.as_str()).collect();
    let mut coverage = Coverage::of(plans.iter().map(Arc::as_ref), &names, policy);
    let digest = match options.kept {
        Some((kept, _)) => kept.digest.clone(),
        None => digest(config, &links, dead.as_ref()),
    };
    draft.check_keys(&coverage);
    draft.compare(&mut coverage, &digest, options);
    for plan in plans.iter_mut().filter(|plan| !plan.lossy) {
        if coverage.tables.get(&plan.relation.qualified()).is_some_and(|table| table.lossy) {
            *plan = Arc::new(RelationPlan::clone(plan).losing(&[], true));
        }
    }
    let Draft { errors, warnings, renames, .. } = draft;
    if !errors.is_empty() {
        return Err(Rejected { digest: Some(digest), reasons: errors });
    }
    // While the stream lags behind the catalogue, its own descriptions decide.
    let plans = if catalog.caught_up { plans } else { Vec::new() };
    let kept = keep(config, (&links, dead.as_ref()), digest, coverage);
    let found = (plans, renames, warnings);
    let made = generation(host, (options.number, kept), (links, dead), policy, found);
    Ok(Generation { told: options.learned, ..made })
}

/// Loads what was kept of a generation that was in force, to go on with it. It is what it
/// was, whatever the tables have become: what does not fit them any more is a warning, and
/// stops the stream where it reaches that.
///
/// # Errors
/// It cannot be run again: a key is gone, or a plugin does not start.
pub fn restore(
    host: &Arc<Host>,
    kept: &Kept,
    known: &KeySources,
    catalog: &Catalog,
    number: u64,
) -> Result<Generation, Vec<LoadError>> {
    let mut errors = Vec::new();
    let keys = kept.read_keys(known, &mut errors);
    let config = &kept.config;
    let mut warnings = Vec::new();
    let dead = kept.read_dead(known, &mut warnings);
    let mut links = bind_all(host, config, Some(kept), &keys, errors)?;
    let mut draft = Draft::new((host, config, catalog), Vec::new());
    draft.warnings = warnings;
    draft.check_renames();
    let (plans, mut policy) = draft.plan(&mut links);
    policy.masks |= kept.coverage.closed;
    let names: Vec<&str> = config.plugged().map(|b| b.name.as_str()).collect();
    let mut coverage = Coverage::of(plans.iter().map(Arc::as_ref), &names, policy);
    coverage.recall(&kept.coverage);
    let Draft { errors, mut warnings, renames, .. } = draft;
    warnings.extend(errors.iter().map(ToString::to_string));
    warnings.extend(coverage.told_of_older(catalog));
    let kept = Kept { coverage, ..kept.clone() };
    // No plan of now: each table is held against what was covered when it comes.
    let found = (Vec::new(), renames, warnings);
    Ok(generation(host, (number, kept), (links, dead), policy, found))
}

/// Bindings that run, each with the instance that said so.
pub(super) type Links = Vec<(Arc<Bound>, Instance)>;

fn bind_all(
    host: &Host,
    config: &Config,
    kept: Option<&Kept>,
    keys: &BTreeMap<String, Arc<Key>>,
    mut errors: Errors,
) -> Result<Links, Errors> {
    let mut links = Vec::new();
    for binding in config.plugged() {
        let wasm = match kept {
            Some(kept) => Ok(kept.code.get(&binding.name).map_or(Vec::new(), |w| w.to_vec())),
            None => read(&config.plugins.folder, binding),
        };
        match bind(host, wasm, binding, keys) {
            Ok((bound, instance)) => links.push((Arc::new(bound), instance)),
            Err(wrong) => errors.extend(wrong),
        }
    }
    if errors.is_empty() { Ok(links) } else { Err(errors) }
}

fn keep(
    config: &Config,
    (links, dead): (&Links, Option<&DeadKey>),
    digest: String,
    coverage: Coverage,
) -> Kept {
    let code = links.iter().map(|(b, _)| (b.config.name.clone(), Arc::clone(&b.compiled.file)));
    let keys = links.iter().filter_map(|(bound, _)| bound.key.as_deref());
    let keys = keys.map(|key| (key.name().to_owned(), key.check_value().to_owned()));
    let (code, keys) = (code.collect(), keys.collect());
    let dead = dead.map(|key| key.check_value().to_owned());
    Kept { digest, config: Kept::config(config), code, keys, dead, coverage }
}

fn generation(
    host: &Arc<Host>,
    (number, kept): (u64, Kept),
    (links, dead): (Links, Option<DeadKey>),
    policy: Policy,
    (plans, renames, warnings): (Vec<Arc<RelationPlan>>, Renames, Vec<String>),
) -> Generation {
    let (bound, instances): (Vec<_>, Vec<_>) = links.into_iter().unzip();
    Generation {
        number,
        run: Run::new(),
        digest: kept.digest.clone(),
        since: SystemTime::now(),
        host: Arc::clone(host),
        bound,
        policy,
        renames,
        coverage: kept.coverage.clone(),
        warnings,
        plans,
        ready: Mutex::new(Some(instances)),
        kept: Arc::new(kept),
        dead: dead.map(Arc::new),
        seen: Arc::default(),
        told: 0,
    }
}

/// The bindings, compiled and started, and the key that letters are sealed under.
///
/// # Errors
/// Everything that is wrong with them, whatever the tables are.
pub(super) fn links(host: &Host, config: &Config) -> Result<(Links, Option<DeadKey>), Errors> {
    let mut errors = settings(config);
    let dead = dead_key(config, &mut errors);
    let mut keys = read_keys(config, &mut errors);
    if host.meter().is_some() {
        keys.insert("fixtures".to_owned(), Arc::new(Key::of_fixtures()));
    }
    Ok((bind_all(host, config, None, &keys, errors)?, dead))
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

/// The key that letters are sealed under, where any are written.
fn dead_key(config: &Config, errors: &mut Errors) -> Option<DeadKey> {
    let read = DeadKey::read(config.dead_letter_key.as_ref()?);
    read.map_err(|e| errors.push(LoadError::whole("dead_letter_key", e.to_string()))).ok()
}

/// Everything about one binding that needs no table.
fn bind(
    host: &Host,
    wasm: Result<Vec<u8>, String>,
    binding: &Binding,
    keys: &BTreeMap<String, Arc<Key>>,
) -> Result<(Bound, Instance), Errors> {
    let wrong = |at: &str, text: String| LoadError::binding(&binding.name, at, text);
    let mut errors = Vec::new();
    // What is no pattern has been told.
    let patterns = binding.tables.iter().filter_map(|table| TablePattern::parse(table).ok());
    let patterns = patterns.collect();
    let called = called::read(&binding.also_called).unwrap_or_default();
    let key = choose_key(binding, keys);
    let compiled = wasm.and_then(|wasm| compile(host, binding, &wasm));
    let compiled = compiled.map_err(|e| errors.push(wrong(&binding.plugin, e))).ok();
    let (Some(compiled), true) = (compiled, errors.is_empty()) else { return Err(errors) };
    let ceilings = Ceilings {
        binding: Arc::from(binding.name.as_str()),
        memory_bytes: (binding.memory_mib as usize) << 20,
        deadline_ms: u64::from(binding.deadline_ms),
        init_ms: u64::from(binding.init_ms),
        lines: Arc::default(),
    };
    let init = init(binding, key.is_some());
    let begin = |ceilings| start(host, &compiled, ceilings, &init, key.as_deref());
    let begun = match begin(&ceilings) {
        // A machine that is far too busy is no fault of a plugin.
        Err(late @ Failure::Deadline { .. }) => begin(&ceilings.patient())
            .map_err(|again| if matches!(again, Failure::Deadline { .. }) { late } else { again }),
        begun => begun,
    };
    let (instance, needs) =
        begun.map_err(|failure| vec![wrong(&binding.plugin, failure.to_string())])?;
    errors.extend(above(binding, &needs).into_iter().map(|(at, text)| wrong(at, text)));
    if !errors.is_empty() {
        return Err(errors);
    }
    let (name, figures) = (Arc::clone(&ceilings.binding), Arc::<Figures>::default());
    let config = binding.clone();
    Ok((
        Bound { config, name, patterns, called, compiled, key, init, needs, ceilings, figures },
        instance,
    ))
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
pub(super) fn read(folder: &Path, binding: &Binding) -> Result<Vec<u8>, String> {
    let name = Path::new(&binding.plugin);
    let plain = name.components().all(|c| matches!(c, std::path::Component::Normal(_)));
    if !plain {
        return Err(
            "a plugin is a file in the plugin folder (plugins.folder): give its name alone"
                .to_owned(),
        );
    }
    let path = folder.join(name);
    let unreadable = |e: std::io::Error| {
        let path = path.display();
        format!("cannot read {path}: {e}: put it there, readable for this user, or mend `plugin`")
    };
    let limit = u64::from(binding.max_file_mib) << 20;
    let size = std::fs::metadata(&path).map_err(unreadable)?.len();
    if size > limit {
        return Err(format!(
            "{} MiB, above max_file_mib = {}: raise it, or build with `kasho plugin build`",
            size >> 20,
            binding.max_file_mib
        ));
    }
    std::fs::read(&path).map_err(unreadable)
}

/// The code of a binding's plugin, if this is the file that it pins.
pub(super) fn compile(
    host: &Host,
    binding: &Binding,
    wasm: &[u8],
) -> Result<Arc<Compiled>, String> {
    pinned(binding, wasm)?;
    host.compile(wasm, (binding.max_file_mib as usize) << 20, binding.wasi)
}

fn pinned(binding: &Binding, wasm: &[u8]) -> Result<(), String> {
    let Some(pin) = &binding.sha256 else { return Ok(()) };
    let is = hex(&Sha256::digest(wasm));
    match pin.eq_ignore_ascii_case(&is) {
        true => Ok(()),
        false => Err(format!(
            "the file's SHA-256 is {is}, the binding pins {pin}: put that file back, or pin this one"
        )),
    }
}

/// Of what the files say, and of nothing that depends on the tables there are.
fn digest(config: &Config, links: &[(Arc<Bound>, Instance)], dead: Option<&DeadKey>) -> String {
    let mut hash = Sha256::new();
    let mut add = |text: &str| {
        hash.update((text.len() as u64).to_le_bytes());
        hash.update(text);
    };
    add(abi::VERSION);
    add(&format!("{:?}", config.unruled_tables));
    if let Some(ddl) = config.ddl {
        add(&format!("{ddl:?}"));
    }
    let mut links = links.iter();
    for binding in &config.transform {
        if binding.plugin.is_empty() {
            add("");
            add(&serde_json::to_string(binding).unwrap_or_default());
        } else if let Some((bound, _)) = links.next() {
            add(&bound.compiled.sha256);
            add(&serde_json::to_string(&bound.config).unwrap_or_default());
            add(&bound.init.rules.to_string());
            add(bound.key.as_ref().map_or("", |key| key.check_value()));
        }
    }
    if let Some(dead) = dead {
        add(dead.check_value());
    }
    hex(&hash.finalize())
}

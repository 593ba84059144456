//! From configuration and files to a generation, or to everything that is wrong with them.
//!
//! Nothing here touches what runs: a candidate is checked, compiled, started and asked
//! about every table in throw-away instances under the limits of production, and only
//! then handed over. It blocks (files, the compiler): call it off the runtime.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use kasho_plugin_sdk::abi::{self, Needs};
use kasho_plugin_sdk::pattern::TablePattern;
use sha2::{Digest, Sha256};

use super::catalog::Catalog;
use super::config::{Binding, Config};
use super::coverage::Coverage;
use super::draft::Draft;
use super::error::LoadError;
use super::generation::{Bound, Figures, Generation, start};
use super::host::{Host, hex};
use super::instance::{Ceilings, Instance};
use super::keys::Key;

/// What a candidate is held against.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options<'a> {
    /// What the running generation covers, or the checkpoint's: a candidate may not cover
    /// less without being told so twice.
    pub running: Option<&'a Coverage>,
    /// The digest of that generation.
    pub digest: Option<&'a str>,
    /// Check values of the running generation's masking keys, by name.
    pub keys: Option<&'a BTreeMap<String, String>>,
    /// Number of the new generation.
    pub number: u64,
}

pub(super) type Errors = Vec<LoadError>;

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
    let mut links = links(host, config)?;
    let mut draft = Draft::new((host, config, catalog), Vec::new());
    draft.check_needs(&links);
    draft.check_renames();
    draft.same_keys(&links, options.keys);
    let (plans, policy) = draft.plan(&mut links);
    let names: Vec<&str> = config.plugged().map(|b| b.name.as_str()).collect();
    let mut coverage = Coverage::of(plans.iter().map(Arc::as_ref), &names, policy);
    let digest = digest(config, &links);
    draft.check_keys(&coverage);
    draft.compare(&mut coverage, &digest, options);
    let Draft { errors, warnings, renames, .. } = draft;
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
        renames,
        coverage,
        warnings,
        // While the stream lags behind the catalogue, its own descriptions decide.
        plans: if catalog.caught_up { plans } else { Vec::new() },
        ready: Mutex::new(Some(instances)),
    })
}

/// The bindings, compiled and started.
///
/// # Errors
/// Everything that is wrong with them, whatever the tables are.
pub(super) fn links(host: &Host, config: &Config) -> Result<Vec<(Arc<Bound>, Instance)>, Errors> {
    let mut errors = settings(config);
    let keys = read_keys(config, &mut errors);
    let mut links = Vec::new();
    for binding in config.plugged() {
        match bind(host, config, binding, &keys) {
            Ok((bound, instance)) => links.push((Arc::new(bound), instance)),
            Err(wrong) => errors.extend(wrong),
        }
    }
    if errors.is_empty() { Ok(links) } else { Err(errors) }
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
        lines: Arc::default(),
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
pub(super) fn read(folder: &Path, binding: &Binding) -> Result<Vec<u8>, String> {
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

/// Of what the files say, and of nothing that depends on the tables there are.
fn digest(config: &Config, links: &[(Arc<Bound>, Instance)]) -> String {
    let mut hash = Sha256::new();
    let mut add = |text: &str| {
        hash.update((text.len() as u64).to_le_bytes());
        hash.update(text);
    };
    add(abi::VERSION);
    add(&format!("{:?}", config.unruled_tables));
    for (bound, _) in links {
        add(&bound.compiled.sha256);
        add(&serde_json::to_string(&bound.config).unwrap_or_default());
        add(&bound.init.rules.to_string());
        add(bound.key.as_ref().map_or("", |key| key.check_value()));
    }
    for binding in config.transform.iter().filter(|binding| binding.plugin.is_empty()) {
        add(&serde_json::to_string(&binding.rename).unwrap_or_default());
    }
    hex(&hash.finalize())
}

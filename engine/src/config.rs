//! The configuration: a tree of the stations' own sections, read from one TOML file.
//!
//! Everything that is wrong with a file is found at once and told with line and column;
//! nothing of a file with an error is used. Texts may hold `${VARIABLE}` (a dollar is
//! `$$`), secrets may stand in files (`url_file = "…"`, `url = { file = "…" }`), and
//! relative paths are relative to the file.

mod env;
mod error;
mod findings;
mod node;
mod read;
pub mod size;
mod with;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use secrecy::SecretString;
use serde::Deserialize;

pub use env::Env;
pub use error::{Errors, Place, Problem};
pub(crate) use findings::Findings;
pub use size::Size;
pub(crate) use with::{secret, verbatim};

use crate::{apply, bootstrap, control, http, log, sink, source, transform};
use node::{Entry, Kind, Node};
use read::Context;

/// Where the file is unless `--config` or `$KASHO_CONFIG` says otherwise.
pub const DEFAULT_PATH: &str = "/etc/kasho/kasho.toml";

/// A whole configuration, without an error in it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Config {
    /// The database that is copied.
    pub source: source::config::Config,
    /// Where changes are published.
    pub redis: sink::config::Config,
    /// The initial load.
    pub bootstrap: bootstrap::config::Config,
    /// The database that is filled.
    pub apply: apply::config::Config,
    /// The control and change stream service.
    pub grpc: control::Config,
    /// Metrics and health.
    pub http: http::Config,
    /// Where plugins are.
    pub plugins: transform::Plugins,
    /// What happens to tables that no binding names; unset, `halt` once anything masks
    /// and `pass` otherwise.
    pub unruled_tables: Option<transform::Unruled>,
    /// Which schema changes leave.
    pub ddl: Option<transform::Ddl>,
    /// Confirms every setting by which rows leave unmasked.
    pub allow_unmasked: bool,
    /// Confirms, for unattended use, a file that masks less than the running one.
    pub accept_unmask: bool,
    /// Digest of the one candidate that is confirmed.
    pub accept: Option<String>,
    /// Masking keys by name.
    pub keys: BTreeMap<String, transform::KeySource>,
    /// What the keys of rows that are set aside are sealed under.
    pub dead_letter_key: Option<transform::KeySource>,
    /// The chain, in order.
    pub transform: Vec<transform::Binding>,
    /// What is logged.
    pub log: log::Config,
    /// What is wrong with the chain, where nothing else is: a service that had one goes on
    /// with that.
    #[serde(skip)]
    pub chain_errors: Option<Errors>,
    /// What each key of the file said, for [`Config::changes`].
    #[serde(skip)]
    said: Said,
}

/// Places and fingerprints by key.
type Said = BTreeMap<String, (Place, u64)>;

/// What differs between two configurations, by key (`transform` as a whole).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Takes effect while the service runs.
    pub live: Vec<String>,
    /// Takes effect when it is started again.
    pub restart: Vec<String>,
}

impl Changes {
    /// Whether the two are the same.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.live.is_empty() && self.restart.is_empty()
    }
}

/// What is taken over without a restart: the chain and all it is made of, and how much
/// is said about it.
const LIVE: [&str; 9] = [
    "transform",
    "keys",
    "dead_letter_key",
    "unruled_tables",
    "ddl",
    "allow_unmasked",
    "accept_unmask",
    "accept",
    "log.level",
];

impl Config {
    /// Reads a file, with the variables of the environment.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn load(path: &Path) -> Result<Config, Errors> {
        Config::parse(&text(path)?, path, &|name| std::env::var(name).ok())
    }

    /// As [`Config::load`], for the service: what is wrong with the chain alone is kept in
    /// [`Config::chain_errors`].
    ///
    /// # Errors
    /// Everything that is wrong with it, if that is more.
    pub fn load_serving(path: &Path) -> Result<Config, Errors> {
        let (mut config, problems) =
            Config::look(&text(path)?, path, &|name| std::env::var(name).ok());
        let of_chain = |key: &str| CHAIN.iter().any(|top| is_below(key, top));
        if !problems.is_empty() && problems.iter().all(|problem| of_chain(&problem.key)) {
            config.chain_errors = Some(Errors { file: path.to_owned(), problems });
            return Ok(config);
        }
        whole(config, problems, path)
    }

    /// The section `[grpc]` of a file, for a command that only wants to talk to the engine:
    /// what else is wrong with the file, or is a secret of the service's own environment,
    /// keeps nobody from asking how it is.
    ///
    /// # Errors
    /// The file is no TOML, or something is wrong with that section.
    pub fn load_grpc(path: &Path) -> Result<control::Config, Errors> {
        Config::load_parts(path, &["grpc"]).map(|config| config.grpc)
    }

    /// A file of which a command uses these top-level settings and sections, and no others:
    /// what is wrong with the rest keeps nobody from it.
    ///
    /// # Errors
    /// As [`Config::load`], of these.
    pub fn load_parts(path: &Path, parts: &[&str]) -> Result<Config, Errors> {
        let (config, mut problems) =
            Config::look(&text(path)?, path, &|name| std::env::var(name).ok());
        let part = |key: &str| key.split(['.', '[']).next().unwrap_or_default().to_owned();
        problems.retain(|p| p.key.is_empty() || parts.contains(&part(&p.key).as_str()));
        match problems.is_empty() {
            true => Ok(config),
            false => Err(Errors { file: path.to_owned(), problems }),
        }
    }

    /// Reads a file's text as [`Config::load`] does. `path` is named in errors, and what
    /// relative paths are relative to.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn parse(text: &str, path: &Path, env: Env<'_>) -> Result<Config, Errors> {
        let (config, problems) = Config::look(text, path, env);
        whole(config, problems, path)
    }

    /// As [`Config::load`], for a program that has nothing but Redis: what is wrong with
    /// the sections that it does not use is not its business, and `redis_url` counts more
    /// than the file. Without a file, the variables of the environment and the defaults.
    ///
    /// # Errors
    /// Everything else that is wrong with it.
    pub fn load_for_redis(
        path: Option<&Path>,
        redis_url: Option<&SecretString>,
    ) -> Result<Config, Errors> {
        let said = path.map(text).transpose()?.unwrap_or_default();
        let path = path.unwrap_or(Path::new(""));
        let (mut config, mut problems) =
            Config::look(&said, path, &|name| std::env::var(name).ok());
        problems.retain(|problem| {
            let section = problem.key.split('.').next().unwrap_or_default();
            let told = redis_url.is_some() && problem.key == "redis.url";
            !told && !["source", "apply", "grpc", "http", "bootstrap", "log"].contains(&section)
        });
        config.redis.url = redis_url.cloned().or(config.redis.url);
        whole(config, problems, path)
    }

    /// What can be made of a file, and everything that is wrong with it, in its order.
    fn look(text: &str, path: &Path, env: Env<'_>) -> (Config, Vec<Problem>) {
        let folder = path.parent().unwrap_or(Path::new("."));
        let (mut root, syntax) = node::parse(text);
        add_stand_ins(&mut root, env);
        let context = Context::new(env, folder);
        let mut config: Config = context.read(&root);
        config.said = context.values.take();
        config.place_rules(path);
        let mut problems = syntax;
        problems.extend(context.problems.take());
        config.rebase(folder);
        // A value that is left out for an error must not be called missing beside.
        let broken: BTreeSet<String> = problems.iter().map(|p| p.key.clone()).collect();
        // Nor must a binding be held against keys, or counted by bindings, that are left out.
        let partial = problems.iter().any(|p| {
            p.key.starts_with("keys") || p.key.starts_with("transform") && !p.key.contains('.')
        });
        let told = |key: &str| broken.contains(key) || partial && key.starts_with("transform[");
        let invalid = config.invalid().into_iter().filter(|(key, _)| !told(key));
        problems.extend(invalid.map(|(key, message)| {
            let place = nearest(&config.said, &key);
            Problem { place, key, message }
        }));
        problems.sort_by(|a, b| a.place.cmp(&b.place));
        (config, problems)
    }

    /// Says of each rule of a plugin where it stands.
    fn place_rules(&mut self, path: &Path) {
        for (i, binding) in self.transform.iter_mut().enumerate() {
            let rules = format!("transform[{i}].rules.");
            let told = |(key, (place, _)): (&String, &(Place, u64))| match place {
                Place::File { line, column } => {
                    let place = format!("{}:{line}:{column}", path.display());
                    Some((key.strip_prefix(&rules)?.to_owned(), place))
                }
                Place::Nowhere | Place::Env(_) => None,
            };
            binding.places = self.said.iter().filter_map(told).collect();
        }
    }

    /// The settings of the chain: all that stands at the top of the file and in `[keys]`,
    /// `[plugins]` and `[[transform]]`.
    #[must_use]
    pub fn chain(&self) -> transform::Config {
        transform::Config {
            unruled_tables: self.unruled_tables,
            ddl: self.ddl,
            allow_unmasked: self.allow_unmasked,
            accept_unmask: self.accept_unmask,
            accept: self.accept.clone(),
            keys: self.keys.clone(),
            dead_letter_key: self.dead_letter_key.clone(),
            transform: self.transform.clone(),
            plugins: self.plugins.clone(),
        }
    }

    /// What a reload from here to `new` would change.
    #[must_use]
    pub fn changes(&self, new: &Config) -> Changes {
        let keys: BTreeSet<&String> = self.said.keys().chain(new.said.keys()).collect();
        let said = |config: &Config, key: &str| config.said.get(key).map(|(_, said)| *said);
        let mut changes = Changes::default();
        for key in keys.into_iter().filter(|key| said(self, key) != said(new, key)) {
            let top = LIVE.iter().find(|top| is_below(key, top));
            let (list, key) = match top {
                Some(top) => (&mut changes.live, (*top).to_owned()),
                // That a table came or went says nothing beside the keys in it.
                None if is_section(key) => continue,
                None => (&mut changes.restart, without_index(key)),
            };
            if !list.contains(&key) {
                list.push(key);
            }
        }
        changes
    }

    /// Makes paths relative to the file.
    fn rebase(&mut self, folder: &Path) {
        let fixed =
            [&mut self.bootstrap.state_dir, &mut self.plugins.folder, &mut self.plugins.store];
        let (redis, grpc, http) = (&mut self.redis, &mut self.grpc, &mut self.http);
        let optional = [
            &mut redis.tls_ca,
            &mut redis.tls_cert,
            &mut redis.tls_key,
            &mut grpc.tls_cert,
            &mut grpc.tls_key,
            &mut grpc.client_ca,
            &mut http.tls_cert,
            &mut http.tls_key,
        ];
        let keys =
            self.keys.values_mut().chain(&mut self.dead_letter_key).filter_map(|key| match key {
                transform::KeySource::File(path) => Some(path),
                transform::KeySource::Env(_) => None,
            });
        let paths = fixed.into_iter().chain(optional.into_iter().flatten()).chain(keys);
        paths.for_each(|path: &mut PathBuf| *path = folder.join(&*path));
    }

    /// Values that are of the right type and make no sense.
    fn invalid(&self) -> Findings {
        let mut found = Findings::default();
        found.section("source", self.source.invalid());
        found.section("redis", self.redis.invalid());
        found.section("bootstrap", self.bootstrap.invalid());
        found.section("apply", self.apply.invalid());
        let listen = http::Config { listen: self.apply.listen, ..self.http.clone() };
        if let (Ok(()), Err(open)) = (self.http.check(), listen.check()) {
            found.wrong("apply.listen", open.to_string().replace("http.listen", "apply.listen"));
        }
        found.section("grpc", self.grpc.invalid());
        found.section("http", self.http.invalid());
        found.section("log", self.log.invalid());
        found.extend(self.chain().invalid());
        for (name, source) in &self.keys {
            if let Err(error) = transform::Key::read(name, source) {
                found.wrong(format!("keys.{name}"), error.to_string());
            }
        }
        if let Some(Err(error)) = self.dead_letter_key.as_ref().map(transform::DeadKey::read) {
            found.wrong("dead_letter_key", error.to_string());
        }
        found
    }
}

fn text(path: &Path) -> Result<String, Errors> {
    std::fs::read_to_string(path).map_err(|e| {
        let message = format!("cannot be read: {e}; name another with --config FILE");
        let problem = Problem { place: Place::Nowhere, key: String::new(), message };
        Errors { file: path.to_owned(), problems: vec![problem] }
    })
}

/// A configuration without a problem, or all the problems.
fn whole(config: Config, problems: Vec<Problem>, path: &Path) -> Result<Config, Errors> {
    match problems.is_empty() {
        true => Ok(config),
        false => Err(Errors { file: path.to_owned(), problems }),
    }
}

/// The settings of the chain that are no places.
const CHAIN: [&str; 7] =
    ["transform", "keys", "unruled_tables", "ddl", "allow_unmasked", "accept_unmask", "accept"];

/// Where a key stands or, if nobody wrote it, what it would stand in.
fn nearest(said: &BTreeMap<String, (Place, u64)>, key: &str) -> Place {
    let mut key = key;
    loop {
        match (said.get(key), key.rfind(['.', '['])) {
            (Some((place, _)), _) => return place.clone(),
            (None, Some(end)) => key = &key[..end],
            (None, None) => return Place::Nowhere,
        }
    }
}

/// Whether a key is `top` or of it.
fn is_below(key: &str, top: &str) -> bool {
    key.strip_prefix(top).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
}

/// Whether a key is a section and nothing more.
fn is_section(key: &str) -> bool {
    let sections = ["", "source", "redis", "redis.budget", "redis.retention", "bootstrap", "grpc"];
    sections.contains(&key) || ["http", "plugins", "log", "apply"].contains(&key)
}

/// `source.messages[1]` is a change of `source.messages`.
fn without_index(key: &str) -> String {
    key.split_once('[').map_or(key, |(key, _)| key).to_owned()
}

/// Adds what the environment says where the file says nothing.
fn add_stand_ins(root: &mut Node, env: Env<'_>) {
    for (i, (variable, section, key)) in env::STAND_INS.into_iter().enumerate() {
        let Some(text) = env(variable).filter(|text| !text.is_empty()) else { continue };
        let text = if key == "listen" { format!("127.0.0.1:{text}") } else { text };
        // Ids of the file's own values count up from 1.
        let value = node::from_env(usize::MAX - i, variable, text);
        let entry = Entry { key: key.to_owned(), place: value.place.clone(), value };
        let Kind::Table(sections) = &mut root.kind else { return };
        let place = entry.place.clone();
        match sections.iter_mut().find(|entry| entry.key == section) {
            Some(Entry { value: Node { kind: Kind::Table(entries), .. }, .. }) => {
                let file = format!("{key}_file");
                if !entries.iter().any(|entry| entry.key == key || entry.key == file) {
                    entries.push(entry);
                }
            }
            // Whatever that is, reading it will tell.
            Some(_) => {}
            None => {
                let id = usize::MAX - env::STAND_INS.len() - i;
                let value = Node { id, place: place.clone(), kind: Kind::Table(vec![entry]) };
                sections.push(Entry { key: section.to_owned(), place, value });
            }
        }
    }
}

#[cfg(test)]
mod refusals;
#[cfg(test)]
mod tests;

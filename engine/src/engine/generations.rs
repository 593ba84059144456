//! Which generation runs: at the start, for a transaction that another process left
//! published in part, and after a new one has failed.
//!
//! A transaction is finished by the generation that began it, which the checkpoint names
//! and the archive holds. What can go wrong: it is not there any more, or it stops inside
//! of the transaction; then somebody has to say by which other one it is finished, for the
//! transaction carries two then. And files that would not be taken while the service runs
//! are not taken when it starts: the generation before goes on.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use super::Engine;
use super::prepare::{EngineError, going_on};
use super::world::World;
use crate::bootstrap::{Phase, Refusal};
use crate::config::Config;
use crate::control::Accepted;
use crate::position::Lsn;
use crate::sink::store::Checkpoint;
use crate::transform::{self, Generation, Kept, KeySources, LoadError, OnRegression, Rejected};

/// A generation that fails later than this after it was taken over is not new: whatever it
/// fails on now did not come of taking it.
const NEW: Duration = Duration::from_secs(600);
/// So much of a digest is enough to name it.
const SHORTEST: usize = 12;

/// What became of generations.
#[derive(Debug, Default)]
pub(super) struct Course {
    /// The one that batches pass now, published or not.
    adopted: Option<Arc<Generation>>,
    /// The one that published last, and from where on.
    passed: Option<(Arc<Generation>, Lsn)>,
    /// The one that published before that one.
    before: Option<Arc<Generation>>,
    /// Those that stopped the stream inside a transaction that they had begun.
    stuck: BTreeSet<String>,
    /// Those that gave way to the one before them: nobody goes back to them.
    failed: BTreeSet<String>,
    /// What an operator should know of it.
    notes: Vec<String>,
}

/// By what a half published transaction is finished.
#[derive(Debug)]
pub(super) struct Finisher {
    /// The chain.
    pub(super) chain: Arc<Generation>,
    /// The number under which its entries go.
    pub(super) number: u64,
}

/// What follows from a plugin or a rule having stopped the stream.
#[derive(Debug)]
pub(super) enum Stopped {
    /// Another generation goes on.
    Another(String),
    /// A person has to, and this says how.
    ForGood(String),
}

impl World {
    fn course(&self) -> MutexGuard<'_, Course> {
        self.course.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes the generation that batches pass from here on.
    pub(super) fn adopts(&self, generation: &Arc<Generation>) {
        self.course().adopted = Some(Arc::clone(generation));
    }

    /// Notes the generation that publishes, and from which commit on.
    pub(super) fn passes(&self, generation: &Arc<Generation>, from: Lsn) {
        let mut course = self.course();
        let same = |(other, _): &(Arc<Generation>, Lsn)| other.number() == generation.number();
        if course.passed.as_ref().is_some_and(same) {
            return;
        }
        let last = course.passed.replace((Arc::clone(generation), from));
        // One of the same rules that knows more of rows is nothing to go back to.
        if let Some((last, _)) = last.filter(|(last, _)| last.digest() != generation.digest()) {
            course.before = Some(last);
        }
    }

    /// From which commit on a generation has published in this process's life.
    pub(super) fn since(&self, number: u64) -> Option<Lsn> {
        let course = self.course();
        course.passed.as_ref().filter(|(passed, _)| passed.number() == number).map(|(_, lsn)| *lsn)
    }

    /// What an operator should know of the generations of this process's life.
    pub(super) fn notes(&self) -> Vec<String> {
        self.course().notes.clone()
    }

    fn note(&self, note: String) {
        tracing::warn!("{note}");
        let notes = &mut self.course().notes;
        if !notes.contains(&note) {
            notes.push(note);
        }
    }

    /// Keeps a generation on disk.
    pub(super) async fn keep(&self, generation: &Generation) -> Result<(), EngineError> {
        let (archive, kept) = (Arc::clone(&self.archive), Arc::clone(generation.kept()));
        let keeping = tokio::task::spawn_blocking(move || archive.keep(&kept));
        let kept =
            keeping.await.map_err(|_| EngineError::Host("keeping it panicked".to_owned()))?;
        kept.map_err(EngineError::Host)
    }

    /// Forgets on disk what nobody names any more.
    pub(super) async fn forget(&self, digests: Vec<String>) {
        let mut named: BTreeSet<String> = digests.into_iter().collect();
        named.insert(self.handle.newest().digest().to_owned());
        {
            let course = self.course();
            let passed = course.passed.as_ref().map(|(passed, _)| passed);
            let all = [course.adopted.as_ref(), passed, course.before.as_ref()];
            named.extend(all.into_iter().flatten().map(|g| g.digest().to_owned()));
        }
        let (archive, newest) = (Arc::clone(&self.archive), self.config.plugins.keep as usize);
        let host = Arc::clone(&self.host);
        let forgetting = move || host.sweep(&archive.collect(&named, newest));
        // What is not removed only takes room.
        let _ = tokio::task::spawn_blocking(forgetting).await;
    }

    /// A generation of before, as it was, and with what it was found to cover since.
    ///
    /// # Errors
    /// It is not kept, or cannot be run any more.
    async fn restored(&self, digest: &str, number: u64) -> Result<Generation, String> {
        let (archive, host, tables) = (self.archive.clone(), self.host.clone(), self.tables());
        let covered = self.covered_by(digest).await.map_err(|error| error.to_string())?;
        let digest = digest.to_owned();
        let (path, start) = (self.path.clone(), self.config.chain());
        let load = move || {
            let keys = key_sources(&path, start);
            let kept = archive.find(&digest)?;
            let kept = match covered {
                Some(covered) => kept.covering(covered),
                None => kept,
            };
            let restored = transform::restore(&host, &kept, &keys, &tables, number);
            restored.map_err(|errors| told(&errors))
        };
        let loaded = tokio::task::spawn_blocking(load).await;
        loaded.unwrap_or_else(|_| Err("loading it panicked".to_owned()))
    }

    /// What the service starts with: the files, if they are taken as they would be while it
    /// runs; else the generation before goes on, and the reasons say why.
    ///
    /// # Errors
    /// There is none before, or it cannot be had; or a server does not answer.
    pub(super) async fn first(
        &self,
        checkpoint: Option<&Checkpoint>,
        phase: &Phase,
    ) -> Result<(Generation, Option<Rejected>), EngineError> {
        let number = checkpoint.map_or(1, |checkpoint| checkpoint.generation.max(1));
        // The same chain goes on under its number; another one is a new generation.
        let numbered = |generation: Generation| {
            let new = checkpoint.is_some_and(|c| c.chain != generation.digest());
            generation.numbered(number + u64::from(new))
        };
        let mut rejected = match self.load_chain(number, checkpoint, phase).await {
            Ok(generation) => return Ok((numbered(generation), None)),
            Err(EngineError::Chain(rejected)) => rejected,
            Err(other) => return Err(other),
        };
        let remembered = match checkpoint {
            Some(checkpoint) => self.remembered(&checkpoint.chain).await?,
            None => None,
        };
        let Some(remembered) = remembered else { return Err(EngineError::Chain(rejected)) };
        match self.restored(&remembered.digest, number).await {
            Ok(generation) => {
                let last = Some((remembered.digest, remembered.run));
                Ok((numbered(going_on(generation, last)), Some(rejected)))
            }
            Err(why) => {
                let text = format!("nor can the service go on with the former ones: {why}");
                let at = "transform".to_owned();
                rejected.reasons.push(LoadError { binding: None, at, text });
                Err(EngineError::Chain(rejected))
            }
        }
    }

    /// The chain by which a half published transaction is finished: the one that began it,
    /// or one that somebody has accepted for it since that one could not.
    ///
    /// # Errors
    /// Neither can be had: what to do.
    pub(super) async fn to_finish(
        &self,
        lsn: Lsn,
        checkpoint: &Checkpoint,
    ) -> Result<Finisher, String> {
        let newest = self.handle.newest();
        let options = self.description(&newest).options;
        if options != checkpoint.options {
            return Err(other_options(lsn, &checkpoint.options, &options));
        }
        let accepted = newest.digest() != checkpoint.chain
            && self.handle.report().borrow().accepts(newest.digest());
        let stuck = self.course().stuck.contains(&checkpoint.chain);
        let began = self.began(checkpoint).await;
        match began {
            Ok(chain) if !(stuck && accepted) => {
                Ok(Finisher { chain, number: checkpoint.generation })
            }
            _ if accepted => {
                self.note(mixed(lsn, checkpoint, &newest));
                Ok(Finisher { number: newest.number(), chain: newest })
            }
            Ok(chain) => Ok(Finisher { chain, number: checkpoint.generation }),
            Err(why) => Err(format!(
                "the transaction at {lsn} is published in part, and what began it (generation {}, \
                 digest {}) cannot be had again: {why}. {}",
                checkpoint.generation,
                checkpoint.chain,
                ways_on(&checkpoint.chain, newest.digest())
            )),
        }
    }

    /// The generation that the checkpoint names.
    async fn began(&self, checkpoint: &Checkpoint) -> Result<Arc<Generation>, String> {
        let newest = self.handle.newest();
        let passed = self.course().passed.clone().map(|(generation, _)| generation);
        let known = [Some(newest), passed].into_iter().flatten();
        match known.into_iter().find(|generation| generation.digest() == checkpoint.chain) {
            Some(known) => Ok(known),
            None => {
                let mut restored = self.restored(&checkpoint.chain, checkpoint.generation).await?;
                self.handle.lend(&mut restored);
                tracing::info!(
                    generation = checkpoint.generation,
                    digest = checkpoint.chain,
                    "a transaction that is published in part is finished by what began it"
                );
                Ok(Arc::new(restored))
            }
        }
    }

    /// What follows from a plugin's or a rule's error, which ended the stream.
    pub(super) async fn stopped(self: &Arc<World>, error: &str) -> Stopped {
        // Who does not answer now is asked again when the stream is opened.
        let checkpoint = self.inspect().await.ok().and_then(|found| found.checkpoint);
        let open = checkpoint.as_ref().and_then(Checkpoint::open_transaction);
        match (checkpoint, open) {
            (Some(checkpoint), Some(lsn)) => self.stuck_inside(lsn, &checkpoint, error),
            _ => match self.go_back(error).await {
                Ok(Some(told)) => Stopped::Another(told),
                Ok(None) => Stopped::ForGood(error.to_owned()),
                Err(why) => Stopped::ForGood(format!(
                    "{error} (the generation before cannot go on, on_regression = \"rollback\": {why})"
                )),
            },
        }
    }

    fn stuck_inside(&self, lsn: Lsn, checkpoint: &Checkpoint, error: &str) -> Stopped {
        let newest = self.handle.newest();
        let new = self.course().stuck.insert(checkpoint.chain.clone());
        let other = newest.digest() != checkpoint.chain;
        let accepted = other && self.handle.report().borrow().accepts(newest.digest());
        if new && accepted {
            return Stopped::Another(error.to_owned());
        }
        // Those that were accepted for it have stopped there too.
        let tried = if accepted { &checkpoint.chain } else { newest.digest() };
        Stopped::ForGood(format!(
            "{error}. The transaction at {lsn} is published in part by generation {}, which \
             cannot finish it. {}",
            checkpoint.generation,
            ways_on(&checkpoint.chain, tried)
        ))
    }

    /// Goes back from a generation that has just been taken over and failed to the one
    /// before, where that covers all it did; says so.
    ///
    /// # Errors
    /// Why it is not possible.
    async fn go_back(self: &Arc<World>, error: &str) -> Result<Option<String>, String> {
        if self.config.plugins.on_regression == OnRegression::Halt {
            return Ok(None);
        }
        let (failed, before) = {
            let course = self.course();
            let Some(failed) = course.adopted.clone() else { return Ok(None) };
            let passed = course.passed.as_ref().map(|(passed, _)| passed);
            let earlier = passed.filter(|passed| passed.number() != failed.number());
            let before = earlier.or(course.before.as_ref()).filter(|before| {
                before.digest() != failed.digest() && !course.failed.contains(before.digest())
            });
            (failed, before.map(Arc::clone))
        };
        let new = failed.since().elapsed().is_ok_and(|age| age < NEW);
        let (Some(before), true) = (before, new) else { return Ok(None) };
        let (world, runtime) = (Arc::clone(self), tokio::runtime::Handle::current());
        let error = error.to_owned();
        let going = move || world.replace(&failed, before.kept(), &error, &runtime);
        tokio::task::spawn_blocking(going).await.map_err(|_| "loading it panicked".to_owned())?
    }

    /// Publishes what was kept of a generation in the place of `failed`, held against it as
    /// any candidate is; none if that is not the newest any more.
    fn replace(
        &self,
        failed: &Generation,
        kept: &Kept,
        error: &str,
        runtime: &tokio::runtime::Handle,
    ) -> Result<Option<String>, String> {
        let _turn = self.handle.turn();
        if self.handle.newest().number() != failed.number() {
            return Ok(None);
        }
        let checks = failed.key_checks();
        let (learned, covered) = (failed.learned(), failed.covered());
        let keys = key_sources(&self.path, self.config.chain());
        // Nothing is accepted here: nobody stands by.
        let options = transform::Options {
            running: Some(&covered),
            learned,
            digest: Some(failed.digest()),
            keys: Some(&checks),
            kept: Some((kept, &keys)),
            number: failed.number() + 1,
            ..Default::default()
        };
        let tables = self.tables();
        let back = transform::candidate(&self.host, kept.settings(), &tables, options);
        let mut back = back.map_err(|rejected| told(&rejected.reasons))?;
        // What rows have shown while it was being made is its own too.
        self.handle.lend(&mut back);
        let held = runtime.block_on(self.remember(&back)).map_err(|error| error.to_string())?;
        let text = format!(
            "generation {} failed and is not in force any more; generation {} is what ran before \
             it: {error}",
            failed.number(),
            back.number()
        );
        self.handle.publish(back);
        drop(held);
        self.course().failed.insert(failed.digest().to_owned());
        let reason =
            LoadError { binding: None, at: "on_regression".to_owned(), text: text.clone() };
        self.handle.refuse(failed.digest(), Some(failed.digest().to_owned()), vec![reason]);
        Ok(Some(text))
    }
}

impl Engine {
    /// Somebody accepts a generation as it is: the candidate that was refused last is looked
    /// at again then, and the one in force may finish what another one began and cannot.
    pub(super) fn accept(&self, asked: &str) -> Result<Accepted, Refusal> {
        let report = self.world.handle.report().borrow().clone();
        let asked = asked.to_ascii_lowercase();
        let meant = |digest: &str| asked.len() >= SHORTEST && digest.starts_with(&asked);
        let refused = report.refused.as_ref().and_then(|refused| refused.candidate.clone());
        if let Some(digest) = refused.filter(|digest| meant(digest)) {
            self.world.handle.accept(&digest);
            self.reload.poke();
            let told = "the candidate is accepted; it is loaded again".to_owned();
            return Ok(Accepted { digest, told });
        }
        if !meant(&report.digest) {
            return Err(Refusal::precondition(format!(
                "no candidate and no generation in force has the digest {asked:?} (at least \
                 {SHORTEST} of its characters): `kasho plugin list` tells them"
            )));
        }
        if self.troubles.stream.is_none() {
            return Err(Refusal::precondition(format!(
                "generation {} is in force, and nothing waits for it to be confirmed",
                report.generation
            )));
        }
        self.world.handle.accept(&report.digest);
        let told = format!(
            "generation {} is in force, and may finish a transaction that an earlier one cannot",
            report.generation
        );
        Ok(Accepted { digest: report.digest, told })
    }
}

/// Where keys are by the file as it is now, whatever else is wrong with that; as it was at the
/// start where it does not tell.
fn key_sources(path: &Path, start: transform::Config) -> KeySources {
    let now = Config::load_parts(path, &["keys", "dead_letter_key"]);
    let now = now.map_or(start, |config| config.chain());
    KeySources { keys: now.keys, dead: now.dead_letter_key }
}

fn told(reasons: &[LoadError]) -> String {
    reasons.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

fn other_options(lsn: Lsn, began: &str, now: &str) -> String {
    format!(
        "the transaction at {lsn} is published in part, and the source options with which it began \
         (digest {began}) are not those in force (digest {now}): they number its changes. Put the \
         former source.publications and source.messages back until it is finished, then change \
         them again; or begin a new epoch: `kasho reset`, then `kasho bootstrap`"
    )
}

/// What an operator can do about a transaction that cannot be finished by what began it.
fn ways_on(began: &str, newest: &str) -> String {
    let accept = match began == newest {
        true => "change the plugins or rules so that it passes; once they are in force, have them \
                 finish it with `kasho plugin accept <their digest>` (`kasho plugin list` tells it)"
            .to_owned(),
        false => format!(
            "have those in force finish it with `kasho plugin accept {newest}` (or accept = \
             \"{newest}\")"
        ),
    };
    format!(
        "To go on, {accept}: the transaction carries two generations then, each entry under its own \
         number. Or begin a new epoch: `kasho reset`, then `kasho bootstrap`"
    )
}

fn mixed(lsn: Lsn, checkpoint: &Checkpoint, newest: &Generation) -> String {
    format!(
        "the transaction at {lsn} was begun by generation {} and is finished by generation {}, as \
         was accepted: its rows carry two",
        checkpoint.generation,
        newest.number()
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transform::KeySource;

    #[test]
    fn keys_are_where_the_file_says_now() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kasho.toml");
        let file = |name: &str| KeySource::File(folder.path().join(name));
        let start = transform::Config {
            keys: [("k1".to_owned(), file("first"))].into(),
            dead_letter_key: Some(file("dead")),
            ..transform::Config::default()
        };
        let sources = || key_sources(&path, start.clone());
        assert_eq!(sources().keys["k1"], file("first"), "there is no file");
        let moved = "dead_letter_key = { file = 'other' }\n[keys]\nk2 = { file = 'second' }\n";
        for name in ["second", "other"] {
            std::fs::write(folder.path().join(name), "0123456789abcdef".repeat(4)).unwrap();
        }
        // What it says of plugins is no rule at all.
        std::fs::write(&path, format!("{moved}[[transform]]\nname = 7\n")).unwrap();
        assert_eq!(sources().keys, [("k2".to_owned(), file("second"))].into());
        assert_eq!(sources().dead, Some(file("other")));
        std::fs::write(&path, "[keys]\nk2 = 7\n").unwrap();
        assert_eq!((&sources().keys["k1"], sources().dead), (&file("first"), Some(file("dead"))));
    }
}

//! Puts the status together from what every part knows at the moment.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use super::{Engine, Observed};
use crate::bootstrap::{LoadMode, MissingRows, Phase};
use crate::control::{
    CandidateStatus, ConsumerStatus, LaneFigures, LoadFigures, PluginStatus, Status,
};
use crate::position::Lsn;
use crate::sink::config::Durability;
use crate::sink::id::{Keys, Lane};
use crate::sink::status::Figures;
use crate::transform::{Generation, Refused, Report};

impl Engine {
    /// Replaces what GetStatus answers.
    pub(super) fn publish_status(&self) {
        let waiting = self.phase.epoch().is_none();
        if self.world.waiting.swap(waiting, Relaxed) != waiting && waiting {
            // What was refused for the sake of what was loaded may be taken now.
            self.reload.poke();
        }
        self.shared.status.store(Arc::new(self.status()));
    }

    fn status(&self) -> Status {
        let config = &self.world.config;
        let (sink, load_sink) = (self.figures.sink.get(), self.load.sink.get());
        let loader_paused = self.loader_paused();
        let report = self.world.handle.report().borrow().clone();
        let (slot, epoch) = (self.observed.slot.as_ref(), self.phase.epoch());
        let seen = Some(self.observed.changes_lsn).filter(|lsn| *lsn > Lsn::ZERO);
        let key = |lane| epoch.map(|e| Keys::new(&config.redis.prefix).stream(e, lane));
        let retained = slot.map_or(0, |slot| slot.retained_bytes);
        let warnings = self.warnings([&sink, &load_sink], &report, retained);
        let not_loaded = not_loaded(&self.phase, self.published.latest());
        let usage = &self.observed.usage;
        let unmasked = report.plugins.iter().flat_map(|plugin| {
            plugin.unmasked.iter().map(|policy| format!("{}: {policy} = \"pass\"", plugin.binding))
        });
        Status {
            state: Some(self.phase.state()),
            epoch,
            start_lsn: self.phase.start_lsn(),
            current_lsn: seen.filter(|_| epoch.is_some() && epoch == self.observed.epoch),
            confirmed_lsn: slot.and_then(|slot| slot.confirmed_flush),
            accumulated_changes: self.accumulated(),
            lag_bytes: self.lag_bytes(),
            retained_wal_bytes: retained,
            wal_status: slot.and_then(|slot| slot.wal_status.clone()).unwrap_or_default(),
            safe_wal_bytes: slot.and_then(|slot| slot.safe_wal_bytes),
            max_retained_wal: config.source.max_retained_wal.0,
            lag: self.lag.lag(Instant::now()),
            started: true,
            stream_open: self.stream_open,
            rows: self.figures.pipeline.rows.load(Relaxed),
            transactions: self.figures.pipeline.transactions.load(Relaxed),
            changes: lane(&sink, usage.changes, Some(usage.length)),
            bootstrap: LaneFigures {
                paused: load_sink.paused.is_some() || loader_paused.is_some(),
                ..lane(&load_sink, usage.bootstrap, None)
            },
            redis_used: usage.used,
            redis_limit: usage.limit,
            paused: paused([sink.paused, load_sink.paused, loader_paused]),
            load: self.load_figures(),
            generation: report.generation,
            generation_digest: report.digest.clone(),
            generation_at: Some(report.since),
            generation_since: self.world.since(report.generation),
            plugins: plugins(&report, &self.world.handle.newest()),
            candidate: report.refused.as_ref().map(candidate),
            refusals: report.refusals,
            consumers: self.observed.consumers.clone(),
            durability: durability(config.redis.durability),
            xmin_age: self.observed.xmin_age,
            last_error: self.last_error(),
            snapshot_name: match &self.phase {
                Phase::Accumulating(load) if !load.loaded => {
                    load.snapshots.first().map(|s| s.name.clone()).unwrap_or_default()
                }
                _ => String::new(),
            },
            slot: self.world.slot.to_string(),
            publication: config.source.publications.join(","),
            changes_key: key(Lane::Changes).unwrap_or_default(),
            bootstrap_key: key(Lane::Bootstrap).unwrap_or_default(),
            warnings,
            allow_unmasked: unmasked.collect(),
            by_itself: by_itself(&self.phase, config.bootstrap.missing_rows, &not_loaded),
            not_loaded,
            tables_looked_at: self.published.latest().is_some(),
            dead_letters: self.observed.dead_letters,
        }
    }

    /// What an operator should know although everything goes on.
    fn warnings(&self, sinks: [&Figures; 2], report: &Report, retained: u64) -> Vec<String> {
        let told = sinks.into_iter().filter_map(|sink| sink.warning.as_ref());
        let told = told.chain(&self.observed.warnings).chain(&report.warnings);
        let mut warnings: Vec<String> = told.cloned().collect();
        warnings.dedup();
        warnings.extend(super::guard::warning(&self.world, retained));
        warnings.extend(self.observed.consumers.iter().filter_map(ConsumerStatus::warning));
        warnings.extend(self.incomplete());
        warnings.extend(self.world.notes());
        warnings
    }

    /// What is missing in the initial load by intention.
    fn incomplete(&self) -> Option<String> {
        match &self.phase {
            Phase::Streaming(streaming) if streaming.incomplete => Some(format!(
                "the initial load of {} is incomplete: it was completed before it had finished, or \
                 was told to leave rows out (pg-bootstrap-sync -m)",
                streaming.epoch
            )),
            _ => None,
        }
    }

    /// Log between the server's end, as last heard on the stream or seen, and what is
    /// confirmed.
    fn lag_bytes(&self) -> u64 {
        let heard = self.figures.wal().map(|wal| wal.wal_end()).unwrap_or_default();
        let confirmed = self.observed.slot.as_ref().and_then(|slot| slot.confirmed_flush);
        self.observed.lag_bytes.max(confirmed.map_or(0, |confirmed| heard.since(confirmed)))
    }

    /// Why the service does not do what it should, the gravest first.
    pub(super) fn last_error(&self) -> String {
        let waiting = match &self.phase {
            Phase::Waiting(waiting) => waiting.last_error.as_ref(),
            Phase::Accumulating(_) | Phase::Streaming(_) => None,
        };
        let troubles = &self.troubles;
        let all = [&troubles.stream, &troubles.load, &troubles.owed, &troubles.observer];
        waiting.into_iter().chain(all.into_iter().flatten()).next().cloned().unwrap_or_default()
    }

    /// Of a load that another program writes: rows are entries, bytes those of its file.
    fn external_figures(&self, figures: LoadFigures) -> LoadFigures {
        let Observed { epoch, loader, bootstrap_entries: rows, .. } = &self.observed;
        if *epoch != self.phase.epoch() {
            return figures;
        }
        LoadFigures { rows: *rows, bytes: loader.bytes, bytes_estimated: loader.total, ..figures }
    }

    /// Why pg-bootstrap-sync waits, as it last said while its turn lasts.
    fn loader_paused(&self) -> Option<String> {
        let Observed { epoch, loader, usage, .. } = &self.observed;
        let load = self.phase.external_load()?;
        let heard = *epoch == Some(load.epoch) && loader.until_ms > usage.now_ms;
        loader.paused.as_ref().filter(|_| heard && !loader.done).cloned()
    }

    fn load_figures(&self) -> LoadFigures {
        let blocking = self.starting.as_ref().and_then(|starting| starting.blocking.clone());
        match &self.phase {
            Phase::Accumulating(load) => {
                let figures = self.load.figures.borrow().clone();
                let known = !figures.tables.is_empty() || load.tables.is_empty();
                let figures = if known { figures } else { crate::load::figures(load) };
                let figures = match load.mode {
                    LoadMode::External => self.external_figures(figures),
                    LoadMode::Direct | LoadMode::None => figures,
                };
                let mode = load.mode.name().to_owned();
                let stopped = self.loading.is_none() && !load.loaded;
                let halted = self.troubles.load.clone().filter(|_| stopped).unwrap_or_default();
                LoadFigures { mode, finished: load.loaded, blocking, halted, ..figures }
            }
            Phase::Streaming(crate::bootstrap::Streaming { reload: Some(reload), .. }) => {
                let figures = self.load.figures.borrow().clone();
                let known = !figures.tables.is_empty() || reload.load.tables.is_empty();
                let figures = if known { figures } else { crate::load::figures(&reload.load) };
                let mode = "again".to_owned();
                let halted = self.troubles.load.clone().filter(|_| self.loading.is_none());
                let halted = halted.unwrap_or_default();
                LoadFigures { mode, finished: false, blocking, halted, ..figures }
            }
            Phase::Streaming(streaming) => {
                LoadFigures { rows: streaming.rows, finished: true, ..LoadFigures::default() }
            }
            Phase::Waiting(_) => LoadFigures { blocking, ..LoadFigures::default() },
        }
    }
}

/// Published tables whose rows of before they joined nobody has loaded, or whose rows have
/// changed past the stream since. As long as nobody has looked which are published, those that
/// are remembered.
pub(super) fn not_loaded(phase: &Phase, published: Option<&[String]>) -> Vec<String> {
    let Some(loaded) = phase.loaded_tables() else { return Vec::new() };
    let (stale, loading) = match phase {
        Phase::Streaming(streaming) => {
            let reload = streaming.reload.as_ref();
            (&streaming.stale[..], reload.map_or(&[][..], |reload| &reload.tables))
        }
        Phase::Waiting(_) | Phase::Accumulating(_) => (&[][..], &[][..]),
    };
    let loaded: HashSet<&String> = loaded.iter().collect();
    let changed: BTreeSet<&String> = stale.iter().chain(phase.put_off()).collect();
    let missing = |table: &&String| !loaded.contains(table) || changed.contains(table);
    match published {
        Some(published) => published.iter().filter(missing).cloned().collect(),
        None => {
            let loading = loading.iter().filter(missing);
            let names: BTreeSet<&String> = changed.iter().copied().chain(loading).collect();
            names.into_iter().cloned().collect()
        }
    }
}

/// Of tables that are not loaded, those that nobody has to ask for, each with the reason.
fn by_itself(phase: &Phase, rows: MissingRows, not_loaded: &[String]) -> Vec<(String, String)> {
    let reload = match phase {
        Phase::Streaming(streaming) => streaming.reload.as_deref(),
        Phase::Waiting(_) | Phase::Accumulating(_) => None,
    };
    let loading = |table: &String| {
        reload.is_some_and(|r| r.tables.contains(table) && !r.load.later.contains(table))
    };
    let why = |table: &String| match rows {
        _ if loading(table) => Some("it is being loaded now".to_owned()),
        _ if phase.put_off().any(|other| other == table) => Some(format!(
            "it was made, altered, renamed or dropped after a load of it was planned, and its rows \
             would not have fitted what targets had then. They come behind that change, {WHEN}"
        )),
        MissingRows::Load => Some(format!("bootstrap.missing_rows = \"load\", {WHEN}")),
        MissingRows::Report => None,
    };
    not_loaded.iter().filter_map(|table| Some((table.clone(), why(table)?))).collect()
}

/// When a load of single tables can begin.
const WHEN: &str = "once changes stream and no other load is under way";

fn plugins(report: &Report, generation: &Generation) -> Vec<PluginStatus> {
    let figures = generation.figures();
    let running = report.plugins.iter().map(|plugin| PluginStatus {
        name: plugin.binding.clone(),
        digest: plugin.sha256.clone(),
        error: String::new(),
        file: plugin.plugin.clone(),
        version: plugin.version.clone().unwrap_or_default(),
        tables: plugin.tables.clone(),
        compiled: plugin.compiled,
        calls: figures.get(&plugin.binding).map(|figures| figures.get()),
        counted: figures.get(&plugin.binding).map(|f| f.counted()).unwrap_or_default(),
    });
    let refused = report.refused.iter().map(|refused| PluginStatus {
        name: "candidate".to_owned(),
        digest: refused.digest.clone(),
        error: format!(
            "refused, generation {} goes on: {}",
            report.generation,
            refused.reasons.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
        ),
        ..PluginStatus::default()
    });
    running.chain(refused).collect()
}

fn candidate(refused: &Refused) -> CandidateStatus {
    CandidateStatus {
        digest: refused.candidate.clone().unwrap_or_default(),
        at: refused.at,
        reasons: refused.reasons.iter().map(ToString::to_string).collect(),
    }
}

/// Why either stream waits; both may.
fn paused(reasons: [Option<String>; 3]) -> String {
    let mut reasons: Vec<String> = reasons.into_iter().flatten().collect();
    reasons.dedup();
    reasons.join("; ")
}

/// A stream by what its writer says and what was seen of it.
fn lane(writer: &Figures, memory: u64, length: Option<u64>) -> LaneFigures {
    LaneFigures {
        entries: writer.entries,
        bytes: writer.bytes,
        trimmed: writer.trimmed,
        length,
        memory,
        budget: writer.budget,
        paused: writer.paused.is_some(),
    }
}

/// As it is written in the configuration.
fn durability(durability: Durability) -> String {
    match durability {
        Durability::Reply => "reply".to_owned(),
        Durability::Aof => "aof".to_owned(),
        Durability::Replicas(n) => format!("replicas={n}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bootstrap;

    #[test]
    fn what_is_remembered_counts_until_somebody_has_looked() {
        let mut stored = serde_json::json!({
            "version": 1, "state": "STREAMING", "epoch": 1, "slot": "s", "start_lsn": "0/10",
            "load_points": {}, "rows": 1, "accumulated_changes": 0, "incomplete": false,
            "tables": ["public.t", "public.anew"], "stale": ["public.anew"], "later": ["public.off"],
        });
        let missing = |stored: &serde_json::Value, published: Option<&[&str]>| {
            let published = published.map(|p| p.iter().map(|t| format!("public.{t}")).collect());
            let published: Option<Vec<String>> = published;
            not_loaded(&bootstrap::load(&stored.to_string()).unwrap(), published.as_deref())
        };
        assert_eq!(missing(&stored, None), ["public.anew", "public.off"]);
        let looked = missing(&stored, Some(&["joined", "t", "off"]));
        assert_eq!(looked, ["public.joined", "public.off"], "public.anew is dropped");
        stored["reload"] = serde_json::json!({
            "tables": ["public.joined", "public.t"], "nonce": "n", "section": 2, "mark": "0/20",
            "load": {
                "epoch": 1, "slot": "s", "start_lsn": "0/10", "mode": "direct", "snapshots": [],
                "holder": null, "range_blocks": 1, "tables": [], "loaded": false,
            },
        });
        assert_eq!(missing(&stored, None), ["public.anew", "public.joined", "public.off"]);
    }

    #[test]
    fn what_is_put_off_or_wanted_comes_by_itself() {
        let mut stored = serde_json::json!({
            "version": 1, "state": "STREAMING", "epoch": 1, "slot": "s", "start_lsn": "0/10",
            "load_points": {}, "rows": 1, "accumulated_changes": 0, "incomplete": false,
            "tables": ["public.t"],
        });
        let phase = |stored: &serde_json::Value| bootstrap::load(&stored.to_string()).unwrap();
        let missing = ["public.joined".to_owned(), "public.off".to_owned()];
        let told = |phase: &Phase, rows| {
            let told = by_itself(phase, rows, &missing);
            told.into_iter().map(|(table, why)| format!("{table}: {why}")).collect::<Vec<_>>()
        };
        assert_eq!(told(&phase(&stored), MissingRows::Report), Vec::<String>::new());
        let wanted = told(&phase(&stored), MissingRows::Load);
        assert!(wanted.len() == 2 && wanted[0].contains("missing_rows"), "{wanted:?}");
        stored["later"] = serde_json::json!(["public.off"]);
        let put_off = told(&phase(&stored), MissingRows::Report);
        assert!(put_off.len() == 1 && put_off[0].starts_with("public.off: it was made, altered"));
        let both = told(&phase(&stored), MissingRows::Load);
        assert!(both[0].contains("missing_rows") && both[1].contains("altered"), "{both:?}");
        // A load of both is under way, and one of them was altered once more.
        stored["reload"] = serde_json::json!({
            "tables": missing, "nonce": "n", "section": 2, "mark": "0/20",
            "load": {
                "epoch": 1, "slot": "s", "start_lsn": "0/10", "mode": "direct", "snapshots": [],
                "holder": null, "range_blocks": 1, "tables": [], "loaded": false,
                "later": ["public.off"],
            },
        });
        let loading = told(&phase(&stored), MissingRows::Report);
        assert_eq!(loading[0], "public.joined: it is being loaded now");
        assert!(loading[1].contains("altered"), "{loading:?}");
    }
}

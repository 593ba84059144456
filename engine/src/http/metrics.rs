//! What `/metrics` tells. Names begin with `kasho_`, units are bytes and seconds, and a
//! label holds a name that an operator gave or a state, never anything of a row. Figures
//! are those of GetStatus, at most a second old.

use std::sync::atomic::Ordering::Relaxed;

use super::text::{Kind, Labels, Text};
use crate::bootstrap::State;
use crate::control::{ConsumerStatus, LaneFigures, PluginStatus, Shared, Status};
use crate::transform::CALL_SECONDS;

/// `pg_replication_slots.wal_status`, as the manual lists it.
const WAL_STATUSES: [&str; 4] = ["reserved", "extended", "unreserved", "lost"];
const STATES: [&str; 3] = ["WAITING", "ACCUMULATING", "STREAMING"];

/// The answer to a scrape.
pub(super) fn render(shared: &Shared) -> String {
    let status = shared.status.load();
    let mut text = Text::default();
    process(&mut text, shared, &status);
    source(&mut text, &status);
    sink(&mut text, &status);
    load(&mut text, &status);
    plugins(&mut text, &status);
    consumers(&mut text, &status.consumers);
    text.finish()
}

fn process(text: &mut Text, shared: &Shared, status: &Status) {
    let version: Labels<'_> = &[("version", env!("CARGO_PKG_VERSION"))];
    text.family("kasho_build_info", Kind::Gauge, "The version, as a label.", [(version, 1)]);
    let up = shared.since.elapsed().as_secs_f64();
    text.gauge("kasho_uptime_seconds", "Time since the service started.", up);
    let state = status.state.unwrap_or(State::Waiting).to_string();
    text.states("kasho_state", "state", "1 for the state of the bootstrap.", &STATES, &state);
    let ready = u8::from(status.not_ready().is_none());
    text.gauge("kasho_ready", "Whether /readyz answers 200.", ready);
    text.gauge("kasho_epoch", "Number of the bootstrap in force.", number(status.epoch));
    let clients = shared.clients.load(Relaxed);
    text.gauge("kasho_connected_clients", "Open gRPC Stream calls.", clients);
    text.gauge("kasho_warnings", "Warnings that GetStatus lists.", status.warnings.len());
    let unmasked = status.allow_unmasked.len();
    text.gauge("kasho_unmasked_policies", "Policies by which rows may pass unmasked.", unmasked);
    if let Some(bytes) = resident_bytes() {
        text.gauge("kasho_resident_memory_bytes", "Resident memory of the process.", bytes);
    }
}

fn source(text: &mut Text, status: &Status) {
    let lag = status.lag_bytes;
    text.gauge("kasho_lag_bytes", "Log written by the source and not confirmed yet.", lag);
    let lag = status.lag.as_secs_f64();
    text.gauge("kasho_lag_seconds", "Age of the oldest log not published yet.", lag);
    let retained = status.retained_wal_bytes;
    text.gauge("kasho_retained_wal_bytes", "Log that the source keeps for the slot.", retained);
    if status.max_retained_wal > 0 {
        let limit = status.max_retained_wal;
        text.gauge("kasho_max_retained_wal_bytes", "The setting source.max_retained_wal.", limit);
    }
    if let Some(safe) = status.safe_wal_bytes {
        let help = "Log that may still be written before the slot is lost (safe_wal_size).";
        text.gauge("kasho_safe_wal_bytes", help, safe);
    }
    if !status.wal_status.is_empty() {
        let help = "1 for the slot's wal_status.";
        text.states("kasho_wal_status", "status", help, &WAL_STATUSES, &status.wal_status);
    }
    let help = "Age, in transactions, of the oldest row version that slot or snapshot hold back.";
    text.gauge("kasho_xmin_age_transactions", help, status.xmin_age);
    let open = u8::from(status.stream_open);
    text.gauge("kasho_stream_open", "Whether the slot is being read.", open);
    text.counter("kasho_rows_total", "Changes received, before filtering.", status.rows);
    let help = "Transactions published.";
    text.counter("kasho_transactions_total", help, status.transactions);
}

fn sink(text: &mut Text, status: &Status) {
    let lanes = [("changes", &status.changes), ("bootstrap", &status.bootstrap)];
    let mut each = |name: &str, kind, help: &str, of: fn(&LaneFigures) -> Option<u64>| {
        let samples = lanes.iter().filter_map(|(lane, figures)| Some((*lane, of(figures)?)));
        let samples: Vec<_> = samples.map(|(lane, value)| ([("stream", lane)], value)).collect();
        text.family(name, kind, help, samples.iter().map(|(labels, value)| (&labels[..], *value)));
    };
    use Kind::{Counter, Gauge};
    each("kasho_entries_total", Counter, "Entries published.", |lane| Some(lane.entries));
    each("kasho_published_bytes_total", Counter, "Bytes of their data.", |lane| Some(lane.bytes));
    each("kasho_trimmed_entries_total", Counter, "Entries trimmed.", |lane| Some(lane.trimmed));
    each("kasho_stream_entries", Gauge, "Entries in the stream.", |lane| lane.length);
    each("kasho_stream_bytes", Gauge, "Redis memory of the stream.", |lane| Some(lane.memory));
    each("kasho_budget_bytes", Gauge, "What it may take; absent: no limit.", |lane| lane.budget);
    let help = "Whether publishing waits for room in Redis.";
    each("kasho_paused", Gauge, help, |lane| Some(u64::from(lane.paused)));
    if status.redis_used > 0 {
        text.gauge("kasho_redis_memory_bytes", "Memory of Redis.", status.redis_used);
    }
    if status.redis_limit > 0 {
        text.gauge("kasho_redis_maxmemory_bytes", "Redis' maxmemory.", status.redis_limit);
    }
    let durability: Labels<'_> = &[("durability", &status.durability)];
    let help = "What a change must reach before PostgreSQL may forget it, as a label.";
    text.family("kasho_redis_durability_info", Gauge, help, [(durability, 1)]);
}

fn load(text: &mut Text, status: &Status) {
    let load = &status.load;
    let help = "Changes captured while the initial data is loaded.";
    text.gauge("kasho_accumulated_changes", help, status.accumulated_changes);
    text.gauge("kasho_load_rows", "Rows of the initial load published.", load.rows);
    let help = "Rows to load by the planner's estimate.";
    text.gauge("kasho_load_rows_estimated", help, load.rows_estimated);
    text.gauge("kasho_load_bytes", "Bytes of COPY text read.", load.bytes);
    let help = "Bytes of the tables to load.";
    text.gauge("kasho_load_estimated_bytes", help, load.bytes_estimated);
    text.gauge("kasho_load_tables", "Tables to load.", load.tables.len());
    let done = load.tables.iter().filter(|table| table.done).count();
    text.gauge("kasho_load_tables_done", "Tables loaded.", done);
    text.gauge("kasho_load_finished", "Whether it is complete.", u8::from(load.finished));
    let blocking = load.blocking.as_ref();
    let help = "Server process that making the slot waits for; 0: none.";
    text.gauge("kasho_blocking_pid", help, blocking.map_or(0, |blocking| blocking.pid));
    let help = "Age of its transaction.";
    text.gauge("kasho_blocking_age_seconds", help, blocking.map_or(0, |blocking| blocking.age_s));
}

fn plugins(text: &mut Text, status: &Status) {
    text.gauge("kasho_generation", "Generation of the plugin chain in force.", status.generation);
    text.gauge("kasho_dead_letters", "Rows that are set aside.", status.dead_letters);
    let digest: Labels<'_> = &[("digest", &status.generation_digest)];
    let help = "Digest of the chain in force, as a label.";
    text.family("kasho_generation_info", Kind::Gauge, help, [(digest, 1)]);
    let help = "Whether plugins and rules on disk were refused, and the former ones go on.";
    text.gauge("kasho_degraded", help, u8::from(status.candidate.is_some()));
    let help = "Changed plugins or rules that were refused.";
    text.counter("kasho_reload_refusals_total", help, status.refusals);
    let running: Vec<(&PluginStatus, [(&str, &str); 1])> = status
        .plugins
        .iter()
        .filter(|plugin| plugin.calls.is_some())
        .map(|plugin| (plugin, [("plugin", plugin.name.as_str())]))
        .collect();
    let figures = running.iter().filter_map(|(plugin, labels)| Some((plugin.calls?, &labels[..])));
    let figures: Vec<_> = figures.collect();
    if !figures.is_empty() {
        let name = "kasho_plugin_call_seconds";
        text.histogram_head(name, "Time of the plugin's calls, the host's work included.");
        for (calls, labels) in &figures {
            let series = (&CALL_SECONDS[..], &calls.buckets[..]);
            text.histogram(name, labels[0], series, calls.time.as_secs_f64());
        }
    }
    let infos: Vec<(&PluginStatus, [(&str, &str); 4])> = running
        .iter()
        .map(|(plugin, _)| {
            let PluginStatus { name, file, digest, version, .. } = plugin;
            let labels =
                [("plugin", name), ("file", file), ("digest", digest), ("version", version)];
            (*plugin, labels.map(|(label, value)| (label, value.as_str())))
        })
        .collect();
    let help = "A plugin of the chain in force: file, SHA-256 and version, as labels.";
    let samples = infos.iter().map(|(_, labels)| (&labels[..], 1));
    text.family("kasho_plugin_info", Kind::Gauge, help, samples);
    let help = "Time of compiling it, or of finding it compiled.";
    let samples =
        running.iter().map(|(plugin, labels)| (&labels[..], plugin.compiled.as_secs_f64()));
    text.family("kasho_plugin_compile_seconds", Kind::Gauge, help, samples);
    let mut each = |name: &str, help: &str, of: fn(&crate::transform::Calls) -> u64| {
        let samples = figures.iter().map(|(calls, labels)| (*labels, of(calls)));
        text.family(name, Kind::Counter, help, samples);
    };
    each("kasho_plugin_rows_total", "Rows it was called with.", |calls| calls.rows);
    each("kasho_plugin_dropped_total", "Rows it dropped.", |calls| calls.dropped);
    each("kasho_plugin_errors_total", "Rows in error.", |calls| calls.errors);
    each("kasho_plugin_lost_total", "Of these, dropped.", |calls| calls.lost);
    each("kasho_plugin_dead_letters_total", "Of these, set aside.", |calls| calls.dead);
    let help = "Of these, passed as they were.";
    each("kasho_plugin_passed_total", help, |calls| calls.passed);
    let help = "Calls that failed: traps, deadlines, malformed answers.";
    each("kasho_plugin_failures_total", help, |calls| calls.failures);
    let counted = running.iter().flat_map(|(plugin, [of])| {
        plugin.counted.iter().map(|(count, n)| ([*of, ("count", count.as_str())], *n))
    });
    let counted: Vec<_> = counted.collect();
    let help = "What the plugin itself counts, by the texts it declared.";
    let samples = counted.iter().map(|(labels, n)| (&labels[..], *n));
    text.family("kasho_plugin_count", Kind::Gauge, help, samples);
}

fn consumers(text: &mut Text, consumers: &[ConsumerStatus]) {
    let labelled: Vec<_> = consumers.iter().map(|c| (c, [("consumer", c.name.as_str())])).collect();
    let mut each = |name: &str, help: &str, of: fn(&ConsumerStatus) -> Option<u64>| {
        let samples = labelled.iter().filter_map(|(c, labels)| Some((&labels[..], of(c)?)));
        text.family(name, Kind::Gauge, help, samples);
    };
    let help = "Entries of the load that it has not acknowledged.";
    each("kasho_consumer_load_lag_entries", help, |c| Some(c.lag_entries));
    let help = "Log between what it has acknowledged and the newest change.";
    each("kasho_consumer_lag_bytes", help, |c| c.lag_bytes);
    let help = "Time since it was last heard of.";
    each("kasho_consumer_silent_seconds", help, |c| Some(c.silent.as_secs()));
}

fn number(epoch: Option<crate::position::Epoch>) -> u64 {
    epoch.map_or(0, |epoch| epoch.0)
}

/// VmRSS of proc(5).
/// Resident memory of this process.
pub(crate) fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib << 10)
}

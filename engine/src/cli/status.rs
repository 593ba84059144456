//! `kasho status`: what the running engine says of itself.

use std::fmt::Write;
use std::io::IsTerminal;
use std::path::Path;

use clap::Args;

use super::client::{Server, block_on, told};
use crate::control::proto::kasho::{Plugin, StatusRequest, StatusResponse};

/// Arguments of `kasho status`.
#[derive(Debug, Args)]
pub struct Arguments {
    #[command(flatten)]
    server: Server,
    /// Everything as one JSON object.
    #[arg(long)]
    json: bool,
}

/// Prints the status.
///
/// # Errors
/// The engine does not answer.
pub fn run(arguments: &Arguments, config: &Path) -> anyhow::Result<()> {
    block_on(async {
        let (mut client, _) = arguments.server.connect(config).await?;
        let status = client.get_status(StatusRequest {}).await.map_err(|e| told(&e))?.into_inner();
        if arguments.json {
            println!("{}", serde_json::to_string_pretty(&status)?);
        } else {
            print!("{}", text(&status, colours()));
        }
        Ok(())
    })
}

/// Whether the terminal is to show colours (https://no-color.org).
fn colours() -> bool {
    std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none()
}

/// Red, if colours are shown.
fn alarm(text: &str, colours: bool) -> String {
    if colours { format!("\x1b[31m{text}\x1b[0m") } else { text.to_owned() }
}

fn text(status: &StatusResponse, colours: bool) -> String {
    let mut out = String::new();
    let mut line = |name: &str, value: String| {
        if !value.is_empty() {
            // Writing to a String cannot fail.
            let _ = writeln!(out, "{name:<14} {value}");
        }
    };
    let epoch = match status.epoch {
        0 => String::new(),
        epoch => format!(" (epoch {epoch})"),
    };
    line("state", format!("{}{epoch}", status.state));
    line("last error", status.last_error.clone());
    if status.not_ready != status.last_error {
        line("not ready", status.not_ready.clone());
    }
    line("DEGRADED", status.degraded.clone());
    line("paused", status.paused.clone());
    line("slot", slot(status));
    line("publication", status.publication.clone());
    line("start", status.start_lsn.clone());
    line("current", status.current_lsn.clone());
    line("confirmed", status.confirmed_lsn.clone());
    if status.epoch > 0 {
        let seconds = status.lag_ms / 1000;
        line("lag", format!("{}, {seconds} s", bytes(status.lag_bytes)));
        line("retained WAL", retained(status));
        line("held back", format!("{} transactions (xmin age)", status.xmin_age));
        line("changes", status.changes_key.clone());
        line("bootstrap", status.bootstrap_key.clone());
    }
    if status.state == "ACCUMULATING" {
        line("accumulated", format!("{} changes", status.accumulated_changes));
        line("snapshot", status.snapshot_name.clone());
        line("load", load(status));
    }
    if status.load.as_ref().is_some_and(|load| load.mode == "again") {
        line("load", load(status));
    }
    not_loaded(status).into_iter().for_each(|told| line("NOT LOADED", told));
    if status.epoch > 0 && !status.tables_looked_at {
        line("tables", "not looked at yet: others may lack rows, too".to_owned());
    }
    line("durability", status.durability.clone());
    line("generation", super::generations::told(status));
    for plugin in &status.plugins {
        let digest = plugin.digest.get(..12).unwrap_or(&plugin.digest);
        line("plugin", format!("{} {digest} {}{}", plugin.name, plugin.error, in_error(plugin)));
    }
    if status.dead_letters > 0 {
        let text = format!("{} rows set aside: `kasho dead list`", status.dead_letters);
        line("dead letters", alarm(&text, colours));
    }
    for consumer in &status.consumers {
        let (name, position) = (&consumer.name, &consumer.position);
        let lag = match consumer.lag_bytes {
            0 => format!("{} rows of the load", consumer.lag_entries),
            wal => format!("{} of WAL", bytes(wal)),
        };
        let silent = consumer.silent_seconds;
        line("consumer", format!("{name} at {position}, {lag} behind, silent for {silent} s"));
    }
    status.allow_unmasked.iter().for_each(|policy| line("UNMASKED", alarm(policy, colours)));
    status.warnings.iter().for_each(|warning| line("warning", warning.clone()));
    line("clients", status.connected_clients.to_string());
    line("up", format!("{} s, version {}", status.uptime_seconds, status.version));
    out
}

/// What to do about each table that lacks rows, if there is anything to do.
fn not_loaded(status: &StatusResponse) -> Vec<String> {
    let tables = status.not_loaded.iter();
    let told = tables.map(|table| match status.by_itself.iter().find(|own| own.table == *table) {
        Some(own) => format!("{table} comes by itself: {}", own.why),
        None => format!(
            "{table} joined later, or has values that the stream did not bring: `kasho bootstrap \
             --table {table}`"
        ),
    });
    told.collect()
}

/// What became of rows in error, if there were any.
fn in_error(plugin: &Plugin) -> String {
    let told = [
        (plugin.lost, "dropped"),
        (plugin.dead_letters, "set aside"),
        (plugin.passed, "passed as they were"),
    ];
    let told: Vec<String> = told
        .iter()
        .filter(|(rows, _)| *rows > 0)
        .map(|(rows, what)| format!("{rows} {what}"))
        .collect();
    match plugin.errors {
        0 => String::new(),
        errors => format!("{errors} rows in error ({})", told.join(", ")),
    }
}

fn retained(status: &StatusResponse) -> String {
    let retained = bytes(status.retained_wal_bytes);
    match status.max_retained_wal_bytes {
        0 => format!("{retained}, no limit (source.max_retained_wal)"),
        limit => format!("{retained} of {} at most", bytes(limit)),
    }
}

fn slot(status: &StatusResponse) -> String {
    match status.wal_status.as_str() {
        "" => status.slot.clone(),
        wal => format!("{} ({wal})", status.slot),
    }
}

fn load(status: &StatusResponse) -> String {
    let Some(load) = &status.load else { return String::new() };
    if !load.blocking.is_empty() {
        return format!("waits for {}", load.blocking);
    }
    let end = match load.halted.is_empty() {
        true if load.finished => ", finished",
        true => "",
        false => ", halted",
    };
    if load.mode == "external" {
        let (read, total) = (load.bytes, load.bytes_estimated);
        let file = match (read, total) {
            (0, 0) => "nobody loads yet (pg-bootstrap-sync)".to_owned(),
            (read, 0) => format!("{} of its file read", bytes(read)),
            (read, total) => {
                let percent = super::sync::percent(read, total);
                format!("{} of {} read ({percent} %)", bytes(read), bytes(total))
            }
        };
        return format!("external: {} rows, {file}{end}", load.rows);
    }
    format!(
        "{}: {} of about {} rows, {} of {} tables, {}{end}",
        load.mode,
        load.rows,
        load.rows_estimated.max(load.rows),
        load.tables_done,
        load.tables,
        bytes(load.bytes),
    )
}

/// A size for people.
pub(super) fn bytes(n: u64) -> String {
    indicatif::BinaryBytes(n).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::proto::kasho::{ByItself, LoadProgress};

    #[test]
    fn what_a_person_reads() {
        let status = StatusResponse {
            state: "ACCUMULATING".into(),
            epoch: 2,
            slot: "kasho_slot".into(),
            wal_status: "reserved".into(),
            load: Some(LoadProgress {
                mode: "direct".into(),
                rows: 10,
                rows_estimated: 5,
                tables: 3,
                tables_done: 1,
                ..LoadProgress::default()
            }),
            ..StatusResponse::default()
        };
        let text = text(&status, false);
        for part in [
            "state          ACCUMULATING (epoch 2)\n",
            "slot           kasho_slot (reserved)\n",
            "direct: 10 of about 10 rows, 1 of 3 tables",
        ] {
            assert!(text.contains(part), "{text}");
        }
        assert!(!text.contains("last error"), "{text}");
        let plugin = Plugin {
            name: "mask".into(),
            errors: 3,
            dead_letters: 2,
            lost: 1,
            ..Plugin::default()
        };
        let trouble = StatusResponse {
            allow_unmasked: vec!["mask: on_error = \"pass\"".into()],
            dead_letters: 2,
            plugins: vec![plugin],
            not_loaded: vec!["public.off".into(), "public.joined".into()],
            by_itself: vec![ByItself { table: "public.off".into(), why: "it was altered".into() }],
            ..StatusResponse::default()
        };
        let told = self::text(&trouble, true);
        for part in [
            "\x1b[31mmask: on_error = \"pass\"\x1b[0m",
            "\x1b[31m2 rows set aside: `kasho dead list`\x1b[0m",
            "3 rows in error (1 dropped, 2 set aside)",
            "NOT LOADED     public.off comes by itself: it was altered\n",
            "the stream did not bring: `kasho bootstrap --table public.joined`\n",
        ] {
            assert!(told.contains(part), "{told}");
        }
        assert!(!told.contains("--table public.off"), "nobody has to do anything: {told}");
        let json = serde_json::to_value(&status).unwrap();
        assert_eq!((&json["state"], &json["load"]["rows"]), (&"ACCUMULATING".into(), &10.into()));
    }
}

//! `kasho check`: looks at the configuration, both servers and the plugins as a start
//! would, changes nothing, and says what has to be mended, each with the statement that
//! mends it.

use std::path::Path;

use crate::config::Config;
use crate::engine;
use crate::setup::{self, Spec};
use crate::source::wal;

/// Checks, and prints warnings and the verdict.
///
/// # Errors
/// Whatever would keep the service from starting.
pub async fn run(path: &Path) -> anyhow::Result<()> {
    let config = Config::load(path)?;
    let source = config.source.clone();
    for warning in engine::check(config, path.to_owned()).await? {
        println!("warning: {warning}");
    }
    let info = wal::conninfo(&source)?;
    let spec = Spec {
        role: info.user.clone(),
        slot: source.slot,
        publications: source.publications,
        all_tables: false,
        tables: Vec::new(),
        triggers: true,
    };
    let client = setup::connect(&info).await?;
    let facts = setup::look(&client, &spec).await?;
    let plan = setup::plan(&facts, &spec);
    let known: Vec<String> = facts.server.iter().map(|finding| finding.told()).collect();
    for note in plan.notes.iter().filter(|note| !known.contains(note)) {
        println!("warning: {note}");
    }
    for step in &plan.steps {
        println!("warning: missing: {}; to mend it: {};", step.what, step.sql);
    }
    if source.failover && facts.standby_slots.as_deref() == Some("") {
        println!(
            "warning: source.failover is on and synchronized_standby_slots is empty: a standby may \
             be promoted that lacks what the slot has sent; to mend it: ALTER SYSTEM SET \
             synchronized_standby_slots = '<the standby's physical slot>'; SELECT pg_reload_conf();"
        );
    }
    println!("ready: the service would start");
    Ok(())
}

//! `kasho check`: looks at the configuration, both servers and the plugins as a start
//! would, changes nothing, and says what has to be mended.

use std::path::Path;

use crate::config::Config;
use crate::engine;

/// Checks, and prints warnings and the verdict.
///
/// # Errors
/// Whatever would keep the service from starting.
pub async fn run(path: &Path) -> anyhow::Result<()> {
    let config = Config::load(path)?;
    for warning in engine::check(config, path.to_owned()).await? {
        println!("warning: {warning}");
    }
    println!("ready: the service would start");
    Ok(())
}

//! Every candidate and every reply that the host refuses, and every former generation, row
//! and schema change that does not go on, each with its exact message, in
//! tables that are committed: `tests/golden/refusals`. That no message of the source is
//! missing there is held by the repository's test `refusals`.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod candidates;
mod former;
mod replies;
mod rules;
mod successors;

use kasho_plugin_sdk::testing::Refusals;

use super::testing::Setup;

/// A table of the folder.
fn refusals(name: &str, about: &str) -> Refusals {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden/refusals/");
    Refusals::new(format!("{folder}{name}"), about)
}

/// A message without what differs from run to run: the folder, and digests.
fn told(setup: &Setup, message: &str) -> String {
    let message = message.replace(&setup.folder.path().display().to_string(), "plugins");
    let mut out = String::new();
    for (i, run) in message.split(|c: char| !c.is_ascii_alphanumeric()).enumerate() {
        if i > 0 {
            let at = run.as_ptr() as usize - message.as_ptr() as usize;
            out.extend(message[..at].chars().next_back());
        }
        let digest = run.len() >= 16 && run.bytes().all(|b| b.is_ascii_hexdigit());
        out.push_str(if digest { "«digest»" } else { run });
    }
    out
}

//! What the end-to-end tests stand on: servers of their own, the engine as a process, a
//! wire that can be cut, and a register of everything the engine ever said.
//!
//! A missing server is a failure that names the package, never a skip. Everything that
//! is started dies with the test, and with the test binary should that be killed.

#![allow(dead_code, reason = "a tool box: not every tool is in use at every time")]
#![allow(unused_imports, reason = "the tools are offered here under one name")]

pub(crate) mod certificates;
pub(crate) mod clients;
pub(crate) mod engine;
pub(crate) mod go;
pub(crate) mod guest;
pub(crate) mod http;
pub(crate) mod logs;
pub(crate) mod postgres;
pub(crate) mod process;
pub(crate) mod proxy;
pub(crate) mod python;
pub(crate) mod redis;

pub(crate) use certificates::Certificates;
pub(crate) use clients::{MAJORS, clients, clients_of};
pub(crate) use engine::{Engine, Output};
pub(crate) use go::go;
pub(crate) use guest::guest;
pub(crate) use http::get;
pub(crate) use postgres::Postgres;
pub(crate) use process::Process;
pub(crate) use proxy::{Fault, Proxy};
pub(crate) use python::python;
pub(crate) use redis::Redis;

use std::hash::{BuildHasher, RandomState};
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

/// How long anything may take before a test gives up. Never a measure of speed: a
/// machine under load has to fit.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// A port on 127.0.0.1 that nobody listened on a moment ago, never the same one twice
/// in a run. Below the range of outgoing connections, which would take it meanwhile.
/// Whoever binds it must be ready to ask for another one.
pub(crate) fn free_port() -> u16 {
    const FIRST: u16 = 20_000;
    const COUNT: u16 = 12_000;
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = u16::try_from(std::process::id() % u32::from(COUNT)).expect("below COUNT");
    for _ in 0..COUNT {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        // A stride without a common factor spreads test binaries that run side by side.
        let offset = (u32::from(start) * 37 + u32::from(step)) % u32::from(COUNT);
        let port = FIRST + u16::try_from(offset).expect("below COUNT");
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
    panic!("no free port between {FIRST} and {}", FIRST + COUNT);
}

/// Sixteen hexadecimal digits that occur nowhere else.
pub(crate) fn unique() -> String {
    format!("{:016x}", RandomState::new().hash_one(0))
}

/// The folder of cargo's output, for what outlives a run: binaries, guests, templates.
pub(crate) fn target() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("target/tmp lies in target").to_owned()
}

/// The root of the repository.
pub(crate) fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests lies in the root").to_owned()
}

/// Polls until `check` answers something; panics, naming `what`, when patience ends.
/// For what can only be asked for, such as a table's content; lines are waited for by
/// [`Process::wait_for`].
pub(crate) async fn eventually<T, F>(what: &str, mut check: F) -> T
where
    F: AsyncFnMut() -> Option<T>,
{
    let look = async {
        loop {
            if let Some(found) = check().await {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let found = tokio::time::timeout(PATIENCE, look).await;
    found.unwrap_or_else(|_| panic!("waited {PATIENCE:?} in vain for {what}"))
}

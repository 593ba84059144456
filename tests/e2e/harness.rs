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
pub(crate) use clients::{MAJORS, clients, clients_of, clients_of_both};
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
use std::ops::{Range, RangeInclusive};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// How long anything may take before a test gives up. Never a measure of speed: a
/// machine under load has to fit.
pub(crate) const PATIENCE: Duration = Duration::from_secs(300);

/// The ports of a process come in blocks, and are below the range of outgoing connections,
/// which would take them meanwhile.
const PORTS: RangeInclusive<u16> = 20_000..=31_999;
const BLOCK: u16 = 100;

/// What holds the blocks that are this process's, and what is left of the last of them.
static BLOCKS: Mutex<(Vec<TcpListener>, Range<u16>)> = Mutex::new((Vec::new(), 0..0));

/// A port on 127.0.0.1 that nobody listened on a moment ago, never the same one twice
/// in a run, and none of other test binaries that run side by side: what is stopped and
/// started again finds its port as it was. Others may take it, so whoever binds it must be
/// ready to ask for another one.
pub(crate) fn free_port() -> u16 {
    let free = |port: u16| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).ok();
    let mut blocks = BLOCKS.lock().unwrap_or_else(PoisonError::into_inner);
    let (held, rest) = &mut *blocks;
    loop {
        if let Some(port) = rest.find(|port| free(*port).is_some()) {
            return port;
        }
        // Whoever listens on the first port of a block has the others.
        let mut firsts = PORTS.step_by(usize::from(BLOCK));
        let taken = firsts.find_map(|first| free(first).map(|holder| (first, holder)));
        let (first, holder) = taken.unwrap_or_else(|| panic!("no free ports in {PORTS:?}"));
        held.push(holder);
        *rest = first + 1..first + BLOCK;
    }
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

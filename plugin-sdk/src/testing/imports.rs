//! The host's imports, natively: keyed hashes with a key that everybody knows, and logs
//! and counters that a test can look at. They belong to the thread, as a test does.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use crate::hash::Hash;
use crate::keys::DomainKey;

thread_local! {
    static HOST: RefCell<Host> = RefCell::default();
}

#[derive(Default)]
struct Host {
    keys: Keys,
    texts: Vec<String>,
    log: Vec<String>,
    counts: BTreeMap<String, i64>,
}

/// The keys of one fixture's domains.
#[derive(Clone, Debug, Default)]
pub(super) struct Keys(Rc<Vec<DomainKey>>);

impl Keys {
    pub(super) fn derive(domains: &[String], master: &[u8; 32]) -> Keys {
        Keys(Rc::new(domains.iter().map(|d| DomainKey::derive(master, d)).collect()))
    }

    /// Makes these the keys, and `texts` the texts, of the calls to come.
    pub(super) fn install(&self, texts: &[String]) {
        HOST.with_borrow_mut(|host| {
            host.keys = self.clone();
            host.texts = texts.to_vec();
        });
    }
}

/// What plugins logged on this thread since this was called last.
#[must_use]
pub fn logged() -> Vec<String> {
    HOST.with_borrow_mut(|host| std::mem::take(&mut host.log))
}

/// What plugins counted on this thread under a text.
#[must_use]
pub fn counted(text: &str) -> i64 {
    HOST.with_borrow(|host| host.counts.get(text).copied().unwrap_or(0))
}

pub(crate) fn prf(domain: u16, offsets: &[[u8; 4]], bytes: &str, out: &mut [Hash]) {
    let keys = HOST.with_borrow(|host| host.keys.clone());
    let Some(key) = keys.0.get(usize::from(domain)) else {
        panic!("domain {domain} is hashed under before init has answered");
    };
    let edge = |o: [u8; 4]| u32::from_le_bytes(o) as usize;
    for (hash, edges) in out.iter_mut().zip(offsets.windows(2)) {
        *hash = Hash(key.prf(&bytes.as_bytes()[edge(edges[0])..edge(edges[1])]));
    }
}

pub(crate) fn log(_level: u32, text: &str) {
    HOST.with_borrow_mut(|host| host.log.push(text.to_owned()));
}

pub(crate) fn count(text: u16, delta: i64) {
    HOST.with_borrow_mut(|host| {
        let Some(text) = host.texts.get(usize::from(text)).cloned() else {
            panic!("counter {text} was not declared");
        };
        *host.counts.entry(text).or_default() += delta;
    });
}

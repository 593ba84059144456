//! By which generations tables were loaded: what one of them has passed, all of it, carries
//! nothing of those before.
//!
//! Wrong here would mean that rows which left under other rules are not told of any more. So a
//! table counts only if one run was in force from before its snapshot was taken to the end of
//! the load: what changes behind the snapshot is read later than that.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::bootstrap::{Load, Phase, Reload, Streaming, TableLoad};
use crate::transform::Run;

/// Relations, by id, that hold nothing in any target but what has passed one run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Passed {
    /// As long as it is in force, that is so.
    pub run: Run,
    /// Which they are.
    pub relations: BTreeSet<u32>,
}

impl Passed {
    /// What has passed `run` once this load is over, of the tables that it read and of others.
    pub(super) fn after(before: Option<Passed>, reload: &Reload, run: &Run) -> Passed {
        let read: BTreeSet<u32> = reload.load.tables.iter().map(|table| table.relation).collect();
        // By names of now.
        let again =
            |table: &&TableLoad| reload.load.again.contains(&reload.called(&table.published_as));
        let again: BTreeSet<u32> =
            reload.load.tables.iter().filter(again).map(|table| table.relation).collect();
        let others = before.filter(|before| before.run == *run).into_iter();
        let others = others.flat_map(|before| before.relations).filter(|id| !read.contains(id));
        let anew = reload.load.passed(run).into_iter().filter(|id| !again.contains(id));
        Passed { run: run.clone(), relations: others.chain(anew).collect() }
    }
}

impl Load {
    /// The relations of which every row that was read has passed `run`, and every change behind
    /// that. Once all is read.
    #[must_use]
    pub fn passed(&self, run: &Run) -> BTreeSet<u32> {
        let there = self.tables.iter().filter(|table| table.relation != 0 && !table.gone);
        let others = |table: &&TableLoad| {
            let by = self.snapshots.get(table.snapshot).and_then(|snapshot| snapshot.by.as_ref());
            !table.done || by != Some(run) || self.again.contains(&table.published_as)
        };
        let ids = |table: &TableLoad| table.relation;
        let (not, all): (Vec<_>, Vec<_>) = there.partition(others);
        let not: BTreeSet<u32> = not.into_iter().map(ids).collect();
        all.into_iter().map(ids).filter(|id| !not.contains(id)).collect()
    }
}

impl Phase {
    /// The relations that hold nothing in any target but what has passed `run`, by id.
    #[must_use]
    pub fn passed(&self, run: &Run) -> BTreeSet<u32> {
        match self {
            Phase::Accumulating(load) if load.loaded => load.passed(run),
            Phase::Streaming(Streaming { passed: Some(passed), .. }) if passed.run == *run => {
                passed.relations.clone()
            }
            _ => BTreeSet::new(),
        }
    }
}

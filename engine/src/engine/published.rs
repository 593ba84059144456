//! What is published, as the catalog shows it, held against what the stream has told. Pure.
//!
//! What can go wrong: the catalog shows the names of now, and the stream lags behind it. A table
//! that has got another name a moment ago would count as one that nobody has loaded, and be
//! loaded again whole. So names settle only once the stream has come to where they were looked
//! at, and what it tells of later renames is done to them. Who only asks is told of the latest
//! look, for a stream that stands still would hide what has joined since.

use crate::bootstrap::Renamed;
use crate::position::Lsn;

/// The published relations, as the catalog showed them between two places of the log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Look {
    pub(super) names: Vec<String>,
    /// The end of the log before they were looked at, …
    pub(super) from: Lsn,
    /// … and behind that.
    pub(super) to: Lsn,
}

/// The names that have settled, and those that will.
#[derive(Debug, Default)]
pub(super) struct Published {
    settled: Look,
    /// The stream has not come there yet.
    next: Option<Look>,
    latest: Look,
    /// Renames behind the latest look: another one may have been taken before them, and come late.
    recent: Vec<Renamed>,
    /// The place of the last rename that was told.
    told: Option<(u64, u64)>,
}

impl Published {
    /// The latest look is this one, and the stream has come to `told`.
    pub(super) fn saw(&mut self, look: &Look, told: Lsn) {
        self.settle(told);
        if look.to != self.latest.to {
            self.latest = look.clone();
            self.latest.follow(&self.recent, true);
            // One that waits is not replaced: where the stream lags for long, none would ever
            // settle.
            if self.next.is_none() {
                let mut next = look.clone();
                next.follow(&self.recent, false);
                self.next = Some(next);
            }
            self.recent.retain(|renamed| renamed.at.0 >= look.from.0);
            self.settle(told);
        }
    }

    fn settle(&mut self, told: Lsn) {
        if let Some(next) = self.next.take_if(|next| next.to <= told) {
            self.settled = next;
        }
    }

    /// The stream tells of other names, in their order; whenever it was interrupted, of some of
    /// them again.
    pub(super) fn renamed(&mut self, renamed: &[Renamed]) {
        let known = renamed.partition_point(|renamed| Some(renamed.at) <= self.told);
        let renamed = &renamed[known..];
        self.told = renamed.last().map(|renamed| renamed.at).or(self.told);
        for look in self.next.iter_mut().chain([&mut self.settled]) {
            look.follow(renamed, false);
        }
        self.latest.follow(renamed, true);
        self.recent.extend_from_slice(renamed);
    }

    /// The names that have settled.
    pub(super) fn settled(&self) -> &[String] {
        &self.settled.names
    }

    /// The names as last seen; none as long as nobody has looked.
    pub(super) fn latest(&self) -> Option<&[String]> {
        (self.latest.to > Lsn::ZERO).then_some(&self.latest.names)
    }
}

impl Look {
    /// Where nobody knows which came first, it shows nothing, or what it happened to show.
    fn follow(&mut self, renamed: &[Renamed], anyhow: bool) {
        for renamed in renamed {
            let at = Lsn(renamed.at.0);
            if at >= self.to {
                for name in &mut self.names {
                    *name = renamed.moved(name).unwrap_or_else(|| std::mem::take(name));
                }
            } else if at >= self.from && !anyhow {
                self.names.clear();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(names: &[&str], from: u64, to: u64) -> Look {
        let names = names.iter().map(|name| (*name).to_owned()).collect();
        Look { names, from: Lsn(from), to: Lsn(to) }
    }

    fn renamed(at: u64, from: &str, to: &str) -> Renamed {
        Renamed { at: (at, 1), from: from.into(), to: to.into(), table: true }
    }

    #[test]
    fn names_settle_once_the_stream_has_come_there() {
        let mut published = Published::default();
        published.saw(&Look::default(), Lsn(99));
        assert_eq!(published.latest(), None);
        published.saw(&look(&["a.t"], 90, 100), Lsn(99));
        assert!(published.settled().is_empty());
        // It lags, and is looked at again and again.
        assert_eq!(published.latest(), Some(&["a.t".to_owned()][..]));
        published.saw(&look(&["a.u"], 190, 200), Lsn(100));
        assert_eq!(published.settled(), ["a.t"]);
        published.saw(&look(&["a.u"], 190, 200), Lsn(150));
        assert_eq!(published.settled(), ["a.t"]);
        published.saw(&look(&["a.u"], 190, 200), Lsn(200));
        assert_eq!(published.settled(), ["a.u"]);
        // The same one again is no news.
        published.renamed(&[renamed(300, "a.u", "a.v")]);
        published.saw(&look(&["a.u"], 190, 200), Lsn(301));
        assert_eq!(published.settled(), ["a.v"]);
        assert_eq!(published.latest(), Some(published.settled()));
    }

    #[test]
    fn what_is_renamed_behind_a_look_is_renamed_in_it_and_what_before_is_not() {
        let swap = [
            renamed(150, "a.t", "a.x"),
            renamed(151, "a.u", "a.t"),
            renamed(152, "a.x", "a.u"),
            renamed(153, "a.u", "b.w"),
        ];
        let after = |from, to| {
            let mut published = Published::default();
            published.saw(&look(&["a.t", "a.u"], from, to), Lsn(100));
            published.renamed(&swap);
            published.saw(&look(&[], from, to), Lsn(200));
            published.settled().to_vec()
        };
        assert_eq!(after(90, 100), ["b.w", "a.t"], "it had settled when they were told");
        // A look that comes late.
        let late = |from, to| {
            let mut published = Published::default();
            published.renamed(&swap);
            published.saw(&look(&["a.t", "a.u"], from, to), Lsn(200));
            published.settled().to_vec()
        };
        assert_eq!(late(90, 100), ["b.w", "a.t"]);
        assert_eq!(late(160, 170), ["a.t", "a.u"]);
        assert!(late(140, 151).is_empty());
        assert_eq!(after(100, 110), ["b.w", "a.t"]);
        assert_eq!(after(160, 170), ["a.t", "a.u"]);
        assert!(after(140, 151).is_empty(), "it cannot be said");
    }

    #[test]
    fn what_is_told_again_is_renamed_once() {
        let mut published = Published::default();
        published.saw(&look(&["a.t", "a.y"], 90, 100), Lsn(100));
        let chain = [renamed(150, "a.t", "a.x"), renamed(151, "a.y", "a.t")];
        published.renamed(&chain[..1]);
        for _ in 0..2 {
            published.renamed(&chain);
        }
        assert_eq!(published.settled(), ["a.x", "a.t"]);
        assert_eq!(published.latest().unwrap(), ["a.x", "a.t"]);
    }
}

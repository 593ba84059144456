//! What is published, as the catalog shows it, held against what the stream has told. Pure.
//!
//! What can go wrong: the catalog shows the names of now, and the stream lags behind it. A table
//! that has got another name a moment ago would count as one that nobody has loaded, and be
//! loaded again whole. So names count only once the stream has come to where they were looked at,
//! and what it tells of later renames is done to them.

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

/// The names that count, and those that will.
#[derive(Debug, Default)]
pub(super) struct Published {
    current: Look,
    /// The stream has not come there yet.
    next: Option<Look>,
}

impl Published {
    /// The latest look is this one, and the stream has come to `told`.
    pub(super) fn saw(&mut self, look: &Look, told: Lsn) {
        // One that waits is not replaced: where the stream lags for long, none would ever count.
        if self.next.is_none() && look.to != self.current.to {
            self.next = Some(look.clone());
        }
        if let Some(next) = self.next.take_if(|next| next.to <= told) {
            self.current = next;
        }
    }

    /// The stream tells of other names.
    pub(super) fn renamed(&mut self, renamed: &[Renamed]) {
        for look in self.next.iter_mut().chain([&mut self.current]) {
            for renamed in renamed {
                let at = Lsn(renamed.at.0);
                if at >= look.to {
                    look.rename(renamed);
                } else if at >= look.from {
                    // Nobody knows which came first.
                    look.names.clear();
                }
            }
        }
    }

    /// The names that count.
    pub(super) fn names(&self) -> &[String] {
        &self.current.names
    }
}

impl Look {
    fn rename(&mut self, renamed: &Renamed) {
        for name in &mut self.names {
            if let Some(moved) = renamed.moved(name) {
                *name = moved;
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
    fn names_count_once_the_stream_has_come_there() {
        let mut published = Published::default();
        published.saw(&look(&["a.t"], 90, 100), Lsn(99));
        assert!(published.names().is_empty());
        // It lags, and is looked at again and again.
        published.saw(&look(&["a.u"], 190, 200), Lsn(100));
        assert_eq!(published.names(), ["a.t"]);
        published.saw(&look(&["a.u"], 190, 200), Lsn(150));
        assert_eq!(published.names(), ["a.t"]);
        published.saw(&look(&["a.u"], 190, 200), Lsn(200));
        assert_eq!(published.names(), ["a.u"]);
        // The same one again is no news.
        published.renamed(&[renamed(300, "a.u", "a.v")]);
        published.saw(&look(&["a.u"], 190, 200), Lsn(301));
        assert_eq!(published.names(), ["a.v"]);
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
            published.names().to_vec()
        };
        assert_eq!(after(90, 100), ["b.w", "a.t"], "it counted when they were told");
        assert_eq!(after(100, 110), ["b.w", "a.t"]);
        assert_eq!(after(160, 170), ["a.t", "a.u"]);
        assert!(after(140, 151).is_empty(), "it cannot be said");
    }
}

//! Schemas that have got other names. A server (15 and before, at least) does not describe a
//! table again when its schema is renamed, so its rows go on coming under the old name; and
//! a transaction that was open then is described its tables as they were called before,
//! although it comes behind the rename. The event triggers tell of it, so the names are kept
//! here, as they are where the stream stands.
//!
//! Why not the catalog: it shows the names of now, and the stream lags behind it; two schemas
//! may have swapped their names since. Why not a new stream: the rest of a transaction that
//! renames comes under the old name there too.
//!
//! A transaction that was open at a rename may come after this process was started again,
//! behind what PostgreSQL was told is durable, so that the rename does not come again. Whoever
//! starts a stream has to bring such renames ([`Renames::note`]); without them rows come under
//! a name that the targets do not have any more, which stops them.

use std::collections::BTreeMap;

use crate::position::Lsn;

/// So many are remembered; whoever was open at an older one has ended long since.
const KEPT: usize = 10_000;

/// By the commit of the transaction that renames, and the ordinal in that.
#[derive(Debug, Default)]
pub(super) struct Renames(BTreeMap<(Lsn, u64), (String, String)>);

impl Renames {
    /// A schema is called `to` from there on. May be told again, by a stream that was opened
    /// again.
    pub(super) fn note(&mut self, at: (Lsn, u64), from: &str, to: &str) {
        self.0.insert(at, (from.to_owned(), to.to_owned()));
        while self.0.len() > KEPT {
            self.0.pop_first();
        }
    }

    /// What a schema is called where the stream stands, in the transaction that commits at
    /// `commit`, if the change at `at` saw it under the name `seen`: others have committed
    /// since, and come before.
    pub(super) fn now<'a>(&'a self, seen: &'a str, (commit, at): (Lsn, Lsn)) -> &'a str {
        let since = self.0.iter().filter(|((renamed, _), _)| at < *renamed && *renamed < commit);
        since.fold(seen, |name, (_, (from, to))| if name == from { to } else { name })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn renames(all: &[(u64, u64, &str, &str)]) -> Renames {
        let mut renames = Renames::default();
        for (commit, at, from, to) in all {
            renames.note((Lsn(*commit), *at), from, to);
        }
        renames
    }

    #[test]
    fn who_was_open_then_sees_the_name_of_before() {
        let renames = renames(&[(100, 1, "a", "b")]);
        let now =
            |seen: &'static str, commit, at| renames.now(seen, (Lsn(commit), Lsn(at))).to_owned();
        assert_eq!(now("a", 120, 80), "b", "it was made before, and comes behind");
        assert_eq!(now("a", 120, 110), "a", "another schema has the name by then");
        assert_eq!(now("a", 95, 80), "a", "it comes before");
        assert_eq!(now("a", 100, 80), "a", "its own rename comes behind it");
        assert_eq!(now("b", 100, 95), "b");
        assert_eq!(now("c", 120, 80), "c");
    }

    #[test]
    fn two_that_swap_their_names_do_not_become_one() {
        let swap = [(100, 1, "blue", "x"), (100, 2, "green", "blue"), (100, 3, "x", "green")];
        let once = renames(&swap);
        let now = |renames: &Renames, seen, at| renames.now(seen, (Lsn(300), Lsn(at))).to_owned();
        assert_eq!(
            (now(&once, "blue", 50), now(&once, "green", 50)),
            ("green".into(), "blue".into())
        );
        let back = [(200, 1, "blue", "x"), (200, 2, "green", "blue"), (200, 3, "x", "green")];
        let twice = renames(&[&swap[..], &back[..], &swap[..]].concat());
        assert_eq!(
            (now(&twice, "blue", 50), now(&twice, "blue", 150)),
            ("blue".into(), "green".into())
        );
        assert_eq!(now(&twice, "blue", 250), "blue");
    }

    #[test]
    fn old_ones_are_forgotten() {
        let mut renames = Renames::default();
        for n in 0..KEPT as u64 + 5 {
            renames.note((Lsn(n), 1), "a", "b");
        }
        assert_eq!((renames.0.len(), renames.0.keys().next().unwrap().0), (KEPT, Lsn(5)));
    }
}

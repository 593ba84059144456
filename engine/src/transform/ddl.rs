//! Whether a schema change may leave: the policy for statements that no binding asks for,
//! and what an operator has decided about one that stopped the stream.
//!
//! Statements carry data: defaults, comments, function bodies, conditions. Under
//! `structural` one leaves only if its kind shapes rows and nothing in it could be a value;
//! comments are taken out of it. What can go wrong is that one may not leave: then the
//! stream stops, and says which it is by its tag, the object and its place, never by its text.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use crate::ddl::{Kind, kind, scan};
use crate::position::{Lsn, Position};

/// `ddl`: which schema changes leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ddl {
    /// Those that shape rows and hold nothing that could be data; others stop the stream.
    Structural,
    /// As they are written.
    Text,
    /// The first one stops the stream.
    Halt,
    /// None.
    Drop,
}

/// What becomes of one schema change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It leaves as it is.
    Pass,
    /// It leaves with this text.
    As(String),
    /// It does not leave, and nothing is missing without it.
    Drop,
    /// It stops the stream, for this reason.
    Halt(String),
}

/// What cannot leave whatever the policy, and whoever asks for it.
pub(super) fn is_local(tag: &str) -> bool {
    kind(tag) == Kind::Local
}

/// Decides about a statement.
pub(super) fn judge(policy: Ddl, tag: &str, text: Option<&str>) -> Verdict {
    let kind = kind(tag);
    match (policy, kind) {
        (Ddl::Drop, _) | (_, Kind::Local) => return Verdict::Drop,
        (Ddl::Structural | Ddl::Halt, Kind::Remark) => return Verdict::Drop,
        (Ddl::Halt, _) => return Verdict::Halt("ddl = \"halt\"".to_owned()),
        (Ddl::Structural | Ddl::Text, _) => {}
    }
    let Some(text) = text else {
        return Verdict::Halt(
            "its own text is not known: a function in SQL ran it, or it was one of several \
             statements sent at once, or is longer than a megabyte"
                .to_owned(),
        );
    };
    if policy == Ddl::Text {
        return Verdict::Pass;
    }
    if kind == Kind::Code {
        return Verdict::Halt(
            "statements of its kind may hold code and data, which ddl = \"structural\" does not \
             let out"
                .to_owned(),
        );
    }
    match scan(text).as_deref() {
        Ok([one]) if !one.has_literal() => Verdict::As(one.bare.clone()),
        _ => Verdict::Halt(
            "it holds a text or a long number, which ddl = \"structural\" does not let out"
                .to_owned(),
        ),
    }
}

/// What an operator says about a schema change that stopped the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// It does not leave; the targets do without it.
    Skip,
    /// The targets have been changed by hand: readers are told that it happened, without
    /// its text.
    Done,
}

#[derive(Debug, Default)]
struct State {
    /// The statement that the stream stands before: its place, what it is.
    waiting: Option<(Position, String)>,
    made: BTreeMap<Position, Decision>,
}

/// Decisions of this process's life. One that is lost with it is asked for again: the stream
/// stops at the same place.
#[derive(Debug, Default)]
pub struct Decisions(Mutex<State>);

/// Decisions that are remembered; the stream meets them one after the other.
const KEPT: usize = 1_024;

impl Decisions {
    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing can panic while it is held.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was decided about the statement at `position`.
    pub(super) fn of(&self, position: Position) -> Option<Decision> {
        self.state().made.get(&position).copied()
    }

    /// The stream stands before this statement.
    pub(super) fn wait(&self, position: Position, what: String) {
        self.state().waiting = Some((position, what));
    }

    /// Decides about the statement that the stream stands before, if it is one of the
    /// transaction that committed at `lsn`, and of the change `ordinal` in it if that is
    /// said. Tells what it was, or what waits instead.
    ///
    /// # Errors
    /// Another one waits, or none: that place and what it is.
    pub fn make(
        &self,
        lsn: Lsn,
        ordinal: Option<u64>,
        decision: Decision,
    ) -> Result<String, Option<(Position, String)>> {
        let mut state = self.state();
        let meant = |position: &Position| match *position {
            Position::Wal { commit_lsn, ordinal: at } => {
                commit_lsn == lsn && ordinal.is_none_or(|asked| asked == at)
            }
            Position::Bootstrap(_) => false,
        };
        let Some((position, what)) = state.waiting.take_if(|(position, _)| meant(position)) else {
            return Err(state.waiting.clone());
        };
        state.made.insert(position, decision);
        while state.made.len() > KEPT {
            state.made.pop_first();
        }
        Ok(what)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn structure_leaves_and_what_could_be_data_stays() {
        let structural = |tag, text| judge(Ddl::Structural, tag, Some(text));
        let leaves = |text: &str| Verdict::As(text.to_owned());
        assert_eq!(
            structural("ALTER TABLE", "ALTER TABLE t /* for ada */ ADD n int DEFAULT 42;"),
            leaves("ALTER TABLE t ADD n int DEFAULT 42")
        );
        for (tag, text) in [
            ("ALTER TABLE", "ALTER TABLE t ADD e text DEFAULT 'ada@example.com'"),
            ("CREATE INDEX", "CREATE INDEX i ON t (x) WHERE e = $$ada$$"),
            ("CREATE INDEX", "CREATE INDEX i ON t (x) WHERE card = 4111111111111111"),
            ("CREATE TABLE", "CREATE TABLE t (); INSERT INTO u VALUES (1)"),
            ("CREATE VIEW", "CREATE VIEW v AS SELECT 'x'"),
            ("CREATE FUNCTION", "CREATE FUNCTION f() RETURNS int RETURN 1"),
            ("CREATE TABLE", "CREATE TABLE t (x int) -- 'open\nDEFAULT 'x"),
        ] {
            let Verdict::Halt(reason) = structural(tag, text) else { panic!("{text}") };
            assert!(!reason.contains("ada") && !reason.contains("4111"), "{reason}");
        }
        assert!(matches!(judge(Ddl::Structural, "CREATE TABLE", None), Verdict::Halt(_)));
        assert_eq!(structural("COMMENT", "COMMENT ON TABLE t IS 'ada'"), Verdict::Drop);
    }

    #[test]
    fn policies_do_what_they_say() {
        let text = "CREATE FUNCTION f() AS $$ada$$";
        for (policy, tag, expected) in [
            (Ddl::Text, "CREATE FUNCTION", Verdict::Pass),
            (Ddl::Text, "COMMENT", Verdict::Pass),
            (Ddl::Text, "CREATE USER MAPPING", Verdict::Drop),
            (Ddl::Drop, "CREATE TABLE", Verdict::Drop),
            (Ddl::Halt, "GRANT", Verdict::Drop),
            (Ddl::Halt, "CREATE SUBSCRIPTION", Verdict::Drop),
            (Ddl::Halt, "CREATE TABLE", Verdict::Halt("ddl = \"halt\"".to_owned())),
        ] {
            assert_eq!(judge(policy, tag, Some(text)), expected, "{policy:?} {tag}");
        }
    }

    #[test]
    fn only_what_waits_is_decided() {
        let decisions = Decisions::default();
        let at = |lsn, ordinal| Position::Wal { commit_lsn: Lsn(lsn), ordinal };
        assert_eq!(decisions.make(Lsn(5), None, Decision::Skip), Err(None));
        decisions.wait(at(5, 2), "CREATE TABLE".to_owned());
        let other = decisions.make(Lsn(6), None, Decision::Skip);
        assert_eq!(other, Err(Some((at(5, 2), "CREATE TABLE".to_owned()))));
        assert!(decisions.make(Lsn(5), Some(3), Decision::Skip).is_err());
        assert_eq!(decisions.make(Lsn(5), None, Decision::Done), Ok("CREATE TABLE".to_owned()));
        assert_eq!(decisions.of(at(5, 2)), Some(Decision::Done));
        assert_eq!(decisions.of(at(5, 3)), None, "another one of that transaction is asked for");
        assert_eq!(decisions.make(Lsn(5), None, Decision::Done), Err(None));
    }
}

//! Telling a row that differs from one that was changing: every suspect is read again, in the
//! source, then in the target once it has caught up with that, then in the source once more.
//!
//! If the source holds the very same version of the row before and after (its `xmin` and
//! `ctid`), it held it at the target's position, too, and then the target has to hold it.
//! Twice, because a commit that waits for a synchronous standby is applied before it is
//! visible. What keeps changing is counted as unsettled, and is not called different.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::time::Duration;

use super::compare::{Compared, Half, Subject, halves, kind};
use super::error::VerifyError;
use super::meeting::Sides;
use super::plan::Pair;
use super::report::{Difference, Kind};
use super::session::key;
use super::{Progress, sql};

const ROUNDS: usize = 20;
/// So often a row has to be found different while it stands still.
const STRIKES: u8 = 2;
/// Of a row that the source has not, and of a number of rows, nothing tells whether it went
/// and came again between two looks: these are asked for more often.
const VAGUE_STRIKES: u8 = 3 * STRIKES;
const PAUSE: Duration = Duration::from_millis(200);
/// Suspects that one statement asks for by their keys. Those without one cost a scan of the
/// table a statement, and are asked for all at once.
const AT_ONCE: usize = 100;
/// Rows of a table whose differing columns are named.
const NAMED: usize = 20;

/// What a suspect is on one side: its digest or count, and which version of it that is.
#[derive(Clone, Debug, PartialEq, Eq)]
struct State {
    value: String,
    version: String,
    /// Rows with this key: a target without the index may hold several.
    rows: u64,
}

impl State {
    /// A number of rows, whose versions nothing tells but the number itself.
    fn count(value: String) -> State {
        State { version: value.clone(), value, rows: 1 }
    }

    /// One more row with the same key: no single row has such a value.
    fn join(&mut self, other: &State) {
        let (low, high) = match self.value <= other.value {
            true => (&self.value, &other.value),
            false => (&other.value, &self.value),
        };
        self.value = format!("{low} {high}");
        self.version = format!("{} {}", self.version, other.version);
        self.rows += other.rows;
    }
}

type States = HashMap<Subject, State>;

/// Judges every suspect.
pub(super) async fn settle(
    sides: &mut Sides,
    tables: &mut [Compared],
    progress: &dyn Progress,
) -> Result<(), VerifyError> {
    let mut strikes: HashMap<(usize, Subject), u8> = HashMap::new();
    for table in tables.iter_mut() {
        // Copies of a row in the target are one suspect, with one count of strikes.
        let mut seen = HashSet::new();
        table.candidates.retain(|subject| seen.insert(subject.clone()));
    }
    for round in 0..ROUNDS {
        let left: usize = tables.iter().map(|table| table.candidates.len()).sum();
        if left == 0 {
            break;
        }
        progress.settles(left);
        if round > 0 && sides.follows.is_some() {
            tokio::time::sleep(PAUSE).await;
        }
        sides.meet(progress).await?;
        let before = all(sides, tables, true).await?;
        let target = all(sides, tables, false).await?;
        sides.read_source().await?;
        let after = all(sides, tables, true).await?;
        for (at, table) in tables.iter_mut().enumerate() {
            let states = (&before[at], &target[at], &after[at]);
            judge(table, at, states, &mut strikes);
        }
        blame(sides, tables).await?;
    }
    for Compared { table, candidates, .. } in tables {
        table.unsettled = candidates.len() as u64;
        table.unfinished = table.more && table.differences.is_empty();
    }
    Ok(())
}

fn judge(
    table: &mut Compared,
    at: usize,
    (before, target, after): (&States, &States, &States),
    strikes: &mut HashMap<(usize, Subject), u8>,
) {
    let fewer = table.pair.fewer;
    let mut left = Vec::new();
    for subject in std::mem::take(&mut table.candidates) {
        let (first, there, second) =
            (before.get(&subject), target.get(&subject), after.get(&subject));
        if agree(&subject, first, there, second, fewer) {
            table.table.settled += 1;
            continue;
        }
        let stands = first.map(|state| &state.version) == second.map(|state| &state.version);
        let count = strikes.entry((at, subject.clone())).or_default();
        *count = if stands { *count + 1 } else { 0 };
        match *count >= strikes_of(&subject, first) {
            true => convict(table, &subject, first, there),
            false => left.push(subject),
        }
    }
    table.candidates = left;
}

/// How often it has to be found different.
fn strikes_of(subject: &Subject, source: Option<&State>) -> u8 {
    match (subject, source) {
        (Subject::Key(_), Some(_)) => STRIKES,
        (Subject::Key(_), None) | (Subject::Copies(_) | Subject::Count, _) => VAGUE_STRIKES,
    }
}

/// Whether the target is as the source was at some time between.
fn agree(
    subject: &Subject,
    first: Option<&State>,
    there: Option<&State>,
    second: Option<&State>,
    fewer: bool,
) -> bool {
    let number =
        |state: Option<&State>| state.and_then(|s| s.value.parse::<u64>().ok()).unwrap_or(0);
    let value = |state: Option<&State>| state.map(|state| state.value.clone());
    match subject {
        Subject::Key(_) => {
            (fewer && there.is_none())
                || [first, second].iter().any(|state| value(*state) == value(there))
        }
        Subject::Copies(_) | Subject::Count => {
            let (a, b, there) = (number(first), number(second), number(there));
            there <= a.max(b) && (fewer || there >= a.min(b))
        }
    }
}

fn convict(
    table: &mut Compared,
    subject: &Subject,
    source: Option<&State>,
    target: Option<&State>,
) {
    let number =
        |state: Option<&State>| state.and_then(|s| s.value.parse::<u64>().ok()).unwrap_or(0);
    let difference = match subject {
        Subject::Count => {
            table.table.counts_differ = true;
            return;
        }
        Subject::Key(values) => {
            let names = table.pair.key.iter().map(|column| column.source.clone());
            let key = names.zip(values.iter().cloned()).collect();
            let rows = |state: Option<&State>| state.map_or(0, |state| state.rows);
            let (here, there) = (rows(source), rows(target));
            let (kind, copies) = match here.max(there) {
                2.. if here > there => (Kind::Missing, Some((here, there))),
                2.. if here < there => (Kind::Extra, Some((here, there))),
                _ => (kind(source.is_some(), target.is_some()), None),
            };
            Difference { kind, key, copies, columns: Vec::new() }
        }
        Subject::Copies(_) => {
            let (here, there) = (number(source), number(target));
            let kind = if here > there { Kind::Missing } else { Kind::Extra };
            Difference { kind, key: Vec::new(), copies: Some((here, there)), columns: Vec::new() }
        }
    };
    table.table.differences.push(difference);
}

async fn all(sides: &Sides, tables: &[Compared], source: bool) -> Result<Vec<States>, VerifyError> {
    let mut states = Vec::with_capacity(tables.len());
    for table in tables {
        states.push(of(sides, &table.pair, &table.candidates, source).await?);
    }
    Ok(states)
}

/// The states of suspects of one table.
async fn of(
    sides: &Sides,
    pair: &Pair,
    suspects: &[Subject],
    source: bool,
) -> Result<States, VerifyError> {
    let (here, there) = halves(pair, &sides.source, &sides.target);
    let half = if source { here } else { there };
    let mut states = States::new();
    let (mut keys, mut digests) = (Vec::new(), Vec::new());
    for suspect in suspects {
        match suspect {
            Subject::Key(key) => keys.push(key.as_slice()),
            Subject::Copies(digest) => digests.push(digest),
            Subject::Count => {
                let value = half.count().await?.to_string();
                states.insert(Subject::Count, State::count(value));
            }
        }
    }
    for keys in keys.chunks(AT_ONCE) {
        by_key(&half, keys, source, &mut states).await?;
    }
    if !digests.is_empty() {
        let digest = sql::fingerprint(&half.columns);
        let any: Vec<String> = digests.iter().map(|digest| sql::literal(digest)).collect();
        let condition = format!("{digest} IN ({})", any.join(", "));
        let statement =
            format!("SELECT {digest}, count(*){} GROUP BY 1", half.rows(Some(&condition)));
        half.side
            .each(&half.doing, &statement, |row| {
                let value = row.get(1).unwrap_or_default().to_owned();
                let digest = row.get(0).unwrap_or_default().to_owned();
                states.insert(Subject::Copies(digest), State::count(value));
                Ok(())
            })
            .await?;
    }
    Ok(states)
}

async fn by_key(
    half: &Half<'_>,
    keys: &[&[String]],
    source: bool,
    states: &mut States,
) -> Result<(), VerifyError> {
    let columns = half.key.len();
    // Of the source, whose versions of a row tell whether it has changed.
    let version = if source { "tableoid || '/' || ctid::text || '/' || xmin::text" } else { "''" };
    let statement = format!(
        "SELECT {}, {}, {version}{}",
        sql::list(&half.key),
        sql::fingerprint(&half.columns),
        half.rows(Some(&sql::any_of(&half.key, keys)))
    );
    let read = |row: &tokio_postgres::SimpleQueryRow| {
        let text = |at| row.get(at).unwrap_or_default().to_owned();
        let state = State { value: text(columns), version: text(columns + 1), rows: 1 };
        match states.entry(Subject::Key(key(row, 0..columns))) {
            Entry::Vacant(free) => drop(free.insert(state)),
            Entry::Occupied(mut first) => first.get_mut().join(&state),
        }
        Ok(())
    };
    half.side.each(&half.doing, &statement, read).await
}

/// Names the columns that differ, of changed rows that were found just now.
async fn blame(sides: &Sides, tables: &mut [Compared]) -> Result<(), VerifyError> {
    for table in tables {
        let unnamed = |d: &Difference| d.kind == Kind::Changed && d.columns.is_empty();
        let places: Vec<usize> = (0..table.table.differences.len().min(NAMED))
            .filter(|at| unnamed(&table.table.differences[*at]))
            .collect();
        for at in places {
            let key: Vec<String> =
                table.table.differences[at].key.iter().map(|(_, value)| value.clone()).collect();
            let (here, there) = halves(&table.pair, &sides.source, &sides.target);
            let (source, target) =
                tokio::try_join!(each_column(&here, &key), each_column(&there, &key))?;
            let names = table.pair.columns.iter().zip(source.iter().zip(&target));
            let differing =
                names.filter(|(_, (a, b))| a != b).map(|(column, _)| column.source.clone());
            table.table.differences[at].columns = differing.collect();
        }
    }
    Ok(())
}

/// The digest of each column of a row.
async fn each_column(half: &Half<'_>, key: &[String]) -> Result<Vec<String>, VerifyError> {
    let digests: Vec<String> =
        half.columns.iter().map(|column| sql::fingerprint(&[column])).collect();
    let condition = sql::any_of(&half.key, &[key]);
    let statement = format!("SELECT {}{}", digests.join(", "), half.rows(Some(&condition)));
    let rows = half.side.all(&half.doing, &statement).await?;
    let row = rows.into_iter().next().unwrap_or_default();
    Ok(row.into_iter().map(Option::unwrap_or_default).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(value: &str) -> Option<State> {
        Some(State::count(value.to_owned()))
    }

    fn agrees(subject: &Subject, states: [Option<State>; 3], fewer: bool) -> bool {
        let [first, there, second] = &states;
        agree(subject, first.as_ref(), there.as_ref(), second.as_ref(), fewer)
    }

    #[test]
    fn a_row_is_what_it_was_before_or_after() {
        let key = Subject::Key(vec!["1".to_owned()]);
        let agrees = |states, fewer| agrees(&key, states, fewer);
        assert!(agrees([state("a"), state("a"), state("b")], false));
        assert!(agrees([state("a"), state("b"), state("b")], false));
        assert!(agrees([None, None, state("b")], false));
        assert!(!agrees([state("a"), state("c"), state("a")], false));
        assert!(!agrees([state("a"), None, state("a")], false));
        assert!(agrees([state("a"), None, state("a")], true), "a rule may have removed it");
        assert!(!agrees([None, state("a"), None], true));
    }

    /// A table of nothing but one suspect.
    fn suspected(subject: &Subject) -> Compared {
        let pair = Pair {
            id: 1,
            source_name: "public.t".to_owned(),
            target_name: "public.t".to_owned(),
            source: String::new(),
            target: String::new(),
            target_parts: (String::new(), String::new()),
            filter: None,
            key: Vec::new(),
            ordered: false,
            unique: false,
            columns: Vec::new(),
            skipped: Vec::new(),
            fewer: false,
            private: Vec::new(),
            rows_estimated: 0,
        };
        let table = crate::verify::Table::default();
        Compared { pair, table, candidates: vec![subject.clone()] }
    }

    /// In which round it is called different, if it is found like this in every one.
    fn rounds(subject: &Subject, source: Option<State>, target: Option<State>) -> Option<usize> {
        let states = |state: Option<State>| -> States {
            state.into_iter().map(|state| (subject.clone(), state)).collect()
        };
        let (source, target) = (states(source), states(target));
        let (mut table, mut strikes) = (suspected(subject), HashMap::new());
        (1..=ROUNDS).find(|_| {
            judge(&mut table, 0, (&source, &target, &source), &mut strikes);
            table.candidates.is_empty()
        })
    }

    #[test]
    fn what_may_come_and_go_unseen_is_asked_for_more_often() {
        let key = Subject::Key(vec!["1".to_owned()]);
        assert_eq!(rounds(&key, state("a"), state("b")), Some(2));
        assert_eq!(rounds(&key, state("a"), None), Some(2));
        assert_eq!(rounds(&key, None, state("a")), Some(6));
        let copies = Subject::Copies("d".to_owned());
        assert_eq!(rounds(&copies, state("1"), state("2")), Some(6));
        assert_eq!(rounds(&Subject::Count, state("1"), state("2")), Some(6));
        assert_eq!(rounds(&key, None, None), Some(1), "it has settled");
    }

    #[test]
    fn a_row_that_is_there_twice_is_not_what_it_should_be() {
        let key = Subject::Key(vec!["1".to_owned()]);
        for other in ["a", "b"] {
            let mut twice = State::count("a".to_owned());
            twice.join(&State::count(other.to_owned()));
            let mut turned = State::count(other.to_owned());
            turned.join(&State::count("a".to_owned()));
            assert_eq!((&twice.value, twice.rows), (&turned.value, 2));
            let states = [state("a"), Some(twice), state("a")];
            assert!(!agrees(&key, states.clone(), false) && !agrees(&key, states, true));
        }
    }

    #[test]
    fn a_count_lies_between_the_counts_before_and_after() {
        let copies = Subject::Copies("d".to_owned());
        let agrees = |states, fewer| agrees(&copies, states, fewer);
        assert!(agrees([state("3"), state("4"), state("5")], false));
        assert!(!agrees([state("3"), state("4"), state("3")], false));
        assert!(!agrees([state("3"), None, state("3")], false));
        assert!(agrees([state("3"), state("1"), state("3")], true));
        assert!(!agrees([None, state("1"), None], true));
    }
}

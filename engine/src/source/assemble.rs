//! How events become batches: counts ordinals, keeps the rule of where a batch is cut,
//! and joins empty transactions. Shared by every source that reads transactions.
//!
//! What can go wrong: an order of events that no stream has (a row outside a
//! transaction); that is an error, not a batch. No I/O, no clock.

use std::sync::Arc;

use kasho_plugin_sdk::Op;

use crate::batch::{Batch, Detail, Image, Mark, Piece, Row};
use crate::position::{Lsn, Position};

/// Prefix of our own heartbeat messages, which are never published.
pub const HEARTBEAT_PREFIX: &str = "kasho.heartbeat";

/// Prefix of our own messages from which on tables are loaded again ([`Mark`]).
pub const RELOAD_PREFIX: &str = "kasho.reload";

/// Prefix of our own messages in whose place a row is read again
/// ([`retries`](super::retries)).
pub const RETRY_PREFIX: &str = "kasho.retry";

/// When a batch is full. It may be exceeded by one row, never by two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Rows.
    pub rows: usize,
    /// Bytes received for them and used by their cells.
    pub bytes: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { rows: 1024, bytes: 256 << 10 }
    }
}

/// An event where none can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum OrderError {
    #[error("a change stands outside any transaction")]
    NoTransaction,
    #[error("a transaction begins inside another")]
    Nested,
}

#[derive(Debug)]
struct Open {
    xid: u32,
    commit_lsn: Lsn,
    commit_us: i64,
    /// Events counted so far.
    ordinal: u64,
    /// A piece of it was handed out in an earlier batch.
    begun: bool,
    /// The last piece of the batch being built is its.
    here: bool,
}

/// What a row is, beside its position.
pub(crate) struct NewRow {
    pub(crate) op: Op,
    pub(crate) relation: u32,
    pub(crate) new: Option<Image>,
    pub(crate) old: Option<Image>,
    pub(crate) detail: Option<Box<Detail>>,
}

/// A batch under construction.
#[derive(Debug, Default)]
pub(crate) struct Assembler {
    limits: Limits,
    /// Push segments and images here, before the row that uses them.
    pub(crate) batch: Batch,
    bytes: usize,
    open: Option<Open>,
    /// The rest of a transaction begun in an earlier batch has ended.
    cut: bool,
    /// Counts batches, so that others can tell one from the next.
    pub(crate) number: u64,
}

impl Assembler {
    pub(crate) fn new(limits: Limits) -> Assembler {
        let limits = Limits { rows: limits.rows.max(1), ..limits };
        Assembler { limits, ..Assembler::default() }
    }

    pub(crate) fn begin(&mut self, xid: u32, commit_lsn: Lsn, us: i64) -> Result<(), OrderError> {
        if self.open.is_some() {
            return Err(OrderError::Nested);
        }
        let (ordinal, begun, here) = (0, false, false);
        self.open = Some(Open { xid, commit_lsn, commit_us: us, ordinal, begun, here });
        Ok(())
    }

    /// LSN of the commit of the transaction that is open.
    pub(crate) fn commit_lsn(&self) -> Option<Lsn> {
        self.open.as_ref().map(|open| open.commit_lsn)
    }

    /// The ordinal that the next event of the open transaction gets.
    pub(crate) fn next_ordinal(&self) -> u64 {
        self.open.as_ref().map_or(0, |open| open.ordinal + 1)
    }

    /// Counts an event that is not published.
    pub(crate) fn count(&mut self) -> Result<(), OrderError> {
        self.open.as_mut().ok_or(OrderError::NoTransaction)?.ordinal += 1;
        Ok(())
    }

    /// Adds a row of the open transaction; `bytes` is what it took on the wire.
    pub(crate) fn row(&mut self, row: NewRow, bytes: usize) -> Result<(), OrderError> {
        self.count()?;
        let at = self.batch.rows.len();
        let open = self.open.as_mut().ok_or(OrderError::NoTransaction)?;
        let position = Position::Wal { commit_lsn: open.commit_lsn, ordinal: open.ordinal };
        if !open.here {
            open.here = true;
            let piece = piece(open, at);
            self.batch.pieces.push(piece);
        }
        self.push(row, position, bytes);
        Ok(())
    }

    /// Ends the open transaction.
    pub(crate) fn commit(&mut self, end_lsn: Lsn) -> Result<(), OrderError> {
        let open = self.open.take().ok_or(OrderError::NoTransaction)?;
        let at = self.batch.rows.len();
        if open.here
            && let Some(last) = self.batch.pieces.last_mut()
        {
            last.end_lsn = Some(end_lsn);
        } else {
            let ended = Piece { end_lsn: Some(end_lsn), ..piece(&open, at) };
            self.push_ended(ended);
        }
        self.cut |= open.begun;
        Ok(())
    }

    /// A message outside any transaction, with its row if it is to be published.
    pub(crate) fn lone(
        &mut self,
        lsn: Lsn,
        us: i64,
        row: Option<NewRow>,
        bytes: usize,
    ) -> Result<(), OrderError> {
        if self.open.is_some() {
            return Err(OrderError::Nested);
        }
        let at = self.batch.rows.len();
        let rows = at..at + usize::from(row.is_some());
        let (xid, commit_us) = (0, us);
        let end_lsn = Some(lsn);
        self.push_ended(Piece { xid, commit_lsn: lsn, commit_us, rows, first: true, end_lsn });
        if let Some(row) = row {
            let position = Position::Wal { commit_lsn: lsn, ordinal: 0 };
            self.push(row, position, bytes);
        }
        Ok(())
    }

    /// A mark of our own, outside any transaction.
    pub(crate) fn mark(&mut self, lsn: Lsn, us: i64, mark: Arc<Mark>) -> Result<(), OrderError> {
        if self.open.is_some() {
            return Err(OrderError::Nested);
        }
        let (at, end_lsn) = (self.batch.rows.len(), Some(lsn));
        let (xid, commit_us, rows) = (0, us, at..at);
        // Never joined to an empty piece: it is not empty.
        self.batch.pieces.push(Piece {
            xid,
            commit_lsn: lsn,
            commit_us,
            rows,
            first: true,
            end_lsn,
        });
        self.batch.marks.push((lsn, mark));
        Ok(())
    }

    fn push(&mut self, row: NewRow, position: Position, bytes: usize) {
        let NewRow { op, relation, new, old, detail } = row;
        let cells = [new, old].iter().flatten().map(|image| image.len as usize).sum::<usize>();
        self.bytes += bytes + cells * size_of::<crate::batch::Cell>() + size_of::<Row>();
        self.batch.rows.push(Row { position, op, relation, new, old, detail, dropped: false });
        if let Some(last) = self.batch.pieces.last_mut() {
            last.rows.end = self.batch.rows.len();
        }
    }

    /// Adds a whole piece; one without rows takes the place of one without rows.
    fn push_ended(&mut self, piece: Piece) {
        let marked = self.batch.marks.last().map(|(at, _)| *at);
        let joins = |last: &Piece| {
            let whole = last.rows.is_empty() && last.first && last.end_lsn.is_some();
            whole && marked != Some(last.commit_lsn)
        };
        match self.batch.pieces.last_mut() {
            Some(last) if piece.rows.is_empty() && piece.first && joins(last) => *last = piece,
            _ => self.batch.pieces.push(piece),
        }
    }

    /// Nothing more may be added: the batch must be taken first.
    pub(crate) fn full(&self) -> bool {
        self.cut
            || self.batch.rows.len() >= self.limits.rows
            || (self.bytes >= self.limits.bytes && !self.batch.rows.is_empty())
    }

    /// There is something to hand out.
    pub(crate) fn has_any(&self) -> bool {
        !self.batch.pieces.is_empty()
    }

    /// Outside any transaction.
    pub(crate) fn between(&self) -> bool {
        self.open.is_none()
    }

    /// Hands out the batch and begins the next.
    pub(crate) fn take(&mut self) -> Batch {
        if let Some(open) = &mut self.open {
            open.begun |= open.here;
            open.here = false;
        }
        self.cut = false;
        self.bytes = 0;
        self.number += 1;
        std::mem::take(&mut self.batch)
    }
}

fn piece(open: &Open, at: usize) -> Piece {
    Piece {
        xid: open.xid,
        commit_lsn: open.commit_lsn,
        commit_us: open.commit_us,
        rows: at..at,
        first: !open.begun,
        end_lsn: None,
    }
}

/// Bytes as PostgreSQL's hex form of `bytea`.
pub(crate) fn hex(bytes: &[u8]) -> bytes::Bytes {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digits = |b: &u8| [DIGITS[usize::from(b >> 4)], DIGITS[usize::from(b & 15)]];
    b"\\x".iter().copied().chain(bytes.iter().flat_map(digits)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn row() -> NewRow {
        NewRow { op: Op::Insert, relation: 0, new: None, old: None, detail: None }
    }

    /// One event of a stream, for a model of it.
    #[derive(Clone, Debug)]
    enum Step {
        Transaction(Vec<bool>),
        Lone(bool),
        Idle,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            proptest::collection::vec(any::<bool>(), 0..9).prop_map(Step::Transaction),
            any::<bool>().prop_map(Step::Lone),
            Just(Step::Idle),
        ];
        proptest::collection::vec(step, 0..30)
    }

    /// Feeds the steps, takes a batch whenever one is full and, if `eager`, wherever a
    /// reader that never waits might.
    fn run(steps: &[Step], limits: Limits, eager: bool) -> Vec<Batch> {
        let mut asm = Assembler::new(limits);
        let mut out = Vec::new();
        let mut lsn = 100;
        let mut turn = |asm: &mut Assembler, idle: bool| {
            if asm.full() || ((eager || idle) && asm.has_any()) {
                out.push(asm.take());
            }
        };
        for step in steps {
            lsn += 10;
            match step {
                Step::Idle => turn(&mut asm, true),
                Step::Lone(published) => {
                    asm.lone(Lsn(lsn), 0, published.then(row), 1).unwrap();
                    turn(&mut asm, false);
                }
                Step::Transaction(events) => {
                    asm.begin(7, Lsn(lsn), 0).unwrap();
                    turn(&mut asm, false);
                    for &published in events {
                        if published {
                            asm.row(row(), 1).unwrap();
                        } else {
                            asm.count().unwrap();
                        }
                        turn(&mut asm, false);
                    }
                    asm.commit(Lsn(lsn + 5)).unwrap();
                    turn(&mut asm, false);
                }
            }
        }
        turn(&mut asm, true);
        out
    }

    proptest! {
        #[test]
        fn batches_are_cut_by_the_rule_and_lose_nothing(steps in steps(), rows in 1usize..6, eager: bool) {
            let batches = run(&steps, Limits { rows, bytes: usize::MAX }, eager);
            let mut positions = Vec::new();
            let mut ends = Vec::new();
            let mut unended: Option<Lsn> = None;
            for batch in &batches {
                prop_assert!(batch.rows.len() <= rows);
                prop_assert!(!batch.pieces.is_empty());
                let mut at = 0;
                for (i, piece) in batch.pieces.iter().enumerate() {
                    prop_assert_eq!(piece.rows.start, at);
                    at = piece.rows.end;
                    // The rest of a transaction stands alone and continues the one before.
                    prop_assert_eq!(!piece.first, unended == Some(piece.commit_lsn));
                    prop_assert!(piece.first || batch.pieces.len() == 1);
                    prop_assert!(piece.end_lsn.is_some() || i + 1 == batch.pieces.len());
                    prop_assert!(piece.end_lsn.is_some() || !piece.rows.is_empty());
                    unended = piece.end_lsn.is_none().then_some(piece.commit_lsn);
                    ends.extend(piece.end_lsn);
                }
                prop_assert_eq!(at, batch.rows.len());
                positions.extend(batch.rows.iter().map(|row| row.position));
            }
            prop_assert_eq!(unended, None);
            prop_assert!(ends.is_sorted());
            // The same events, counted by hand.
            let mut expected = Vec::new();
            let mut last_end = None;
            for (i, step) in steps.iter().enumerate() {
                let commit_lsn = Lsn(110 + 10 * i as u64);
                match step {
                    Step::Idle => {}
                    Step::Lone(published) => {
                        last_end = Some(commit_lsn);
                        expected.extend(published.then_some(Position::Wal { commit_lsn, ordinal: 0 }));
                    }
                    Step::Transaction(events) => {
                        last_end = Some(Lsn(commit_lsn.0 + 5));
                        let kept = events.iter().zip(1..).filter(|(published, _)| **published);
                        expected.extend(kept.map(|(_, ordinal)| Position::Wal { commit_lsn, ordinal }));
                    }
                }
            }
            prop_assert_eq!(positions, expected);
            prop_assert_eq!(ends.last().copied(), last_end);
        }
    }

    #[test]
    fn empty_transactions_join() {
        let empty = Step::Transaction(vec![]);
        let steps = [vec![Step::Transaction(vec![true])], vec![empty; 1000]].concat();
        let batches = run(&steps, Limits::default(), false);
        assert_eq!(batches.len(), 1);
        assert_eq!(batches[0].pieces.len(), 2);
        assert_eq!(batches[0].pieces[1].end_lsn, Some(Lsn(110 + 10_000 + 5)));
    }

    #[test]
    fn a_mark_is_not_joined_away_and_is_skipped_like_a_row() {
        let mut asm = Assembler::new(Limits::default());
        let mark = Mark { nonce: "n".into(), section: 7, tables: vec!["public.t".into()] };
        for lsn in [10, 20, 30] {
            asm.lone(Lsn(lsn), 0, None, 1).unwrap();
        }
        asm.mark(Lsn(40), 0, Arc::new(mark.clone())).unwrap();
        asm.begin(1, Lsn(40), 0).unwrap();
        assert_eq!(asm.mark(Lsn(45), 0, Arc::new(mark)), Err(OrderError::Nested));
        asm.commit(Lsn(50)).unwrap();
        asm.lone(Lsn(60), 0, None, 1).unwrap();
        let mut batch = asm.take();
        let marks: Vec<_> = batch.pieces.iter().map(|piece| batch.mark(piece).is_some()).collect();
        assert_eq!(marks, [false, true, false, false][..marks.len()]);
        batch.skip_through(Position::after(Lsn(39)));
        assert_eq!(batch.marks.len(), 1);
        batch.skip_through(Position::Wal { commit_lsn: Lsn(40), ordinal: 0 });
        assert!(batch.marks.is_empty() && batch.pieces.iter().all(|p| batch.mark(p).is_none()));
    }

    #[test]
    fn a_row_outside_a_transaction_is_an_error() {
        let mut asm = Assembler::new(Limits::default());
        assert_eq!(asm.row(row(), 1), Err(OrderError::NoTransaction));
        assert_eq!(asm.commit(Lsn(1)), Err(OrderError::NoTransaction));
        asm.begin(1, Lsn(1), 0).unwrap();
        assert_eq!(asm.begin(1, Lsn(1), 0), Err(OrderError::Nested));
    }

    #[test]
    fn bytes_have_postgresqls_hex_form() {
        assert_eq!(&hex(&[0, 0xff, 0x1a])[..], b"\\x00ff1a");
    }
}

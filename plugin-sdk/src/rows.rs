//! Rows as a plugin sees them: one by one, or column by column.
//!
//! A rewritten value goes straight into the patch of its column; nothing is allocated for
//! a row once the buffers have grown. What a plugin gets wrong here stays its own: writing
//! a column it declared as read only is a panic, and whatever it forgets to mask the
//! host notices.

use crate::batch::{
    ColumnView, Decision, Flaw, Image, Input, Malformed, NO_SLOT, PatchBuf, ReplyBuilder, RowError,
    State,
};
use crate::event::{Op, Relation, Value};
use crate::hash::{Hash, Normaliser};
use crate::imports::{self, Texts};
use crate::out::{IntoPatch, Out, Patched, Timestamp};
use crate::plugin::{Col, Domain, Reason, Verdict};
use crate::session::Bound;

const NONE: u16 = u16::MAX;

#[derive(Debug)]
struct Hashes {
    descriptor: usize,
    domain: Domain,
    normaliser: Normaliser,
    hashes: Vec<Hash>,
}

/// Buffers that outlive a batch.
#[derive(Debug, Default)]
pub(crate) struct Work {
    /// Descriptors of each slot, by image.
    map: Vec<[u16; 2]>,
    /// The columns of a batch, between batches: empty, and kept for its memory.
    columns: Vec<ColumnView<'static>>,
    /// One for each descriptor.
    patches: Vec<PatchBuf>,
    verdicts: Vec<u8>,
    errors: Vec<RowError>,
    hashes: Vec<Hashes>,
    texts: Texts,
    some: Vec<Hash>,
}

/// Rows of one table.
#[doc = concat!("\n", include_str!("examples/batch.md"))]
#[derive(Debug)]
pub struct Batch<'a> {
    input: Input<'a>,
    bound: &'a Bound,
    columns: Vec<ColumnView<'a>>,
    work: &'a mut Work,
}

impl<'a> Batch<'a> {
    #[inline(always)]
    pub(crate) fn new(
        input: Input<'a>,
        bound: &'a Bound,
        work: &'a mut Work,
    ) -> Result<Batch<'a>, Malformed> {
        let mut columns: Vec<ColumnView<'a>> = std::mem::take(&mut work.columns);
        work.map.clear();
        for i in 0..input.columns {
            let column = input.column(i)?;
            columns.push(column);
            if column.slot == NO_SLOT {
                continue;
            }
            let slot = usize::from(column.slot);
            while work.map.len() <= slot {
                work.map.push([NONE; 2]);
            }
            work.map[slot][column.image as usize] = u16::try_from(i).unwrap_or(NONE);
        }
        if work.patches.len() < columns.len() {
            work.patches.resize_with(columns.len(), PatchBuf::default);
        }
        work.patches.iter_mut().take(columns.len()).for_each(|patch| patch.clear(input.rows));
        work.verdicts.clear();
        work.errors.clear();
        work.hashes.clear();
        Ok(Batch { input, bound, columns, work })
    }

    /// Rows.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a batch has a row at least")]
    pub fn len(&self) -> usize {
        self.input.rows
    }

    /// Their table.
    #[must_use]
    pub fn table(&self) -> &'a Relation {
        &self.bound.relation
    }

    /// What happened to a row.
    #[must_use]
    pub fn op(&self, row: usize) -> Op {
        self.input.op(row)
    }

    /// Calls `f` with every row.
    pub fn each(&mut self, mut f: impl FnMut(&mut Row<'_, 'a>) -> Verdict) {
        for row in 0..self.input.rows {
            let verdict = f(&mut Row { batch: self, row });
            if verdict != Verdict::Keep {
                self.judge(row, verdict);
            }
        }
    }

    /// Decides on a row.
    pub fn judge(&mut self, row: usize, verdict: Verdict) {
        let decision = match verdict {
            Verdict::Keep => Decision::Keep,
            Verdict::Drop => Decision::Drop,
            Verdict::AsInsert => Decision::AsInsert,
            Verdict::AsDelete => Decision::AsDelete,
            Verdict::Error(reason) => return self.error(row, reason, NO_SLOT),
        };
        let verdicts = &mut self.work.verdicts;
        if verdicts.is_empty() {
            if decision == Decision::Keep {
                return;
            }
            verdicts.resize(self.input.rows, Decision::Keep as u8);
        }
        if let Some(place) = verdicts.get_mut(row) {
            *place = decision as u8;
        }
    }

    /// The new image's values of a column, as they came.
    pub fn values(&self, col: Col) -> impl Iterator<Item = Value<'a>> {
        self.image(col, Image::New)
    }

    /// The old image's values of a column, as they came.
    pub fn old_values(&self, col: Col) -> impl Iterator<Item = Value<'a>> {
        self.image(col, Image::Old)
    }

    fn image(&self, col: Col, image: Image) -> impl Iterator<Item = Value<'a>> {
        let column = self.column(col, image);
        (0..self.input.rows).map(move |row| column.map_or(Value::Absent, |c| c.value(row)))
    }

    /// Calls `f` with every text of a column as it came, in the order in which
    /// [`Batch::rewrite`] goes: the new image's, then the old one's.
    pub fn texts(&self, col: Col, mut f: impl FnMut(&'a str)) {
        for column in Image::ALL.iter().filter_map(|image| self.column(col, *image)) {
            for row in (0..self.input.rows).filter(|row| column.state(*row) == State::Text) {
                f(column.text_at(row));
            }
        }
    }

    /// Calls `f` with the row and image of every text of a column, in the order of
    /// [`Batch::texts`].
    pub fn places(&self, col: Col, mut f: impl FnMut(usize, Image)) {
        for image in Image::ALL {
            let Some(column) = self.column(col, image) else { continue };
            let texts = (0..self.input.rows).filter(|row| column.state(*row) == State::Text);
            texts.for_each(|row| f(row, image));
        }
    }

    /// A column in one image of a row, as it came.
    #[must_use]
    pub fn came(&self, col: Col, row: usize, image: Image) -> Value<'a> {
        self.column(col, image).map_or(Value::Absent, |column| column.value(row))
    }

    /// A column in one image of a row, after this plugin's own rewrites of it.
    #[must_use]
    pub fn now(&self, col: Col, row: usize, image: Image) -> Value<'_> {
        let Some(i) = self.descriptor(col, image) else { return Value::Absent };
        match self.work.patches[i].get(row) {
            Some(Some(text)) => Value::Text(text),
            Some(None) => Value::Null,
            None => self.columns[i].value(row),
        }
    }

    /// Rewrites every text of a column, in both images. NULL, unchanged and absent values
    /// are left alone; a column that this table does not have is nothing to do.
    pub fn rewrite<R: IntoPatch>(&mut self, col: Col, mut f: impl FnMut(&str, &mut Out<'_>) -> R) {
        for image in Image::ALL {
            let Some(descriptor) = self.writable(col, image) else { continue };
            for row in 0..self.input.rows {
                self.patch(descriptor, row, &mut f);
            }
        }
    }

    /// As [`Batch::rewrite`], with the keyed hash of each value as it came, under `domain`
    /// and normalised as [`Col::normalised`] says: one call of the host a column.
    pub fn rewrite_hashed<R: IntoPatch>(
        &mut self,
        col: Col,
        domain: Domain,
        mut f: impl FnMut(&str, Hash, &mut Out<'_>) -> R,
    ) {
        for image in Image::ALL {
            let Some(descriptor) = self.writable(col, image) else { continue };
            let at = self.prefetch(descriptor, domain, col.normaliser);
            for row in 0..self.input.rows {
                let hash = self.work.hashes[at].hashes[row];
                self.patch(descriptor, row, &mut |value, out| f(value, hash, out));
            }
        }
    }

    fn column(&self, col: Col, image: Image) -> Option<ColumnView<'a>> {
        self.columns.get(self.descriptor(col, image)?).copied()
    }

    #[inline]
    fn descriptor(&self, col: Col, image: Image) -> Option<usize> {
        let slot = *self.bound.slots.get(usize::from(col.index))?;
        let i = self.work.map.get(usize::from(slot))?[image as usize];
        (i != NONE).then_some(usize::from(i))
    }

    #[inline]
    fn writable(&self, col: Col, image: Image) -> Option<usize> {
        assert!(col.writes, "a column is rewritten that was declared with `read`");
        self.descriptor(col, image)
    }

    #[inline]
    fn patch<R: IntoPatch>(
        &mut self,
        descriptor: usize,
        row: usize,
        f: &mut impl FnMut(&str, &mut Out<'_>) -> R,
    ) {
        let column = &self.columns[descriptor];
        if column.state(row) != State::Text {
            return;
        }
        let patch = &mut self.work.patches[descriptor];
        if !patch.is_next(row) && patch.has(row) {
            return self.patch_again(descriptor, row, f);
        }
        let mut out = patch.scratch();
        let patched = f(column.text_at(row), &mut out).into_patch(&mut out);
        if patched == Patched::Written {
            patch.commit(row);
        } else {
            self.patch_rarely(descriptor, row, patched);
        }
    }

    /// Of a value that was rewritten before in this batch.
    #[cold]
    fn patch_again<R: IntoPatch>(
        &mut self,
        descriptor: usize,
        row: usize,
        f: &mut impl FnMut(&str, &mut Out<'_>) -> R,
    ) {
        let patch = &mut self.work.patches[descriptor];
        let Some(Some(now)) = patch.get(row).map(|now| now.map(str::to_owned)) else { return };
        let mut out = patch.scratch();
        let patched = f(&now, &mut out).into_patch(&mut out);
        if patched == Patched::Written {
            patch.commit(row);
        } else {
            self.patch_rarely(descriptor, row, patched);
        }
    }

    fn patch_rarely(&mut self, descriptor: usize, row: usize, patched: Patched) {
        let patch = &mut self.work.patches[descriptor];
        match patched {
            Patched::Written => patch.commit(row),
            Patched::Null => patch.null(row),
            Patched::Same => patch.rollback(),
            Patched::Error(reason) => {
                patch.rollback();
                let slot = self.columns[descriptor].slot;
                self.error(row, reason, slot);
            }
        }
    }

    #[cold]
    fn error(&mut self, row: usize, reason: Reason, slot: u16) {
        let row = u32::try_from(row).unwrap_or(u32::MAX);
        self.work.errors.push(RowError { row, text: reason.0, slot });
    }

    /// Sets a column of a row, in each image that has a text or NULL there.
    fn set(&mut self, col: Col, row: usize, value: Option<&str>) {
        for image in Image::ALL {
            let Some(descriptor) = self.writable(col, image) else { continue };
            if !matches!(self.columns[descriptor].state(row), State::Text | State::Null) {
                continue;
            }
            let patch = &mut self.work.patches[descriptor];
            match value {
                Some(text) => {
                    patch.scratch().push_str(text);
                    patch.commit(row);
                }
                None => patch.null(row),
            }
        }
    }

    /// Where the hashes of a column are, computed if they are not yet.
    fn prefetch(&mut self, descriptor: usize, domain: Domain, normaliser: Normaliser) -> usize {
        let known = self.work.hashes.iter().position(|h| {
            h.descriptor == descriptor && h.domain == domain && h.normaliser == normaliser
        });
        if let Some(known) = known {
            return known;
        }
        let column = &self.columns[descriptor];
        let mut hashes = Vec::new();
        if column.all_text && normaliser == Normaliser::Exact {
            imports::prf(domain.index(), column.offsets(), column.bytes(), &mut hashes);
        } else {
            let Work { texts, some, .. } = &mut *self.work;
            let rows = || (0..self.input.rows).filter(|row| column.state(*row) == State::Text);
            texts.clear();
            rows().for_each(|row| texts.push(&normaliser.apply(column.text_at(row))));
            domain.hash_all(texts, some);
            hashes.resize(self.input.rows, Hash::default());
            rows().zip(some.iter()).for_each(|(row, hash)| hashes[row] = *hash);
        }
        self.work.hashes.push(Hashes { descriptor, domain, normaliser, hashes });
        self.work.hashes.len() - 1
    }

    /// Writes the reply; `None` if all is kept as it is.
    pub(crate) fn finish(mut self, reply: &mut ReplyBuilder) -> Result<Option<&[u8]>, Malformed> {
        let written = self.write(reply);
        self.work.columns = emptied(self.columns);
        written
    }

    fn write<'r>(&mut self, reply: &'r mut ReplyBuilder) -> Result<Option<&'r [u8]>, Malformed> {
        let Work { patches, verdicts, errors, .. } = &mut *self.work;
        let patches = || self.columns.iter().zip(patches.iter());
        if verdicts.is_empty() && errors.is_empty() && patches().all(|(_, p)| p.is_empty()) {
            return Ok(None);
        }
        if !errors.is_empty() {
            // The sort is stable: of several errors of one row the first one told stays.
            errors.sort_by_key(|error| error.row);
            errors.dedup_by_key(|error| error.row);
            verdicts.resize(self.input.rows, Decision::Keep as u8);
            for error in errors.iter() {
                verdicts[error.row as usize] = Decision::Error as u8;
            }
        }
        let rows = u32::try_from(self.input.rows).unwrap_or(u32::MAX);
        let patches = patches().map(|(column, patch)| (column.slot, column.image, patch));
        match reply.write(self.input.call, rows, verdicts, errors, patches) {
            Ok(block) => Ok(Some(block)),
            Err(_) => Err(Malformed::new(0, Flaw::OutOfRange("patches"))),
        }
    }
}

/// The memory of a batch's columns, for the next one's: collecting in place keeps it.
fn emptied(mut columns: Vec<ColumnView<'_>>) -> Vec<ColumnView<'static>> {
    columns.clear();
    columns.into_iter().map_while(|_| None).collect()
}

/// One row of a batch.
#[doc = concat!("\n", include_str!("examples/row.md"))]
#[derive(Debug)]
pub struct Row<'b, 'a> {
    batch: &'b mut Batch<'a>,
    row: usize,
}

impl<'a> Row<'_, 'a> {
    /// What happened to it.
    #[must_use]
    pub fn op(&self) -> Op {
        self.batch.op(self.row)
    }

    /// Its table.
    #[must_use]
    pub fn table(&self) -> &'a Relation {
        self.batch.table()
    }

    /// A column after the change, as it came.
    #[inline]
    #[must_use]
    pub fn get(&self, col: Col) -> Value<'a> {
        self.value(col, Image::New)
    }

    /// A column before the change, as it came.
    #[inline]
    #[must_use]
    pub fn old(&self, col: Col) -> Value<'a> {
        self.value(col, Image::Old)
    }

    /// The text of a column after the change, if it has one.
    #[inline]
    #[must_use]
    pub fn text(&self, col: Col) -> Option<&'a str> {
        match self.get(col) {
            Value::Text(text) => Some(text),
            Value::Null | Value::Unchanged | Value::Absent => None,
        }
    }

    #[inline]
    fn value(&self, col: Col, image: Image) -> Value<'a> {
        match self.batch.descriptor(col, image) {
            Some(i) => self.batch.columns[i].value(self.row),
            None => Value::Absent,
        }
    }

    /// A column after the change and after this plugin's own rewrites of it.
    #[must_use]
    pub fn now(&self, col: Col) -> Value<'_> {
        self.batch.now(col, self.row, Image::New)
    }

    /// Rewrites a column, in both images; see [`Batch::rewrite`].
    #[inline]
    pub fn rewrite<R: IntoPatch>(&mut self, col: Col, mut f: impl FnMut(&str, &mut Out<'_>) -> R) {
        for image in Image::ALL {
            if let Some(descriptor) = self.batch.writable(col, image) {
                self.batch.patch(descriptor, self.row, &mut f);
            }
        }
    }

    /// Rewrites a [`Col::keyed`] column with the hash of each value as it came; the host
    /// is asked once for the whole batch.
    pub fn rewrite_hashed<R: IntoPatch>(
        &mut self,
        col: Col,
        mut f: impl FnMut(&str, Hash, &mut Out<'_>) -> R,
    ) {
        for image in Image::ALL {
            let Some(descriptor) = self.batch.writable(col, image) else { continue };
            let Some(hash) = self.hash_of(col, image) else { continue };
            self.batch.patch(descriptor, self.row, &mut |value, out| f(value, hash, out));
        }
    }

    /// The hash of a [`Col::keyed`] column, after the change or, of a DELETE, before it;
    /// `None` where there is no text. The host is asked once for the whole batch.
    pub fn hash(&mut self, col: Col) -> Option<Hash> {
        self.hash_of(col, Image::New).or_else(|| self.hash_of(col, Image::Old))
    }

    fn hash_of(&mut self, col: Col, image: Image) -> Option<Hash> {
        let descriptor = self.batch.descriptor(col, image)?;
        if self.batch.columns[descriptor].state(self.row) != State::Text {
            return None;
        }
        let Some(domain) = col.domain else {
            panic!("a column is hashed that has no domain: declare it with `.keyed(domain)`");
        };
        let at = self.batch.prefetch(descriptor, domain, col.normaliser);
        self.batch.work.hashes[at].hashes.get(self.row).copied()
    }

    /// Sets a column, in each image that has a text or NULL there.
    pub fn set(&mut self, col: Col, text: &str) {
        self.batch.set(col, self.row, Some(text));
    }

    /// Sets a column to NULL, in each image that has a text or NULL there.
    pub fn null(&mut self, col: Col) {
        self.batch.set(col, self.row, None);
    }

    /// When its transaction committed, if [`Setup::commit_time`](crate::Setup::commit_time)
    /// asked for it.
    #[must_use]
    pub fn commit_time(&self) -> Option<Timestamp> {
        self.batch.input.commit_us(self.row).map(Timestamp)
    }
}

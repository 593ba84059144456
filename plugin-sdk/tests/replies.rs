//! The reply checker against a plain reading of `ABI.md`: random replies, whole and damaged,
//! are accepted by both or by neither, and say the same to both.
//!
//! The model below knows nothing of the reference: it reads byte by byte, and slowly. What it
//! refuses and the reference takes would be a row published that may not be; what the
//! reference refuses alone would break a guest that keeps to the contract.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

#[path = "vectors/format.rs"]
mod format;
#[path = "vectors/inputs.rs"]
#[allow(dead_code, reason = "its helpers are used by the vectors")]
mod inputs;
#[path = "vectors/replies.rs"]
#[allow(dead_code, reason = "so are these")]
mod replies;

use std::collections::BTreeMap;

use format::{Cell, Column, Effects, PatchValues, RowError, Rows, Side};
use kasho_plugin_sdk::Op;
use kasho_plugin_sdk::abi::Use;
use kasho_plugin_sdk::batch::{self, Image, PatchBuf, ReplyBuilder};

const TEXTS: usize = 3;

/// SplitMix64 (Steele, Lea, Flood, 2014).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        usize::try_from(self.next() % n as u64).unwrap()
    }

    fn of<T: Clone>(&mut self, all: &[T]) -> T {
        all[self.below(all.len())].clone()
    }

    fn text(&mut self) -> String {
        let letters = ["a", "b", "@", "ß", "日", "𝄞", " "];
        (0..self.below(6)).map(|_| self.of(&letters)).collect()
    }
}

/// A call, and what the guest said of its slots.
fn call(random: &mut Random) -> (Rows, Vec<Use>) {
    let n = random.of(&[1, 1, 2, 3, 7, 8, 9, 17]);
    let ops = (0..n).map(|_| random.of(&Op::ALL)).collect();
    let slots: Vec<Use> = (0..1 + random.below(3))
        .map(|_| random.of(&[Use::Read, Use::Write, Use::Write, Use::Mask]))
        .collect();
    let mut columns = Vec::new();
    for slot in 0..slots.len() {
        for image in [Side::New, Side::Old] {
            let mut values = Vec::new();
            let whole = random.below(2) == 0;
            for _ in 0..n {
                values.push(match if whole { 4 } else { random.below(6) } {
                    0 => Cell::Absent,
                    1 => Cell::Null,
                    2 => Cell::Unchanged,
                    _ => Cell::Text(random.text()),
                });
            }
            columns.push(Column { slot: u16::try_from(slot).unwrap(), image, values });
        }
    }
    let rows = Rows { relation: 7, version: 1, call: 9, ops, commit_us: None, columns };
    (rows, slots)
}

fn value(rows: &Rows, slot: u16, image: Side, row: usize) -> &Cell {
    let column = rows.columns.iter().find(|c| c.slot == slot && c.image == image);
    column.map_or(&Cell::Absent, |column| &column.values[row])
}

/// A reply that mostly keeps to the contract.
fn reply(random: &mut Random, rows: &Rows, slots: &[Use]) -> Vec<u8> {
    let n = rows.ops.len();
    let verdict = |random: &mut Random, op: Op| match op {
        Op::Update => random.of(&[0, 0, 1, 2, 3, 4]),
        _ => random.of(&[0, 0, 0, 1, 2]),
    };
    let mut verdicts: Vec<u8> = Vec::new();
    if random.below(2) == 0 {
        verdicts = rows.ops.iter().map(|op| verdict(random, *op)).collect();
    }
    let failed = (0_u32..).zip(&verdicts).filter(|(_, v)| **v == 2).map(|(row, _)| row);
    let errors: Vec<batch::RowError> = failed
        .map(|row| {
            let text = u16::try_from(random.below(TEXTS)).unwrap();
            batch::RowError { row, text, slot: random.of(&[0, batch::NO_SLOT]) }
        })
        .collect();
    let mut patches = Vec::new();
    for (slot, usage) in (0_u16..).zip(slots) {
        for image in [Side::New, Side::Old] {
            let mut patch = PatchBuf::default();
            patch.clear(n);
            for row in 0..n {
                let there = matches!(value(rows, slot, image, row), Cell::Text(_) | Cell::Null);
                let wanted = *usage == Use::Mask || random.below(2) == 0;
                if *usage == Use::Read || !there || !wanted {
                    continue;
                }
                match random.below(4) {
                    0 => patch.null(row),
                    _ => {
                        patch.scratch().push_str(&random.text());
                        patch.commit(row);
                    }
                }
            }
            patches.push((slot, Image::from(image), patch));
        }
    }
    let patches = patches.iter().map(|(slot, image, patch)| (*slot, *image, patch));
    let number = u32::try_from(n).unwrap();
    ReplyBuilder::default().write(rows.call, number, &verdicts, &errors, patches).unwrap().to_vec()
}

/// Damages a block a little.
fn damage(random: &mut Random, block: &mut Vec<u8>) {
    let len = block.len();
    if len < 8 {
        return;
    }
    let at = random.below(len);
    match random.below(8) {
        0 => block[at] ^= 1 << random.below(8),
        1 => block[at] = u8::try_from(random.next() & 0xFF).unwrap(),
        2 => block.truncate(at),
        3 => block.extend([0; 8]),
        4 => {
            // Longer, and it says so.
            block.extend([b'x'; 8]);
            let total = u32::try_from(block.len()).unwrap();
            block[..4].copy_from_slice(&total.to_le_bytes());
        }
        _ => {
            let small = u32::try_from(random.below(len + 16)).unwrap();
            let words = [0, 1, 2, 8, small, small & !7, u32::MAX, 0xFFFF_FFF8];
            let (at, word) = (at / 4 * 4, random.of(&words));
            let end = len.min(at + 4);
            block[at..end].copy_from_slice(&word.to_le_bytes()[..end - at]);
        }
    }
}

/// A plain reading of `ABI.md`.
struct Model<'a> {
    block: &'a [u8],
    rows: &'a Rows,
    slots: &'a [Use],
}

impl Model<'_> {
    fn number(&self, at: usize, bytes: usize) -> Option<usize> {
        let mut n = 0;
        for i in (0..bytes).rev() {
            n = n << 8 | usize::from(*self.block.get(at + i)?);
        }
        Some(n)
    }

    /// The region whose offset stands at `at`: none, or its bytes.
    fn region(&self, at: usize, len: usize) -> Option<Option<Vec<u8>>> {
        let start = self.number(at, 4)?;
        if start == 0 {
            return Some(None);
        }
        let whole = start % 8 == 0 && start + len <= self.block.len();
        whole.then(|| Some(self.block[start..start + len].to_vec()))
    }

    fn needed(&self, at: usize, len: usize) -> Option<Vec<u8>> {
        match self.region(at, len)? {
            Some(bytes) => Some(bytes),
            None => (len == 0).then(Vec::new),
        }
    }

    fn effects(&self) -> Option<Effects> {
        let n = self.rows.ops.len();
        let header = self.number(4, 2)?;
        let whole = self.number(0, 4)? == self.block.len();
        if !whole || header < 32 || header > self.block.len() {
            return None;
        }
        if self.number(8, 4)? != n || self.number(12, 4)? != self.rows.call as usize {
            return None;
        }
        let verdicts = self.region(16, n)?.unwrap_or_else(|| vec![0; n]);
        for (verdict, op) in verdicts.iter().zip(&self.rows.ops) {
            if *verdict > 4 || (*verdict > 2 && *op != Op::Update) {
                return None;
            }
        }
        let errors = self.errors(&verdicts)?;
        let count = self.number(6, 2)?;
        self.needed(28, 32 * count)?;
        let first = self.number(28, 4)?;
        let mut patches: Vec<PatchValues> = Vec::new();
        let mut bytes = 0;
        for i in 0..count {
            let patch = self.patch(first + 32 * i)?;
            bytes += self.number(first + 32 * i + 24, 4)?;
            let again = |p: &PatchValues| (p.slot, p.image) == (patch.slot, patch.image);
            if patches.iter().any(again) {
                return None;
            }
            patches.push(patch);
        }
        if bytes > self.block.len() {
            return None;
        }
        patches.sort_by_key(|p| (p.slot, p.image == Side::Old));
        let effects = Effects { verdicts, errors, patches };
        self.masked(&effects).then_some(effects)
    }

    fn errors(&self, verdicts: &[u8]) -> Option<Vec<RowError>> {
        let count = self.number(24, 4)?;
        let bytes = self.needed(20, 8 * count)?;
        let mut errors = Vec::new();
        for error in bytes.chunks(8) {
            let row = u32::from_le_bytes(error[..4].try_into().unwrap());
            let text = u16::from_le_bytes(error[4..6].try_into().unwrap());
            let slot = u16::from_le_bytes(error[6..].try_into().unwrap());
            let known = slot == 0xFFFF || usize::from(slot) < self.slots.len();
            if usize::from(text) >= TEXTS || !known {
                return None;
            }
            errors.push(RowError { row, text, slot: (slot != 0xFFFF).then_some(slot) });
        }
        let failed = (0_u32..).zip(verdicts).filter(|(_, v)| **v == 2).map(|(row, _)| row);
        failed.eq(errors.iter().map(|e| e.row)).then_some(errors)
    }

    fn patch(&self, at: usize) -> Option<PatchValues> {
        let n = self.rows.ops.len();
        let slot = u16::try_from(self.number(at, 2)?).ok()?;
        let image = [Side::New, Side::Old].get(self.number(at + 2, 1)?).copied()?;
        let usage = self.slots.get(usize::from(slot))?;
        if !matches!(usage, Use::Write | Use::Mask) {
            return None;
        }
        let count = self.number(at + 4, 4)?;
        if count > n {
            return None;
        }
        let bitmap = self.needed(at + 8, n.div_ceil(8))?;
        let states = self.region(at + 12, count)?.unwrap_or_else(|| vec![3; count]);
        let offsets = self.needed(at + 16, 4 * (count + 1))?;
        let bytes = self.needed(at + 20, self.number(at + 24, 4)?)?;
        let edges: Vec<usize> =
            offsets.chunks(4).map(|o| u32::from_le_bytes(o.try_into().unwrap()) as usize).collect();
        if edges[0] != 0 || edges[count] != bytes.len() || !edges.is_sorted() {
            return None;
        }
        let bit = |row: usize| bitmap[row / 8] >> (row % 8) & 1 == 1;
        let set: Vec<usize> = (0..8 * bitmap.len()).filter(|row| bit(*row)).collect();
        if set.len() != count || set.iter().any(|row| *row >= n) {
            return None;
        }
        let mut values = BTreeMap::new();
        for (i, row) in set.into_iter().enumerate() {
            let over = value(self.rows, slot, image, row);
            if matches!(over, Cell::Absent | Cell::Unchanged) {
                return None;
            }
            let text = &bytes[edges[i]..edges[i + 1]];
            let cell = match states[i] {
                1 if text.is_empty() => Cell::Null,
                3 if !text.contains(&0) => Cell::Text(String::from_utf8(text.to_vec()).ok()?),
                _ => return None,
            };
            values.insert(row, cell);
        }
        Some(PatchValues { slot, image, values })
    }

    /// Whether every text of a masked slot is patched, of the rows that go on.
    fn masked(&self, effects: &Effects) -> bool {
        let masked = (0_u16..).zip(self.slots).filter(|(_, usage)| **usage == Use::Mask);
        let mut all = masked.flat_map(|(slot, _)| [(slot, Side::New), (slot, Side::Old)]);
        all.all(|(slot, image)| {
            let patch = effects.patches.iter().find(|p| (p.slot, p.image) == (slot, image));
            (0..self.rows.ops.len()).all(|row| {
                let text = matches!(value(self.rows, slot, image, row), Cell::Text(_));
                let patched = patch.is_some_and(|p| p.values.contains_key(&row));
                !text || patched || matches!(effects.verdicts[row], 1 | 2)
            })
        })
    }
}

#[test]
fn what_the_checker_accepts_is_what_the_contract_allows() {
    let (mut accepted, mut refused) = (0, 0);
    for seed in 0..2_000 {
        let mut random = Random(seed);
        let (rows, slots) = call(&mut random);
        let whole = reply(&mut random, &rows, &slots);
        for round in 0..12 {
            let mut block = whole.clone();
            for _ in 0..[0, 1, 1, 2, 3][round % 5] {
                damage(&mut random, &mut block);
            }
            let judged = replies::judge(&rows, &slots, TEXTS, &block).ok();
            let model = Model { block: &block, rows: &rows, slots: &slots }.effects();
            assert_eq!(judged, model, "seed {seed}, round {round}: {rows:?}\n{block:?}");
            match model {
                Some(_) => accepted += 1,
                None => refused += 1,
            }
        }
    }
    // Neither is all there is.
    assert!(accepted > 4_000 && refused > 4_000, "{accepted} accepted, {refused} refused");
}

#[test]
fn bytes_of_chance_are_refused_by_both() {
    let mut random = Random(7);
    for round in 0..5_000 {
        let (rows, slots) = call(&mut random);
        let mut block: Vec<u8> =
            (0..random.below(200)).map(|_| u8::try_from(random.next() & 0xFF).unwrap()).collect();
        if let Some(head) = block.first_chunk_mut::<32>() {
            // So far that a reader looks further.
            let n = u32::try_from(rows.ops.len()).unwrap();
            head[4..8].copy_from_slice(&[32, 0, u8::try_from(round % 3).unwrap(), 0]);
            head[8..12].copy_from_slice(&n.to_le_bytes());
            head[12..16].copy_from_slice(&rows.call.to_le_bytes());
            head[16..].iter_mut().for_each(|byte| *byte &= 0x38 * u8::from(round % 2 == 0));
        }
        if block.len() >= 4 {
            let total = u32::try_from(block.len()).unwrap();
            block[..4].copy_from_slice(&total.to_le_bytes());
        }
        let judged = replies::judge(&rows, &slots, TEXTS, &block).ok();
        let model = Model { block: &block, rows: &rows, slots: &slots }.effects();
        assert_eq!(judged, model, "round {round}: {rows:?}\n{block:?}");
    }
}

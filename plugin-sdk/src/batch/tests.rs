//! Round trips, and readers that meet any bytes at all.

use proptest::prelude::*;

use super::*;
use crate::event::{Op, Value};

fn field(value: &Value<'static>) -> Field<'static> {
    match *value {
        Value::Text(text) => Field::Text(text.as_bytes()),
        Value::Null => Field::Null,
        Value::Unchanged => Field::Unchanged,
        Value::Absent => Field::Absent,
    }
}

fn value() -> impl Strategy<Value = Value<'static>> {
    prop_oneof![
        4 => prop::sample::select(vec!["", "a", "ada@example.com", "grüße", "日本"]).prop_map(Value::Text),
        1 => Just(Value::Null),
        1 => Just(Value::Unchanged),
        1 => Just(Value::Absent),
    ]
}

/// A batch of `rows` inserts and updates with one column in both images.
fn build(values: &[(Value<'static>, Value<'static>)]) -> InputBuilder {
    let mut builder = InputBuilder::default();
    let ops = values.iter().map(|(_, old)| match old {
        Value::Absent => Op::Insert,
        _ => Op::Update,
    });
    builder.begin(7, 3, 99, ops);
    builder.column(0, Image::New, values.iter().map(|(new, _)| field(new))).unwrap();
    builder.column(0, Image::Old, values.iter().map(|(_, old)| field(old))).unwrap();
    builder.finish().unwrap();
    builder
}

const ALLOWED: Allowed<'static> = Allowed { texts: 2, patchable: &[true, false] };

fn three() -> InputBuilder {
    let text = Value::Text;
    build(&[
        (text("one"), text("eins")),
        (Value::Null, Value::Absent),
        (text("three"), Value::Absent),
    ])
}

fn patch(rows: &[(usize, Option<&str>)], of: usize) -> PatchBuf {
    let mut patch = PatchBuf::default();
    patch.clear(of);
    for (row, value) in rows {
        match value {
            Some(text) => {
                patch.scratch().push_str(text);
                patch.commit(*row);
            }
            None => patch.null(*row),
        }
    }
    patch
}

fn reply(verdicts: &[u8], errors: &[RowError], patches: &[(u16, Image, PatchBuf)]) -> Vec<u8> {
    let mut out = ReplyBuilder::default();
    let patches = patches.iter().map(|(slot, image, patch)| (*slot, *image, patch));
    let block = out.write(99, 3, verdicts, errors, patches).unwrap();
    assert_eq!(block.as_ptr().align_offset(8), 0);
    assert_eq!(block.len() % 8, 0);
    block.to_vec()
}

/// What [`Patch::each`] tells: row and range of the text.
fn each(patch: &Patch<'_>) -> Vec<(usize, Option<std::ops::Range<usize>>)> {
    let mut all = Vec::new();
    patch.each(|row, text| {
        all.push((row, text.map(|(start, len)| start as usize..(start + len) as usize)));
    });
    all
}

fn flaw_of(block: &[u8]) -> Flaw {
    Reply::read(block, three().sent(), ALLOWED).unwrap_err().flaw
}

/// The columns of one row lie as those of many do: the second of two rows is absent, so that
/// nothing but the regions' lengths tells them apart.
#[test]
fn one_row_is_written_as_many_are() {
    let fields = [Field::Text(b"ada"), Field::Text(b""), Field::Null, Field::Unchanged];
    for image in Image::ALL {
        for field in fields {
            let written = |rows: usize| {
                let mut builder = InputBuilder::default();
                builder.begin(7, 3, 99, [Op::Insert, Op::Insert].into_iter().take(rows));
                assert_eq!(builder.column(4, image, [field].into_iter()), Ok(true));
                let block = builder.finish().unwrap().to_vec();
                (block, builder)
            };
            let ((first, one), (second, two)) = (written(1), written(2));
            let read = |block: &[u8]| {
                let column = Input::read(block).unwrap().column(0).unwrap();
                let offsets = column.offsets()[..2].to_vec();
                (column.slot, column.image, offsets, column.bytes().to_owned(), column.state(0))
            };
            assert_eq!(read(&first), read(&second));
            assert_eq!(one.sent().states(4, image), two.sent().states(4, image));
            assert_eq!(one.sent().all_text(4, image), matches!(field, Field::Text(_)));
        }
    }
    let mut builder = InputBuilder::default();
    builder.begin(7, 3, 99, std::iter::once(Op::Insert));
    let before = builder.len();
    assert_eq!(builder.column(4, Image::New, [Field::Absent].into_iter()), Ok(false));
    assert_eq!((builder.len(), builder.sent().states(4, Image::New)), (before, &[][..]));
}

/// The reply to one row whose only value is rewritten has a way of its own; an error list
/// that is not empty takes the way of all others.
#[test]
fn a_reply_to_one_row_is_written_as_all_are() {
    for (text, image) in [("", Image::New), ("x", Image::Old), ("grüße, Ada", Image::New)] {
        let mut sent = InputBuilder::default();
        sent.begin(7, 3, 99, std::iter::once(Op::Update));
        for image in Image::ALL {
            sent.column(0, image, [Field::Text(b"ada")].into_iter()).unwrap();
        }
        sent.finish().unwrap();
        let (one, none) = (patch(&[(0, Some(text))], 1), patch(&[], 1));
        let other = if image == Image::New { Image::Old } else { Image::New };
        let patches = [(0, other, &none), (0, image, &one)];
        let mut builder = ReplyBuilder::default();
        let short = builder.write(99, 1, &[], &[], patches.into_iter()).unwrap().to_vec();
        assert_eq!(short.as_slice().len() % 8, 0);
        let long = builder.write(99, 1, &[0], &[], patches.into_iter()).unwrap().to_vec();
        let read = |block| {
            let reply = Reply::read(block, sent.sent(), ALLOWED).unwrap();
            assert!(reply.patch(0, other).is_none() && reply.keeps_all());
            let patch = *reply.patch(0, image).unwrap();
            (patch.bytes().to_owned(), each(&patch))
        };
        assert_eq!(read(&short), read(&long));
        assert_eq!(read(&short), (text.to_owned(), vec![(0, Some(0..text.len()))]));
        // Without the verdict's region and what is told of it nothing else differs.
        assert_eq!((&short[8..16], &short[32..40]), (&long[8..16], &long[40..48]));
        assert!(
            builder.write(99, 1, &[], &[], patches.into_iter()).unwrap().as_ptr().align_offset(8)
                == 0
        );
    }
}

proptest! {
    #[test]
    fn input_comes_back(values in prop::collection::vec((value(), value()), 1..40)) {
        let mut builder = build(&values);
        let block = builder.finish().unwrap().to_vec();
        let builder = build(&values);
        let input = Input::read(&block).unwrap();
        prop_assert_eq!((input.rows, input.relation, input.version, input.call),
            (values.len(), 7, 3, 99));
        let columns: Vec<_> = (0..input.columns).map(|i| input.column(i).unwrap()).collect();
        for image in Image::ALL {
            let column = columns.iter().find(|c| c.image == image);
            for (row, pair) in values.iter().enumerate() {
                let want = if image == Image::New { pair.0 } else { pair.1 };
                prop_assert_eq!(column.map_or(Value::Absent, |c| c.value(row)), want);
                let state = State::of_row(builder.sent().states(0, image), row);
                prop_assert_eq!(state == State::Text, matches!(want, Value::Text(_)));
            }
        }
    }

    #[test]
    fn patches_come_back_in_any_order_of_writing(
        values in prop::collection::vec(value(), 1..40),
        edits in prop::collection::vec((0_usize..40, prop::option::of("[a-zß]{0,8}")), 0..60),
    ) {
        let values: Vec<_> = values.into_iter().map(|v| (v, Value::Absent)).collect();
        let builder = build(&values);
        let mut want = vec![None; values.len()];
        let mut patch = PatchBuf::default();
        patch.clear(values.len());
        for (row, text) in edits {
            if !matches!(values.get(row), Some((Value::Text(_) | Value::Null, _))) {
                continue;
            }
            match &text {
                Some(text) => {
                    patch.scratch().push_str(text);
                    patch.commit(row);
                }
                None => patch.null(row),
            }
            want[row] = Some(text);
        }
        for (row, want) in want.iter().enumerate() {
            prop_assert_eq!(patch.get(row), want.as_ref().map(Option::as_deref));
        }
        let rows = u32::try_from(values.len()).unwrap();
        let mut out = ReplyBuilder::default();
        let block = out.write(99, rows, &[], &[], [(0, Image::New, &patch)].into_iter()).unwrap();
        let reply = Reply::read(block, builder.sent(), ALLOWED).unwrap();
        let mut got = vec![None; values.len()];
        for patch in reply.patches() {
            let each = each(patch);
            prop_assert_eq!(each.len(), patch.entries().count());
            for (i, (row, text)) in patch.entries().enumerate() {
                prop_assert_eq!(each[i].0, row);
                prop_assert_eq!(each[i].1.clone().map(|range| &patch.bytes()[range]), text);
                got[row] = Some(text.map(str::to_owned));
            }
        }
        prop_assert_eq!(&got, &want);
        let bare = values.iter().zip(&want).position(|((v, _), w)| matches!(v, Value::Text(_)) && w.is_none());
        prop_assert_eq!(reply.first_unmasked(0, Image::New, builder.sent()), bare);
    }

    #[test]
    fn a_reader_never_panics_on_bytes(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = Reply::read(&bytes, three().sent(), ALLOWED);
        if let Ok(input) = Input::read(&bytes) {
            for i in 0..=input.columns {
                let _ = input.column(i);
            }
        }
    }

    #[test]
    fn a_reader_never_panics_on_a_block_gone_wrong(
        at in 0_usize..400, byte in any::<u8>(), at2 in 0_usize..400, word in 0_u32..600,
        cut in 0_usize..400,
    ) {
        let errors = [RowError { row: 1, text: 1, slot: 0 }];
        let new = patch(&[(0, Some("x")), (2, None)], 3);
        let old = patch(&[(0, Some("yy"))], 3);
        let mut block = reply(&[3, 2, 0], &errors, &[(0, Image::New, new), (0, Image::Old, old)]);
        let mut input = three().finish().unwrap().to_vec();
        for block in [&mut block, &mut input] {
            let len = block.len();
            block[at % len] = byte;
            put(block, at2 % len / 4 * 4, &word.to_le_bytes());
        }
        let sent = three();
        if let Ok(reply) = Reply::read(&block, sent.sent(), ALLOWED) {
            for patch in reply.patches() {
                prop_assert!(patch.entries().count() <= 3);
                prop_assert!(each(patch).iter().all(|(row, range)| *row < 3
                    && range.clone().is_none_or(|r| patch.bytes().get(r).is_some())));
            }
        }
        if let Ok(input) = Input::read(&input) {
            for column in (0..input.columns).flat_map(|i| input.column(i)) {
                for row in 0..input.rows + 2 {
                    let _ = column.value(row);
                }
            }
        }
        let _ = Reply::read(&block[..cut % block.len()], sent.sent(), ALLOWED);
    }
}

#[test]
fn a_reply_is_read_whole() {
    let errors = [RowError { row: 1, text: 1, slot: NO_SLOT }];
    let new = patch(&[(0, Some("x")), (2, Some("zz"))], 3);
    let block = reply(&[4, 2, 1], &errors, &[(0, Image::New, new)]);
    let sent = three();
    let reply = Reply::read(&block, sent.sent(), ALLOWED).unwrap();
    assert_eq!(
        (0..3).map(|row| reply.decision(row)).collect::<Vec<_>>(),
        [Decision::AsDelete, Decision::Error, Decision::Drop]
    );
    assert_eq!(reply.errors(), errors);
    assert!(!reply.keeps_all());
    assert_eq!(reply.first_unmasked(0, Image::New, sent.sent()), None);
    assert_eq!(reply.first_unmasked(0, Image::Old, sent.sent()), Some(0));
}

#[test]
fn a_removed_row_needs_no_mask() {
    let sent = three();
    let block = reply(&[1, 0, 0], &[], &[(0, Image::New, patch(&[(2, Some(""))], 3))]);
    let reply = Reply::read(&block, sent.sent(), ALLOWED).unwrap();
    assert_eq!(reply.first_unmasked(0, Image::New, sent.sent()), None);
    assert_eq!(reply.first_unmasked(0, Image::Old, sent.sent()), None);
}

#[test]
fn every_flaw_of_a_reply_is_told() {
    let good = || reply(&[0, 0, 0], &[], &[(0, Image::New, patch(&[(0, Some("x"))], 3))]);
    assert!(Reply::read(&good(), three().sent(), ALLOWED).is_ok());
    let with = |at: usize, bytes: &[u8]| {
        let mut block = good();
        put(&mut block, at, bytes);
        flaw_of(&block)
    };
    let desc = u32::from_le_bytes(good()[28..32].try_into().unwrap()) as usize;
    let at =
        |field: usize| u32::from_le_bytes(good()[desc + field..][..4].try_into().unwrap()) as usize;
    let max = u32::MAX.to_le_bytes();
    assert_eq!(with(0, &[1]), Flaw::WrongLength);
    assert_eq!(with(4, &[31]), Flaw::HeaderTooShort);
    assert_eq!(with(4, &[0, 16]), Flaw::TooShort);
    assert_eq!(with(8, &[4]), Flaw::WrongRows { sent: 3, told: 4 });
    assert_eq!(with(12, &[98]), Flaw::StaleCall { sent: 99, told: 98 });
    assert_eq!(with(16, &[33]), Flaw::Misaligned("verdicts"));
    assert_eq!(with(16, &0xFFFF_FFF8_u32.to_le_bytes()), Flaw::OutOfRange("verdicts"));
    assert_eq!(with(32, &[5]), Flaw::UnknownVerdict { row: 0, verdict: 5 });
    assert_eq!(with(33, &[3]), Flaw::VerdictNotForOp { row: 1, verdict: 3 });
    assert_eq!(with(33, &[2]), Flaw::ErrorsDisagree);
    assert_eq!(with(24, &[4]), Flaw::TooManyEntries);
    assert_eq!(with(28, &[0, 0, 0, 0]), Flaw::Missing("patch descriptors"));
    assert_eq!(with(desc, &[2]), Flaw::UnknownSlot(2));
    assert_eq!(with(desc, &[1]), Flaw::NotPatchable(1));
    assert_eq!(with(desc + 2, &[2]), Flaw::UnknownImage(2));
    assert_eq!(with(desc + 4, &max), Flaw::TooManyEntries);
    assert_eq!(with(desc + 4, &[0]), Flaw::OffsetOrder);
    assert_eq!(with(desc + 24, &max), Flaw::OutOfRange("bytes"));
    assert_eq!(with(at(8), &[3]), Flaw::CountDisagrees);
    assert_eq!(with(at(8), &[8]), Flaw::BitBeyondRows);
    assert_eq!(with(at(16), &[1]), Flaw::OffsetOrder);
    assert_eq!(with(at(20), &[0xFF]), Flaw::NotUtf8);
    assert_eq!(with(at(20), &[0]), Flaw::ZeroByte);
}

#[test]
fn patches_and_errors_must_fit_the_call() {
    let twice =
        [(0, Image::New, patch(&[(0, Some("x"))], 3)), (0, Image::New, patch(&[(2, None)], 3))];
    assert_eq!(flaw_of(&reply(&[], &[], &twice)), Flaw::Duplicate(0));
    let over = |image, row| flaw_of(&reply(&[], &[], &[(0, image, patch(&[(row, None)], 3))]));
    assert_eq!(over(Image::Old, 1), Flaw::PatchOverNothing { row: 1 });
    let errors = |rows: &[u32], text, slot| {
        let errors: Vec<_> = rows.iter().map(|row| RowError { row: *row, text, slot }).collect();
        flaw_of(&reply(&[2, 2, 0], &errors, &[]))
    };
    assert_eq!(errors(&[1, 0], 0, 0), Flaw::ErrorOrder { row: 0 });
    assert_eq!(errors(&[0, 2], 0, 0), Flaw::ErrorsDisagree);
    assert_eq!(errors(&[0, 7], 0, 0), Flaw::ErrorOrder { row: 7 });
    assert_eq!(errors(&[0], 0, 0), Flaw::ErrorsDisagree);
    assert_eq!(errors(&[0, 1], 2, 0), Flaw::UnknownText(2));
    assert_eq!(errors(&[0, 1], 0, 2), Flaw::UnknownSlot(2));
}

#[test]
fn states_of_a_patch_are_null_or_text() {
    let block = reply(&[], &[], &[(0, Image::New, patch(&[(0, Some("x")), (2, None)], 3))]);
    let desc = u32::from_le_bytes(block[28..32].try_into().unwrap()) as usize;
    let states = u32::from_le_bytes(block[desc + 12..][..4].try_into().unwrap()) as usize;
    for (bytes, want) in [([1, 1], Flaw::LengthWithoutText), ([3, 2], Flaw::UnknownState(2))] {
        let mut block = block.clone();
        put(&mut block, states, &bytes);
        assert_eq!(flaw_of(&block), want);
    }
}

#[test]
fn a_column_nobody_has_is_left_out_and_times_come_along() {
    let mut builder = InputBuilder::default();
    builder.begin(1, 1, 1, [Op::Truncate, Op::Truncate].into_iter());
    builder.commit_us([-5, 1_700_000_000_000_000].into_iter()).unwrap();
    assert!(!builder.column(0, Image::New, [Field::Absent].into_iter()).unwrap());
    assert!(builder.column(3, Image::New, [Field::Absent, Field::Text(b"x")].into_iter()).unwrap());
    let input = Input::read(builder.finish().unwrap()).unwrap();
    assert_eq!((input.columns, input.op(1)), (1, Op::Truncate));
    assert_eq!((input.commit_us(0), input.commit_us(2)), (Some(-5), None));
    assert_eq!(input.column(0).unwrap().value(1), Value::Text("x"));
}

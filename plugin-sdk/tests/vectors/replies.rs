//! Replies as they come to a host: of every verdict and kind of patch, and with every flaw
//! that a host has to find.

use kasho_plugin_sdk::Op;
use kasho_plugin_sdk::abi::Use;
use kasho_plugin_sdk::batch::{Allowed, Image, PatchBuf, Reply, ReplyBuilder, RowError};

use super::format::{Cell, Effects, ReplyVector, Rows, Side, hex};
use super::inputs::{column, put, rows, text, three, word};

/// What a host says of a reply: what it does, or why it is refused.
pub(crate) fn judge(
    rows: &Rows,
    slots: &[Use],
    texts: usize,
    reply: &[u8],
) -> Result<Effects, String> {
    let mut builder = rows.builder();
    builder.finish().unwrap();
    let patchable: Vec<bool> = slots.iter().map(|u| matches!(u, Use::Write | Use::Mask)).collect();
    let allowed = Allowed { texts, patchable: &patchable };
    let reply = Reply::read(reply, builder.sent(), allowed).map_err(|flaw| flaw.to_string())?;
    for (slot, _) in (0_u16..).zip(slots).filter(|(_, usage)| **usage == Use::Mask) {
        for image in Image::ALL {
            if reply.first_unmasked(slot, image, builder.sent()).is_some() {
                return Err(format!("a text of slot {slot}, which is masked, has no patch"));
            }
        }
    }
    Ok(Effects::of(&reply, rows.ops.len()))
}

/// Patches by slot and image: row and text, `None` for NULL.
type Patches<'a> = [(u16, Image, &'a [(usize, Option<&'a str>)])];

fn reply(rows: &Rows, verdicts: &[u8], errors: &[RowError], patches: &Patches<'_>) -> Vec<u8> {
    let buffers: Vec<(u16, Image, PatchBuf)> = patches
        .iter()
        .map(|(slot, image, entries)| {
            let mut patch = PatchBuf::default();
            patch.clear(rows.ops.len());
            for (row, value) in *entries {
                match value {
                    Some(text) => {
                        patch.scratch().push_str(text);
                        patch.commit(*row);
                    }
                    None => patch.null(*row),
                }
            }
            (*slot, *image, patch)
        })
        .collect();
    let n = u32::try_from(rows.ops.len()).unwrap();
    let patches = buffers.iter().map(|(slot, image, patch)| (*slot, *image, patch));
    ReplyBuilder::default().write(rows.call, n, verdicts, errors, patches).unwrap().to_vec()
}

/// What vectors have in common: the call, and what the guest said of its slots.
struct Call {
    rows: Rows,
    slots: Vec<Use>,
}

const TEXTS: usize = 2;

impl Call {
    fn vector(&self, name: &str, reply: &[u8]) -> ReplyVector {
        let judged = judge(&self.rows, &self.slots, TEXTS, reply);
        ReplyVector {
            name: name.to_owned(),
            rows: self.rows.clone(),
            slots: self.slots.clone(),
            texts: TEXTS,
            reply: hex(reply),
            effects: judged.clone().ok(),
            refused: judged.err(),
        }
    }

    fn good(
        &self,
        name: &str,
        verdicts: &[u8],
        errors: &[RowError],
        patches: &Patches<'_>,
    ) -> ReplyVector {
        let vector = self.vector(name, &reply(&self.rows, verdicts, errors, patches));
        assert!(vector.refused.is_none(), "{name}: {:?}", vector.refused);
        vector
    }

    fn bad(&self, name: &str, reply: &[u8]) -> ReplyVector {
        let vector = self.vector(name, reply);
        assert!(vector.refused.is_some(), "{name} is accepted");
        vector
    }
}

pub(crate) fn vectors() -> Vec<ReplyVector> {
    let mut all = accepted();
    all.extend(of_operations());
    all.extend(broken());
    all.extend(beside_the_call());
    all.extend(unmasked());
    all
}

fn written() -> Call {
    Call { rows: three(), slots: vec![Use::Write, Use::Read] }
}

fn accepted() -> Vec<ReplyVector> {
    let call = written();
    let error = |row, text, slot| RowError { row, text, slot };
    let both: &Patches<'_> = &[
        (0, Image::New, &[(0, Some("uno")), (1, Some("was NULL")), (2, None)]),
        (0, Image::Old, &[(0, Some("due"))]),
    ];
    let nine: Vec<Cell> = (0..9).map(|_| text("v")).collect();
    let nine = Call {
        rows: rows(&[Op::Insert; 9], vec![column(0, Side::New, &nine)]),
        slots: vec![Use::Write],
    };
    let mut longer = reply(&call.rows, &[0, 1, 0], &[], &[(0, Image::New, &[(2, Some("x"))])]);
    longer.splice(32..32, [0xEE; 8]);
    for at in [0, 16, 28] {
        let n = word(&longer, at) + 8;
        put(&mut longer, at, &n.to_le_bytes());
    }
    put(&mut longer, 4, &40_u16.to_le_bytes());
    let patch = word(&longer, 28) as usize;
    for field in [8, 16, 20] {
        let n = word(&longer, patch + field) + 8;
        put(&mut longer, patch + field, &n.to_le_bytes());
    }
    vec![
        call.good("nothing: all keep", &[], &[], &[]),
        call.good("a verdict for each row", &[3, 1, 4], &[], &[]),
        call.good("an error about no column", &[0, 2, 0], &[error(1, 1, 0xFFFF)], &[]),
        call.good("errors about a column", &[2, 0, 2], &[error(0, 0, 0), error(2, 1, 1)], &[]),
        call.good("patches of both images, NULL to text and text to NULL", &[], &[], both),
        call.good("an empty text", &[], &[], &[(0, Image::New, &[(0, Some(""))])]),
        call.good("patches beside verdicts", &[4, 1, 3], &[], both),
        nine.good(
            "the ninth row: a second byte of bitmap",
            &[],
            &[],
            &[(0, Image::New, &[(8, Some("w"))])],
        ),
        call.vector("a header of 40 bytes: the rest is skipped", &longer),
    ]
}

fn of_operations() -> Vec<ReplyVector> {
    let mut all = Vec::new();
    for op in Op::ALL {
        let rows = match op {
            Op::Truncate => rows(&[op], Vec::new()),
            Op::Delete => rows(&[op], vec![column(0, Side::Old, &[text("k")])]),
            _ => rows(&[op], vec![column(0, Side::New, &[text("v")])]),
        };
        let call = Call { rows, slots: vec![Use::Write] };
        for verdict in [0, 1, 3, 4] {
            let reply = reply(&call.rows, &[verdict], &[], &[]);
            all.push(call.vector(&format!("{}, verdict {verdict}", op.name()), &reply));
        }
    }
    all
}

fn broken() -> Vec<ReplyVector> {
    let call = written();
    let entries: &Patches<'_> = &[(0, Image::New, &[(0, Some("x")), (1, None)])];
    let good = reply(&call.rows, &[0, 0, 0], &[], entries);
    let at = word(&good, 28) as usize;
    let region = |field: usize| word(&good, at + field) as usize;
    let with = |name: &str, at: usize, bytes: &[u8]| {
        let mut block = good.clone();
        put(&mut block, at, bytes);
        call.bad(name, &block)
    };
    let max = u32::MAX.to_le_bytes();
    let far = 0xFFFF_FFF8_u32.to_le_bytes();
    let none = [0; 4];
    vec![
        call.bad("no bytes at all", &[]),
        call.bad("cut in the header", &good[..24]),
        call.bad("cut behind the header", &good[..good.len() - 8]),
        with("a total length that is not the answer's", 0, &max),
        with("a header that is too short", 4, &24_u16.to_le_bytes()),
        with("a header longer than the block", 4, &u16::MAX.to_le_bytes()),
        with("more patches than there are", 6, &u16::MAX.to_le_bytes()),
        with("verdicts that are not aligned", 16, &33_u32.to_le_bytes()),
        with("verdicts beyond the block", 16, &far),
        with("patches told, and none there", 28, &none),
        with("patches beyond the block", 28, &far),
        with("an image that does not exist", at + 2, &[2]),
        with("no bitmap", at + 8, &none),
        with("a bitmap beyond the block", at + 8, &far),
        with("states beyond the block", at + 12, &far),
        with("no offsets", at + 16, &none),
        with("offsets that are not aligned", at + 16, &[1]),
        with("bytes told, and none there", at + 20, &none),
        with("bytes longer than the block", at + 24, &max),
        with("more entries than rows", at + 4, &max),
        with("fewer entries than bits", at + 4, &[1]),
        with("a bit for another entry", region(8), &[7]),
        with("a bit beyond the last row", region(8), &[9]),
        with("a state that a patch cannot have: absent", region(12), &[0]),
        with("a state that a patch cannot have: unchanged", region(12), &[2]),
        with("NULL with a length", region(12), &[1]),
        with("offsets that do not begin at 0", region(16), &[1]),
        with("offsets that fall", region(16) + 4, &[9]),
        with("text that is no UTF-8", region(20), &[0xFF]),
        with("text with a zero byte", region(20), &[0]),
    ]
}

fn beside_the_call() -> Vec<ReplyVector> {
    let call = written();
    let good = || reply(&call.rows, &[0, 0, 0], &[], &[]);
    let with = |name: &str, at: usize, bytes: &[u8]| {
        let mut block = good();
        put(&mut block, at, bytes);
        call.bad(name, &block)
    };
    let of = |name: &str, verdicts: &[u8], errors: &[(u32, u16, u16)], patches: &Patches<'_>| {
        let errors =
            errors.iter().map(|(row, text, slot)| RowError { row: *row, text: *text, slot: *slot });
        call.bad(name, &reply(&call.rows, verdicts, &errors.collect::<Vec<_>>(), patches))
    };
    let new = Image::New;
    let mut bare = reply(&call.rows, &[], &[], &[]);
    put(&mut bare, 20, &0xFFFF_FFF8_u32.to_le_bytes());
    let nowhere = call.bad("errors beyond the block, though there is none", &bare);
    let shared = {
        let long = "x".repeat(400);
        let patches: &Patches<'_> =
            &[(0, new, &[(0, Some(&long))]), (0, Image::Old, &[(0, Some(""))])];
        let mut block = reply(&call.rows, &[], &[], patches);
        let (at, len) = (word(&block, 28) as usize, 400_u32.to_le_bytes());
        // The second points to the text of the first.
        let bytes = word(&block, at + 20).to_le_bytes();
        put(&mut block, at + 32 + 20, &bytes);
        put(&mut block, at + 32 + 24, &len);
        let offsets = word(&block, at + 32 + 16) as usize;
        put(&mut block, offsets + 4, &len);
        call.bad("texts that lie on one another", &block)
    };
    vec![
        with("fewer rows than were sent", 8, &[2]),
        with("more rows than were sent", 8, &[4]),
        with("the answer to another call", 12, &[2]),
        with("a verdict that does not exist", 32, &[5]),
        with("an error verdict without an error", 33, &[2]),
        with("more errors than rows", 24, &[4]),
        nowhere,
        of("an insert that is to become one", &[0, 3, 0], &[], &[]),
        of("an error without its verdict", &[2, 0, 0], &[(1, 0, 0)], &[]),
        of("errors that fall", &[2, 0, 2], &[(2, 0, 0), (0, 0, 0)], &[]),
        of("two errors of one row", &[2, 0, 2], &[(0, 0, 0), (0, 0, 0)], &[]),
        of("an error of a row that was not sent", &[2, 0, 0], &[(3, 0, 0)], &[]),
        of("an error with a text that was not declared", &[2, 0, 0], &[(0, 2, 0)], &[]),
        of("an error about a slot that does not exist", &[2, 0, 0], &[(0, 0, 2)], &[]),
        of("a patch of a slot that is only read", &[], &[], &[(1, new, &[(1, Some("x"))])]),
        of("a patch of a slot that does not exist", &[], &[], &[(2, new, &[(1, Some("x"))])]),
        of(
            "two patches of one slot and image",
            &[],
            &[],
            &[(0, new, &[(0, None)]), (0, new, &[(2, None)])],
        ),
        of("a patch over what is absent", &[], &[], &[(0, Image::Old, &[(1, Some("x"))])]),
        Call { rows: call.rows.clone(), slots: vec![Use::Read, Use::Write] }.bad(
            "a patch over what is unchanged",
            &reply(&call.rows, &[], &[], &[(1, new, &[(0, Some("x"))])]),
        ),
        shared,
    ]
}

fn unmasked() -> Vec<ReplyVector> {
    let call = Call { rows: three(), slots: vec![Use::Mask, Use::Read] };
    let new: &[(usize, Option<&str>)] = &[(0, Some("x")), (2, None)];
    let old: &[(usize, Option<&str>)] = &[(0, Some("y"))];
    let whole: &Patches<'_> = &[(0, Image::New, new), (0, Image::Old, old)];
    let error = [RowError { row: 2, text: 0, slot: 0 }];
    let first: &Patches<'_> = &[(0, Image::New, &new[..1]), (0, Image::Old, old)];
    vec![
        call.good("every text of a masked slot is patched", &[], &[], whole),
        call.good("what is dropped need not be masked", &[0, 0, 1], &[], first),
        call.good("nor what is in error", &[0, 0, 2], &error, first),
        call.bad("a masked slot is left alone", &reply(&call.rows, &[], &[], &[])),
        call.bad("one text of it is left as it was", &reply(&call.rows, &[], &[], first)),
        call.bad("the old image is left as it was", &reply(&call.rows, &[], &[], &whole[..1])),
        call.bad(
            "a row that becomes an insert is not masked",
            &reply(&call.rows, &[0, 0, 3], &[], first),
        ),
    ]
}

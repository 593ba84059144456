//! Blocks as they come to a guest: of every operation, state and image, and with every
//! flaw that a careful guest finds.

use kasho_plugin_sdk::Op;

use super::format::{Cell, Column, InputVector, Rows, Side, hex};

pub(crate) fn text(text: &str) -> Cell {
    Cell::Text(text.to_owned())
}

pub(crate) fn column(slot: u16, image: Side, values: &[Cell]) -> Column {
    Column { slot, image, values: values.to_vec() }
}

pub(crate) fn rows(ops: &[Op], columns: Vec<Column>) -> Rows {
    Rows { relation: 16_384, version: 1, call: 1, ops: ops.to_vec(), commit_us: None, columns }
}

/// Three rows in which there is everything.
pub(crate) fn three() -> Rows {
    let new = [text("one"), Cell::Null, text("grüße")];
    let old = [text("eins"), Cell::Absent, Cell::Absent];
    let other = [Cell::Unchanged, text(""), text("x")];
    let columns =
        vec![column(0, Side::New, &new), column(0, Side::Old, &old), column(1, Side::New, &other)];
    rows(&[Op::Update, Op::Insert, Op::Update], columns)
}

fn good(name: &str, rows: Rows) -> InputVector {
    let block = hex(&rows.block());
    let read = Some(Rows { columns: sent(&rows), ..rows });
    InputVector { name: name.to_owned(), block, rows: read, refused: None, written: true }
}

/// Without the columns that no row has.
fn sent(rows: &Rows) -> Vec<Column> {
    let there = |c: &&Column| c.values.iter().any(|value| *value != Cell::Absent);
    rows.columns.iter().filter(there).cloned().collect()
}

fn bad(name: &str, bytes: &[u8]) -> InputVector {
    let refused = Some(Rows::read(bytes).expect_err(name).to_string());
    let (name, block) = (name.to_owned(), hex(bytes));
    InputVector { name, block, rows: None, refused, written: false }
}

/// Read, but not written so by this host.
fn read(name: &str, bytes: &[u8]) -> InputVector {
    let rows = Some(Rows::read(bytes).expect(name));
    let (name, block) = (name.to_owned(), hex(bytes));
    InputVector { name, block, rows, refused: None, written: false }
}

pub(crate) fn vectors() -> Vec<InputVector> {
    let mut all = well_formed();
    all.extend(others());
    all.extend(flaws());
    all
}

fn well_formed() -> Vec<InputVector> {
    let one = |op, image| rows(&[op], vec![column(0, image, &[text("a@b.c")])]);
    let truncate = rows(&[Op::Truncate], Vec::new());
    let timed = Rows { commit_us: Some(vec![-1, 0, 1_700_000_000_000_000]), ..three() };
    let states = [Cell::Absent, Cell::Null, Cell::Unchanged, text("t"), text("u")];
    let nine: Vec<Cell> = (0..9).map(|n| text(&"xyz"[..n % 4])).collect();
    let message = rows(
        &[Op::Message],
        vec![column(0, Side::New, &[text("app")]), column(1, Side::New, &[text("hello")])],
    );
    let ddl = ["ALTER TABLE", "table", "public.users", "ALTER TABLE users ADD note text"];
    let ddl = (0..).zip(ddl).map(|(slot, value)| column(slot, Side::New, &[text(value)]));
    let ddl = rows(&[Op::Ddl], ddl.collect());
    vec![
        good("one insert, one column", one(Op::Insert, Side::New)),
        good("one row of the first load", one(Op::Read, Side::New)),
        good("one delete: the old image alone", one(Op::Delete, Side::Old)),
        good("a truncate: no column", truncate),
        good("three rows, both images, every state", three()),
        good("commit times, one before 1970", timed),
        good(
            "five states: a second byte of them",
            rows(&[Op::Update; 5], vec![column(0, Side::New, &states)]),
        ),
        good(
            "nine rows of text, some empty",
            rows(&[Op::Insert; 9], vec![column(7, Side::New, &nine)]),
        ),
        good(
            "a column that no row has is left out",
            rows(
                &[Op::Insert],
                vec![column(0, Side::New, &[text("a")]), column(1, Side::New, &[Cell::Absent])],
            ),
        ),
        good(
            "all NULL: no bytes, their offset is 0",
            rows(&[Op::Insert; 2], vec![column(0, Side::New, &[Cell::Null, Cell::Null])]),
        ),
        good(
            "characters of two, three and four bytes",
            rows(&[Op::Insert], vec![column(0, Side::New, &[text("ß日𝄞")])]),
        ),
        good("a logical message", Rows { relation: 1, ..message }),
        good("a schema change", Rows { relation: 2, ..ddl }),
    ]
}

/// What a newer host may send.
fn others() -> Vec<InputVector> {
    let block = three().block();
    // Eight bytes more of header; every offset moves.
    let mut longer = block[..48].to_vec();
    longer.extend([0xEE; 8]);
    longer.extend(&block[48..]);
    for at in [0, 24, 32] {
        add(&mut longer, at, 8);
    }
    put(&mut longer, 4, &56_u16.to_le_bytes());
    let descriptors = word(&longer, 32) as usize;
    for d in 0..3 {
        for field in [4, 8, 12] {
            add(&mut longer, descriptors + 32 * d + field, 8);
        }
    }
    let mut unknown = block.clone();
    put(&mut unknown, 40, &[0xAA; 8]);
    put(&mut unknown, word(&block, 32) as usize + 20, &[0xAA; 12]);
    vec![
        read("a header of 56 bytes: the rest is skipped", &longer),
        read("bytes that are reserved", &unknown),
    ]
}

fn flaws() -> Vec<InputVector> {
    let block = three().block();
    let at = word(&block, 32) as usize;
    let with = |name: &str, at: usize, bytes: &[u8]| {
        let mut block = block.clone();
        put(&mut block, at, bytes);
        bad(name, &block)
    };
    let offsets = word(&block, at + 8) as usize;
    let bytes = word(&block, at + 12) as usize;
    vec![
        bad("no bytes at all", &[]),
        bad("cut in the header", &block[..20]),
        bad("cut behind the header", &block[..block.len() - 8]),
        with("a total length beyond the block", 0, &u32::MAX.to_le_bytes()),
        with("a header that is too short", 4, &40_u16.to_le_bytes()),
        with("a header longer than the block", 4, &u16::MAX.to_le_bytes()),
        with("no rows", 8, &[0; 4]),
        with("more rows than bytes", 8, &u32::MAX.to_le_bytes()),
        with("an operation that does not exist", 49, &[7]),
        with("no operations", 24, &[0; 4]),
        with("operations that are not aligned", 24, &49_u32.to_le_bytes()),
        with("no descriptors where some are told", 32, &[0; 4]),
        with("more descriptors than there are", 6, &u16::MAX.to_le_bytes()),
        with("an image that does not exist", at + 2, &[2]),
        with("no states", at + 4, &[0; 4]),
        with("offsets beyond the block", at + 8, &0xFFFF_FFF8_u32.to_le_bytes()),
        with("bytes that are longer than the block", at + 16, &u32::MAX.to_le_bytes()),
        with("offsets that do not begin at 0", offsets, &[1]),
        with("offsets that fall", offsets + 4, &[9]),
        with("offsets that end before the bytes do", offsets + 12, &[3]),
        with("text that is no UTF-8", bytes, &[0xFF]),
        with("a value that cuts a character", offsets + 8, &[6]),
    ]
}

pub(crate) fn put(block: &mut [u8], at: usize, bytes: &[u8]) {
    block[at..at + bytes.len()].copy_from_slice(bytes);
}

pub(crate) fn word(block: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(block[at..at + 4].try_into().unwrap())
}

fn add(block: &mut [u8], at: usize, more: u32) {
    let n = word(block, at) + more;
    put(block, at, &n.to_le_bytes());
}

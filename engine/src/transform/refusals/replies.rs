//! Replies that are refused, and what else a plugin does when it is called that it may not.

use kasho_plugin_sdk::Op;
use kasho_plugin_sdk::batch::{Image as Side, PatchBuf, ReplyBuilder};
use kasho_plugin_sdk::testing::Refusals;
use serde_json::json;

use super::super::testing::{Guest, Setup, columns, insert, push, table, transaction, users};
use super::{refusals, told};
use crate::batch::Batch;

fn masker() -> Guest {
    Guest::new(&[("email", "mask"), ("id", "pass")])
}

/// What the chain says of a batch.
fn of(setup: &Setup, mut batch: Batch) -> String {
    let error = setup.chain(&[&users()]).apply(&mut batch).unwrap_err();
    told(setup, &error.to_string())
}

fn one(guest: &Guest) -> String {
    of(&Setup::new(guest), insert("ada@lovelace.org"))
}

fn update(new: &[&str], old: &[&str]) -> Batch {
    let mut batch = transaction();
    push(&mut batch, &users(), Op::Update, new, old);
    batch
}

fn patch(text: &str) -> PatchBuf {
    let mut patch = PatchBuf::default();
    patch.clear(1);
    patch.scratch().push_str(text);
    patch.commit(0);
    patch
}

fn reply(patches: &[(u16, Side, &PatchBuf)]) -> Vec<u8> {
    ReplyBuilder::default().write(0, 1, &[], &[], patches.iter().copied()).unwrap().to_vec()
}

fn word(block: &[u8], at: usize) -> usize {
    usize::try_from(u32::from_le_bytes(block[at..][..4].try_into().unwrap())).unwrap()
}

fn set(block: &mut [u8], at: usize, value: u32) {
    block[at..at + 4].copy_from_slice(&value.to_le_bytes());
}

#[test]
fn every_refused_reply_stands_in_the_table() {
    let mut table = refusals("replies.txt", "What a plugin answers rows with, and is refused.");
    answers(&mut table);
    headers(&mut table);
    errors(&mut table);
    patches(&mut table);
    values(&mut table);
    masks(&mut table);
    rows(&mut table);
    limits(&mut table);
    hashes(&mut table);
    table.finish();
}

fn answers(table: &mut Refusals) {
    table.section("The answer of kasho_batch");
    let answers = |at: u64, len: u64| one(&masker().body(&format!("i64.const {}", at << 32 | len)));
    table.case("0", one(&masker().body("i64.const 0")));
    table.case("a place beyond its memory", answers(0x0080_0000, 40));
    table.case("a place that is no multiple of 8", answers(0x8004, 40));
    table.case("7 bytes", answers(0x8000, 7));
    table.case("70 KiB, to one row", answers(0x8000, 70 << 10));
}

fn headers(table: &mut Refusals) {
    table.section("The header of the reply");
    let good = masker().masks("x", &[Side::New]);
    let stale = good.batch.replace("(i32.load offset=36 (local.get $p))", "(i32.const 77)");
    table.case("the number of another call", one(&good.body(&stale)));
    let poke = |at: usize, value: u32| {
        let mut block = reply(&[(0, Side::New, &patch("x"))]);
        set(&mut block, at, value);
        one(&masker().replies(&block))
    };
    table.case("another length than the answer's", poke(0, 9));
    table.case("a header of 16 bytes", poke(4, 1 << 16 | 16));
    table.case("a header longer than the block", poke(4, 1 << 16 | 0xFFF8));
    table.case("two rows, of one", poke(8, 2));
    table.case("verdicts at no multiple of 8", poke(16, 36));
    table.case("verdicts beyond the block", poke(16, 0xFFF0));
    table.case("a verdict that there is not", one(&masker().judges(9)));
    table.case("`as insert`, of an insert", one(&masker().judges(3)));
    table.case("more errors than rows", poke(24, 2));
    table.case("patches that are nowhere", poke(28, 0));
    table.case("patches beyond the block", poke(28, 0xFFF0));
}

fn errors(table: &mut Refusals) {
    table.section("The errors of the reply");
    let good = || {
        let error = [kasho_plugin_sdk::batch::RowError { row: 0, text: 0, slot: 0 }];
        let mut builder = ReplyBuilder::default();
        builder.write(0, 1, &[2], &error, std::iter::empty()).unwrap().to_vec()
    };
    let entry = |at: usize, value: u32| {
        let mut block = good();
        let errors = word(&block, 20);
        set(&mut block, errors + at, value);
        one(&masker().replies(&block))
    };
    let header = |at: usize, value: u32| {
        let mut block = good();
        set(&mut block, at, value);
        one(&masker().replies(&block))
    };
    table.case("an error verdict, and no error", header(24, 0));
    table.case("errors that are nowhere", header(20, 0));
    table.case("an error of a row that there is not", entry(0, 7));
    table.case("an error with a text that was not declared", entry(4, 5));
    table.case("an error about a slot that there is not", entry(4, 9 << 16));
}

/// A reply of one patch, with a word of its descriptor replaced.
fn descriptor(at: usize, value: u32) -> String {
    let mut block = reply(&[(0, Side::New, &patch("x"))]);
    let first = word(&block, 28);
    set(&mut block, first + at, value);
    one(&masker().replies(&block))
}

fn patches(table: &mut Refusals) {
    table.section("The patches of the reply");
    table.case("a patch of a slot that there is not", descriptor(0, 9));
    table.case("a patch of a column that it only passes", descriptor(0, 1));
    table.case("a patch of an image that there is not", descriptor(0, 7 << 16));
    table.case("a patch of more entries than rows", descriptor(4, 2));
    table.case("a patch without a bitmap", descriptor(8, 0));
    table.case("a bitmap at no multiple of 8", descriptor(8, 36));
    table.case("a bitmap beyond the block", descriptor(8, 0xFFF0));
    table.case("states beyond the block", descriptor(12, 0xFFF0));
    table.case("a patch without offsets", descriptor(16, 0));
    table.case("bytes beyond the block", descriptor(24, 0xFFF0));
    let (x, y) = (patch("x"), patch("y"));
    let twice = reply(&[(0, Side::New, &x), (0, Side::New, &y)]);
    table.case("two patches of one column and image", one(&masker().replies(&twice)));
    table.case("two patches that share their bytes", shared());
    let old = masker().masks("x", &[Side::New, Side::Old]);
    table.case("a patch of the old image of an insert", one(&old));
}

fn shared() -> String {
    let (long, short) = (patch(&"x".repeat(4096)), patch("y"));
    let mut block = reply(&[(0, Side::New, &long), (1, Side::New, &short)]);
    let first = word(&block, 28);
    for field in [20, 24] {
        block.copy_within(first + field..first + field + 4, first + 32 + field);
    }
    let offsets = word(&block, first + 32 + 16);
    set(&mut block, offsets + 4, 4096);
    one(&Guest::new(&[("email", "write"), ("id", "write")]).replies(&block))
}

fn values(table: &mut Refusals) {
    table.section("The values of a patch");
    // Where the descriptor says that they are.
    let byte = |field: usize, value: u8| {
        let mut block = reply(&[(0, Side::New, &patch("x"))]);
        let at = word(&block, word(&block, 28) + field);
        block[at] = value;
        one(&masker().replies(&block))
    };
    table.case("a bitmap of fewer bits than entries", byte(8, 0));
    table.case("a bitmap with a bit beyond the rows", byte(8, 2));
    table.case("offsets that do not begin at 0", byte(16, 9));
    table.case("a text that is no UTF-8", byte(20, 0xFF));
    table.case("a text with a zero byte", byte(20, 0));
    // The region of states is laid over others.
    let states = |over: usize| {
        let mut block = reply(&[(0, Side::New, &patch("x"))]);
        let first = word(&block, 28);
        let at = u32::try_from(word(&block, first + over)).unwrap();
        set(&mut block, first + 12, at);
        one(&masker().replies(&block))
    };
    table.case("a state that there is not", states(20));
    table.case("a NULL that has a length", states(8));
}

fn masks(table: &mut Refusals) {
    table.section("What the reply does");
    table.case("keep all, in a masked column", one(&masker().body("i64.const 1")));
    let moves = Guest::new(&[("id", "write"), ("email", "pass")]).masks("x", &[Side::New]);
    let moves = Setup::new(&moves);
    let unmoved = update(&["1", "a"], &["1", "-"]);
    table.case("a key rewritten in the new image and not in the old", of(&moves, unmoved));
    table.case("an answer about a table that depends on what it was told before", fickle());
}

/// It masks what it is told of after `public.users`, and a fresh instance was not told.
fn fickle() -> String {
    let mut guest = masker().body("unreachable");
    guest.fields = "(global $seen (mut i32) (i32.const 0))".to_owned();
    let passes = columns(&[("email", "pass"), ("id", "pass")]).to_string();
    let answer = |at: u64, len: usize| format!("i64.const {}", at << 32 | len as u64);
    guest.relation = Some(format!(
        "(if (i32.eq (i32.load8_u offset=6 (local.get $p)) (i32.const 55)) \
         (then (global.set $seen (i32.const 1)))) \
         (if (result i64) (global.get $seen) (then {}) (else {}))",
        answer(0x4000, guest.wanted.to_string().len()),
        answer(0x6000, passes.len())
    ));
    guest.data.push((0x6000, passes.into_bytes()));
    let mut setup = Setup::new(&guest);
    setup.binding().tables = vec!["public.*".to_owned()];
    let mut batch = transaction();
    push(&mut batch, &table(8, "people", &["id!", "email"]), Op::Insert, &["1", "a"], &[]);
    of(&setup, batch)
}

fn rows(table: &mut Refusals) {
    table.section("Rows in error");
    table.case("a row that the plugin says is in error", one(&masker().judges(2)));
    let reads = Guest::new(&[("email", "read")]).judges(3);
    let unsent = update(&["1", "~"], &[]);
    table
        .case("`as insert`, of an update that has not all values", of(&Setup::new(&reads), unsent));
    let mut small = Setup::new(&masker().masks("x", &[Side::New]));
    small.binding().memory_mib = 2;
    let large = insert(&"v".repeat((512 << 10) + 1));
    table.case("a value above a quarter of the memory", of(&small, large));
}

fn limits(table: &mut Refusals) {
    table.section("Calls that give no answer");
    table.case("a trap", one(&masker().body("unreachable")));
    let recursion = Guest { fields: "(func $r (result i64) (call $r))".to_owned(), ..masker() };
    table.case("a recursion without end", one(&recursion.body("(call $r)")));
    let mut forever = Setup::new(&masker().body("(loop $again (br $again)) unreachable"));
    forever.binding().deadline_ms = 10;
    table.case("a loop without end", of(&forever, insert("a")));
    let grows = masker().body("(drop (memory.grow (i32.const 33))) i64.const 1");
    let mut grows = Setup::new(&grows);
    grows.binding().memory_mib = 4;
    table.case("more memory than it may have", of(&grows, insert("a")));
    let elements = Guest { fields: "(table 1 funcref)".to_owned(), ..masker() };
    let elements =
        elements.body("(drop (table.grow (ref.null func) (i32.const 1000000))) i64.const 1");
    table.case("a table of a million functions", one(&elements));
    let mut no_room = masker();
    no_room.alloc = "i32.const 0".to_owned();
    table.case("no place for what it is sent", Setup::new(&no_room).refusal(&[&users()]));
    no_room.alloc = "i32.const 12".to_owned();
    table.case("an odd place for what it is sent", Setup::new(&no_room).refusal(&[&users()]));
    let fail = r#"(import "kasho_1" "fail" (func $fail (param i32 i32 i32 i32 i32 i32)))"#;
    let panics = Guest {
        imports: fail.to_owned(),
        fields: r#"(data (i32.const 64) "index out of bounds") (data (i32.const 96) "src/lib.rs")"#
            .to_owned(),
        ..masker()
    };
    let call = |text: u32, len: u32| {
        let body = format!(
            "(call $fail (i32.const {text}) (i32.const {len}) (i32.const 96) (i32.const 10) \
             (i32.const 7) (i32.const 5)) unreachable"
        );
        one(&panics.clone().body(&body))
    };
    table.case("a panic whose words are in the file", call(64, 19));
    table.case("a panic whose words are not", call(64, 25));
    table.case("a panic with a text beyond its memory", call(u32::MAX - 7, 25));
    let import = r#"(import "kasho_1" "count" (func $count (param i32 i64)))"#;
    let counts = Guest { imports: import.to_owned(), ..masker() };
    let counts = counts.body("(call $count (i32.const 1) (i64.const 1)) unreachable");
    table.case("a count of a text that was not declared", one(&counts));
}

fn hashes(table: &mut Refusals) {
    table.section("Keyed hashes (kasho_1.prf)");
    let import = r#"(import "kasho_1" "prf" (func $prf (param i32 i32 i32 i32 i32)))"#;
    let run = |args: [i64; 5]| {
        let args: String = args.iter().map(|n| format!("(i32.const {n}) ")).collect();
        let guest = Guest {
            imports: import.to_owned(),
            needs: json!({"ok": {"domains": ["email"], "uses": ["prf"], "max_rows": 1}}),
            fields: "(data (i32.const 64) \"\\00\\00\\00\\00\\05\\00\\00\\00\\03\\00\\00\\00\")"
                .to_owned(),
            ..masker()
        };
        let mut setup = Setup::new(&guest.body(&format!("(call $prf {args}) unreachable")));
        setup.write("key", &std::array::from_fn::<u8, 32, _>(|i| u8::try_from(i).unwrap()));
        let path = setup.folder.path().join("key");
        setup.config.keys.insert("k1".to_owned(), super::super::KeySource::File(path));
        of(&setup, insert("a"))
    };
    table.case("a domain that was not declared", run([1, 64, 80, 1, 256]));
    table.case("offsets that fall", run([0, 64, 80, 2, 256]));
    table.case("a place beyond its memory, of a hash", run([0, 64, 80, 1, -8]));
    table.case("more values than a call may have", run([0, 64, 80, (1 << 18) + 1, 256]));
}

//! Guests that break every limit and rule, and what becomes of them; beside each the
//! guest that keeps to it. All through the real host.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use kasho_plugin_sdk::Op;
use kasho_plugin_sdk::batch::{Image as Side, PatchBuf, ReplyBuilder};
use serde_json::json;

use super::inspect::{FIXTURES_SECTION, with_sections};
use super::testing::{Guest, Setup, catalog, columns, insert, push, shown, transaction, users};
use super::{OnError, TransformError};

const SECRET: &str = "ada@lovelace.org";
const UNREACHABLE: &str = "unreachable";

fn masker() -> Guest {
    Guest::new(&[("email", "mask"), ("id", "pass")])
}

/// What the chain says of one inserted row.
fn failure(guest: &Guest) -> String {
    failure_of(&Setup::new(guest))
}

fn failure_of(setup: &Setup) -> String {
    let error = setup.chain(&[&users()]).apply(&mut insert(SECRET)).unwrap_err();
    let text = format!("{error} {error:?}");
    assert!(!text.contains(SECRET) && !text.contains("lovelace"), "a value in {text}");
    assert!(text.contains("mask.wasm"), "{text}");
    text
}

#[test]
fn a_good_guest_masks() {
    let mut batch = insert(SECRET);
    Setup::new(&masker().masks("x@example.com", &[Side::New]))
        .chain(&[&users()])
        .apply(&mut batch)
        .unwrap();
    assert_eq!(shown(&batch), ["insert public.users [1 x@example.com] []"]);
}

#[test]
fn a_loop_ends_at_ten_deadlines_and_is_no_rows_fault() {
    let forever = masker().body("(loop $again (br $again)) unreachable");
    let mut setup = Setup::new(&forever);
    setup.binding().deadline_ms = 10;
    setup.binding().on_error = OnError::Drop;
    setup.binding().allow_misses = true;
    let error = setup.chain(&[&users()]).apply(&mut insert(SECRET)).unwrap_err();
    assert!(matches!(error, TransformError::Deadline { .. }), "{error}");
    assert!(error.to_string().contains("100 ms"), "{error}");
}

#[test]
fn a_loop_in_init_or_at_the_start_is_a_load_error() {
    let started =
        Guest { fields: "(func $s (loop $again (br $again))) (start $s)".to_owned(), ..masker() };
    let initialized = Guest {
        fields: r#"(func (export "_initialize") (loop $again (br $again)))"#.to_owned(),
        ..masker()
    };
    for guest in [started, initialized] {
        let mut setup = Setup::new(&guest);
        setup.binding().init_ms = 10;
        let text = setup.refusal(&[&users()]);
        assert!(text.contains("no answer within 10 ms"), "{text}");
    }
}

#[test]
fn a_start_that_is_late_once_is_tried_with_ten_times_as_long() {
    // Some hundred milliseconds: more than it has at first, less than ten times that.
    let steps = "(func $s (local $i i32) (loop $again (local.set $i (i32.add (local.get $i) (i32.const 1))) \
                 (br_if $again (i32.lt_u (local.get $i) (i32.const 1200000000))))) (start $s)";
    let mut setup = Setup::new(&Guest { fields: steps.to_owned(), ..masker() });
    setup.binding().init_ms = 100;
    // On a machine that is far too busy it is late twice.
    assert!((0..20).any(|_| setup.load(&catalog(&[&users()])).is_ok()));
}

#[test]
fn memory_is_had_up_to_the_limit_and_no_further() {
    let grow = |pages: u32| {
        let guest = masker().masks("x", &[Side::New]);
        let body = format!("(drop (memory.grow (i32.const {pages}))) {}", guest.batch);
        guest.body(&body)
    };
    // 32 pages it has; 4 MiB are 64.
    let mut setup = Setup::new(&grow(32));
    setup.binding().memory_mib = 4;
    setup.chain(&[&users()]).apply(&mut insert(SECRET)).unwrap();
    let mut setup = Setup::new(&grow(33));
    setup.binding().memory_mib = 4;
    let text = failure_of(&setup);
    assert!(text.contains("wants 5 MiB of memory and may have 4 (setting memory_mib)"), "{text}");
    let mut setup = Setup::new(&masker());
    setup.binding().memory_mib = 1;
    assert!(setup.refusal(&[&users()]).contains("setting memory_mib"));
}

#[test]
fn recursion_ends_in_a_trap() {
    let guest = Guest { fields: "(func $r (result i64) (call $r))".to_owned(), ..masker() };
    let text = failure(&guest.body("(call $r)"));
    assert!(text.contains("call stack exhausted"), "{text}");
}

#[test]
fn no_answer_is_an_error_and_keep_all_is_no_mask() {
    assert!(failure(&masker().body("i64.const 0")).contains("no answer (0)"));
    assert!(failure(&masker().body("i64.const 1")).contains("left a value of it as it was"));
    let mut batch = insert("NULL");
    Setup::new(&masker()).chain(&[&users()]).apply(&mut batch).unwrap();
    assert_eq!(shown(&batch), ["insert public.users [1 NULL] []"], "NULL needs no mask");
}

#[test]
fn wild_pointers_are_refused() {
    for (at, len) in [
        (0x0080_0000_u64, 40),
        (0x001F_FFF8, 40),
        (0xFFFF_FFF8, 40),
        (0x8004, 40),
        (0x8000, 7),
        (0x8000, u64::from(u32::MAX)),
    ] {
        let text = failure(&masker().body(&format!("i64.const {}", at << 32 | len)));
        let told =
            text.contains("no place in its memory") || text.contains("the limit for this call");
        assert!(told, "{text}");
    }
}

#[test]
fn an_answer_beyond_the_limit_is_refused() {
    // Four times the block and 64 KiB; the block of one row is a few hundred bytes.
    let text = failure(&masker().body(&format!("i64.const {}", 0x8000_u64 << 32 | (70 << 10))));
    assert!(text.contains("the limit for this call"), "{text}");
}

#[test]
fn stale_and_malformed_replies_are_refused() {
    let good = masker().masks("x", &[Side::New]);
    let stale = good.batch.replace("(i32.load offset=36 (local.get $p))", "(i32.const 77)");
    assert!(failure(&good.clone().body(&stale)).contains("an answer to another call"));
    let poke = |at: u32, value: u32| {
        let body =
            format!("(i32.store (i32.const {}) (i32.const {value})) {}", 0x8000 + at, good.batch);
        failure(&good.clone().body(&body))
    };
    assert!(poke(0, 9).contains("malformed"));
    assert!(poke(8, 2).contains("not as many as were sent"));
    assert!(poke(16, 36).contains("not 8-byte aligned"));
    assert!(poke(28, 0xFFF0).contains("outside the block"));
    assert!(failure(&masker().judges(9)).contains("the verdict of row 0 does not exist"));
    assert!(failure(&masker().judges(3)).contains("does not fit its operation"));
}

#[test]
fn patches_that_share_their_bytes_are_refused() {
    let patch = |text: &str| {
        let mut patch = PatchBuf::default();
        patch.clear(1);
        patch.scratch().push_str(text);
        patch.commit(0);
        patch
    };
    let (long, short) = (patch(&"x".repeat(4096)), patch("y"));
    let patches = [(0, Side::New, &long), (1, Side::New, &short)];
    let mut builder = ReplyBuilder::default();
    let mut block = builder.write(0, 1, &[], &[], patches.into_iter()).unwrap().to_vec();
    let guest = Guest::new(&[("email", "write"), ("id", "write")]);
    let good = Setup::new(&guest.clone().replies(&block));
    good.chain(&[&users()]).apply(&mut insert("a")).unwrap();
    let word = |block: &[u8], at: usize| {
        usize::try_from(u32::from_le_bytes(block[at..][..4].try_into().unwrap())).unwrap()
    };
    let first = word(&block, 28);
    let second = first + 32;
    for field in [20, 24] {
        block.copy_within(first + field..first + field + 4, second + field);
    }
    let offsets = word(&block, second + 16);
    block[offsets + 4..offsets + 8].copy_from_slice(&4096u32.to_le_bytes());
    assert!(failure(&guest.replies(&block)).contains("share their bytes"));
}

#[test]
fn short_values_may_become_long_ones() {
    let rows = 200;
    let mut patch = PatchBuf::default();
    patch.clear(rows);
    for row in 0..rows {
        patch.scratch().push_str(&"x".repeat(400));
        patch.commit(row);
    }
    let number = u32::try_from(rows).unwrap();
    let patches = [(0, Side::New, &patch)];
    let mut builder = ReplyBuilder::default();
    let block = builder.write(0, number, &[], &[], patches.into_iter()).unwrap().to_vec();
    let mut guest = masker().replies(&block);
    guest.needs = json!({"ok": {}});
    let (mut batch, users) = (transaction(), users());
    for _ in 0..rows {
        push(&mut batch, &users, Op::Insert, &["1", "a"], &[]);
    }
    Setup::new(&guest).chain(&[&users]).apply(&mut batch).unwrap();
    assert!(shown(&batch).iter().all(|row| row.len() > 400));
}

#[test]
fn a_relation_call_has_the_time_of_a_start() {
    // Some hundred million steps: far beyond a call's deadline, and no call with rows.
    let mut guest = masker().masks("x", &[Side::New]);
    let wanted = guest.wanted.to_string().len() as u64;
    guest.relation = Some(format!(
        "(local $i i32) (loop $again (local.set $i (i32.add (local.get $i) (i32.const 1))) \
         (br_if $again (i32.lt_u (local.get $i) (i32.const 300000000)))) i64.const {}",
        0x4000_u64 << 32 | wanted
    ));
    let mut setup = Setup::new(&guest);
    (setup.binding().deadline_ms, setup.binding().init_ms) = (10, 60_000);
    setup.chain(&[&users()]).apply(&mut insert(SECRET)).unwrap();
}

#[test]
fn offsets_out_of_order_are_refused() {
    let mut patch = PatchBuf::default();
    patch.clear(1);
    patch.scratch().push_str("xyz");
    patch.commit(0);
    let mut builder = ReplyBuilder::default();
    let mut block =
        builder.write(0, 1, &[], &[], [(0, Side::New, &patch)].into_iter()).unwrap().to_vec();
    let descriptor = u32::from_le_bytes(block[28..32].try_into().unwrap()) as usize;
    let offsets = u32::from_le_bytes(block[descriptor + 16..][..4].try_into().unwrap()) as usize;
    block[offsets] = 9;
    assert!(failure(&masker().replies(&block)).contains("offsets do not rise"));
}

#[test]
fn patches_go_only_where_they_may() {
    let reader = Guest::new(&[("email", "read")]).masks("x", &[Side::New]);
    assert!(failure(&reader).contains("may not be patched"));
    let over_absent = masker().masks("x", &[Side::New, Side::Old]);
    assert!(failure(&over_absent).contains("absent or unchanged"));
}

#[test]
fn what_a_panic_says_is_withheld_unless_the_file_says_it() {
    let fail = r#"(import "kasho_1" "fail" (func $fail (param i32 i32 i32 i32 i32 i32)))"#;
    let guest = Guest {
        imports: fail.to_owned(),
        fields: r#"(data (i32.const 64) "explicit panic") (data (i32.const 96) "src/lib.rs")"#
            .to_owned(),
        ..masker()
    };
    // The bytes of the first text stand where the first descriptor of the block says.
    let at = "(i32.add (local.get $p) (i32.load offset=12 (i32.add (local.get $p) (i32.load offset=32 (local.get $p)))))";
    let leak = format!(
        "(call $fail {at} (i32.const 16) (i32.const 96) (i32.const 10) (i32.const 7) (i32.const 5)) unreachable"
    );
    let text = failure(&guest.clone().body(&leak));
    assert!(text.contains("«16 bytes withheld» (src/lib.rs:7)"), "{text}");
    let own = "(call $fail (i32.const 64) (i32.const 14) (i32.const 96) (i32.const 10) (i32.const 7) (i32.const 5)) unreachable";
    assert!(failure(&guest.clone().body(own)).contains("explicit panic (src/lib.rs:7)"));
    // A value that a fixture holds is a value all the same.
    let setup = Setup::new(&guest.clone().body(&leak));
    let fixture = [(FIXTURES_SECTION, SECRET.as_bytes())];
    setup.write("mask.wasm", &with_sections(&guest.clone().body(&leak).wasm(), &fixture).unwrap());
    assert!(failure_of(&setup).contains("«16 bytes withheld»"));
    let wild = "(call $fail (i32.const -8) (i32.const 99) (i32.const 96) (i32.const 10) (i32.const 7) (i32.const 5)) unreachable";
    assert!(failure(&guest.body(wild)).contains("pointer out of range"));
}

#[test]
fn logs_go_through_the_gate_and_counters_have_names() {
    let guest =
        |import: &str, body: &str| Guest { imports: import.to_owned(), ..masker() }.body(body);
    let log = r#"(import "kasho_1" "log" (func $log (param i32 i32 i32)))"#;
    let wild =
        guest(log, "(call $log (i32.const 1) (i32.const 0x7FFFFFFF) (i32.const 8)) unreachable");
    assert!(failure(&wild).contains("pointer out of range"));
    let count = r#"(import "kasho_1" "count" (func $count (param i32 i64)))"#;
    let unknown = guest(count, "(call $count (i32.const 1) (i64.const 1)) unreachable");
    assert!(failure(&unknown).contains("no such text"));
    // What it counts in a call that failed is not told: the rows come again.
    let twice =
        "(call $count (i32.const 0) (i64.const 3)) (call $count (i32.const 0) (i64.const -1))";
    let good = Guest::new(&[("email", "read")]);
    let good = Guest { imports: count.to_owned(), ..good };
    for (end, told) in [("i64.const 1", Some(2)), ("i64.const 0", None)] {
        let setup = Setup::new(&good.clone().body(&format!("{twice} {end}")));
        let mut chain = setup.chain(&[&users()]);
        assert_eq!(chain.apply(&mut insert(SECRET)).is_ok(), told.is_some());
        let figures = chain.generation().figures()["mask"].counted();
        assert_eq!(figures.get("not an e-mail").copied(), told);
    }
}

#[test]
fn the_hash_checks_every_range() {
    let prf = r#"(import "kasho_1" "prf" (func $prf (param i32 i32 i32 i32 i32)))"#;
    let run = |args: [i64; 5]| {
        let args: String = args.iter().map(|n| format!("(i32.const {n}) ")).collect();
        let guest = Guest {
            imports: prf.to_owned(),
            needs: json!({"ok": {"texts": [], "domains": ["email"], "uses": ["prf"], "max_rows": 1}}),
            fields: "(data (i32.const 64) \"\\00\\00\\00\\00\\05\\00\\00\\00\\03\\00\\00\\00\")"
                .to_owned(),
            ..masker()
        };
        let mut setup = Setup::new(&guest.body(&format!("(call $prf {args}) {UNREACHABLE}")));
        setup.write("key", &std::array::from_fn::<u8, 32, _>(|i| u8::try_from(i).unwrap()));
        let path = setup.folder.path().join("key");
        setup.config.keys.insert("k1".to_owned(), super::KeySource::File(path));
        failure_of(&setup)
    };
    assert!(run([0, 64, 80, 1, 256]).contains("`unreachable` instruction"), "a good call returns");
    assert!(run([1, 64, 80, 1, 256]).contains("no such domain"));
    assert!(run([0, 64, 80, 2, 256]).contains("offsets fall"));
    assert!(run([0, 64, 80, 1 << 18, 256]).contains("out of range"));
    assert!(run([0, 64, 80, (1 << 18) + 1, 256]).contains("values in one call"));
    assert!(run([0, 64, 80, -1, 256]).contains("values in one call"));
    assert!(run([0, -4, 80, 1, 256]).contains("out of range"));
    assert!(run([0, 64, -2, 1, 256]).contains("out of range"));
    assert!(run([0, 64, 80, 1, -8]).contains("out of range"));
    let mut keyless =
        Setup::new(&Guest { needs: json!({"ok": {"domains": ["email"]}}), ..masker() });
    let text = keyless.refusal(&[&users()]);
    assert!(text.contains("need a masking key") && text.contains("[keys]"), "{text}");
    keyless.binding().key = Some("k9".to_owned());
    assert!(keyless.refusal(&[&users()]).contains("no key of this name"));
}

#[test]
fn what_is_no_plugin_is_refused_at_load() {
    let setup = Setup::new(&masker());
    let wasm = masker().wasm();
    for (bytes, want) in [
        (&b"\x7fELF\x02\x01\x01\0\0"[..], "compiled artefact"),
        (&wasm[..wasm.len() - 9], "not a valid module"),
        (b"print('hello')", "not a WebAssembly module"),
        (b"", "not a WebAssembly module"),
    ] {
        setup.write("mask.wasm", bytes);
        let text = setup.refusal(&[&users()]);
        assert!(text.contains(want) && text.contains("mask.wasm"), "{text}");
    }
    let compiled = super::testing::host().engine().precompile_module(&wasm).unwrap();
    setup.write("mask.wasm", &compiled);
    assert!(setup.refusal(&[&users()]).contains("compiled artefact"));
    std::fs::remove_file(setup.folder.path().join("mask.wasm")).unwrap();
    assert!(setup.refusal(&[&users()]).contains("No such file"));
}

#[test]
fn answers_at_load_are_checked() {
    let with = |needs: serde_json::Value, wanted: serde_json::Value| {
        Setup::new(&Guest { needs, wanted, ..masker() }).refusal(&[&users()])
    };
    let (needs, wanted) = (json!({"ok": {}}), columns(&[("email", "mask"), ("id", "pass")]));
    assert!(
        with(
            json!({"error": {"text": "unknown mask", "at": "public.users.email"}}),
            wanted.clone()
        )
        .contains("public.users.email: unknown mask")
    );
    assert!(with(json!({"ok": {"uses": ["clock"]}}), wanted.clone()).contains("feature `clock`"));
    assert!(with(json!({"ok": {"later": 1}}), wanted.clone()).contains("does not know"));
    assert!(with(json!("nothing to add"), wanted.clone()).contains("init answer"));
    assert!(
        with(json!({"ok": {"texts": ["x".repeat(201)]}}), wanted.clone()).contains("200 bytes")
    );
    assert!(
        with(json!({"ok": {"memory_mib": 128}}), wanted.clone()).contains("set memory_mib = 128")
    );
    assert!(with(json!({"ok": {"deadline_ms": 500}}), wanted).contains("set deadline_ms = 500"));
    let wrong = |uses| with(needs.clone(), columns(uses));
    assert!(wrong(&[("mail", "mask")]).contains("column mail, which its table does not have"));
    assert!(wrong(&[("email", "mask"), ("email", "pass")]).contains("twice of column email"));
    assert!(
        wrong(&[("email", "mask"), ("id", "drop")])
            .contains("identifies rows and cannot be dropped")
    );
    assert!(wrong(&[("email", "shred")]).contains("does not know"));
    let reads = json!({"ok": {"columns": [{"name": "id", "use": "mask", "reads": ["email"]}, {"name": "email", "use": "pass"}], "ops": ["insert", "update", "delete", "read"]}});
    assert!(with(needs.clone(), reads).contains("cannot be made from email"));
    let narrow = json!({"ok": {"columns": [{"name": "email", "use": "mask"}, {"name": "id", "use": "pass"}], "ops": ["insert"]}});
    assert!(with(needs.clone(), narrow).contains("does not want update, delete, read"));
    let rename = json!({"ok": {"columns": [], "ops": ["insert"], "rename": {"table": "people"}}});
    let told = with(needs, rename);
    assert!(told.contains("`people` is no name of a table: write schema.table"), "{told}");
}

#[test]
fn a_broken_row_is_found_by_halving() {
    // It traps on any batch that holds a byte beyond `p`, wherever it stands.
    let picky = r#"(local $i i32) (local $d i32) (local $b i32)
        (local.set $d (i32.add (local.get $p) (i32.load offset=32 (local.get $p))))
        (local.set $b (i32.add (local.get $p) (i32.load offset=12 (local.get $d))))
        (loop $next
            (if (i32.gt_u (i32.load8_u (i32.add (local.get $b) (local.get $i))) (i32.const 0x70))
                (then unreachable))
            (local.set $i (i32.add (local.get $i) (i32.const 1)))
            (br_if $next (i32.lt_u (local.get $i) (i32.load offset=16 (local.get $d)))))
        i64.const 1"#;
    let mut guest = Guest::new(&[("email", "read")]).body(picky);
    guest.needs = json!({"ok": {}});
    let mut setup = Setup::new(&guest);
    setup.binding().on_error = OnError::Drop;
    setup.binding().allow_misses = true;
    // No call is made twice because the machine is busy.
    setup.binding().deadline_ms = 10_000;
    let mut chain = setup.chain(&[&users()]);
    let mut batch = transaction();
    for email in ["a", "b", "z", "c", "y", "d"] {
        push(&mut batch, &users(), Op::Insert, &["1", email], &[]);
    }
    chain.apply(&mut batch).unwrap();
    let left: Vec<_> = shown(&batch).iter().map(|row| row[23..24].to_owned()).collect();
    assert_eq!(left, ["a", "b", "c", "d"]);
    let generation = chain.generation();
    let figures = &generation.figures()["mask"];
    let count = |n: &std::sync::atomic::AtomicU64| n.load(std::sync::atomic::Ordering::Relaxed);
    assert_eq!((count(&figures.errors), count(&figures.dropped)), (2, 0));
    assert!(figures.get().buckets.iter().sum::<u64>() <= 12, "halves, not one by one");
}

#[test]
fn values_beyond_a_quarter_of_the_memory_never_enter() {
    let mut setup = Setup::new(&masker().masks("x", &[Side::New]));
    setup.binding().memory_mib = 2;
    let mut chain = setup.chain(&[&users()]);
    chain.apply(&mut insert(&"v".repeat(512 << 10))).unwrap();
    let error = chain.apply(&mut insert(&"v".repeat((512 << 10) + 1))).unwrap_err();
    assert!(error.to_string().contains("too large"), "{error}");
    // The policy holds for that row alone, whatever stands around it.
    setup.binding().on_error = OnError::Drop;
    setup.binding().allow_misses = true;
    let mut chain = setup.chain(&[&users()]);
    let mut batch = transaction();
    let long = "v".repeat((512 << 10) + 1);
    for (id, email) in
        [("1", "a"), ("2", &long), ("3", &long), ("4", "b"), ("5", "c"), ("6", &long)]
    {
        push(&mut batch, &users(), Op::Insert, &[id, email], &[]);
    }
    chain.apply(&mut batch).unwrap();
    let left = ["1", "4", "5"].map(|id| format!("insert public.users [{id} x] []"));
    assert_eq!(shown(&batch), left);
}

#[test]
fn error_verdicts_name_the_declared_text() {
    let text = failure(&masker().judges(2));
    assert!(text.contains("column email: not an e-mail"), "{text}");
    let mut setup = Setup::new(&masker().judges(2));
    setup.binding().on_error = OnError::Drop;
    setup.binding().allow_misses = true;
    let mut batch = insert(SECRET);
    setup.chain(&[&users()]).apply(&mut batch).unwrap();
    assert!(shown(&batch).is_empty());
    setup.binding().on_error = OnError::Pass;
    assert!(setup.refusal(&[&users()]).contains("allow_unmasked"));
    setup.binding().allow_unmasked = true;
    let mut batch = insert(SECRET);
    setup.chain(&[&users()]).apply(&mut batch).unwrap();
    assert_eq!(shown(&batch), [format!("insert public.users [1 {SECRET}] []")]);
    setup.binding().on_error = OnError::DeadLetter;
    assert!(setup.refusal(&[&users()]).contains("set dead_letter_key"));
}

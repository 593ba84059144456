//! Files, settings and answers for which a candidate is not taken, whatever ran before it.

use std::sync::Arc;

use kasho_plugin_sdk::testing::Refusals;
use kasho_plugin_sdk::{Op, Relation};
use serde_json::{Value, json};

use super::super::testing::{
    Guest, Setup, catalog, columns, push, said, table, transaction, users,
};
use super::super::{ForeignKey, KeySource, NewColumns, OnError};
use super::{refusals, told};

const WHOLE: &str = r#"(memory (export "memory") 1)
    (func (export "kasho_abi_1"))
    (func (export "kasho_alloc") (param i32) (result i32) i32.const 0)
    (func (export "kasho_init") (param i32 i32) (result i64) i64.const 0)
    (func (export "kasho_relation") (param i32 i32) (result i64) i64.const 0)
    (func (export "kasho_batch") (param i32 i32) (result i64) i64.const 0)"#;

fn masker() -> Guest {
    Guest::new(&[("email", "mask"), ("id", "pass")])
}

fn refused(setup: &Setup) -> String {
    told(setup, &setup.refusal(&[&users()]))
}

fn of(guest: &Guest) -> String {
    refused(&Setup::new(guest))
}

/// What is said of this file.
fn file(bytes: &[u8]) -> String {
    let setup = Setup::new(&masker());
    setup.write("mask.wasm", bytes);
    refused(&setup)
}

fn module(body: &str) -> String {
    file(&wat::parse_str(format!("(module {body})")).unwrap())
}

#[test]
fn every_refused_candidate_stands_in_the_table() {
    let mut table = refusals("candidates.txt", "Plugins and configurations that are not taken.");
    files(&mut table);
    imports(&mut table);
    exports(&mut table);
    features(&mut table);
    descriptions(&mut table);
    starts(&mut table);
    needs(&mut table);
    answers(&mut table);
    settings(&mut table);
    keys(&mut table);
    tables(&mut table);
    foreign_keys(&mut table);
    names(&mut table);
    renames(&mut table);
    table.finish();
}

fn files(table: &mut Refusals) {
    table.section("The file");
    table.case("machine code", file(b"\x7fELF\x02\x01\x01\0\0"));
    table.case("a script", file(b"print('hello')"));
    table.case("WebAssembly's text form", file(b"(module)"));
    table.case("an empty file", file(b""));
    table.case("a component", file(b"\0asm\x0d\0\x01\0"));
    table.case("the first four bytes of a module", file(b"\0asm"));
    let whole = masker().wasm();
    table.case("a module without its last nine bytes", file(&whole[..whole.len() - 9]));
    let mut large = Setup::new(&masker());
    large.binding().max_file_mib = 1;
    large.write("mask.wasm", &vec![0; 3 << 20]);
    table.case("3 MiB, with max_file_mib = 1", refused(&large));
    let checked = super::super::check::check(&whole, 64, false).unwrap_err();
    table.case("`kasho plugin inspect` of a file above the limit", digits_of_size(&checked));
    let gone = Setup::new(&masker());
    std::fs::remove_file(gone.folder.path().join("mask.wasm")).unwrap();
    table.case("a file that is not there", refused(&gone));
    let mut outside = Setup::new(&masker());
    "../mask.wasm".clone_into(&mut outside.binding().plugin);
    table.case("a path out of the folder", refused(&outside));
    let mut pinned = Setup::new(&masker());
    pinned.binding().sha256 = Some("0".repeat(64));
    table.case("another content than the pinned one", refused(&pinned));
}

/// The size is the assembler's.
fn digits_of_size(text: &str) -> String {
    let rest = text.trim_start_matches(|c: char| c.is_ascii_digit());
    format!("…{rest}")
}

fn imports(table: &mut Refusals) {
    table.section("Imports");
    for import in [
        r#"(import "env" "abort" (func (param i32 i32 i32 i32)))"#,
        r#"(import "env" "memcpy" (func))"#,
        r#"(import "env" "helper" (func))"#,
        r#"(import "env" "memory" (memory 1))"#,
        r#"(import "wbg" "__wbg_random" (func))"#,
        r#"(import "wasi_snapshot_preview1" "random_get" (func))"#,
        r#"(import "wasi_snapshot_preview1" "fd_write" (func))"#,
        r#"(import "wasi_unstable" "clock_time_get" (func))"#,
        r#"(import "kasho_1" "clock" (func))"#,
        r#"(import "kasho_2" "prf" (func))"#,
        r#"(import "kasho_1" "prf" (func (param i32)))"#,
        r#"(import "kasho_1" "count" (global i32))"#,
        r#"(import "host" "call" (func))"#,
    ] {
        table.case(import, module(&format!("{import} {WHOLE}")));
    }
}

fn exports(table: &mut Refusals) {
    table.section("Exports");
    table.case("an empty module", module(""));
    table.case("a memory alone", module(r#"(memory (export "memory") 1)"#));
    table.case("the marker of another version", module(&WHOLE.replace("abi_1", "abi_2")));
    for name in ["kasho_alloc", "kasho_init", "kasho_relation", "kasho_batch"] {
        table.case(format!("no `{name}`"), module(&WHOLE.replace(name, "other")));
    }
    let none = WHOLE.replace("(param i32) (result i32) i32.const 0", "");
    table.case("a `kasho_alloc` that takes and gives nothing", module(&none));
    let marker = WHOLE.replace(r#"(func (export "kasho_abi_1"))"#, "");
    let global = format!("{marker} (global (export \"kasho_abi_1\") i32 (i32.const 1))");
    table.case("a marker that is a global", module(&global));
    let many = format!("{WHOLE} {}", "(func)".repeat(50_001));
    table.case("50,006 functions", module(&many));
}

fn features(table: &mut Refusals) {
    table.section("Features of WebAssembly that are off");
    for body in [
        "(memory i64 1)",
        "(memory 1) (memory 1)",
        "(memory 1 1 shared)",
        "(func (result i32) return_call 0)",
        "(type (struct))",
        "(tag)",
    ] {
        table.case(body, module(body));
    }
}

fn descriptions(table: &mut Refusals) {
    table.section("The section `kasho.plugin`");
    let section = |json: &str| {
        let json = json.replace('"', "\\\"");
        module(&format!("{WHOLE} (@custom \"kasho.plugin\" \"{json}\")"))
    };
    table.case("an empty section", section(""));
    table.case("a number", section("1"));
    table.case("a version that is a number", section(r#"{"version":1}"#));
    let long = format!(r#"{{"name":"{}"}}"#, "n".repeat(65 << 10));
    table.case("a section of 65 KiB", section(&long));
}

fn starts(table: &mut Refusals) {
    table.section("The start");
    let forever = "(func $s (loop $again (br $again))) (start $s)";
    let mut setup = Setup::new(&Guest { fields: forever.to_owned(), ..masker() });
    setup.binding().init_ms = 10;
    table.case("a start that does not end", refused(&setup));
    let traps = Guest { fields: "(func $s unreachable) (start $s)".to_owned(), ..masker() };
    table.case("a start that traps", of(&traps));
    let mut small = Setup::new(&masker());
    small.binding().memory_mib = 1;
    table.case("32 pages of memory, with memory_mib = 1", refused(&small));
    let answers = |init: &str| {
        let text = WHOLE.replace(
            "(param i32) (result i32) i32.const 0",
            "(param i32) (result i32) i32.const 64",
        );
        let init = format!("(export \"kasho_init\") (param i32 i32) (result i64) i64.const {init}");
        module(
            &text
                .replace("(export \"kasho_init\") (param i32 i32) (result i64) i64.const 0", &init),
        )
    };
    table.case("init answers 0", answers("0"));
    table.case("init answers 1", answers("1"));
    let relation = |answer: &str| of(&Guest { relation: Some(answer.to_owned()), ..masker() });
    table.case("kasho_relation answers 0", relation("i64.const 0"));
    let deaf = Guest { relation: None, ..masker() };
    table.case("kasho_relation does not forget a table that is gone", forgets(&deaf));
}

/// A table is dropped and made anew under its name.
fn forgets(guest: &Guest) -> String {
    let setup = Setup::new(guest);
    let mut chain = setup.chain(&[&users()]);
    let again = table(8, "users", &["id!", "email"]);
    let mut batch = transaction();
    push(&mut batch, &again, Op::Insert, &["1", "a"], &[]);
    told(&setup, &chain.apply(&mut batch).unwrap_err().to_string())
}

fn needs(table: &mut Refusals) {
    table.section("What it answers at init");
    let with = |needs: Value| of(&Guest { needs, ..masker() });
    let refusal = json!({"error": {"text": "unknown mask", "at": "public.users.email"}});
    table.case("that its rules are wrong", with(refusal));
    table.case("no JSON object", with(json!("nothing to add")));
    table.case("a field that this host does not know", with(json!({"ok": {"later": 1}})));
    table.case("a feature that this host does not have", with(json!({"ok": {"uses": ["clock"]}})));
    table.case("a text of 201 bytes", with(json!({"ok": {"texts": ["x".repeat(201)]}})));
    table.case("domains, and there is no key", with(json!({"ok": {"domains": ["email"]}})));
    table.case("more memory than it may have", with(json!({"ok": {"memory_mib": 128}})));
    table.case("more time than it may have", with(json!({"ok": {"deadline_ms": 500}})));
}

fn answers(table: &mut Refusals) {
    table.section("What it answers of a table");
    let with = |wanted: Value| of(&Guest { wanted, ..masker() });
    let refusal = json!({"error": {"text": "int8 cannot be masked", "at": "public.users.id"}});
    table.case("that the rules do not fit", with(refusal));
    table.case("a column that is not there", with(columns(&[("mail", "mask"), ("id", "pass")])));
    let twice = columns(&[("email", "mask"), ("email", "pass"), ("id", "pass")]);
    table.case("a column twice", with(twice));
    table.case("a key is dropped", with(columns(&[("email", "mask"), ("id", "drop")])));
    let mut text = masker();
    text.data.push((0x6000, b"not JSON".to_vec()));
    text.relation = Some(format!("i64.const {}", 0x6000_u64 << 32 | 8));
    table.case("no JSON", of(&text));
    table.case("a use that there is not", with(columns(&[("email", "shred")])));
    let answer =
        |columns: Value, ops: &[&str]| with(json!({"ok": {"columns": columns, "ops": ops}}));
    let all = ["insert", "update", "delete", "read"];
    let reads = |name: &str, read: &str| json!([{"name": name, "use": "mask", "reads": [read]}, {"name": "id", "use": "read"}]);
    table.case("it reads a column that is not there", answer(reads("email", "mail"), &all));
    let key = json!([{"name": "id", "use": "mask", "reads": ["email"]}, {"name": "email", "use": "pass"}]);
    table.case("a key made from what is none", answer(key, &all));
    let mask = json!([{"name": "email", "use": "mask"}, {"name": "id", "use": "pass"}]);
    table.case("a mask that wants only inserts", answer(mask.clone(), &["insert"]));
    let timed = json!({"ok": {"columns": mask, "ops": all, "commit_time": true}});
    table.case("commit times that it did not ask for", with(timed));
    let rename = json!({"ok": {"columns": [], "ops": ["insert"], "rename": {"table": "people"}}});
    table.case("a new name that is none", with(rename));
    let mut none = masker();
    none.wanted["ok"]["rename"] = json!({"columns": {"email": ""}});
    table.case("a column is renamed to nothing", of(&none));
}

fn settings(table: &mut Refusals) {
    table.section("Settings, against plugins and tables");
    let mut aside = Setup::new(&Guest::new(&[("email", "mask"), ("id", "pass")]));
    aside.write("dead", &std::array::from_fn::<u8, 32, _>(|i| u8::try_from(i).unwrap()));
    let dead = KeySource::File(aside.folder.path().join("dead"));
    aside.config.dead_letter_key = Some(dead);
    (aside.binding().on_error, aside.binding().allow_misses) = (OnError::DeadLetter, true);
    let keyless = super::super::testing::table(7, "users", &["id", "email"]);
    table.case("dead letters of a table without a key", told(&aside, &aside.refusal(&[&keyless])));
    let mut empty = Setup::new(&masker());
    empty.binding().name.clear();
    let mut open = Setup::new(&masker());
    open.config.ddl = Some(super::super::Ddl::Text);
    table.case("ddl = \"text\" beside a mask", refused(&open));
    table.case("a transform without a name", refused(&empty));
}

fn keys(table: &mut Refusals) {
    table.section("Keys");
    let with = |content: Option<&[u8]>| {
        let mut setup = Setup::new(&masker());
        if let Some(content) = content {
            setup.write("k1.key", content);
        }
        let path = setup.folder.path().join("k1.key");
        setup.config.keys.insert("k1".to_owned(), KeySource::File(path));
        refused(&setup)
    };
    table.case("a file that is not there, of a key", with(None));
    table.case("six bytes", with(Some(b"c0ffee")));
    table.case("32 zeroes", with(Some(&[0; 32])));
    let mut unset = Setup::new(&masker());
    let variable = KeySource::Env("KASHO_NO_SUCH_KEY".to_owned());
    unset.config.keys.insert("k1".to_owned(), variable);
    table.case("a variable that is not set, of a key", refused(&unset));
}

fn tables(table: &mut Refusals) {
    table.section("Tables and columns");
    let orders = super::super::testing::table(8, "orders", &["id!"]);
    let open = Setup::new(&masker());
    table.case("a table that no transform names", open.refusal(&[&users(), &orders]));
    let wider = super::super::testing::table(7, "users", &["id!", "email", "ssn", "Odd name"]);
    table.case("columns that no rule names", open.refusal(&[&wider]));
    let mut nulls = Setup::new(&Guest::new(&[("email", "mask")]));
    nulls.binding().new_columns = NewColumns::Null;
    table.case("a key that no rule names, with new_columns = \"null\"", refused(&nulls));
    let mut named = Setup::new(&masker());
    named.binding().tables.push("public.gone".to_owned());
    table.case("`tables` names one that is not there", refused(&named));
    let mut impostor = Relation::clone(&super::super::testing::table(17_009, "ddl", &["id!"]));
    "kasho".clone_into(&mut impostor.schema);
    let impostor = Arc::new(impostor);
    table.case("a table called kasho.ddl", open.refusal(&[&users(), &impostor]));
    let messages = {
        let mut chain = open.chain(&[&users()]);
        let mut batch = transaction();
        let message = crate::batch::message_relation(false);
        push(&mut batch, &message, Op::Message, &["app", "text"], &[]);
        chain.apply(&mut batch).unwrap_err().to_string()
    };
    table.case("a message that no transform names, where a column is masked", messages);
    let also = |others: &[&str], columns: &[&str]| {
        let mut setup = Setup::new(&masker());
        let others = others.iter().map(|name| (*name).to_owned()).collect();
        setup.binding().also_called = [("public.users.email".to_owned(), others)].into();
        setup.refusal(&[&super::super::testing::table(7, "users", columns)])
    };
    table.case("none of a column's names", also(&["mail"], &["id!", "phone"]));
    table.case("two of a column's names", also(&["mail"], &["id!", "email", "mail"]));
}

fn foreign_keys(table: &mut Refusals) {
    table.section("Foreign keys");
    let orders = super::super::testing::table(8, "orders", &["id!", "user_email"]);
    let name = |table: &str| ("public".to_owned(), table.to_owned());
    let mut tables = catalog(&[&users(), &orders]);
    tables.foreign_keys.push(ForeignKey {
        name: "orders_user_fk".to_owned(),
        table: name("orders"),
        columns: vec!["user_email".to_owned()],
        referenced: name("users"),
        referenced_columns: vec!["email".to_owned()],
    });
    let with = |guest: &Guest| {
        let mut setup = Setup::new(&masker());
        setup.binding().rules.insert("public.users.email".to_owned(), "fake_email".into());
        setup.bind("orders", guest, &["public.orders"]);
        said(&setup.load(&tables).unwrap_err())
    };
    table.case("one side rewritten", with(&Guest::new(&[("id", "pass"), ("user_email", "pass")])));
    let mut other = Guest::new(&[("user_email", "mask"), ("id", "pass")]);
    other.wanted["ok"]["columns"][0]["as"] = json!("other/1");
    table.case("both sides rewritten, in two ways", with(&other));
}

fn names(table: &mut Refusals) {
    table.section("Names in rules");
    let orders = super::super::testing::table(8, "orders", &["id!"]);
    let with = |named: &str, columns: &[&str]| {
        let setup = Setup::new(&masker().names(named, columns));
        told(&setup, &setup.refusal(&[&users(), &orders]))
    };
    table.case("public.users.emial", with("public.users", &["emial"]));
    table.case("public.user.email", with("public.user", &["email"]));
    table.case("public.*.phone", with("public.*", &["phone"]));
    table.case("public.orders.id, which `tables` does not name", with("public.orders", &["id"]));
    table.case("users.email", with("users", &["email"]));
    table.case("a quote that is not closed", with("public.\"users", &["email"]));
    table.case("an empty part of a name", with("public..users", &["email"]));
    table.case("letters behind a quote", with("public.\"users\"s", &["email"]));
}

fn renames(table: &mut Refusals) {
    table.section("New names");
    let orders = super::super::testing::table(8, "orders", &["id!", "total"]);
    let of = |lines: &[&[(&str, &str)]]| {
        let mut setup = Setup::new(&masker());
        setup.config.transform.clear();
        for (i, lines) in lines.iter().enumerate() {
            let mut names = super::super::Binding::new(&format!("names{i}"), "", &[]);
            let lines = lines.iter().map(|(from, to)| ((*from).to_owned(), (*to).to_owned()));
            names.rename = lines.collect();
            setup.config.transform.push(names);
        }
        setup.refusal(&[&users(), &orders])
    };
    for (from, to) in [
        ("public.users", "public.orders"),
        ("public.people", "public.users2"),
        ("public.users.emial", "mail"),
        ("public.users.email", "id"),
        ("public.users.email", ""),
        ("public.*", "public.people"),
        ("public.users", "people"),
        ("users", "public.people"),
        ("public.\"users", "public.people"),
    ] {
        table.case(format!("\"{from}\" = \"{to}\""), of(&[&[(from, to)]]));
    }
    let twice = [("public.users", "crm.people"), ("public.\"users\"", "crm.people")];
    table.case("one table twice", of(&[&twice]));
    let other = [("public.users", "crm.persons")];
    table.case("one table in two ways", of(&[&twice[..1], &other]));
    let mut events = Guest::new(&[]);
    events.wanted["ok"] = json!({"columns": [], "ops": ["ddl"], "rename": {"table": "public.ddl"}});
    let mut setup = Setup::new(&masker());
    setup.config.transform.clear();
    setup.bind("ddl", &events, &["kasho.ddl"]);
    let mut batch = transaction();
    let ddl = crate::batch::ddl_relation();
    push(&mut batch, &ddl, Op::Ddl, &["A", "B", "C", "D"], &[]);
    let error = setup.chain(&[]).apply(&mut batch).unwrap_err();
    table.case("a plugin renames what stands for events", error);
}

//! What a chain does to rows, and what a load refuses, with guests that keep to the rules.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::sync::Arc;

use kasho_plugin_sdk::batch::{Image as Side, PatchBuf, ReplyBuilder};
use kasho_plugin_sdk::{Identity, Op, Relation};
use serde_json::json;

use super::testing::{
    Guest, Setup, catalog, columns, host, insert, push, said, shown, table, transaction, truncate,
    users,
};
use super::{
    Catalog, Chain, Config, Coverage, ForeignKey, NewColumns, OnError, Options, TransformError,
    Unruled, load,
};

fn masker() -> Guest {
    Guest::new(&[("email", "mask"), ("id", "pass")]).masks("x", &[Side::New])
}

fn halt(chain: &mut Chain, relation: &Arc<Relation>, op: Op, new: &[&str], old: &[&str]) -> String {
    let mut batch = transaction();
    push(&mut batch, relation, op, new, old);
    chain.apply(&mut batch).unwrap_err().to_string()
}

fn pass(
    chain: &mut Chain,
    relation: &Arc<Relation>,
    op: Op,
    new: &[&str],
    old: &[&str],
) -> Vec<String> {
    let mut batch = transaction();
    push(&mut batch, relation, op, new, old);
    chain.apply(&mut batch).unwrap();
    shown(&batch)
}

#[test]
fn without_bindings_everything_passes_untouched() {
    let mut setup = Setup::new(&masker());
    setup.config.transform.clear();
    let mut chain = setup.chain(&[&users()]);
    assert!(chain.passes(&insert("a")));
    assert_eq!(
        pass(&mut chain, &users(), Op::Insert, &["1", "a"], &[]),
        ["insert public.users [1 a] []"]
    );
}

#[test]
fn rows_leave_in_order_and_values_that_are_none_stay() {
    let orders = table(8, "orders", &["id!"]);
    let mut setup = Setup::new(&masker());
    setup.config.unruled_tables = Some(Unruled::Drop);
    let mut chain = setup.chain(&[&users()]);
    let mut batch = transaction();
    push(&mut batch, &users(), Op::Insert, &["1", "a"], &[]);
    push(&mut batch, &orders, Op::Insert, &["5"], &[]);
    push(&mut batch, &users(), Op::Update, &["1", "b"], &["2", "-"]);
    push(&mut batch, &users(), Op::Read, &["3", ""], &[]);
    chain.apply(&mut batch).unwrap();
    assert_eq!(
        shown(&batch),
        [
            "insert public.users [1 x] []",
            "update public.users [1 x] [2 -]",
            "read public.users [3 x] []",
        ]
    );
    let dropped: Vec<bool> = batch.rows.iter().map(|row| row.dropped).collect();
    assert_eq!(dropped, [false, true, false, false], "a dropped row still counts");
}

#[test]
fn batches_of_other_tables_leave_nothing_behind() {
    let [users, people] = [users(), table(8, "people", &["id!", "email"])];
    let orders = table(9, "orders", &["id!"]);
    let mut setup = Setup::new(&masker());
    setup.binding().tables = vec!["public.users".to_owned(), "public.people".to_owned()];
    (setup.config.unruled_tables, setup.config.allow_unmasked) = (Some(Unruled::Pass), true);
    // No call is made twice because the machine is busy.
    setup.binding().deadline_ms = 10_000;
    let mut chain = setup.chain(&[&users, &people]);
    for tables in [
        &[&users, &orders, &people][..],
        &[&people],
        &[&orders],
        &[&orders, &people, &users, &people],
        &[&users],
    ] {
        let mut batch = transaction();
        let mut want = Vec::new();
        for (id, table) in (1..).zip(tables) {
            let (id, masked) = (format!("{id}"), table.columns.len() == 2);
            let row = if masked { vec![id.as_str(), "a"] } else { vec![id.as_str()] };
            push(&mut batch, table, Op::Insert, &row, &[]);
            let left = if masked { format!("{id} x") } else { id.clone() };
            want.push(format!("insert public.{} [{left}] []", table.table));
        }
        chain.apply(&mut batch).unwrap();
        assert_eq!(shown(&batch), want);
    }
    let generation = chain.generation();
    let figures = &generation.figures()["mask"];
    let calls = figures.get();
    assert_eq!((calls.buckets.iter().sum::<u64>(), calls.rows), (7, 7));
}

#[test]
fn a_table_that_nobody_names_does_not_pass() {
    let orders = table(8, "orders", &["id!"]);
    let mut setup = Setup::new(&masker());
    let text = setup.refusal(&[&users(), &orders]);
    assert!(text.contains("no transform names public.orders"), "{text}");
    let mut chain = setup.chain(&[&users()]);
    let text = halt(&mut chain, &orders, Op::Insert, &["1"], &[]);
    assert!(text.contains("public.orders at 0/64:1: no transform names"), "{text}");
    setup.config.unruled_tables = Some(Unruled::Pass);
    assert!(setup.refusal(&[&users(), &orders]).contains("allow_unmasked"));
    setup.config.allow_unmasked = true;
    let mut chain = setup.chain(&[&users(), &orders]);
    assert_eq!(pass(&mut chain, &orders, Op::Insert, &["1"], &[]), ["insert public.orders [1] []"]);
    // A filter alone hides nothing: nothing halts.
    let mut setup = Setup::new(&Guest::new(&[("email", "read")]));
    let mut chain = setup.chain(&[&users(), &orders]);
    assert_eq!(pass(&mut chain, &orders, Op::Insert, &["1"], &[]).len(), 1);
    // A binding whose tables are not there yet may mask: fail closed.
    setup.bind("later", &masker(), &["archive.*"]);
    assert!(setup.refusal(&[&users(), &orders]).contains("no transform names public.orders"));
}

#[test]
fn a_column_without_a_rule_follows_new_columns() {
    let wider = table(7, "users", &["id!", "email", "ssn"]);
    let mut setup = Setup::new(&masker());
    let text = setup.refusal(&[&wider]);
    assert!(text.contains(r#""public.users.ssn" = "pass""#), "{text}");
    let mut chain = setup.chain(&[&users()]);
    let text = halt(&mut chain, &wider, Op::Insert, &["1", "a", "s"], &[]);
    assert!(text.contains("columns without a rule"), "{text}");
    let passing = Setup::new(&Guest::new(&[("id", "pass")]));
    let text = passing.refusal(&[&users()]);
    assert!(text.contains("public.users.email"), "although nothing is masked: {text}");
    setup.binding().new_columns = NewColumns::Null;
    let mut chain = setup.chain(&[&wider]);
    assert_eq!(
        pass(&mut chain, &wider, Op::Insert, &["1", "a", "s"], &[]),
        ["insert public.users [1 x NULL] []"]
    );
    setup.binding().new_columns = NewColumns::Pass;
    assert!(setup.refusal(&[&wider]).contains("allow_unmasked"));
    setup.binding().allow_unmasked = true;
    let generation = setup.load(&catalog(&[&wider])).unwrap();
    assert!(generation.warnings()[0].contains("ssn passes"));
    assert_eq!(generation.plugins()[0].unmasked, ["new_columns"]);
    let mut chain = Chain::new(Arc::new(generation));
    assert_eq!(
        pass(&mut chain, &wider, Op::Insert, &["1", "a", "s"], &[]),
        ["insert public.users [1 x s] []"]
    );
}

#[test]
fn rules_for_what_is_not_there_are_refused() {
    let mut guest = masker();
    guest.needs = json!({"ok": {"needs": {"public.users": ["emial"]}}});
    let setup = Setup::new(&guest);
    assert!(setup.refusal(&[&users()]).contains("column emial, which public.users does not have"));
    guest.needs = json!({"ok": {"needs": {"public.user": ["email"]}}});
    assert!(
        Setup::new(&guest).refusal(&[&users()]).contains("public.user: the rules name a table")
    );
    guest.needs = json!({"ok": {"needs": {"public.*": ["email", "phone"]}}});
    assert!(Setup::new(&guest).refusal(&[&users()]).contains("has a column phone"));
    let orders = table(8, "orders", &["id!"]);
    guest.needs = json!({"ok": {"needs": {"public.orders": ["id"]}}});
    assert!(Setup::new(&guest).refusal(&[&users(), &orders]).contains("would never apply"));
    let mut setup = Setup::new(&masker());
    setup.binding().tables = vec!["public.users".to_owned(), "public.gone".to_owned()];
    assert!(setup.refusal(&[&users()]).contains("no published table public.gone"));
    let behind = Catalog { caught_up: false, ..catalog(&[&users()]) };
    let generation = setup.load(&behind).unwrap();
    assert!(
        generation.warnings()[0].contains("public.gone"),
        "the catalogue is the future: it warns"
    );
}

#[test]
fn every_error_is_told_at_once() {
    let mut setup = Setup::new(&masker());
    setup.config.unruled_tables = Some(Unruled::Pass);
    setup.binding().max_rows = 0;
    setup.binding().tables.clear();
    setup.bind("mask", &masker(), &["users"]);
    setup.binding().plugin = "../mask.wasm".to_owned();
    let text = setup.refusal(&[&users()]);
    for want in [
        "unruled_tables",
        "max_rows",
        "names no table",
        "a name of its own",
        "schema.table",
        "plugin folder",
    ] {
        assert!(text.contains(want), "{want}: {text}");
    }
}

#[test]
fn a_pin_takes_no_other_file() {
    let mut setup = Setup::new(&masker());
    let is = setup.load(&catalog(&[&users()])).unwrap().plugins()[0].sha256.clone();
    setup.binding().sha256 = Some(is.to_uppercase());
    setup.load(&catalog(&[&users()])).unwrap();
    setup.write("mask.wasm", &Guest::new(&[("email", "drop"), ("id", "pass")]).wasm());
    assert!(setup.refusal(&[&users()]).contains("the binding pins"));
}

#[test]
fn dropped_columns_leave_neither_rows_nor_the_relation() {
    let setup = Setup::new(&Guest::new(&[("email", "drop"), ("id", "pass")]));
    let mut chain = setup.chain(&[&users()]);
    let mut batch = transaction();
    push(&mut batch, &users(), Op::Update, &["1", "a"], &["2", "-"]);
    chain.apply(&mut batch).unwrap();
    assert_eq!(shown(&batch), ["update public.users [1] [2]"]);
    assert_eq!(batch.relation_of(&batch.rows[0]).columns.len(), 1);
    let text = halt(&mut chain, &table(8, "orders", &["id!"]), Op::Insert, &["1"], &[]);
    assert!(text.contains("no transform names"), "dropping a column is masking it");
}

#[test]
fn old_values_of_a_masked_column_go_unless_they_identify() {
    let mut chain = Setup::new(&masker()).chain(&[&users()]);
    assert_eq!(
        pass(&mut chain, &users(), Op::Update, &["1", "b"], &["1", "was@here"]),
        ["update public.users [1 x] [1 -]"]
    );
    assert_eq!(
        pass(&mut chain, &users(), Op::Insert, &["1", "b"], &["1", "was@here"]),
        ["insert public.users [1 x] [1 -]"]
    );
}

fn full() -> Arc<Relation> {
    let mut relation = Relation::clone(&table(7, "users", &["id!", "email!"]));
    relation.identity = Identity::Full;
    Arc::new(relation)
}

#[test]
fn under_full_both_images_are_masked_alike() {
    let both = Guest::new(&[("email", "mask"), ("id", "pass")]).masks("x", &[Side::New, Side::Old]);
    let mut chain = Setup::new(&both).chain(&[&full()]);
    assert_eq!(
        pass(&mut chain, &full(), Op::Update, &["1", "a"], &["1", "a"]),
        ["update public.users [1 x] [1 x]"]
    );
    assert_eq!(
        pass(&mut chain, &full(), Op::Update, &["1", "~"], &["1", "a"]),
        ["update public.users [1 x] [1 x]"],
        "what was not sent stands in the old image"
    );
    let mut chain = Setup::new(&masker()).chain(&[&full()]);
    let text = halt(&mut chain, &full(), Op::Update, &["1", "a"], &["1", "a"]);
    assert!(text.contains("left a value of it as it was"), "{text}");
}

#[test]
fn one_value_of_an_identity_becomes_one_value() {
    let patch = |text: &str| {
        let mut patch = PatchBuf::default();
        patch.clear(1);
        patch.scratch().push_str(text);
        patch.commit(0);
        patch
    };
    let (new, old) = (patch("x"), patch("y"));
    let patches = [(0, Side::New, &new), (0, Side::Old, &old)];
    let block =
        ReplyBuilder::default().write(0, 1, &[], &[], patches.into_iter()).unwrap().to_vec();
    let guest = Guest::new(&[("email", "mask"), ("id", "pass")]).replies(&block);
    let mut chain = Setup::new(&guest).chain(&[&full()]);
    let text = halt(&mut chain, &full(), Op::Update, &["1", "a"], &["1", "a"]);
    assert!(text.contains("two values from one in column email"), "{text}");
    let moved = pass(&mut chain, &full(), Op::Update, &["1", "a"], &["1", "b"]);
    assert_eq!(moved, ["update public.users [1 x] [1 y]"]);
}

#[test]
fn updates_become_inserts_and_deletes() {
    let reads = &[("email", "read")][..];
    let mut chain = Setup::new(&Guest::new(reads).judges(3)).chain(&[&users()]);
    assert_eq!(
        pass(&mut chain, &users(), Op::Update, &["1", "a"], &["2", "-"]),
        ["insert public.users [1 a] []"]
    );
    let text = halt(&mut chain, &users(), Op::Update, &["1", "~"], &[]);
    assert!(text.contains("REPLICA IDENTITY FULL"), "{text}");
    let mut chain = Setup::new(&Guest::new(reads).judges(4)).chain(&[&users()]);
    assert_eq!(
        pass(&mut chain, &users(), Op::Update, &["1", "a"], &["2", "-"]),
        ["delete public.users [] [2 -]"]
    );
    assert_eq!(
        pass(&mut chain, &users(), Op::Update, &["1", "a"], &[]),
        ["delete public.users [] [1 -]"]
    );
    let mut chain = Setup::new(&Guest::new(reads).judges(1)).chain(&[&users()]);
    assert!(pass(&mut chain, &users(), Op::Delete, &[], &["1", "-"]).is_empty());
}

#[test]
fn the_next_binding_sees_what_the_one_before_made() {
    let mut setup = Setup::new(&masker());
    // It fails unless the column's text is one byte long.
    let sees = "(if (i32.ne (i32.load offset=16 (i32.add (local.get $p) (i32.load offset=32 (local.get $p)))) (i32.const 1)) (then unreachable)) i64.const 1";
    setup.bind("second", &Guest::new(&[("email", "read")]).body(sees), &["public.*"]);
    let mut chain = setup.chain(&[&users()]);
    assert_eq!(
        pass(&mut chain, &users(), Op::Insert, &["1", "long@example"], &[]),
        ["insert public.users [1 x] []"]
    );
}

#[test]
fn a_truncate_loses_the_tables_that_are_refused() {
    let (orders, lines) = (table(8, "orders", &["id!"]), table(9, "lines", &["id!"]));
    let mut dropper = Guest::new(&[("id", "read")]).judges(1);
    dropper.wanted =
        json!({"ok": {"columns": [{"name": "id", "use": "read"}], "ops": ["truncate"]}});
    let mut setup = Setup::new(&dropper);
    setup.binding().tables = vec!["public.orders".to_owned()];
    let mut chain = setup.chain(&[&users(), &orders, &lines]);
    let mut batch = transaction();
    truncate(&mut batch, &[&orders, &users(), &lines]);
    truncate(&mut batch, &[&orders]);
    chain.apply(&mut batch).unwrap();
    assert_eq!(shown(&batch), ["truncate public.users [] []"]);
    assert!(batch.rows[1].dropped);
    let Some(crate::batch::Detail::Truncate { relations, .. }) = batch.rows[0].detail.as_deref()
    else {
        panic!()
    };
    let names: Vec<_> =
        relations.iter().map(|r| batch.relations[*r as usize].table.as_str()).collect();
    assert_eq!(names, ["users", "lines"]);
    let mut chain = Setup::new(&masker()).chain(&[&users()]);
    let mut batch = transaction();
    truncate(&mut batch, &[&users(), &orders]);
    assert!(
        chain
            .apply(&mut batch)
            .unwrap_err()
            .to_string()
            .contains("no transform names public.orders")
    );
}

fn message() -> Arc<Relation> {
    let mut relation = Relation::clone(&table(1, "message", &["prefix", "content"]));
    "kasho".clone_into(&mut relation.schema);
    Arc::new(relation)
}

#[test]
fn messages_pass_only_by_name_where_anything_is_masked() {
    let mut setup = Setup::new(&masker());
    setup.binding().tables = vec!["*.*".to_owned()];
    let mut chain = setup.chain(&[&users()]);
    let text = halt(&mut chain, &message(), Op::Message, &["app", "ada"], &[]);
    assert!(text.contains("subscribes to kasho.message by name"), "{text}");
    setup.config.unruled_tables = Some(Unruled::Drop);
    assert!(
        pass(&mut setup.chain(&[&users()]), &message(), Op::Message, &["app", "ada"], &[])
            .is_empty()
    );
    (setup.config.unruled_tables, setup.config.allow_unmasked) = (Some(Unruled::Pass), true);
    halt(&mut setup.chain(&[&users()]), &message(), Op::Message, &["app", "ada"], &[]);
    setup.config.unruled_tables = None;
    let mut named = Guest::new(&[("content", "mask"), ("prefix", "pass")]).masks("x", &[Side::New]);
    named.wanted["ok"]["ops"] = json!(["message"]);
    setup.binding().tables = vec!["public.users".to_owned()];
    setup.bind("messages", &named, &["kasho.message"]);
    let mut chain = setup.chain(&[&users()]);
    assert_eq!(
        pass(&mut chain, &message(), Op::Message, &["app", "ada"], &[]),
        ["message kasho.message [app x] []"]
    );
    let mut setup = Setup::new(&masker());
    setup.config.transform.clear();
    assert_eq!(
        pass(&mut setup.chain(&[&users()]), &message(), Op::Message, &["app", "ada"], &[]).len(),
        1
    );
}

#[test]
fn a_mask_that_comes_with_a_new_column_closes_what_was_open() {
    // It wants only relations that are announced as id 9, and masks there.
    let orders = table(8, "orders", &["id!"]);
    let later = table(9, "later", &["id!", "email"]);
    let mut setup = Setup::new(&Guest::new(&[("email", "read")]));
    setup.bind("all", &masker().wants_only(9), &["public.*"]);
    let mut chain = setup.chain(&[&users(), &orders]);
    assert!(!chain.generation().policy.masks);
    assert_eq!(pass(&mut chain, &orders, Op::Insert, &["1"], &[]).len(), 1);
    let masked = pass(&mut chain, &later, Op::Insert, &["1", "a"], &[]);
    assert_eq!(masked, ["insert public.later [1 x] []"]);
    let text = halt(&mut chain, &orders, Op::Insert, &["1"], &[]);
    assert!(text.contains("no transform names public.orders"), "{text}");
}

fn coverage_of(setup: &Setup, relations: &[&Arc<Relation>]) -> Coverage {
    setup.load(&catalog(relations)).unwrap().coverage().clone()
}

fn against(
    config: &Config,
    running: &Coverage,
    accepted: &[&str],
    catalog: &Catalog,
) -> Result<String, String> {
    let accept = accepted.first().map(|digest| (*digest).to_owned());
    let config = &Config { accept, ..config.clone() };
    let options = Options { running: Some(running), number: 2, ..Options::default() };
    let loaded = load(&host(), config, catalog, options);
    loaded.map(|g| g.digest().to_owned()).map_err(|errors| said(&errors))
}

#[test]
fn what_was_masked_is_let_out_only_when_told_twice() {
    let setup = Setup::new(&masker());
    let (running, tables) = (coverage_of(&setup, &[&users()]), catalog(&[&users()]));
    let nothing = Config::default();
    let text = against(&nothing, &running, &[], &tables).unwrap_err();
    assert!(
        text.contains("public.users.email: it was masked") && text.contains("unruled_tables"),
        "{text}"
    );
    let said_open = Config {
        unruled_tables: Some(Unruled::Pass),
        allow_unmasked: true,
        accept_unmask: true,
        ..Config::default()
    };
    let text = against(&said_open, &running, &[], &tables).unwrap_err();
    assert!(text.contains("without saying so"), "a missing line is never enough: {text}");
    let passes = Guest::new(&[("email", "pass"), ("id", "pass")]);
    let mut passing = Setup::new(&passes.names("public.users", &["email"]));
    passing.config.unruled_tables = Some(Unruled::Halt);
    let text = against(&passing.config, &running, &[], &tables).unwrap_err();
    assert!(text.contains("confirm with accept_unmask = true"), "{text}");
    let digest = text.rsplit('"').nth(1).unwrap().to_owned();
    assert_eq!(against(&passing.config, &running, &[&digest], &tables).unwrap(), digest);
    passing.config.accept_unmask = true;
    against(&passing.config, &running, &[], &tables).unwrap();
    let unsaid = Setup::new(&Guest::new(&[("email", "write"), ("id", "pass")]).body("i64.const 1"));
    let text = against(&unsaid.config, &running, &[&digest], &tables).unwrap_err();
    assert!(text.contains("without saying so"), "{text}");
}

#[test]
fn a_lost_filter_and_a_moved_identity_are_refused() {
    let filter = Setup::new(&Guest::new(&[("email", "read")]));
    let running = coverage_of(&filter, &[&users()]);
    let text = against(&Config::default(), &running, &[], &catalog(&[&users()])).unwrap_err();
    assert!(text.contains("a filter removed rows"), "{text}");
    let keyed = |fingerprint: &str| {
        let mut guest = Guest::new(&[]);
        guest.wanted = json!({"ok": {"columns": [
            {"name": "id", "use": "mask", "as": fingerprint}, {"name": "email", "use": "pass"}],
            "ops": ["insert", "update", "delete", "read"]}});
        Setup::new(&guest)
    };
    let running = coverage_of(&keyed("digits/1"), &[&users()]);
    against(&keyed("digits/1").config, &running, &[], &catalog(&[&users()])).unwrap();
    let text =
        against(&keyed("digits/2").config, &running, &[], &catalog(&[&users()])).unwrap_err();
    assert!(text.contains("public.users.id: it says where rows are"), "{text}");
    let digest = text.rsplit('"').nth(1).unwrap().to_owned();
    against(&keyed("digits/2").config, &running, &[&digest], &catalog(&[&users()])).unwrap();
}

/// A guest that says it drops the whole table, and then keeps every row.
fn dropper() -> Guest {
    let mut guest = Guest::new(&[]).body("i64.const 1");
    guest.wanted = json!({"ok": {"columns": [], "ops": ["insert", "truncate"], "drop": true}});
    guest
}

#[test]
fn a_table_dropped_as_a_whole_needs_no_rules_and_nothing_of_it_leaves() {
    let orders = table(8, "orders", &["id!", "secret"]);
    let mut setup = Setup::new(&masker());
    setup.bind("drop", &dropper(), &["public.orders"]);
    let tables = catalog(&[&users(), &orders]);
    let generation = setup.load(&tables).unwrap();
    assert!(generation.coverage().tables["public.orders"].closed);
    let running = generation.coverage().clone();

    // A guest that only answers so, row by row, is believed in nothing.
    let mut hoped = Setup::new(&masker());
    hoped.bind("drop", &Guest::new(&[]).judges(1), &["public.orders"]);
    let text = said(&hoped.load(&tables).unwrap_err());
    assert!(text.contains("columns without a rule"), "{text}");

    // Whoever rules the table as well changes nothing, before it or behind.
    for first in [true, false] {
        let mut both = Setup::new(&masker());
        both.bind("drop", &dropper(), &["public.orders"]);
        both.bind("also", &Guest::new(&[("secret", "pass")]), &["public.orders"]);
        if first {
            both.config.transform.swap(1, 2);
        }
        let coverage = both.load(&tables).unwrap().coverage().clone();
        assert!(coverage.tables["public.orders"].closed);
    }

    // A lost line is noticed, and so is one that became another.
    let mut lost = Setup::new(&masker());
    lost.config.unruled_tables = Some(Unruled::Pass);
    lost.config.allow_unmasked = true;
    let text = against(&lost.config, &running, &[], &tables).unwrap_err();
    assert!(text.contains("public.orders (all rows removed by `drop`): a filter"), "{text}");
    let mut other = Setup::new(&masker());
    other.bind("drop", &Guest::new(&[("id", "pass"), ("secret", "pass")]), &["public.orders"]);
    let text = against(&other.config, &running, &[], &tables).unwrap_err();
    assert!(text.contains("a filter removed every row"), "{text}");
    let digest = text.rsplit('"').nth(1).unwrap().to_owned();
    against(&other.config, &running, &[&digest], &tables).unwrap();
}

#[test]
fn a_dropped_table_is_dropped_by_the_host() {
    let orders = table(8, "orders", &["id!", "secret"]);
    let mut setup = Setup::new(&masker());
    setup.bind("drop", &dropper(), &["public.orders"]);
    let mut chain = setup.chain(&[&users(), &orders]);
    for op in [Op::Insert, Op::Update, Op::Delete, Op::Read] {
        let old = if op == Op::Delete { &["1"][..] } else { &[] };
        let rows = pass(&mut chain, &orders, op, &["1", "s"], old);
        assert!(rows.is_empty(), "{rows:?}");
    }
}

#[test]
fn both_sides_of_a_foreign_key_are_rewritten_alike() {
    let orders = table(8, "orders", &["id!", "user_email"]);
    let mut setup = Setup::new(&masker());
    setup.bind(
        "orders",
        &Guest::new(&[("id", "pass"), ("user_email", "pass")]),
        &["public.orders"],
    );
    let name = |table: &str| ("public".to_owned(), table.to_owned());
    let mut tables = catalog(&[&users(), &orders]);
    tables.foreign_keys.push(ForeignKey {
        name: "orders_user_fk".to_owned(),
        table: name("orders"),
        columns: vec!["user_email".to_owned()],
        referenced: name("users"),
        referenced_columns: vec!["email".to_owned()],
    });
    let text = said(&setup.load(&tables).unwrap_err());
    assert!(text.contains("add the same rule for `public.orders.user_email`"), "{text}");
    setup.write("orders.wasm", &Guest::new(&[("user_email", "mask"), ("id", "pass")]).wasm());
    setup.load(&tables).unwrap();
    let mut other = Guest::new(&[("user_email", "mask"), ("id", "pass")]);
    other.wanted["ok"]["columns"][0]["as"] = json!("other/1");
    setup.write("orders.wasm", &other.wasm());
    assert!(said(&setup.load(&tables).unwrap_err()).contains("in two ways"));
}

/// A guest that masks or passes what its rules say is made for each text here, because a
/// guest in WebAssembly text cannot read JSON: what matters is the host's half, bindings.
#[test]
fn no_truncation_of_a_configuration_unmasks() {
    let setup = Setup::new(&masker());
    let mut orders_guest = Guest::new(&[("id", "pass"), ("card", "mask")]);
    orders_guest.wanted = columns(&[("id", "pass"), ("card", "mask")]);
    setup.write("orders.wasm", &orders_guest.wasm());
    let orders = table(8, "orders", &["id!", "card"]);
    let text = format!(
        "unruled_tables = \"halt\"\n[plugins]\nfolder = {:?}\n[[transform]]\nname = \"mask\"\n\
         plugin = \"mask.wasm\"\ntables = [\"public.users\"]\non_error = \"halt\"\n\
         [[transform]]\nname = \"orders\"\nplugin = \"orders.wasm\"\ntables = [\"public.orders\"]\n",
        setup.folder.path()
    );
    let tables = catalog(&[&users(), &orders]);
    let whole: Config = toml::from_str(&text).unwrap();
    let running = load(&host(), &whole, &tables, Options::default()).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    let mut parsed = 0;
    for n in 0..lines.len() {
        let Ok(config) = toml::from_str::<Config>(&lines[..n].join("\n")) else { continue };
        parsed += 1;
        let candidate = against(&config, running.coverage(), &[], &tables);
        if let Ok(digest) = candidate {
            assert_eq!(digest, running.digest(), "cut after line {n}");
        }
    }
    assert!(parsed > 4);
}

#[test]
fn a_generation_knows_itself() {
    let setup = Setup::new(&masker());
    let one = setup.load(&catalog(&[&users()])).unwrap();
    let two = setup.load(&catalog(&[&users()])).unwrap();
    assert_eq!(one.digest(), two.digest());
    let mut other = setup.config;
    other.transform[0].on_error = OnError::Drop;
    other.transform[0].allow_misses = true;
    let other = load(&host(), &other, &catalog(&[&users()]), Options::default()).unwrap();
    assert_ne!(one.digest(), other.digest());
    let json = serde_json::to_string(one.coverage()).unwrap();
    assert_eq!(&serde_json::from_str::<Coverage>(&json).unwrap(), one.coverage());
    assert!(one.policy.masks);
    let error = TransformError::Internal("x");
    assert_eq!(crate::pipeline::Classified::class(&error), crate::error::Class::Halt);
}

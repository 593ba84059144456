//! Renames: what leaves has its new name, all before it the old one, and no two have the
//! same.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::sync::Arc;

use kasho_plugin_sdk::batch::Image;
use kasho_plugin_sdk::{Op, Relation};
use serde_json::json;

use super::testing::{
    Guest, Setup, catalog, columns, host, push, said, shown, table, transaction, truncate, users,
};
use super::{Binding, Config, Options, load};
use crate::batch::Detail;

fn names(lines: &[(&str, &str)]) -> Binding {
    let mut binding = Binding::new("names", "", &[]);
    binding.rename =
        lines.iter().map(|(from, to)| ((*from).to_owned(), (*to).to_owned())).collect();
    binding
}

/// Renames alone, no plugin.
fn only(lines: &[(&str, &str)]) -> Setup {
    let mut setup = Setup { folder: tempfile::tempdir().unwrap(), config: Config::default() };
    setup.config.plugins.folder = setup.folder.path().to_owned();
    setup.config.transform.push(names(lines));
    setup
}

fn orders() -> Arc<Relation> {
    table(8, "orders", &["id!", "total"])
}

const PEOPLE: [(&str, &str); 2] = [("public.users", "crm.people"), ("public.users.email", "mail")];

#[test]
fn rows_and_truncates_leave_under_new_names() {
    let setup = only(&PEOPLE);
    let (users, orders) = (users(), orders());
    let mut chain = setup.chain(&[&users, &orders]);
    let mut batch = transaction();
    push(&mut batch, &users, Op::Insert, &["1", "a@b"], &[]);
    push(&mut batch, &orders, Op::Insert, &["2", "10"], &[]);
    push(&mut batch, &users, Op::Update, &["1", "~"], &["0", "-"]);
    truncate(&mut batch, &[&orders, &users]);
    assert!(!chain.passes(&batch));
    chain.apply(&mut batch).unwrap();
    let left = shown(&batch);
    assert_eq!(
        left[..3],
        [
            "insert crm.people [1 a@b] []",
            "insert public.orders [2 10] []",
            "update crm.people [1 ~] [0 -]",
        ]
    );
    let relation = batch.relation_of(&batch.rows[0]);
    assert_eq!(relation.columns[1].name, "mail");
    assert!(relation.columns[0].key && relation.id == users.id);
    let Some(Detail::Truncate { relations, .. }) = batch.rows[3].detail.as_deref() else {
        panic!()
    };
    let truncated: Vec<String> =
        relations.iter().map(|r| batch.relations[*r as usize].qualified()).collect();
    assert_eq!(truncated, ["public.orders", "crm.people"]);
    let generation = chain.generation();
    assert_eq!(generation.leaves_as("public.users"), "crm.people");
    assert_eq!(generation.leaves_as("public.orders"), "public.orders");
}

#[test]
fn a_plugin_names_and_those_behind_it_speak_source_names() {
    let mut naming = Guest::new(&[("id", "pass")]);
    naming.wanted["ok"]["rename"] = json!({"table": "crm.people", "columns": {"email": "mail"}});
    let mut setup = Setup::new(&naming);
    let masking = Guest::new(&[("email", "mask")])
        .names("public.users", &["email"])
        .masks("fake", &[Image::New]);
    setup.bind("masks", &masking, &["public.users"]);
    let mut chain = setup.chain(&[&users()]);
    let mut batch = transaction();
    push(&mut batch, &users(), Op::Insert, &["1", "a@b"], &[]);
    chain.apply(&mut batch).unwrap();
    assert_eq!(shown(&batch), ["insert crm.people [1 fake] []"]);
    assert_eq!(batch.relation_of(&batch.rows[0]).columns[1].name, "mail");
    let coverage = chain.generation().coverage();
    assert!(coverage.column("public.users", "email").is_some(), "rules speak source names");
}

#[test]
fn a_dropped_column_leaves_its_name_to_another() {
    let guest = Guest::new(&[("email", "drop"), ("id", "pass"), ("mail", "pass")]);
    let mut setup = Setup::new(&guest);
    setup.config.transform.push(names(&[("public.users.mail", "email")]));
    let users = table(7, "users", &["id!", "email", "mail"]);
    let mut chain = setup.chain(&[&users]);
    let mut batch = transaction();
    push(&mut batch, &users, Op::Insert, &["1", "secret", "m"], &[]);
    chain.apply(&mut batch).unwrap();
    assert_eq!(shown(&batch), ["insert public.users [1 m] []"]);
    let left: Vec<_> =
        batch.relation_of(&batch.rows[0]).columns.iter().map(|c| c.name.clone()).collect();
    assert_eq!(left, ["id", "email"]);
}

#[test]
fn a_column_with_several_names_in_the_source_leaves_by_one() {
    let also = |binding: &mut Binding| {
        let others = vec!["mail".to_owned()];
        binding.also_called = [("public.users.email".to_owned(), others)].into();
    };
    let mut by_file = only(&[("public.users.email", "address")]);
    also(&mut by_file.config.transform[0]);
    let mut naming = Guest::new(&[("email", "mask"), ("id", "pass")]).masks("x", &[Image::New]);
    naming.wanted["ok"]["rename"] = json!({"columns": {"email": "address"}});
    let mut by_plugin = Setup::new(&naming);
    also(by_plugin.binding());
    for setup in [by_file, by_plugin] {
        for column in ["email", "mail"] {
            let users = table(7, "users", &["id!", column]);
            let mut batch = transaction();
            push(&mut batch, &users, Op::Insert, &["1", "x"], &[]);
            setup.chain(&[&users]).apply(&mut batch).unwrap();
            assert_eq!(shown(&batch), ["insert public.users [1 x] []"]);
            assert_eq!(batch.relation_of(&batch.rows[0]).columns[1].name, "address");
        }
    }
    // Rules that name it in whatever tables a pattern matches know its names too.
    let reads = Guest::new(&[("email", "read"), ("id", "read")]).names("public.*", &["email"]);
    let mut setup = Setup::new(&reads);
    also(setup.binding());
    setup.chain(&[&table(7, "users", &["id!", "mail"])]);
    assert!(setup.refusal(&[&table(7, "users", &["id!", "phone"])]).contains("column email"));
}

#[test]
fn an_error_of_a_row_speaks_the_source_name() {
    let mut setup = Setup::new(&Guest::new(&[("email", "read")]).judges(2));
    setup.config.transform.push(names(&PEOPLE));
    let mut batch = transaction();
    push(&mut batch, &users(), Op::Insert, &["1", "a@b"], &[]);
    let error = setup.chain(&[&users()]).apply(&mut batch).unwrap_err().to_string();
    assert!(error.contains("public.users") && error.contains("column email"), "{error}");
    assert!(!error.contains("people"), "{error}");
}

#[test]
fn names_that_cannot_be_are_refused() {
    let (users, orders) = (users(), orders());
    let refusal = |lines: &[(&str, &str)]| only(lines).refusal(&[&users, &orders]);
    assert_eq!(
        refusal(&[("public.users", "public.orders")]),
        "public.orders: it would leave as public.orders, as public.users does: rename one of them \
         otherwise"
    );
    assert_eq!(
        refusal(&[("public.people", "public.users2")]),
        "public.people: it is renamed, and is not published, or does not exist: mend the name, or take the rename \
         out"
    );
    assert_eq!(
        refusal(&[("public.users.emial", "mail")]),
        "public.users: column emial is renamed, and does not exist: mend the name, or take the rename \
         out"
    );
    assert_eq!(
        refusal(&[("public.users.email", "id")]),
        "public.users: columns id and email would both leave as id: rename one of them otherwise"
    );
    let twice = |lines: &[(&str, &str)]| {
        let mut setup = only(&PEOPLE);
        setup.config.transform.push(Binding { name: "others".to_owned(), ..names(lines) });
        setup.load(&catalog(&[&users])).map(drop).map_err(|errors| said(&errors))
    };
    assert_eq!(
        twice(&[("public.\"users\"", "crm.persons"), ("public.users.email", "e")]),
        Err("transform `others`: rename.public.\"users\": it is renamed in two ways, by transform \
             `names` and by transform `others`: leave one\n\
             transform `others`: rename.public.users.email: it is renamed in two ways, by transform \
             `names` and by transform `others`: leave one"
            .to_owned())
    );
    assert_eq!(twice(&[PEOPLE[1]]), Ok(()), "the same twice");
    let swapped = only(&[("public.users", "public.orders"), ("public.orders", "public.users")]);
    assert!(swapped.load(&catalog(&[&users, &orders])).is_ok(), "they change places");
    let mut naming = Guest::new(&[("id", "pass"), ("email", "pass")]);
    naming.wanted["ok"]["rename"] = json!({"columns": {"emial": "mail"}});
    let told = Setup::new(&naming).refusal(&[&users]);
    assert!(told.contains("column emial is renamed, and does not exist"), "{told}");
    let mut virtually = Guest::new(&[]);
    virtually.wanted = columns(&[]);
    virtually.wanted["ok"]["ops"] = json!(["ddl"]);
    virtually.wanted["ok"]["rename"] = json!({"table": "public.ddl"});
    let mut setup = only(&[]);
    setup.config.transform.clear();
    setup.bind("ddl", &virtually, &["kasho.ddl"]);
    let mut batch = transaction();
    push(&mut batch, &crate::batch::ddl_relation(), Op::Ddl, &["A", "B", "C", "D"], &[]);
    let error = setup.chain(&[]).apply(&mut batch).unwrap_err().to_string();
    assert!(error.contains("what stands for events cannot be renamed"), "{error}");
}

#[test]
fn a_table_that_comes_later_takes_nobodys_name() {
    let setup = only(&[("public.users", "public.people")]);
    let (users, people) = (users(), table(9, "people", &["id!"]));
    let mut chain = setup.chain(&[&users]);
    let mut batch = transaction();
    push(&mut batch, &people, Op::Insert, &["1"], &[]);
    let error = chain.apply(&mut batch).unwrap_err().to_string();
    assert!(error.contains("it would leave as public.people, as public.users does"), "{error}");
    // Made anew under its own name it is the same to whoever reads.
    let again = table(10, "users", &["id!", "email"]);
    let mut batch = transaction();
    push(&mut batch, &again, Op::Insert, &["1", "a"], &[]);
    chain.apply(&mut batch).unwrap();
    assert_eq!(shown(&batch), ["insert public.people [1 a] []"]);
}

#[test]
fn other_names_than_before_have_to_be_confirmed() {
    let mut setup = only(&PEOPLE);
    let tables = catalog(&[&users()]);
    let running = setup.load(&tables).unwrap();
    setup.config.transform[0] = names(&[("public.users", "crm.persons")]);
    let options = || Options { running: Some(running.coverage()), ..Options::default() };
    let told = said(&load(&host(), &setup.config, &tables, options()).unwrap_err());
    for want in [
        "public.users: it left as crm.people, and with this configuration it leaves as crm.persons: \
         rows already loaded stand under the former name. Confirm with accept = \"",
        "\", then load the table again (`kasho bootstrap --table public.users`)",
        "public.users.email: it left as mail, and with this configuration it leaves as email",
    ] {
        assert!(told.contains(want), "{told}");
    }
    let fresh = Options { fresh: true, ..options() };
    assert!(load(&host(), &setup.config, &tables, fresh).is_ok(), "nothing is loaded");
    let digest = told.split("accept = \"").nth(1).unwrap().split('"').next().unwrap();
    setup.config.accept = Some(digest.to_owned());
    assert_eq!(load(&host(), &setup.config, &tables, options()).unwrap().digest(), digest);
    setup.config.accept = None;
    setup.config.transform.clear();
    let told = said(&load(&host(), &setup.config, &tables, options()).unwrap_err());
    assert!(told.contains("it leaves as public.users"), "{told}");
}

//! Candidates that are refused for what ran before them, with the plugins of this
//! repository; and tables that a running chain refuses for the same.

use std::collections::{BTreeMap, BTreeSet};

use kasho_plugin_sdk::batch::Image as Side;
use kasho_plugin_sdk::testing::Refusals;
use serde_json::json;

use super::super::guarded::{MASKED, World, anonymize, filter, halts, people};
use super::super::probe::{probe, ways_on};
use super::super::samples::Samples;
use super::super::testing::{Guest, Setup, catalog, host, insert, said, users};
use super::super::{Binding, OnError, Options, load};
use super::{refusals, told};

fn refuse(world: &mut World, text: &str) -> String {
    let said = world.refuse(text);
    told(world.setup.as_ref().unwrap(), &said)
}

#[test]
fn every_refused_successor_stands_in_the_table() {
    let about = "Candidates that are not taken because of the generation before them.";
    let mut table = refusals("successors.txt", about);
    unmasked(&mut table);
    rows(&mut table);
    identities(&mut table);
    stream(&mut table);
    probes(&mut table);
    table.finish();
}

fn unmasked(table: &mut Refusals) {
    table.section("What was masked");
    let users = people(&["id!", "email"]);
    let masked = anonymize("\"public.users\"", MASKED);
    let mut world = World::new(&masked, &[&users]);
    table.case("no transform any more", refuse(&mut world, ""));
    let passed = MASKED.replace("fake_email", "pass");
    let passed = anonymize("\"public.users\"", &passed);
    table.case("`pass` in place of a mask, unconfirmed", refuse(&mut world, &passed));
    let pattern = anonymize("\"public.users\"", "\"public.users.*\" = \"pass\"");
    table.case("a pattern that passes in place of a mask", refuse(&mut world, &pattern));
    let open = format!("unruled_tables = \"pass\"\nallow_unmasked = true\n{masked}");
    table.case("unruled_tables = \"pass\", unconfirmed", refuse(&mut world, &open));
    let wide = "\"public.*.*\" = \"pass\"\n\"public.*.email\" = \"fake_email\"";
    let wide = anonymize("\"public.*\"", wide);
    let mut world = World::new(&wide, &[&users]);
    world.become_of(&[&people(&["id!", "mail"])], true);
    let said = world.refuse(&format!("{wide}\n\"public.users.id\" = \"pass\"\n"));
    let said = told(world.setup.as_ref().unwrap(), &said);
    table.case("a masked column has another name, and a pattern passes it", said);
}

fn rows(table: &mut Refusals) {
    table.section("Rows that did not leave");
    let users = people(&["id!", "email"]);
    let some = filter("\"public.users\" = { keep = 'id != \"1\"' }");
    let mut world = World::new(&some, &[&users]);
    table.case("no filter any more", refuse(&mut world, ""));
    let other = filter("\"public.users\" = { keep = 'id != \"2\"' }");
    table.case("another filter, unconfirmed", refuse(&mut world, &other));
    let mut world = World::new(&filter("\"public.users\" = \"drop\""), &[&users]);
    table.case("a filter that dropped every row, no more", refuse(&mut world, ""));
    let salaries = super::super::testing::table(17_001, "salaries", &["id!", "amount"]);
    let drops = |rules: &str, tables: &str| {
        format!("unruled_tables = \"drop\"\n{}", anonymize(tables, rules))
    };
    let mut world = World::new(&drops(MASKED, "\"public.users\""), &[&users, &salaries]);
    let open = drops(&format!("{MASKED}\n\"public.salaries.*\" = \"pass\""), "\"public.*\"");
    let said = refuse(&mut world, &open);
    table.case("rules that pass a table dropped by unruled_tables, unconfirmed", said);
}

/// Masks the key, in this way.
fn keyed(fingerprint: &str) -> Setup {
    let mut guest = Guest::new(&[]);
    guest.wanted = json!({"ok": {"columns": [
        {"name": "id", "use": "mask", "as": fingerprint}, {"name": "email", "use": "pass"}],
        "ops": ["insert", "update", "delete", "read"]}});
    Setup::new(&guest)
}

fn identities(table: &mut Refusals) {
    table.section("What says where rows are");
    let tables = catalog(&[&users()]);
    let running = keyed("digits/1").load(&tables).unwrap();
    let against = |setup: &Setup| {
        let options = Options { running: Some(running.coverage()), ..Options::default() };
        told(setup, &said(&load(&host(), &setup.config, &tables, options).unwrap_err()))
    };
    table.case("a key that is mapped otherwise", against(&keyed("digits/2")));
    let mut renames = keyed("digits/1");
    let mut names = Binding::new("names", "", &[]);
    names.rename = [("public.users".to_owned(), "crm.people".to_owned())].into();
    renames.config.transform.push(names);
    table.case("a table that leaves under another name", against(&renames));
    let mut world =
        World::new(&anonymize("\"public.users\"", MASKED), &[&people(&["id!", "email"])]);
    let setup = world.setup.take().unwrap();
    let former = BTreeMap::from([("k1".to_owned(), "00112233aabbccdd".to_owned())]);
    let options = Options { keys: Some(&former), ..Options::default() };
    let tables = catalog(&[&people(&["id!", "email"])]);
    let refused = load(&host(), &setup.config, &tables, options).unwrap_err();
    table.case("another key under the same name", told(&setup, &said(&refused)));
}

fn stream(table: &mut Refusals) {
    table.section("Tables that the stream shows otherwise than they were at the load");
    let users = people(&["id!", "email"]);
    let wide = "\"public.*.*\" = \"pass\"\n\"public.*.email\" = \"fake_email\"";
    let mut world = World::new(&anonymize("\"public.*\"", wide), &[&users]);
    let mut chain = world.accept(&anonymize("\"public.*\"", wide));
    let halted = halts(&mut chain, &people(&["id!", "mail"]), &["1", "a"]);
    table.case("a masked column under another name, which a pattern passes", halted);
    let wider = people(&["id!", "email", "ssn"]);
    let mut world = World::new(&anonymize("\"public.users\"", MASKED), &[&users]);
    world.become_of(&[&users], false);
    let gone = MASKED.replace("\"fake_email\"", "\"pass\"");
    let gone = format!("{gone}\n\"public.users.ssn\" = \"null\"");
    let mut chain = world.accept(&anonymize("\"public.users\"", &gone));
    let halted = halts(&mut chain, &wider, &["1", "a", "s"]);
    table.case("a column that passes now, and could not be compared at the load", halted);
}

fn probes(table: &mut Refusals) {
    table.section("Candidates that were tried on recent rows");
    let tried = |before: &Guest, after: &mut Setup| {
        let samples = Samples::new(64);
        let mut batch = insert("kept@as.it.is");
        batch.rows = vec![batch.rows[0].clone(); 20];
        samples.take(&batch);
        let tables = catalog(&[&users()]);
        let running = Setup::new(before).load(&tables).unwrap();
        let candidate = after.load(&tables).unwrap();
        let mut reasons = probe(&running, &candidate, &samples, &BTreeSet::new()).errors;
        ways_on(&mut reasons, candidate.digest());
        told(after, &said(&reasons))
    };
    let masks =
        |fake: &str| Guest::new(&[("email", "mask"), ("id", "pass")]).masks(fake, &[Side::New]);
    let traps = masks("b").body("unreachable");
    table.case("it traps", tried(&masks("a"), &mut Setup::new(&traps)));
    let mut loses = Setup::new(&traps);
    (loses.binding().on_error, loses.binding().allow_misses) = (OnError::Drop, true);
    table.case("it traps, with on_error = \"drop\"", tried(&masks("a"), &mut loses));
    let same = masks("kept@as.it.is");
    table
        .case("it masks and leaves values as they are", tried(&masks("a"), &mut Setup::new(&same)));
    let key =
        |fake: &str| Guest::new(&[("id", "mask"), ("email", "pass")]).masks(fake, &[Side::New]);
    let moved = tried(&key("7"), &mut Setup::new(&key("8")));
    table.case("it maps a key otherwise, and says that it does not", moved);
}

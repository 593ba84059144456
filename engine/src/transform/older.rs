//! Rows that left under other rules than those in force, which status tells of.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use super::guarded::{MASKED, World, anonymize, people};
use super::real::configured;
use super::testing::{host, table};
use super::{Options, load};

/// Takes these rules; of which columns it is told then. `loaded`: tables by id, or all of them
/// are to be loaded yet (`fresh`).
fn now(world: &mut World, text: &str, (loaded, fresh): (&[u32], bool)) -> String {
    let loaded = loaded.iter().copied().collect();
    let setup = configured(world.setup.take().unwrap(), text);
    let options = Options {
        running: world.running.as_ref().map(|(coverage, _)| coverage),
        loaded: Some(&loaded),
        fresh,
        ..Options::default()
    };
    let made = load(&host(), &setup.config, &world.tables, options).unwrap();
    world.setup = Some(setup);
    let told = made.warnings().iter().filter(|told| told.contains("rows that left before"));
    let told: Vec<&str> = told.map(|told| told.split(':').next().unwrap()).collect();
    world.running = Some((made.coverage().clone(), made.digest().to_owned()));
    told.join(" ")
}

#[test]
fn rows_of_before_are_told_of_until_their_table_is_loaded_again() {
    let (users, other) = (people(&["id!", "email", "name"]), table(18_000, "other", &["id!", "x"]));
    let text = |email: &str, name: &str, x: &str| {
        let rules = format!(
            "\"public.users.id\" = \"pass\"\n\"public.users.email\" = \"{email}\"\n\
             \"public.users.name\" = \"{name}\"\n\"public.other.id\" = \"pass\"\n\
             \"public.other.x\" = \"{x}\""
        );
        anonymize("\"public.users\", \"public.other\"", &rules)
    };
    let mut world = World::new(&text("pass", "pass", "pass"), &[&users, &other]);
    let none = (&[][..], false);
    assert_eq!(now(&mut world, &text("pass", "pass", "pass"), none), "");
    let masked = text("fake_email", "pass", "pass");
    assert_eq!(now(&mut world, &masked, none), "public.users.email");
    // It does not end with the next rules, the next start, or another name.
    let both = text("fake_email", "pass", "null");
    assert_eq!(now(&mut world, &both, none), "public.users.email public.other.x");
    assert_eq!(now(&mut world, &both, none), "public.users.email public.other.x");
    let stored = serde_json::to_string(&world.running.as_ref().unwrap().0).unwrap();
    world.running.as_mut().unwrap().0 = serde_json::from_str(&stored).unwrap();
    let persons = table(17_000, "persons", &["id!", "email", "name"]);
    world.become_of(&[&persons, &other], true);
    let renamed = both.replace("public.users", "public.persons");
    assert_eq!(now(&mut world, &renamed, none), "public.persons.email public.other.x");
    // But where the table is loaded, for what did not change since.
    let last = renamed.replace("name\" = \"pass\"", "name\" = \"fake_name\"");
    let users_are = (&[17_000][..], false);
    assert_eq!(now(&mut world, &last, users_are), "public.persons.name public.other.x");
    assert_eq!(now(&mut world, &last, users_are), "public.other.x");
    // What is not loaded yet has no rows of before.
    assert_eq!(now(&mut world, &last, (&[], true)), "");
}

#[test]
fn what_a_table_held_before_it_was_dropped_is_told_of_when_it_leaves_again() {
    let (users, other) = (people(&["id!", "email"]), table(18_000, "other", &["id!"]));
    let top = "accept_unmask = true\nunruled_tables = \"drop\"\n";
    let rest = "\"public.other.id\" = \"pass\"";
    let without = format!("{top}{}", anonymize("\"public.other\"", rest));
    let with = |email: &str| {
        let rules =
            format!("{rest}\n\"public.users.id\" = \"pass\"\n\"public.users.email\" = {email}");
        format!("{top}{}", anonymize("\"public.other\", \"public.users\"", &rules))
    };
    let none = (&[][..], false);
    let mut world = World::new(&with("\"pass\""), &[&users, &other]);
    assert_eq!(now(&mut world, &without, none), "", "it does not leave");
    assert_eq!(now(&mut world, &with("\"fake_email\""), none), "public.users.email");
    // As it was, and yet not all of it; told once however often it changes.
    assert_eq!(now(&mut world, &with("\"pass\""), none), "public.users.email");
    for value in 0..5 {
        let constant = format!("{{ transform = \"constant\", value = \"{value}\" }}");
        assert_eq!(now(&mut world, &with(&constant), none), "public.users.email");
    }
    assert!(world.running.as_ref().unwrap().0.older.len() < 5, "it does not grow");
    // Of a table that is not published any more nothing can be done.
    world.become_of(&[&other], true);
    assert_eq!(now(&mut world, &without, none), "");
    world.become_of(&[&users, &other], true);
    assert_eq!(now(&mut world, &with("\"null\""), none), "public.users.email");
    assert_eq!(now(&mut world, &with("\"null\""), (&[17_000], false)), "");
}

#[test]
fn a_table_that_left_unseen_by_any_candidate_is_told_of_too() {
    let (users, other) = (people(&["id!", "email"]), table(18_000, "other", &["id!"]));
    let all = "allow_unmasked = true\nunruled_tables = \"pass\"\n";
    let masked = format!("{all}{}", anonymize("\"public.users\"", MASKED));
    let bare = masked.replace("\"fake_email\"", "\"pass\"");
    let none = (&[][..], false);
    // Made when nothing was masked, and known first to who masks it.
    let mut world = World::new(all, &[&other]);
    world.become_of(&[&users, &other], true);
    assert_eq!(now(&mut world, &masked, none), "public.users.email");
    assert_eq!(now(&mut world, &masked, (&[17_000], false)), "");
    // Published once more, after a look that did not see it.
    let mut world = World::new(&bare, &[&users, &other]);
    world.become_of(&[&other], true);
    assert_eq!(now(&mut world, all, none), "");
    world.become_of(&[&users, &other], true);
    assert_eq!(now(&mut world, &masked, none), "public.users.email");
}

#[test]
fn a_table_that_rules_did_not_fit_at_a_start_is_told_of_once_they_do() {
    let users = people(&["id!", "email"]);
    let rules = |more: &str, email: &str| {
        anonymize("\"public.users\"", &format!("{}{more}", MASKED.replace("fake_email", email)))
    };
    let none = (&[][..], false);
    let mut world = World::new(&rules("", "pass"), &[&users]);
    // The stream lags behind the catalogue, as it may at a start: it is a warning.
    world.become_of(&[&users], false);
    assert_eq!(
        now(&mut world, &rules("\n\"public.users.gone\" = \"pass\"", "fake_email"), none),
        ""
    );
    world.become_of(&[&users], true);
    assert_eq!(now(&mut world, &rules("", "fake_email"), none), "public.users.email");
}

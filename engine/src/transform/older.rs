//! Rows that left under other rules than those in force, which status tells of.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use super::guarded::{World, anonymize, people};
use super::real::configured;
use super::testing::{host, table};
use super::{Options, load};

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
    let now = |world: &mut World, text: &str, (loaded, fresh): (&[&str], bool)| {
        let loaded = loaded.iter().map(|table| (*table).to_owned()).collect();
        let setup = configured(world.setup.take().unwrap(), text);
        let options = Options {
            running: world.running.as_ref().map(|(coverage, _)| coverage),
            loaded: Some(&loaded),
            fresh,
            ..Options::default()
        };
        let made = load(&host(), &setup.config, &world.tables, options).unwrap();
        world.setup = Some(setup);
        let told = made.warnings().iter().filter(|told| told.contains("carry the old mapping"));
        let told: Vec<&str> = told.map(|told| told.split(':').next().unwrap()).collect();
        world.running = Some((made.coverage().clone(), made.digest().to_owned()));
        told.join(" ")
    };
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
    let users_are = (&["public.persons"][..], false);
    assert_eq!(now(&mut world, &last, users_are), "public.persons.name public.other.x");
    assert_eq!(now(&mut world, &last, users_are), "public.other.x");
    // What is not loaded yet has no rows of before.
    assert_eq!(now(&mut world, &last, (&[], true)), "");
}

//! What may not be let out in any number of steps, with the plugins of this repository: and
//! beside each refusal the change that it must not hinder.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::collections::BTreeSet;
use std::sync::Arc;

use kasho_plugin_sdk::{Column, Op, Relation};

use crate::batch::{Batch, message_relation};

use super::real::{configured, setup};
use super::testing::{Guest, Setup, catalog, host, push, said, shown, table, transaction};
use super::{
    Action, Catalog, Chain, Config, Coverage, Generation, Handle, Kept, KeySources, LoadError,
    Options, load, restore,
};

const SECRET: &str = "ada@secret.example";

pub(super) fn anonymize(tables: &str, rules: &str) -> String {
    format!(
        "[[transform]]\nname = \"mask\"\nplugin = \"anonymize.wasm\"\ntables = [{tables}]\n\
         [transform.rules]\n{rules}\n"
    )
}

pub(super) fn filter(rules: &str) -> String {
    format!(
        "[[transform]]\nname = \"rows\"\nplugin = \"filter.wasm\"\ntables = [\"public.users\"]\n\
         [transform.rules]\n{rules}\n"
    )
}

pub(super) const MASKED: &str =
    "\"public.users.id\" = \"pass\"\n\"public.users.email\" = \"fake_email\"";

pub(super) fn people(columns: &[&str]) -> Arc<Relation> {
    table(17_000, "users", columns)
}

/// A folder whose configuration changes, and the generation in force.
pub(super) struct World {
    pub(super) setup: Option<Setup>,
    pub(super) tables: Catalog,
    pub(super) running: Option<(Coverage, String)>,
}

impl World {
    pub(super) fn new(text: &str, relations: &[&Arc<Relation>]) -> World {
        let mut world = World { setup: Some(setup("")), tables: catalog(relations), running: None };
        world.accept(text);
        world
    }

    /// The tables as they are now, and whether the stream has reached them.
    pub(super) fn become_of(&mut self, relations: &[&Arc<Relation>], caught_up: bool) {
        self.tables = Catalog { caught_up, ..catalog(relations) };
    }

    fn candidate(&mut self, text: &str) -> Result<Generation, Vec<LoadError>> {
        let setup = configured(self.setup.take().unwrap(), text);
        let options = Options {
            running: self.running.as_ref().map(|(coverage, _)| coverage),
            digest: self.running.as_ref().map(|(_, digest)| digest.as_str()),
            ..Options::default()
        };
        let loaded = load(&host(), &setup.config, &self.tables, options);
        self.setup = Some(setup);
        loaded
    }

    /// Takes a candidate, and runs it.
    pub(super) fn accept(&mut self, text: &str) -> Chain {
        let generation = self.candidate(text).unwrap_or_else(|e| panic!("{}", said(&e)));
        self.running = Some((generation.coverage().clone(), generation.digest().to_owned()));
        Chain::new(Arc::new(generation))
    }

    pub(super) fn refuse(&mut self, text: &str) -> String {
        said(&self.candidate(text).expect_err("it was taken"))
    }
}

fn row(relation: &Arc<Relation>, values: &[&str]) -> Batch {
    let mut batch = transaction();
    push(&mut batch, relation, Op::Insert, values, &[]);
    batch
}

fn leaves(chain: &mut Chain, relation: &Arc<Relation>, values: &[&str]) -> String {
    let mut batch = row(relation, values);
    chain.apply(&mut batch).unwrap();
    shown(&batch).join("\n")
}

pub(super) fn halts(chain: &mut Chain, relation: &Arc<Relation>, values: &[&str]) -> String {
    chain.apply(&mut row(relation, values)).unwrap_err().to_string()
}

#[test]
fn a_mask_does_not_go_in_two_steps() {
    let users = people(&["id!", "email", "name"]);
    let named = format!("{MASKED}\n\"public.users.name\" = \"fake_name\"");
    let mut world = World::new(&anonymize("\"public.users\"", &named), &[&users]);
    // The first step loses the rule; it is not taken even while the stream lags.
    world.become_of(&[&users], false);
    let lost = named.replace("\"public.users.email\" = \"fake_email\"", "");
    let text = world.refuse(&anonymize("\"public.users\"", &lost));
    assert!(text.contains(r#""public.users.email" = "pass""#), "{text}");
    // The second is what the refusal offers, and has to be confirmed.
    let pasted = format!("{lost}\n\"public.users.email\" = \"pass\"");
    let text = world.refuse(&anonymize("\"public.users\"", &pasted));
    assert!(text.contains("accept_unmask = true"), "{text}");
    let confirmed = format!("accept_unmask = true\n{}", anonymize("\"public.users\"", &pasted));
    assert!(leaves(&mut world.accept(&confirmed), &users, &["1", SECRET, "Ada"]).contains(SECRET));
}

#[test]
fn what_rows_have_shown_of_a_table_outlives_the_chain_the_generation_and_the_process() {
    let users = people(&["id!", "email"]);
    let rules = "\"public.*.*\" = \"pass\"\n\"public.*.email\" = \"fake_email\"";
    let text = anonymize("\"public.*\"", rules);
    let mut world = World::new(&text, &[&users]);
    let handle = Handle::new(world.candidate(&text).unwrap());
    let kept = Arc::clone(handle.newest().kept());
    // A table that was made later, and whose column has another name then.
    let later = |column: &str| table(18_000, "later", &["id!", column]);
    let values = ["1", SECRET];
    assert!(!leaves(&mut Chain::new(handle.newest()), &later("email"), &values).contains(SECRET));
    let held = |mut chain: Chain| {
        let told = halts(&mut chain, &later("mail"), &values);
        assert!(told.contains("public.later.mail"), "{told}");
        assert!(!leaves(&mut chain, &later("email"), &values).contains(SECRET));
    };
    held(Chain::new(handle.newest()));
    // Files that were loaded before anybody saw the table.
    let other = format!("{rules}\n\"public.users.id\" = \"pass\"");
    handle.publish(world.candidate(&anonymize("\"public.*\"", &other)).unwrap());
    held(Chain::new(handle.newest()));
    // What begins before the next one is taken, and what another process goes on with.
    let mut lent = restore(&host(), &kept, &KeySources::default(), &world.tables, 5).unwrap();
    handle.lend(&mut lent);
    held(Chain::new(Arc::new(lent)));
    let covered = handle.newest().covered();
    let known = Kept::clone(&kept).covering(covered.clone());
    let known = restore(&host(), &known, &KeySources::default(), &world.tables, 5).unwrap();
    held(Chain::new(Arc::new(known)));
    // The same files at a start, before and after the stream is there.
    world.running = Some((covered, kept.digest().to_owned()));
    held(world.accept(&text));
    let renamed = later("mail");
    world.become_of(&[&users, &renamed], true);
    let told = world.refuse(&text);
    assert!(told.contains("public.later.mail"), "{told}");
    let said = format!("{rules}\n\"public.later.mail\" = \"pass\"");
    let said = format!("accept_unmask = true\n{}", anonymize("\"public.*\"", &said));
    assert!(leaves(&mut world.accept(&said), &renamed, &values).contains(SECRET));
}

#[test]
fn a_table_whose_rows_pass_elsewhere_is_held_against_what_they_showed() {
    let users = people(&["id!", "email"]);
    let rules = "\"public.*.*\" = \"pass\"\n\"public.*.email\" = \"fake_email\"";
    let mut world = World::new(&anonymize("\"public.*\"", rules), &[&users]);
    let handle = Handle::new(world.candidate(&anonymize("\"public.*\"", rules)).unwrap());
    let later = |column: &str| table(18_000, "later", &["id!", column]);
    Chain::new(handle.newest()).show(&[later("email"), Arc::clone(&users)]);
    let covered = handle.newest().covered();
    assert_eq!(covered.column("public.later", "email").unwrap().action, Action::Mask);
    let told = halts(&mut Chain::new(handle.newest()), &later("mail"), &["1", SECRET]);
    assert!(told.contains("public.later.mail"), "{told}");
    // And of the tables that it was loaded with nothing more is to be written down.
    assert_eq!(handle.newest().learned(), 1);
}

#[test]
fn what_is_restored_is_held_against_what_it_covered() {
    let users = people(&["id!", "email"]);
    let renamed = people(&["id!", "mail"]);
    let rules = "\"public.*.*\" = \"pass\"\n\"public.*.email\" = \"fake_email\"";
    let text = anonymize("\"public.*\"", rules);
    let mut world = World::new(&text, &[&users]);
    let kept = Arc::clone(world.candidate(&text).unwrap().kept());
    for caught_up in [true, false] {
        // The tables have gone on, and the files would be refused for it.
        world.become_of(&[&renamed], caught_up);
        let restored = || {
            let loaded = restore(&host(), &kept, &KeySources::default(), &world.tables, 5);
            Chain::new(Arc::new(loaded.unwrap_or_else(|e| panic!("{}", said(&e)))))
        };
        assert!(!leaves(&mut restored(), &users, &["1", SECRET]).contains(SECRET));
        let told = halts(&mut restored(), &renamed, &["1", SECRET]);
        assert!(told.contains("public.users.mail"), "{told}");
        let stranger = table(18_000, "strangers", &["id!", "email", "note"]);
        let left = leaves(&mut restored(), &stranger, &["1", SECRET, "note"]);
        assert!(!left.contains(SECRET) && left.contains("note"), "{left}");
    }
}

#[test]
fn what_cannot_be_compared_is_kept() {
    let users = people(&["id!", "email"]);
    let wider = people(&["id!", "email", "ssn"]);
    let mut world = World::new(&anonymize("\"public.users\"", MASKED), &[&users]);
    // A rule for a column that the tables, as they are known, do not have.
    world.become_of(&[&users], false);
    let ssn = format!("{MASKED}\n\"public.users.ssn\" = \"null\"");
    let mut chain = world.accept(&anonymize("\"public.users\"", &ssn));
    let (kept, _) = world.running.clone().unwrap();
    assert_eq!(kept.column("public.users", "email").unwrap().action, Action::Mask);
    let left = leaves(&mut chain, &wider, &["1", SECRET, "078-05-1120"]);
    assert!(!left.contains(SECRET) && left.contains("NULL"), "{left}");
    // The same, and the mask goes with it: once the stream shows the table, it halts.
    let gone = ssn.replace("\"fake_email\"", "\"pass\"");
    let mut chain = world.accept(&anonymize("\"public.users\"", &gone));
    let text = halts(&mut chain, &wider, &["1", SECRET, "078-05-1120"]);
    assert!(text.contains("public.users.email: it was masked"), "{text}");
    // And whoever comes next is still held against the mask.
    world.become_of(&[&wider], true);
    assert!(world.refuse(&anonymize("\"public.users\"", &gone)).contains("accept_unmask"));
    world.accept(&anonymize("\"public.users\"", &ssn));
}

#[test]
fn a_column_that_comes_gets_its_rule_without_a_confirmation() {
    let users = people(&["id!", "email"]);
    let wider = people(&["id!", "email", "note"]);
    for (caught_up, rule) in [(true, "pass"), (false, "pass"), (true, "null"), (false, "null")] {
        let mut world = World::new(&anonymize("\"public.users\"", MASKED), &[&users]);
        world.become_of(&[&wider], caught_up);
        let rules = format!("{MASKED}\n\"public.users.note\" = \"{rule}\"");
        let mut chain = world.accept(&anonymize("\"public.users\"", &rules));
        assert!(!leaves(&mut chain, &wider, &["1", SECRET, "n"]).contains(SECRET));
    }
    // Files that did not change are not refused for it: the stream says when it matters.
    let mut world = World::new(&anonymize("\"public.users\"", MASKED), &[&users]);
    world.become_of(&[&wider], false);
    let mut chain = world.accept(&anonymize("\"public.users\"", MASKED));
    assert!(halts(&mut chain, &wider, &["1", SECRET, "n"]).contains("columns without a rule"));
}

#[test]
fn a_table_that_was_dropped_for_want_of_rules_is_opened_by_two() {
    let users = people(&["id!", "email"]);
    let salaries = table(17_001, "salaries", &["id!", "amount"]);
    let tables = [&users, &salaries];
    let drops = |rules: &str, tables: &str| {
        format!("unruled_tables = \"drop\"\n{}", anonymize(tables, rules))
    };
    let mut world = World::new(&drops(MASKED, "\"public.users\""), &tables);
    let open = format!("{MASKED}\n\"public.salaries.*\" = \"pass\"");
    let open = drops(&open, "\"public.*\"");
    let text = world.refuse(&open);
    assert!(text.contains("public.salaries: its rows were dropped"), "{text}");
    // The same of one that was made after the generation was loaded.
    let mut world = World::new(&drops(MASKED, "\"public.users\""), &[&users]);
    world.become_of(&tables, true);
    assert!(world.refuse(&open).contains("public.salaries"));
    let shut = format!(
        "{MASKED}\n\"public.salaries.id\" = \"hash\"\n\"public.salaries.amount\" = \"null\""
    );
    world.candidate(&drops(&shut, "\"public.*\"")).unwrap_or_else(|e| panic!("{}", said(&e)));
    world.accept(&format!("accept_unmask = true\n{open}"));
    // Where such a table halts, its rules are the decision that was asked for.
    let mut world = World::new(&anonymize("\"public.users\"", MASKED), &[&users]);
    world.become_of(&tables, true);
    let open = format!("{MASKED}\n\"public.salaries.*\" = \"pass\"");
    world.accept(&anonymize("\"public.*\"", &open));
}

#[test]
fn a_pattern_does_not_take_the_place_of_a_lost_line() {
    let users = people(&["id!", "email"]);
    let both = format!("\"public.users.*\" = \"pass\"\n{MASKED}");
    let mut world = World::new(&anonymize("\"public.users\"", &both), &[&users]);
    let cut = anonymize("\"public.users\"", "\"public.users.*\" = \"pass\"");
    let text = world.refuse(&format!("accept_unmask = true\n{cut}"));
    assert!(text.contains("without saying so"), "{text}");
}

#[test]
fn a_row_filter_that_is_changed_cut_or_moved_is_noticed() {
    let users = people(&["id!", "email"]);
    let one = r#""public.users" = { keep = { column = "id", in = ["1"] } }"#;
    let two = r#""public.users" = { keep = { column = "id", in = ["1", "2"] } }"#;
    let hashed = MASKED.replace("\"public.users.id\" = \"pass\"", "\"public.users.id\" = \"hash\"");
    let (rows, mask) = (filter(one), anonymize("\"public.users\"", &hashed));
    let mut world = World::new(&format!("{rows}{mask}"), &[&users]);
    let confirm = |text: String| format!("accept_unmask = true\n{text}");
    let wider = format!("{}{mask}", filter(two));
    let text = world.refuse(&wider);
    assert!(text.contains("a filter removed rows") && text.contains("accept_unmask"), "{text}");
    world.candidate(&confirm(wider)).unwrap_or_else(|e| panic!("{}", said(&e)));
    for cut in [mask.clone(), format!("{}{mask}", filter(""))] {
        let text = world.refuse(&confirm(cut));
        assert!(text.contains("without saying so"), "a lost line is never enough: {text}");
    }
    let text = world.refuse(&format!("{mask}{rows}"));
    assert!(text.contains("a filter removed rows"), "behind the mask it sees other ids: {text}");
    let kept = format!("{}{mask}", filter("\"public.users\" = \"keep\""));
    assert!(world.refuse(&kept).contains("accept_unmask"));
    // To keep nothing back is no filter, to drop more is none lost.
    world.accept(&confirm(kept));
    world.accept(&format!("{rows}{mask}"));
    world.accept(&format!("{}{mask}", filter("\"public.users\" = \"drop\"")));
    assert!(world.refuse(&format!("{rows}{mask}")).contains("every row"));
}

#[test]
fn a_filter_inside_of_a_masking_binding_counts() {
    let with = |rows: &str| {
        let mut guest = Guest::new(&[("email", "mask"), ("id", "read")]);
        guest.wanted["ok"]["rows"] = rows.into();
        guest.wanted["ok"]["columns"].as_array_mut().unwrap()[1] =
            serde_json::json!({"name": "id", "use": "read"});
        let mut setup = Setup::new(&guest);
        setup.config.transform[0].new_columns = super::NewColumns::Pass;
        setup.config.transform[0].allow_unmasked = true;
        setup
    };
    let users = super::testing::users();
    let tables = catalog(&[&users]);
    let running = with("id in 1").load(&tables).unwrap().coverage().clone();
    let options = Options { running: Some(&running), ..Options::default() };
    load(&host(), &with("id in 1").config, &tables, options).unwrap();
    let lost = load(&host(), &with("id in 1, 2").config, &tables, options).unwrap_err();
    assert!(said(&lost).contains("a filter removed rows"), "{}", said(&lost));
}

/// Phones of every table are masked, and everything else passes.
const GLOBS: &str = "\"public.*.*\" = \"pass\"\n\"public.*.phone\" = \"fake_phone\"";

fn accounts(columns: &[&str]) -> Arc<Relation> {
    table(17_002, "accounts", columns)
}

#[test]
fn a_renamed_column_does_not_pass_by_a_pattern() {
    let (before, after) = (accounts(&["id!", "phone"]), accounts(&["id!", "phone_number"]));
    let text = anonymize("\"public.*\"", GLOBS);
    let mut world = World::new(&text, &[&before]);
    let mut chain = world.accept(&text);
    assert!(!leaves(&mut chain, &before, &["1", "555-0100"]).contains("555-0100"));
    let told = halts(&mut chain, &after, &["1", "555-0100"]);
    assert!(told.contains(r#""public.accounts.phone_number" = "pass""#), "{told}");
    // A chain that has seen nothing of the table yet knows it from the load.
    world.become_of(&[&before], false);
    let told = halts(&mut world.accept(&text), &after, &["1", "555-0100"]);
    assert!(told.contains("phone_number"), "{told}");
    // And so does a start, or a reload, that finds it renamed.
    world.become_of(&[&after], false);
    assert!(world.refuse(&text).contains("phone_number"));
    let named = format!("{GLOBS}\n\"public.accounts.phone_number\" = \"pass\"");
    // It masks nothing any more that is there, so it says what becomes of other tables.
    let named = format!("unruled_tables = \"halt\"\n{}", anonymize("\"public.*\"", &named));
    assert!(world.refuse(&named).contains("accept_unmask"));
    let mut chain = world.accept(&format!("accept_unmask = true\n{named}"));
    assert!(leaves(&mut chain, &after, &["1", "555-0100"]).contains("555-0100"));
}

#[test]
fn rules_for_both_names_carry_a_rename() {
    let (before, after) = (accounts(&["id!", "phone"]), accounts(&["id!", "phone_number"]));
    // Another table has the other name, so that both rules fit the tables there are.
    let other = table(17_003, "other", &["id!", "phone_number"]);
    let both = format!("{GLOBS}\n\"public.*.phone_number\" = \"fake_phone\"");
    let text = anonymize("\"public.*\"", &both);
    let mut world = World::new(&text, &[&before, &other]);
    let mut chain = world.accept(&text);
    for (relation, values) in [(&before, ["1", "555-0100"]), (&after, ["1", "555-0100"])] {
        assert!(!leaves(&mut chain, relation, &values).contains("555-0100"));
    }
    world.become_of(&[&after, &other], false);
    world.accept(&text);
    // A column that comes beside a mask, and one that goes, are not a rename.
    let wider = accounts(&["id!", "phone_number", "note"]);
    assert!(leaves(&mut chain, &wider, &["1", "555-0100", "n"]).ends_with("n] []"));
    leaves(&mut chain, &accounts(&["id!", "note"]), &["1", "n"]);
}

#[test]
fn a_renamed_table_does_not_pass_by_a_pattern() {
    let before = people(&["id!", "email"]);
    let mut after = Relation::clone(&before);
    "folk".clone_into(&mut after.table);
    let after = Arc::new(after);
    let text = anonymize("\"public.*\"", &format!("\"public.*.*\" = \"pass\"\n{MASKED}"));
    let mut world = World::new(&text, &[&before]);
    let mut chain = world.accept(&text);
    assert!(!leaves(&mut chain, &before, &["1", SECRET]).contains(SECRET));
    let told = halts(&mut chain, &after, &["1", SECRET]);
    assert!(told.contains("public.folk.email: it was masked"), "{told}");
    world.become_of(&[&after], false);
    assert!(world.refuse(&text).contains("public.folk.email"));
    let folk = MASKED.replace("users", "folk");
    let text = anonymize("\"public.*\"", &format!("\"public.*.*\" = \"pass\"\n{folk}"));
    let mut chain = world.accept(&text);
    assert!(!leaves(&mut chain, &after, &["1", SECRET]).contains(SECRET));
    let told = halts(&mut chain, &before, &["1", SECRET]);
    assert!(told.contains("public.users.email"), "of before the rename: {told}");
}

#[test]
fn messages_are_covered_as_tables_are() {
    let users = people(&["id!", "email"]);
    let tables = "\"public.users\", \"kasho.message\"";
    let masks = |rule: &str| {
        let message = "\"kasho.message.prefix\" = \"pass\"\n\"kasho.message.content\"";
        anonymize(tables, &format!("{MASKED}\n{message} = \"{rule}\""))
    };
    let mut world = World::new(&masks("null"), &[&users]);
    let text = world.refuse(&masks("pass"));
    assert!(text.contains("kasho.message.content: it was masked"), "{text}");
    // A content that is no text is masked too, by what fits both.
    let mut chain = world.accept(&masks("null"));
    for binary in [false, true] {
        let mut batch = transaction();
        push(&mut batch, &message_relation(binary), Op::Message, &["app", SECRET], &[]);
        chain.apply(&mut batch).unwrap();
        assert_eq!(shown(&batch), ["message kasho.message [app NULL] []"]);
    }
    // Whoever masks messages alone hears of the tables when the rules are loaded.
    let alone = masks("null").replace("\"public.users\", ", "").replace(MASKED, "");
    let mut fresh = World { running: None, ..world };
    assert!(fresh.refuse(&alone).contains("no transform names public.users"));
    // The first mask of all is taken although nobody subscribes to messages.
    let mut open = World::new("", &[&users]);
    open.become_of(&[&users], false);
    open.accept(&anonymize("\"public.users\"", MASKED));
}

#[test]
fn a_real_table_does_not_pass_as_messages_do() {
    let mut fake = Relation::clone(&message_relation(false));
    fake.id = 17_004;
    fake.columns.push(Column { name: "id".to_owned(), key: true, ..fake.columns[0].clone() });
    let (users, fake) = (people(&["id!", "email"]), Arc::new(fake));
    let rules = "\"kasho.message.prefix\" = \"pass\"\n\"kasho.message.content\" = \"hash\"\n\
                 \"kasho.message.id\" = \"pass\"";
    let text = anonymize("\"public.users\", \"kasho.*\"", &format!("{MASKED}\n{rules}"));
    let mut world =
        World { setup: Some(setup("")), tables: catalog(&[&users, &fake]), running: None };
    let told = world.refuse(&text);
    assert!(told.contains("is the name of events"), "{told}");
    let mut world = World::new(&anonymize("\"*.*\"", MASKED), &[&users]);
    let mut chain = world.accept(&anonymize("\"*.*\"", MASKED));
    assert!(halts(&mut chain, &fake, &["app", SECRET, "1"]).contains("rename it"));
}

#[test]
fn a_candidate_whose_identities_move_can_be_accepted_by_its_digest() {
    let users = people(&["id!", "email"]);
    let hashed = |length: u32| {
        let id = format!("\"public.users.id\" = {{ transform = \"hash\", length = {length} }}");
        anonymize("\"public.users\"", &MASKED.replace("\"public.users.id\" = \"pass\"", &id))
    };
    let mut world = World::new(&hashed(32), &[&users]);
    let text = world.refuse(&hashed(24));
    assert!(text.contains("public.users.id: it says where rows are"), "{text}");
    let digest = text.rsplit('"').nth(1).unwrap().to_owned();
    world.refuse(&format!("accept = \"{}\"\n{}", digest.replace('a', "b"), hashed(24)));
    world.accept(&format!("accept = \"{digest}\"\n{}", hashed(24)));
    // An answer that is not known yet is no other mapping.
    world.become_of(&[&users], false);
    world.accept(&format!("{}\"public.users.ssn\" = \"null\"\n", hashed(24)));
}

#[test]
fn a_digest_is_of_the_files_and_not_of_the_tables() {
    let users = people(&["id!", "email"]);
    let text =
        format!("{}\"public.users.ssn\" = \"null\"\n", anonymize("\"public.users\"", MASKED));
    let behind = Catalog { caught_up: false, ..catalog(&[&users]) };
    let ahead = catalog(&[&people(&["id!", "email", "ssn"])]);
    let setup = setup(&text);
    let digest = |tables: &Catalog, config: &Config| {
        load(&host(), config, tables, Options::default()).unwrap().digest().to_owned()
    };
    assert_eq!(digest(&behind, &setup.config), digest(&ahead, &setup.config));
    let all: BTreeSet<_> = [&behind, &ahead].map(|t| digest(t, &setup.config)).into();
    assert_eq!(all.len(), 1);
}

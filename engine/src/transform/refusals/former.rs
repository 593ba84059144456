//! What keeps a generation of before from going on, a row from being set aside, and a schema
//! change from leaving.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use kasho_plugin_sdk::Op;
use kasho_plugin_sdk::testing::Refusals;

use super::super::testing::{
    Guest, Setup, catalog, host, insert, push, said, table as relation, transaction, users,
};
use super::super::{Archive, Catalog, Chain, Host, Kept, KeySource, KeySources, OnError, restore};
use super::{refusals, told};
use crate::batch::{Batch, ddl_relation};

/// Finds every row in error.
fn fails() -> Guest {
    Guest::new(&[("email", "mask"), ("id", "pass")]).judges(2)
}

#[test]
fn whatever_does_not_go_on_stands_in_the_table() {
    let about = "Former generations that do not go on, rows that cannot be set aside, schema \
                 changes that do not leave.";
    let mut table = refusals("former.txt", about);
    archive(&mut table);
    keys(&mut table);
    store(&mut table);
    aside(&mut table);
    schema(&mut table);
    table.finish();
}

/// A file of a folder, or of one below it.
fn file(folder: &Path, extension: &str) -> Option<std::path::PathBuf> {
    let mut paths = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    paths.find_map(|path| match path.is_dir() {
        true => file(&path, extension),
        false => path.extension().is_some_and(|e| e == extension).then_some(path),
    })
}

fn archive(table: &mut Refusals) {
    table.section("Generations that are kept");
    let setup = Setup::new(&fails());
    let folder = setup.folder.path().join("store");
    let archive = Archive::open(&folder, "kasho kasho_slot").unwrap();
    let generation = setup.load(&catalog(&[&users()])).unwrap();
    archive.keep(generation.kept()).unwrap();
    let find = |digest: &str| told(&setup, &archive.find(digest).unwrap_err());
    table.case("a checkpoint that names none", find("none"));
    table.case("one that was never kept here", find(&"0".repeat(64)));
    fs::write(file(&folder, "wasm").unwrap(), b"something else").unwrap();
    table.case("one whose plugin is another one now", find(generation.digest()));
}

fn keys(table: &mut Refusals) {
    table.section("Keys of a generation that goes on");
    let mut setup = Setup::new(&fails());
    let key = |setup: &Setup, name: &str, digits: &str| {
        setup.write(name, (digits.repeat(16) + &"22".repeat(16)).as_bytes());
        KeySource::File(setup.folder.path().join(name))
    };
    let source = key(&setup, "k1.key", "11");
    setup.config.keys.insert("k1".to_owned(), source);
    setup.config.dead_letter_key = Some(key(&setup, "dead.key", "33"));
    let generation = setup.load(&catalog(&[&users()])).unwrap();
    let known = KeySources::default();
    let again = || restore(&host(), generation.kept(), &known, &catalog(&[&users()]), 7);
    key(&setup, "dead.key", "44");
    table.case("another dead_letter_key", again().unwrap().warnings().join("\n"));
    fs::remove_file(setup.folder.path().join("dead.key")).unwrap();
    table.case("no dead_letter_key any more", again().unwrap().warnings().join("\n"));
    fs::remove_file(setup.folder.path().join("k1.key")).unwrap();
    table.case("no masking key any more", told(&setup, &said(&again().unwrap_err())));
}

fn store(table: &mut Refusals) {
    table.section("The folder that they are kept in");
    let setup = Setup::new(&fails());
    let open = fs::Permissions::from_mode(0o755);
    fs::set_permissions(setup.folder.path(), open).unwrap();
    let refused = Host::new(Some(setup.folder.path())).unwrap_err();
    table.case("it is open to others", told(&setup, &refused));
}

fn aside(table: &mut Refusals) {
    table.section("Rows that are to be set aside");
    let mut setup = Setup::new(&fails());
    setup.write("dead.key", "0123456789abcdef".repeat(4).as_bytes());
    setup.config.dead_letter_key = Some(KeySource::File(setup.folder.path().join("dead.key")));
    let binding = setup.binding();
    (binding.on_error, binding.allow_misses) = (OnError::DeadLetter, true);
    let generation = setup.load(&catalog(&[&users()])).unwrap();
    let kept = Kept::clone(generation.kept());
    let error = |generation, batch: &mut Batch| {
        Chain::new(Arc::new(generation)).apply(batch).unwrap_err().to_string()
    };
    let bare = relation(7, "users", &["id", "email"]);
    let lags = Catalog { caught_up: false, ..catalog(&[&bare]) };
    let mut batch = transaction();
    push(&mut batch, &bare, Op::Insert, &["1", "x"], &[]);
    let keyless = setup.load(&lags).unwrap();
    table.case("of a table that has no key any more", error(keyless, &mut batch));
    fs::remove_file(setup.folder.path().join("dead.key")).unwrap();
    let known = KeySources::default();
    let sealless = restore(&host(), &kept, &known, &catalog(&[&users()]), 7).unwrap();
    table.case("without the key to seal theirs", error(sealless, &mut insert("x")));
}

fn schema(table: &mut Refusals) {
    table.section("Schema changes, where something is masked");
    let mut chain = Setup::new(&fails()).chain(&[&users()]);
    for (about, tag, text) in [
        ("one of several statements that were sent at once", "ALTER TABLE", "NULL"),
        ("a function", "CREATE FUNCTION", "CREATE FUNCTION f() RETURNS int RETURN 1"),
        ("a default that may be data", "ALTER TABLE", "ALTER TABLE t ADD e text DEFAULT 'a@b'"),
    ] {
        let mut batch = transaction();
        push(&mut batch, &ddl_relation(), Op::Ddl, &[tag, "table", "public.t", text], &[]);
        table.case(about, chain.apply(&mut batch).unwrap_err().to_string());
    }
}

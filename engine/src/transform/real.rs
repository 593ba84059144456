//! The plugins of this repository through the real host, as a deployment runs them.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::collections::HashMap;
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Arc, OnceLock};

use kasho_plugin_sdk::{Op, Relation};

use crate::batch::Batch;

use super::testing::{Setup, catalog, host, push, said, shown, table, transaction, users};
use super::{Chain, Config, KeySource, Options, load};

/// Builds both plugins once, beside this build's own output.
fn guest(name: &str) -> Vec<u8> {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| {
        // …/debug/deps/kasho-1234 → …/guests
        let own = std::env::current_exe().unwrap();
        let target = own.ancestors().nth(3).unwrap().join("guests");
        let cargo = option_env!("CARGO").unwrap_or("cargo");
        let built = Command::new(cargo)
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .args(["build", "--locked", "--profile", "guest", "--target", "wasm32-unknown-unknown"])
            .args(["-p", "kasho-anonymize", "-p", "kasho-filter", "--target-dir"])
            .arg(&target)
            .output()
            .unwrap();
        assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
        target.join("wasm32-unknown-unknown/guest")
    });
    std::fs::read(folder.join(format!("{name}.wasm"))).unwrap()
}

pub(super) fn setup(transforms: &str) -> Setup {
    let setup = Setup { folder: tempfile::tempdir().unwrap(), config: Config::default() };
    for name in ["anonymize", "filter"] {
        setup.write(&format!("{name}.wasm"), &guest(name));
    }
    setup.write("key", &std::array::from_fn::<u8, 32, _>(|i| u8::try_from(i).unwrap()));
    configured(setup, transforms)
}

pub(super) fn configured(setup: Setup, transforms: &str) -> Setup {
    let mut config: Config = toml::from_str(transforms).unwrap();
    config.plugins.folder = setup.folder.path().to_owned();
    config.keys.insert("k1".to_owned(), KeySource::File(setup.folder.path().join("key")));
    Setup { config, ..setup }
}

const MASK: &str = r#"
    [[transform]]
    name = "mask"
    plugin = "anonymize.wasm"
    tables = ["public.users"]
    [transform.rules]
    "public.users.id" = "pass"
    "public.users.email" = "fake_email"
"#;

fn rows(emails: &[&str]) -> Batch {
    let (mut batch, users) = (transaction(), users());
    for email in emails {
        push(&mut batch, &users, Op::Insert, &["1", email], &[]);
    }
    batch
}

#[test]
fn anonymize_masks_alike_in_every_batch_and_instance() {
    let setup = setup(MASK);
    let mut fakes: HashMap<String, String> = HashMap::new();
    for size in [1, 2, 64, 1500] {
        let mut chain = setup.chain(&[&users()]);
        let emails: Vec<String> = (0..size).map(|n| format!("user{n}@secret.example")).collect();
        let mut batch = rows(&emails.iter().map(String::as_str).collect::<Vec<_>>());
        chain.apply(&mut batch).unwrap();
        let left = shown(&batch);
        assert_eq!(left.len(), size);
        for (email, row) in emails.into_iter().zip(left) {
            assert!(!row.contains("secret") && row.contains('@'), "{row}");
            assert_eq!(fakes.entry(email).or_insert_with(|| row.clone()), &row);
        }
    }
    let mut batch = rows(&["NULL", "", "Grüße@secret.example"]);
    setup.chain(&[&users()]).apply(&mut batch).unwrap();
    let left = shown(&batch);
    assert_eq!(left[0], "insert public.users [1 NULL] []");
    assert!(!left[2].contains("Gr"), "{}", left[2]);
}

#[test]
fn rules_that_do_not_fit_are_refused() {
    let refusal = |rules: &str, tables: &[&Arc<Relation>]| setup(rules).refusal(tables);
    let typo = refusal(&MASK.replace("users.email", "users.emial"), &[&users()]);
    assert!(typo.contains("emial"), "{typo}");
    let lost = refusal(&MASK.replace("\"public.users.email\" = \"fake_email\"", ""), &[&users()]);
    assert!(lost.contains("public.users.email"), "{lost}");
    let unknown = refusal(&MASK.replace("fake_email", "fake_mail"), &[&users()]);
    assert!(unknown.contains("fake_mail"), "{unknown}");
    let mut keyless = setup(MASK);
    keyless.config.keys.clear();
    let text = keyless.refusal(&[&users()]);
    assert!(text.contains("key"), "{text}");
}

/// Every cut of a configuration at the end of a line that still parses covers what the
/// whole one does, or is refused.
#[test]
fn no_cut_of_real_rules_unmasks() {
    let text = format!(
        "unruled_tables = \"halt\"\n{MASK}\"public.users.name\" = \"fake_name\"\n\
         [[transform]]\nname = \"orders\"\nplugin = \"anonymize.wasm\"\ntables = [\"public.orders\"]\n\
         [transform.rules]\n\"public.orders.id\" = \"pass\"\n\
         \"public.orders.card\" = {{ transform = \"mask\", keep_last = 4 }}\n"
    );
    let users = table(7, "users", &["id!", "email", "name"]);
    let orders = table(8, "orders", &["id!", "card"]);
    let tables = catalog(&[&users, &orders]);
    let mut setup = setup(&text);
    let running = setup.load(&tables).unwrap_or_else(|e| panic!("{}", said(&e)));
    let lines: Vec<&str> = text.lines().collect();
    let (mut parsed, mut taken) = (0, 0);
    for n in 0..lines.len() {
        let cut = lines[..n].join("\n");
        if toml::from_str::<Config>(&cut).is_err() {
            continue;
        }
        parsed += 1;
        setup = configured(setup, &cut);
        let options = Options { running: Some(running.coverage()), ..Options::default() };
        if let Ok(candidate) = load(&host(), &setup.config, &tables, options) {
            taken += 1;
            assert_eq!(candidate.digest(), running.digest(), "cut after line {n}");
        }
    }
    assert!(parsed > 8 && taken <= 1, "{parsed} {taken}");
}

#[test]
fn filter_and_mask_work_together() {
    let filter = r#"
        [[transform]]
        name = "tenants"
        plugin = "filter.wasm"
        tables = ["public.users"]
        [transform.rules]
        "public.users" = { keep = { column = "id", in = [1, 2] } }
    "#;
    let setup = setup(&format!("{filter}{MASK}"));
    let mut chain: Chain = setup.chain(&[&users()]);
    let mut batch = transaction();
    push(&mut batch, &users(), Op::Insert, &["1", "a@secret.example"], &[]);
    push(&mut batch, &users(), Op::Insert, &["3", "b@secret.example"], &[]);
    push(&mut batch, &users(), Op::Update, &["3", "c@secret.example"], &["2", "-"]);
    push(&mut batch, &users(), Op::Update, &["2", "d@secret.example"], &["4", "-"]);
    push(&mut batch, &users(), Op::Delete, &[], &["2", "-"]);
    chain.apply(&mut batch).unwrap();
    let left = shown(&batch);
    let kinds: Vec<&str> = left.iter().map(|row| row.split(' ').next().unwrap()).collect();
    assert_eq!(kinds, ["insert", "delete", "insert", "delete"], "{left:?}");
    assert!(left.iter().all(|row| !row.contains("secret")), "{left:?}");
}

//! The configuration as operators write it, and as they miswrite it.

use std::path::Path;

use secrecy::ExposeSecret;

use super::*;
use crate::sink::config::{Budget, Durability, Share};

const URLS: &str = "[source]\nurl = 'postgresql://h/d'\n[redis]\nurl = 'redis://h'\n";

fn no_env(_: &str) -> Option<String> {
    None
}

fn parse(text: &str) -> Result<Config, Errors> {
    Config::parse(text, Path::new("kasho.toml"), &no_env)
}

/// The problems, each as a line.
fn problems(text: &str) -> Vec<String> {
    let errors = parse(text).expect_err("problems");
    errors.to_string().lines().map(str::to_owned).collect()
}

#[test]
fn the_shortest_file_has_every_default() {
    let config = parse(URLS).unwrap();
    assert_eq!(config.source.slot, "kasho_slot");
    assert_eq!(config.redis.budget, Budget::default());
    assert_eq!(config.grpc.listen.to_string(), "127.0.0.1:50051");
}

#[test]
fn every_form_of_a_value_is_read() {
    let text = "unruled_tables = 'drop'\n\
        [source]\nurl = 'x'\nqueue_bytes = '1MiB'\nmessages = ['a', 'b']\n\
        [redis]\nurl = 'y'\ndurability = { replicas = 2 }\nencoding = 'json'\n\
        [redis.budget]\nchanges = '512MiB'\nbootstrap = 0.25\n\
        [[transform]]\nname = 'm'\nplugin = 'a.wasm'\ntables = ['public.*']\non_error = 'drop'\n\
        allow_misses = true\n\
        [transform.rules]\n'public.users.email' = 'fake_email'\n\
        're' = { to = '${1}$$', file = 'x', n = 1, f = [1.5, true] }\n";
    let config = parse(text).unwrap();
    assert_eq!(config.source.queue_bytes, Size::mib(1));
    assert_eq!(config.redis.durability, Durability::Replicas(2));
    assert_eq!(config.redis.budget.changes, Share::Bytes(Size::mib(512)));
    assert_eq!(config.unruled_tables, Some(transform::Unruled::Drop));
    let rules = config.transform[0].rules_json();
    assert_eq!(rules["re"]["to"], "${1}$$", "a plugin's texts are its own");
    assert_eq!(rules["re"]["file"], "x", "and no secret's place");
    assert_eq!(rules["re"]["f"], serde_json::json!([1.5, true]));
}

#[test]
fn all_errors_come_at_once_each_with_its_place() {
    let text = "[source]\nurl = 'u'\nslto = 'x'\nheartbeat_ms = 'ten'\nslot = 'Bad'\n\
        [redis]\nencoding = 'jsn'\n  durability = 7\n\
        [redis.budget]\nchanges = 1.5\n\
        [[transform]]\nname = 'a'\ntables = 3\nplugin = 'x'\n\
        [sauce]\nx = 1\n";
    let expected = [
        "kasho.toml:3:1: source.slto: unknown key; did you mean \"slot\"?",
        "kasho.toml:4:16: source.heartbeat_ms: expected a whole number, found a text",
        "kasho.toml:5:8: source.slot: a slot's name is 1 to 63 of a-z, 0-9 and _",
        "kasho.toml:6:1: redis.url: is required: set it, redis.url_file, or the variable KV_URL",
        "kasho.toml:7:12: redis.encoding: unknown value; did you mean \"json\"?",
        "kasho.toml:8:16: redis.durability: ",
        "kasho.toml:10:11: redis.budget.changes: a share is greater than 0 and at most 1",
        "kasho.toml:13:10: transform[0].tables: expected a sequence, found integer `3`",
        "kasho.toml:15:2: sauce: unknown key; did you mean \"source\"?",
    ];
    let found = problems(text);
    assert_eq!(found.len(), expected.len(), "{found:#?}");
    for (found, expected) in found.iter().zip(expected) {
        assert!(found.starts_with(expected), "{found}\n{expected}");
    }
}

#[test]
fn rows_of_an_entry_are_many_or_one_as_the_encoding_has_it_unless_they_are_set() {
    let text = |more: &str| format!("[source]\nurl = 'x'\n[redis]\nurl = 'y'\n{more}\n");
    let rows = |more: &str| parse(&text(more)).unwrap().redis.load_rows();
    assert_eq!((rows(""), rows("encoding = 'json'")), (500, 1));
    assert_eq!((rows("load_rows = 1"), rows("encoding = 'json'\nload_rows = 10000")), (1, 10_000));
    for bad in [0, 10_001] {
        let found = problems(&text(&format!("load_rows = {bad}")));
        let told =
            "kasho.toml:5:13: redis.load_rows: must lie between 1 (one entry a row) and 10000";
        assert!(found.len() == 1 && found[0].starts_with(told), "{found:#?}");
    }
}

#[test]
fn errors_of_syntax_do_not_hide_the_others() {
    let found = problems("[source]\nurl = 'hunter2\nslto = 1\n[redis]\nurl = 'x'\nprefixx = 1\n");
    assert!(found.iter().any(|line| line.starts_with("kasho.toml:2:")), "{found:#?}");
    assert!(found.iter().any(|line| line.contains("\"prefix\"")), "{found:#?}");
    assert!(!found.concat().contains("hunter2"));
}

#[test]
fn missing_keys_of_a_binding_are_named() {
    let text = format!("{URLS}[[transform]]\nplugin = 'b'\n[[transform]]\ntables = ['a.b']\n");
    let found = problems(&text);
    assert_eq!(found[0], "kasho.toml:5:1: transform[0]: the key \"name\" is missing");
    assert_eq!(found[1], "kasho.toml:7:1: transform[1]: the key \"name\" is missing");
    let text =
        format!("{URLS}[[transform]]\nname = 'a'\nplugin = 'b'\n[[transform]]\nname = 'c'\n");
    let found = problems(&text);
    assert!(
        found[0].starts_with("kasho.toml:5:1: transform[0].tables: names no table"),
        "{}",
        found[0]
    );
    assert!(
        found[1].starts_with("kasho.toml:8:1: transform[1].plugin: names no file"),
        "{}",
        found[1]
    );
    // Where a binding or a key is left out, nothing is said of what the others lack by it.
    let text = format!(
        "{URLS}[keys]\nk = 1\n[[transform]]\nname = 'a'\nplugin = 'b'\ntables = ['c.d']\nkey = 'k'\n"
    );
    assert_eq!(problems(&text).len(), 1);
}

#[test]
fn no_problem_quotes_a_text() {
    let text = "[source]\nurl = 5\nslot = 'hunter2-A'\nheartbeat_ms = 'hunter2'\n\
        [redis]\nurl = ['hunter2']\nencoding = 'hunter2'\nprefix = '${hunter'\n\
        [redis.budget]\nchanges = 'hunter2'\n[grpc]\nlisten = 'hunter2'\n[keys]\nk = 'hunter2'\n";
    let found = problems(text);
    assert_eq!(found.len(), 9, "{found:#?}");
    assert!(!found.concat().contains("hunter2"), "{found:#?}");
}

#[test]
fn variables_and_files_give_secrets_and_no_debug_shows_them() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("url"), "redis://:hunter2@h\n").unwrap();
    std::fs::write(folder.path().join("key"), "00ff".repeat(16)).unwrap();
    let env = |name: &str| (name == "PASSWORD").then(|| "hunter2".to_owned());
    let text = "[source]\nurl = 'postgresql://u:${PASSWORD}@h/$$d'\n[redis]\nurl_file = 'url'\n\
        [grpc]\nread_token = { file = 'url' }\n[keys]\nk1 = { file = 'key' }\n";
    let config = Config::parse(text, &folder.path().join("kasho.toml"), &env).unwrap();
    assert_eq!(config.source.url.as_ref().unwrap().expose_secret(), "postgresql://u:hunter2@h/$d");
    assert_eq!(config.redis.url.as_ref().unwrap().expose_secret(), "redis://:hunter2@h");
    let key = transform::KeySource::File(folder.path().join("key"));
    assert_eq!(config.chain().keys["k1"], key, "relative to the file");
    assert!(!format!("{config:?}").contains("hunter2"));
    assert_eq!(config.plugins.folder, folder.path().join("plugins"));
}

#[test]
fn what_a_secret_lacks_is_told() {
    let text = "[source]\nurl = '${NOPE}'\n[redis]\nurl = 'x'\nurl_file = 'y'\n\
        [grpc]\nread_token_file = 'absent'\n[keys]\nk = { file = 'absent' }\nl = { flie = 'x' }\nm = '00'\n";
    let found = problems(text);
    for expected in [
        "2:7: source.url: the environment variable NOPE is not set",
        "5:1: redis.url_file: url is set too: keep one of the two",
        "7:19: grpc.read_token_file: cannot read absent: ",
        "9:5: keys.k: key `k`: cannot read absent: ",
        "10:5: keys.l: a key is { file = \"…\" } or { env = \"VARIABLE\" }",
        "11:5: keys.m: expected { file = \"…\" } or { env = \"VARIABLE\" }, found a text",
    ] {
        assert!(found.iter().any(|line| line.contains(expected)), "{expected}\n{found:#?}");
    }
    assert_eq!(found.len(), 6, "{found:#?}");
}

#[test]
fn the_originals_variables_stand_in_and_the_file_wins() {
    let env = |name: &str| match name {
        "PRIMARY_DATABASE_URL" => Some("postgresql://p:${x}@env".to_owned()),
        "KV_URL" => Some("redis://env".to_owned()),
        "GRPC_PORT" => Some("6000".to_owned()),
        "HTTP_PORT" => Some("6001".to_owned()),
        "REPLICATION_SLOT_NAME" => Some(String::new()),
        _ => None,
    };
    let path = Path::new("kasho.toml");
    let config = Config::parse("[redis]\nurl = 'redis://file'\n", path, &env).unwrap();
    let url =
        |url: &Option<secrecy::SecretString>| url.as_ref().unwrap().expose_secret().to_owned();
    assert_eq!(url(&config.source.url), "postgresql://p:${x}@env");
    assert_eq!(url(&config.redis.url), "redis://file");
    assert_eq!((config.grpc.listen.port(), config.http.listen.port()), (6000, 6001));
    assert_eq!(config.source.slot, "kasho_slot", "an empty variable is none");

    let bad = |name: &str| (name == "GRPC_PORT").then(|| "x".to_owned());
    let errors = Config::parse(URLS, path, &bad).unwrap_err().to_string();
    assert!(errors.starts_with("environment variable GRPC_PORT: grpc.listen: "), "{errors}");
}

#[test]
fn a_reload_knows_what_changed() {
    let binding = "[[transform]]\nname = 'a'\nplugin = 'a.wasm'\ntables = ['public.*']\n";
    let old = parse(&format!("{URLS}{binding}")).unwrap();
    assert!(old.changes(&parse(&format!("# new\n{URLS}\n{binding}")).unwrap()).is_empty());
    let text = URLS.replace("redis://h", "redis://:other@h");
    let text =
        format!("{text}[log]\nlevel = 'debug'\n[grpc]\ninsecure = true\n{binding}rules.x = 1\n");
    let changes = old.changes(&parse(&text).unwrap());
    assert_eq!(changes.live, ["log.level", "transform"]);
    assert_eq!(changes.restart, ["grpc.insecure", "redis.url"]);
}

#[test]
fn values_that_contradict_are_found() {
    let text = format!(
        "unruled_tables = 'pass'\n{URLS}tls_cert = 'c'\nprefix = '{{k}}'\n\
         budget = {{ changes = 0.9, bootstrap = 0.9 }}\n[grpc]\nlisten = '0.0.0.0:1'\n[http]\nlisten = '0.0.0.0:2'\n[bootstrap]\nworkers = 0\n\
         [log]\nlevel = 'loud=very'\n[[transform]]\nname='a'\nplugin='b'\ntables=['users']\nsha256='1'\n\
         new_columns = 'pass'\nkey = 'k'\ninit_ms = 0\n"
    );
    let found = problems(&text).join("\n");
    for key in [
        "unruled_tables",
        "tls_cert",
        "prefix",
        "budget",
        "grpc.listen",
        "http.listen",
        "workers",
        "level",
        "transform[0].tables[0]: is no pattern",
        "sha256",
        "new_columns",
        "transform[0].key: there is no key",
        "init_ms",
    ] {
        assert!(found.contains(key), "{key}: {found}");
    }
}

/// The file that operators copy.
const SHIPPED: &str = include_str!("../../../config/kasho.toml");

/// The shipped file with its commented settings in force: `#key = value` shows a default,
/// `#: key = value` an example of a key that has none.
fn uncommented(examples: bool) -> String {
    let line = |line: &str| match line.strip_prefix("#: ") {
        Some(example) if examples => example.to_owned(),
        Some(_) => String::new(),
        None => {
            line.strip_prefix('#').filter(|l| !l.starts_with([' ', '#'])).unwrap_or(line).to_owned()
        }
    };
    SHIPPED.lines().map(line).collect::<Vec<_>>().join("\n")
}

#[test]
fn the_shipped_file_shows_every_default_as_it_is() {
    let path = Path::new("/etc/kasho/kasho.toml");
    let env = |name: &str| name.ends_with("URL").then(|| format!("value of {name}"));
    let read = |text: &str| Config::parse(text, path, &env);
    let strip = |config: Config| format!("{:#?}", Config { said: Said::default(), ..config });
    let shipped = strip(read(SHIPPED).unwrap_or_else(|e| panic!("{e}")));
    let defaults = strip(read(&uncommented(false)).unwrap_or_else(|e| panic!("{e}")));
    assert_eq!(shipped, defaults);
    assert_eq!(defaults, strip(read("").unwrap()));
}

#[test]
fn the_shipped_file_shows_every_key() {
    let text = uncommented(true);
    let (root, syntax) = node::parse(&text);
    assert!(syntax.is_empty(), "{syntax:?}");
    let env = |name: &str| (!name.ends_with("_PORT")).then(|| "0".repeat(64));
    let context = Context::new(&env, Path::new("/"));
    let _: Config = context.read(&root);
    let problems = context.problems.take();
    assert!(problems.is_empty(), "{problems:#?}");
    let values = context.values.take();
    let missing: Vec<String> =
        context.known.take().into_iter().filter(|key| !values.contains_key(key)).collect();
    assert!(missing.is_empty(), "config/kasho.toml does not show {missing:?}");
}

proptest::proptest! {
    #[test]
    fn no_text_makes_it_panic(text in "(\\[|\\]|=|'|\"|\\{|\\}|\\$|source|redis|url|keys|transform|\\n|[a-z0-9. ])*") {
        let _ = parse(&text);
    }
}

#[test]
fn a_client_needs_only_its_own_section() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("kasho.toml");
    let broken =
        "[source]\nurl = '${NOT_SET_ANYWHERE}'\nslto = 1\n[keys]\nk = { env = 'NOT_SET' }\n";
    std::fs::write(&file, format!("{broken}[grpc]\nlisten = '127.0.0.1:7'\n")).unwrap();
    assert!(Config::load(&file).is_err());
    assert_eq!(Config::load_grpc(&file).unwrap().listen.port(), 7);
    for (text, told) in [("[grpc]\nlisten = 7\n", "grpc.listen"), ("[grpc\n", "kasho.toml:1")] {
        std::fs::write(&file, text).unwrap();
        let error = Config::load_grpc(&file).unwrap_err().to_string();
        assert!(error.contains(told), "{error}");
    }
}

#[test]
fn a_service_can_be_asked_to_start_with_whatever_is_wrong_with_the_chain_alone() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("kasho.toml");
    let serve = |text: &str| {
        std::fs::write(&file, text).unwrap();
        Config::load_serving(&file)
    };
    assert_eq!(serve(URLS).unwrap().chain_errors, None);
    let chain = |text: &str| format!("unruled_tables = 'maybe'\n{URLS}[[transform]]\n{text}");
    for text in [chain("name = 'm'\n"), chain("names = 'm'\n"), format!("{URLS}[keys]\nk = 1\n")] {
        let config = serve(&text).unwrap();
        let errors = config.chain_errors.expect("errors").to_string();
        assert!(errors.contains("kasho.toml:"), "{errors}");
        assert!(Config::load(&file).is_err(), "a reload refuses it");
        assert_eq!(config.source.slot, "kasho_slot");
    }
    for text in [format!("{URLS}[[transform]\n"), chain("name = 'm'\n[log]\nlevel = 7\n")] {
        assert!(serve(&text).is_err(), "{text}");
    }
}

//! `kasho transforms`: what whoever writes rules asks, on real plugins and servers; and that
//! tokens which left come back to whoever has the key.

use serde_json::{Value, json};

use crate::filters::{settle, world};
use crate::harness::{Engine, Postgres, logs, python};
use crate::world::config;

#[tokio::test(flavor = "multi_thread")]
async fn plugins_say_what_they_do_without_being_run() {
    let engine = Engine::builder().plugin("filter").plugin("tokenize").build();
    engine.home().write_config("[plugins]\nfolder = \"plugins\"\n");
    let listed = engine.run(&["transforms", "list"]).await.success().stdout;
    for line in [
        "filter 1.1.0 (filter.wasm, rust)",
        "  keep",
        "    rule  \"public.orders\" = { keep = 'status == \"active\" && amount > 100' }",
        "    insert_only: boolean, default false. The same as drop_ops = [\"update\", \"delete\", \
         \"truncate\"]; the expression may then read any column.",
        "tokenize 1.0.0 (tokenize.wasm, rust)",
        "    in    ada@example.com",
        "    out   tok_RvCzVYgVCmceQC0Ldt7rkeaa7cDP03QkWe_ttBwHJA",
    ] {
        assert!(listed.lines().any(|found| found == line), "{line:?} is missing in\n{listed}");
    }
    let one = engine.run(&["transforms", "list", "tokenize"]).await.success().stdout;
    assert!(one.contains("detokenize") && !one.contains("filter"), "{one}");
    let json = engine.run(&["transforms", "list", "--json"]).await.success().stdout;
    let json: Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(json[0]["file"], "filter.wasm");
    assert_eq!(json[1]["plugin"]["transforms"][0]["options"][0]["name"], "domain");
    let none = engine.run(&["transforms", "list", "nothing-of-it"]).await;
    assert!(
        none.code == 1 && none.stderr.contains("is about \"nothing-of-it\""),
        "{}",
        none.stderr
    );
    // A plugin that is none, and one that says nothing, are named; the others are shown.
    engine.home().write("plugins/broken.wasm", "no module");
    engine.home().write("plugins/silent.wasm", b"\0asm\x01\0\0\0");
    let listed = engine.run(&["transforms", "list"]).await.success();
    assert!(listed.stderr.contains("broken.wasm: not a WebAssembly module"), "{}", listed.stderr);
    assert!(
        listed.stderr.contains("silent.wasm: it does not describe itself"),
        "{}",
        listed.stderr
    );
    assert!(listed.stdout.contains("tokenize 1.0.0"));
    // Without a configuration the folder can be named, and what is missing is told so.
    std::fs::remove_file(engine.home().config_path()).expect("remove");
    let lost = engine.run(&["transforms", "list"]).await;
    assert!(lost.code == 1 && lost.stderr.contains("--folder FOLDER"), "{}", lost.stderr);
    let named = engine.run(&["transforms", "list", "keep", "--folder", "plugins"]).await.success();
    assert!(named.stdout.contains("  keep"), "{}", named.stdout);
    let lost = engine.run(&["transforms", "detokenize", "--domain", "mail", "tok_abc"]).await;
    assert!(lost.code == 1 && lost.stderr.contains("--key-file FILE"), "{}", lost.stderr);
    let key = ["transforms", "detokenize", "--domain", "mail", "--key-file", "absent", "tok_abc"];
    let lost = engine.run(&key).await;
    assert!(lost.code == 1 && lost.stderr.contains("that this user may read"), "{}", lost.stderr);
    let gone = engine.run(&["transforms", "list", "--folder", "nowhere"]).await;
    assert!(gone.code == 1 && gone.stderr.contains("the folder nowhere"), "{}", gone.stderr);
}

const PEOPLE: &str = "
    CREATE TABLE people (id bigint PRIMARY KEY, email text NOT NULL, phone varchar(20), note text);
    CREATE TABLE \"Odd\" (k int PRIMARY KEY, v jsonb);
    CREATE PUBLICATION kasho_pub FOR ALL TABLES;";

/// A source and a configuration; Redis is not there and not needed.
async fn configured(pg: &Postgres, transforms: &str) -> Engine {
    let builder = Engine::builder().plugin("filter").plugin("tokenize");
    let text = config(&pg.url(), "redis://127.0.0.1:1", builder.home().grpc_port(), transforms);
    builder.home().write("key", format!("{:064x}", 0x1234_5678_9abc_def0_u64));
    builder.config(&format!("{text}[keys]\nk1 = {{ file = \"key\" }}\n")).build()
}

const TOKENS: &str = "[[transform]]\nname = \"tokens\"\nplugin = \"tokenize.wasm\"\n\
     tables = [\"public.people\"]\n[transform.rules]\n\"public.people.email\" = \"tokenize\"\n\
     \"public.people.id\" = \"pass\"\n";

#[tokio::test(flavor = "multi_thread")]
async fn what_has_no_rule_is_told_as_toml() {
    let pg = Postgres::start().await;
    pg.sql(PEOPLE).await;
    let engine = configured(&pg, TOKENS).await;
    let told = engine.run(&["transforms", "coverage"]).await;
    let want = "# public.people: under [transform.rules] of tokens\n\
                \"public.people.phone\" = \"?\"  # varchar\n\"public.people.note\" = \"?\"  # text\n\n";
    assert!(told.stdout.contains(want), "{}", told.stdout);
    let want = "# public.\"Odd\": no transform names it. Put it into `tables` of one, with these under its\n\
                # [transform.rules], or decide about all such tables: unruled_tables = \"drop\"\n\
                'public.\"Odd\".k' = \"?\"  # int4, identifies rows\n\
                'public.\"Odd\".v' = \"?\"  # jsonb\n\n";
    assert!(told.stdout.contains(want), "{}", told.stdout);
    assert!(
        told.code == 1 && told.stderr.contains("4 columns of 2 tables have no rule"),
        "{}",
        told.stderr
    );
    // Pasted as it is, it is refused: each is somebody's decision.
    let pasted = |rules: &str| {
        let text = std::fs::read_to_string(engine.home().config_path()).expect("read");
        engine.home().write_config(&text.replace("[keys]", &format!("{rules}[keys]")));
    };
    let tables = "tables = [\"public.people\"";
    let text = std::fs::read_to_string(engine.home().config_path()).expect("read");
    engine.home().write_config(&text.replace(tables, &format!("{tables}, 'public.\"Odd\"'")));
    pasted(&told.stdout);
    let refused = engine.run(&["transforms", "coverage"]).await;
    assert!(
        refused.code == 1 && refused.stderr.contains("there is no transform `?`"),
        "{}",
        refused.stderr
    );
    let text = std::fs::read_to_string(engine.home().config_path()).expect("read");
    engine.home().write_config(&text.replace("\"?\"", "\"pass\""));
    let whole = engine.run(&["transforms", "coverage"]).await.success();
    assert_eq!(whole.stdout, "every column of 2 tables has a rule, or needs none\n");
    // What else does not fit is told, too.
    let text = std::fs::read_to_string(engine.home().config_path()).expect("read");
    engine.home().write_config(&text.replace("public.people.note", "public.people.nope"));
    let wrong = engine.run(&["transforms", "coverage"]).await;
    assert!(wrong.code == 1 && wrong.stderr.contains("nope"), "{}", wrong.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_are_tried_and_nothing_is_published() {
    let pg = Postgres::start().await;
    let secret = logs::planted_unique("secret-mail");
    pg.sql(PEOPLE).await;
    pg.sql(&format!(
        "INSERT INTO people SELECT g, '{secret}' || g || '@x', NULL, 'n' || g FROM generate_series(1, 30) g"
    ))
    .await;
    let rules = format!(
        "{TOKENS}\"public.people.phone\" = \"pass\"\n\"public.people.note\" = \"drop\"\n\
         [transform.rename]\n\"public.people\" = \"crm.humans\"\n\"public.people.email\" = \"mail\"\n\
         [[transform]]\nname = \"rows\"\nplugin = \"filter.wasm\"\ntables = [\"public.*\"]\n\
         [transform.rules]\n\"public.people\" = {{ drop = 'id in (2, 4)' }}\n\"public.\\\"Odd\\\"\" = \"drop\"\n"
    );
    let engine = configured(&pg, &rules).await;
    let tried = engine
        .run(&["transforms", "try", "--table", "public.people", "--limit", "3"])
        .await
        .success();
    let lines: Vec<&str> = tried.stdout.lines().collect();
    assert_eq!(lines[0], "row 1 of public.people, leaves as crm.humans");
    assert_eq!(lines[1], "  id: «1 bytes» → \"1\" (as it is)");
    assert!(
        lines[2].starts_with("  email: «") && lines[2].contains(" bytes» → mail: \""),
        "{}",
        lines[2]
    );
    assert_eq!(lines[3], "  phone: NULL → NULL");
    assert_eq!(lines[4], "  note: «2 bytes» → (never leaves)");
    assert!(lines[5].starts_with("row 2: does not leave (id «1 bytes», email «"), "{}", lines[5]);
    assert_eq!(lines.len(), 11, "{}", tried.stdout);
    // The same rows out of a dump.
    let dump = engine.home().path().join("people.dump");
    let mut pg_dump = pg.tool("pg_dump");
    let file = std::fs::File::create(&dump).expect("create");
    let done = pg_dump.arg(pg.socket_url()).stdout(file).status().expect("pg_dump");
    assert!(done.success());
    let words =
        ["transforms", "try", "--table", "public.people", "--limit", "3", "--dump", "people.dump"];
    let dumped = engine.run(&words).await.success();
    assert_eq!(dumped.stdout, tried.stdout);
    // Originals only where they are asked for, and of what is nobody's secret.
    pg.sql("TRUNCATE people; INSERT INTO people VALUES (7, 'ada@example.com', '1', E'tab\\there')")
        .await;
    let shown = engine
        .run(&["transforms", "try", "--table", "public.people", "--show-source"])
        .await
        .success();
    let mail = shown.stdout.lines().find(|line| line.contains("email")).expect("email");
    assert!(mail.starts_with("  email: \"ada@example.com\" → mail: \""), "{mail}");
    assert!(shown.stdout.contains("  note: \"tab\\there\" → (never leaves)"), "{}", shown.stdout);
    let gone = engine.run(&["transforms", "try", "--table", "public.nope"]).await;
    assert!(
        gone.code == 1 && gone.stderr.contains("--table: there is no published table public.nope"),
        "{}",
        gone.stderr
    );
    // A row that a plugin refuses is told as such, without its values.
    pg.sql(&format!("ALTER TABLE people ALTER email TYPE varchar(60); INSERT INTO people VALUES (8, '{secret}{}', NULL, '')", "x".repeat(30))).await;
    let failed = engine.run(&["transforms", "try", "--table", "public.people"]).await;
    assert!(
        failed.code == 1 && failed.stderr.contains("1 of 2 rows are in error"),
        "{}",
        failed.stderr
    );
    assert!(failed.stdout.contains("the token is longer than the column"), "{}", failed.stdout);
}

const TOKENIZED: &str = "
        CREATE TABLE people (id bigint PRIMARY KEY, email text);
        CREATE TABLE leads (mail text PRIMARY KEY, boss text);
        CREATE PUBLICATION kasho_pub FOR ALL TABLES;
        INSERT INTO people SELECT g, 'user' || g || '@example.com' FROM generate_series(1, 200) g;
        INSERT INTO people VALUES (0, ''), (-1, NULL), (-2, 'Grüße'), (-3, repeat('long ', 5000));
        INSERT INTO leads VALUES ('user7@example.com', 'user7@example.com');";

const TOKEN_RULES: &str = "
        [keys]
        k1 = { file = \"key\" }
        [[transform]]
        name = \"tokens\"
        plugin = \"tokenize.wasm\"
        tables = [\"public.*\"]
        [transform.rules]
        \"public.people.email\" = { transform = \"tokenize\", domain = \"mail\", prefix = \"tok_\" }
        \"public.leads.mail\" = { transform = \"tokenize\", prefix = \"tok_\" }
        \"public.leads.boss\" = \"tokenize\"
        \"public.*.id\" = \"pass\"
    ";

#[tokio::test(flavor = "multi_thread")]
async fn tokens_that_left_come_back_to_the_keys_holder() {
    let world = world(TOKENIZED, &["tokenize"], TOKEN_RULES).await;
    world
        .pg
        .sql("UPDATE leads SET mail = 'user8@example.com'; DELETE FROM people WHERE id = 3")
        .await;
    settle(&world, "INSERT INTO people VALUES (1000, 'late@example.com')").await;
    let names = "public.people,public.leads";
    let output = python(include_str!("replay.py"), &[&world.redis.url(), "1", names]).await;
    assert_eq!(output.code, 0, "{}{}", output.stdout, output.stderr);
    let built: Value = serde_json::from_str(&output.stdout).expect("JSON");
    let rows = built["tables"]["public.people"].as_array().expect("rows");
    let mut tokens: Vec<(i64, String)> = rows
        .iter()
        .map(|row| row.as_str().expect("text").split_once('|').expect("two columns"))
        .map(|(id, token)| (id.parse().expect("id"), token.replace("\\N", "")))
        .collect();
    tokens.sort();
    assert_eq!(tokens.len(), 204);
    assert!(tokens.iter().all(|(id, token)| *id == -1 || token.starts_with("tok_")));
    let lines: String = tokens.iter().map(|(_, token)| format!("{token}\n")).collect();
    let detokenize = ["transforms", "detokenize", "--domain", "mail", "--prefix", "tok_"];
    let values = world.engine.home().run_typing(&detokenize, &lines).await.success().stdout;
    let want = world.pg.rows("SELECT coalesce(email, '') FROM people ORDER BY id").await;
    let want: Vec<String> = want.into_iter().map(|row| row[0].clone().expect("text")).collect();
    assert_eq!(values.lines().collect::<Vec<_>>(), want);
    // They join, and a key's change is that of its value.
    let of = |id: i64| tokens.iter().find(|(found, _)| *found == id).expect("row").1.clone();
    let lead = built["tables"]["public.leads"][0].as_str().expect("text");
    assert!(lead.starts_with(&format!("{}|", of(8))), "{lead}");
    // Another domain, another key and another text are told, and nothing else.
    let other = ["transforms", "detokenize", "--domain", "email", "--prefix", "tok_", &of(8)];
    let refused = world.engine.run(&other).await;
    assert_eq!(
        (refused.code, refused.stderr.as_str()),
        (1, "error: token 1: it is no token of this key and domain, or was changed\n")
    );
    world.engine.home().write("other", format!("{:064x}", 0xfeed_u64));
    let foreign = [
        "transforms",
        "detokenize",
        "--domain",
        "mail",
        "--prefix",
        "tok_",
        "--key-file",
        "other",
        &of(8),
    ];
    assert!(world.engine.run(&foreign).await.stderr.contains("no token of this key and domain"));
    let cut = ["transforms", "detokenize", "--domain", "mail", "tok_abc"];
    assert!(
        world.engine.run(&cut).await.stderr.contains("it is no token in this encoding, or was cut")
    );
    assert_eq!(built["columns"]["public.leads"], json!(["mail", "boss"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_of_the_original_are_taken_over() {
    let pg = Postgres::start().await;
    pg.sql(PEOPLE).await;
    let engine = Engine::builder().plugin("anonymize").build();
    let listed = engine.run(&["transforms", "list", "fake_email", "--folder", "plugins"]).await;
    let told = listed.success().stdout;
    assert!(told.contains("\n    columns text\n    unique  suffix\n"), "{told}");
    engine.home().write(
        "transforms.yml",
        "major_version: 0\ntables:\n  public.people:\n    email: FakeEmail\n    note: {type: Regex, \
         pattern: '[0-9]+', replacement: 'n'}\n  public.Odd:\n    v: FakeWhatever\n",
    );
    let taken = engine.run(&["transforms", "import", "transforms.yml"]).await;
    assert_eq!(taken.code, 1);
    let want = "transforms.yml:5: note: public.people.note: a value that the pattern does not match left \
                as it was there, and is an error here: see on_no_match\n\
                transforms.yml:7: public.\"Odd\".v: there is no type `FakeWhatever`\n\
                error: 1 things could not be carried over: their columns have no rule\n";
    assert_eq!(taken.stderr, want);
    // The engine takes it as it is, and tells what has no rule.
    let source = config(&pg.url(), "redis://127.0.0.1:1", engine.home().grpc_port(), "");
    engine.home().write("masking.key", format!("{:064x}", 0x1234_5678_9abc_def0_u64));
    engine.home().write_config(&format!("{source}{}", taken.stdout));
    engine.run(&["config", "check"]).await.success();
    let missing = engine.run(&["transforms", "coverage"]).await;
    for line in [
        "\"public.people.id\" = \"?\"  # int8, identifies rows",
        "'public.\"Odd\".v' = \"?\"  # jsonb",
    ] {
        assert!(missing.stdout.contains(line), "{}{}", missing.stdout, missing.stderr);
    }
    assert!(
        !missing.stdout.contains("people.email") && !missing.stdout.contains("people.note"),
        "{}",
        missing.stdout
    );
    let none = engine.run(&["transforms", "import", "none.yml"]).await;
    assert!(none.code == 1 && none.stderr.contains("none.yml"), "{}", none.stderr);
    engine.home().write("bad.yml", "tables:\n  a: {b\n");
    let bad = engine.run(&["transforms", "import", "bad.yml"]).await;
    assert!(bad.code == 1 && bad.stderr.contains("bad.yml: no YAML: line "), "{}", bad.stderr);
}

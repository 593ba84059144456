//! `kasho bootstrap --dump`: pg_dump in the middle of a bootstrap. Its file is private and
//! goes whatever happens, every step may be typed again, and what cannot work is refused
//! before anything is begun.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::harness::{Output, clients_of, eventually, repository};
use crate::world::{World, Writer, loaded};

/// The usual pg_dump, which notes what it was given and what its file looked like, and runs
/// the script `hook` of the folder first.
const PG_DUMP: &str = r#"#!/bin/bash
home="$(dirname "$0")"
case "$1" in --version | --help) exec pg_dump "$1" ;; esac
echo "$*" >> "$home/arguments"
echo "$PGOPTIONS" >> "$home/options"
if [ -e "$home/hook" ]; then . "$home/hook"; fi
pg_dump "$@"; code=$?
while [ $# -gt 0 ]; do if [ "$1" = --file ]; then file="$2"; fi; shift; done
stat -c %a "$file" "$(dirname "$file")" >> "$home/modes"
exit $code
"#;

/// Where the dumps go, and the arguments that say so.
struct Place {
    home: PathBuf,
    dumps: PathBuf,
    program: PathBuf,
}

impl Place {
    async fn of(world: &World) -> Place {
        let home = world.engine.home().path().to_owned();
        let program = home.join("pg_dump.sh");
        let path =
            format!("#!/bin/bash\nPATH=\"{}:$PATH\"\n", clients_of(&world.pg).await.display());
        std::fs::write(&program, PG_DUMP.replace("#!/bin/bash\n", &path)).expect("write");
        std::fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).expect("chmod");
        Place { dumps: home.join("dumps"), home, program }
    }

    fn arguments<'a>(&'a self, more: &[&'a str]) -> Vec<&'a str> {
        let text = |path: &'a Path| path.to_str().expect("UTF-8");
        let own = ["bootstrap", "--dump", "--dump-dir", text(&self.dumps)];
        [&own[..], &["--pg-dump", text(&self.program)], more].concat()
    }

    fn noted(&self, name: &str) -> String {
        std::fs::read_to_string(self.home.join(name)).unwrap_or_default()
    }

    /// Folders of dumps that are there.
    fn left(&self) -> Vec<String> {
        let entries = std::fs::read_dir(&self.dumps).into_iter().flatten().flatten();
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
    }
}

fn says(output: &Output, words: &[&str]) {
    let all = format!("{}{}", output.stdout, output.stderr);
    for word in words {
        assert!(all.contains(word), "no word of {word:?} in {all}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dump_is_taken_loaded_and_removed() {
    let world = World::start(5_000).await;
    let writer = Writer::start(&world.pg, 5_000).await;
    writer.more(100).await;
    let place = Place::of(&world).await;
    let output = world.engine.run(&place.arguments(&["--yes"])).await.success();
    let steps: Vec<String> = (1..=6).map(|n| format!("step {n} of 6")).collect();
    says(&output, &steps.iter().map(String::as_str).collect::<Vec<_>>());
    says(&output, &["state: STREAMING", "the dump is removed"]);
    assert_eq!(place.noted("modes"), "600\n700\n", "nobody else may read it");
    let arguments = place.noted("arguments");
    assert!(arguments.contains("--snapshot=") && arguments.contains("--data-only"), "{arguments}");
    assert!(arguments.contains("--table=\"public\".\"ledger\""), "{arguments}");
    let password = world.pg.url();
    let password = password.split([':', '@']).nth(2).expect("password");
    assert!(!arguments.contains(password), "no password on a command line");
    let options = place.noted("options");
    assert!(options.contains("timezone=UTC") && options.contains("bytea_output=hex"), "{options}");
    assert!(place.left().is_empty(), "{:?}", place.left());
    let last = writer.finish().await;
    let told = world.check_ledger(last + 1).await;
    assert!(told.contains("problems 0"), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_step_may_be_typed_again() {
    // There has to be some of it left at both interruptions: it waits for room.
    const ROWS: u64 = 200_000;
    let room = |mib: u32| format!("[redis.budget]\nbootstrap = \"{mib}MiB\"\n");
    let world = World::start(ROWS).await;
    let writer = Writer::start(&world.pg, ROWS).await;
    let place = Place::of(&world).await;
    let typed = place.arguments(&[]);

    // pg_dump fails: its file goes, the snapshot stays.
    std::fs::write(place.home.join("hook"), "echo 'pg_dump: error: no luck' >&2; exit 3").unwrap();
    let output = world.engine.run(&typed).await;
    assert_eq!(output.code, 1);
    says(&output, &["pg_dump failed", "no luck", "tries again"]);
    assert!(place.left().is_empty(), "{:?}", place.left());
    assert_eq!(world.status().await["state"], "ACCUMULATING");
    std::fs::remove_file(place.home.join("hook")).unwrap();

    // Ctrl-C while the rows are on their way: the file goes, what is loaded stays.
    world.configure(&room(1));
    let running = world.engine.spawn(&typed);
    eventually("rows", async || (world.entries("bootstrap").await > 0).then_some(())).await;
    running.signal("INT");
    assert_eq!(running.wait_exit().await.code(), Some(1));
    assert!(place.left().is_empty(), "{:?}", place.left());
    let more = world.entries("bootstrap").await;
    assert!(more < ROWS, "interrupted too late to show anything");

    // kill -9: nobody is left to remove it.
    world.configure(&room(4));
    let running = world.engine.spawn(&typed);
    eventually("rows", async || (world.entries("bootstrap").await > more).then_some(())).await;
    running.kill9().await;
    assert_eq!(place.left(), ["kasho-dump-kasho_slot-e1"]);

    // Without a terminal it stays in ACCUMULATING and says how to go on.
    world.configure("");
    let output = world.engine.run(&typed).await.success();
    let words = ["going on with epoch 1", "the dump of epoch 1 is there already", "earlier runs"];
    says(&output, &words);
    says(&output, &["kasho.ChangeStreamService/CompleteBootstrap"]);
    assert_eq!(world.status().await["state"], "ACCUMULATING");
    assert!(place.left().is_empty(), "{:?}", place.left());
    let dumps = place.noted("arguments").lines().count();
    assert_eq!(dumps, 3, "one that failed, two that were loaded in parts");

    let output = world.engine.run(&place.arguments(&["--yes"])).await.success();
    says(&output, &["the dump is loaded already", "state: STREAMING"]);
    let last = writer.finish().await;
    let told = world.check_ledger(last + 1).await;
    assert!(told.contains("problems 0"), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn compressed_parallel_and_kept() {
    let world = World::start(3_000).await;
    let place = Place::of(&world).await;
    for (epoch, more) in
        [(1, &["--compress"][..]), (2, &["--jobs=2"]), (3, &["--keep-dump", "--compress=1"])]
    {
        let output = world.engine.run(&place.arguments(&[more, &["--yes"]].concat())).await;
        says(&output.success(), &["state: STREAMING"]);
        assert_eq!(loaded(&world.redis, epoch).await, 3_001, "epoch {epoch}");
        assert_eq!(place.left().is_empty(), epoch < 3, "epoch {epoch}");
        world.engine.run(&["reset", "--yes"]).await.success();
    }
    let kept = place.dumps.join("kasho-dump-kasho_slot-e3");
    let mode = std::fs::metadata(&kept).expect("kept").permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
    let head = std::fs::read(kept.join("dump")).expect("kept");
    assert_eq!(&head[..2], b"\x1f\x8b", "gzip");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_work_is_refused_before_anything_is_begun() {
    let world = World::start(10).await;
    let place = Place::of(&world).await;
    let refused = async |arguments: &[&str], words: &[&str]| {
        let output = world.engine.run(arguments).await;
        assert_eq!(output.code, 1, "{arguments:?} was accepted: {}", output.stdout);
        says(&output, words);
        assert_eq!(world.status().await["state"], "WAITING");
        assert_eq!(world.pg.value("SELECT count(*) FROM pg_replication_slots").await, "0");
    };
    // There is never any room.
    let full = ["bootstrap", "--dump", "--dump-dir", "/sys/kasho"];
    refused(&full, &["/sys/kasho has 0 B free", "--dump-dir", "--direct"]).await;
    let nowhere = ["bootstrap", "--dump", "--pg-dump", "/nowhere/pg_dump"];
    refused(&nowhere, &["/nowhere/pg_dump", "postgresql-client-", "--pg-dump"]).await;
    std::fs::write(&place.program, "#!/bin/sh\necho 'pg_dump (PostgreSQL) 9.6.24'\n").unwrap();
    refused(&place.arguments(&[]), &["of version 9", "postgresql-client-"]).await;
    std::fs::write(&place.program, "#!/bin/sh\necho 'no pg_dump'\n").unwrap();
    refused(&place.arguments(&[]), &["is no pg_dump's answer"]).await;
    std::fs::write(&place.program, PG_DUMP).unwrap();
    // In one transaction: the engine, which may be starting still, needs one of that name.
    let another = "ALTER PUBLICATION kasho_pub RENAME TO all_of_it;
                   CREATE PUBLICATION kasho_pub FOR TABLE ledger";
    world.pg.sql(another).await;
    // 14 has no row filters.
    if world.pg.version().await >= 15 {
        world.pg.sql("ALTER PUBLICATION kasho_pub SET TABLE ledger WHERE (id > 5)").await;
        refused(&place.arguments(&[]), &["public.ledger", "row filter", "--direct"]).await;
    }
    std::fs::create_dir_all(place.dumps.join("kasho-dump-kasho_slot-e1")).unwrap();
    world.pg.sql("ALTER PUBLICATION kasho_pub SET TABLE ledger").await;
    let output = world.engine.run(&place.arguments(&[])).await;
    assert_eq!(output.code, 1, "{}", output.stdout);
    says(&output, &["no folder closed to others"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_fills_up_while_the_dump_is_written_ends_it_in_time() {
    let world = World::start(2_000).await;
    let place = Place::of(&world).await;
    // A file system of its own, which goes with the process; somebody else fills it.
    std::fs::create_dir(&place.dumps).expect("folder");
    let fill = "head -c 80M /dev/zero > \"$home/dumps/else\"; exec sleep 600\n";
    std::fs::write(place.home.join("hook"), fill).expect("hook");
    let script = "unshare --map-root-user --mount sh -c 'mount -t tmpfs -o size=128m,mode=700 none dumps \
         && exec \"$KASHO\" bootstrap --yes --dump --dump-dir \"$PWD/dumps\" --pg-dump \"$PWD/pg_dump.sh\"'";
    let output = world.engine.shell(script).await;
    assert_eq!(output.code, 1, "{}{}", output.stdout, output.stderr);
    says(&output, &["nearly full (", "the dump was given up", "--dump-dir", "--compress"]);
    // Slot and snapshot stay: with room the same command goes on.
    assert_eq!(world.status().await["state"], "ACCUMULATING");
    std::fs::remove_file(place.home.join("hook")).expect("hook");
    let output = world.engine.run(&place.arguments(&["--yes"])).await.success();
    says(&output, &["state: STREAMING", "the dump is removed"]);
    let told = world.check_ledger(2_001).await;
    assert!(told.contains("loaded 2000") && told.contains("problems 0"), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_script_asks_on_a_terminal() {
    let world = World::start(100).await;
    let home = world.engine.home().path();
    let script = repository().join("config/container/bootstrap-kasho.sh");
    std::fs::copy(script, home.join("bootstrap-kasho.sh")).expect("copy");
    let on_a_terminal = async |answer: &str, command: &str| {
        let shell = format!(
            "mkdir -p bin; ln -sf \"$KASHO\" bin/kasho; export PATH=\"$PWD/bin:$PATH\"
             printf '{answer}' | script -qec '{command}' /dev/null"
        );
        world.engine.shell(&shell).await.success()
    };
    let output = on_a_terminal("n\\n", "./bootstrap-kasho.sh").await;
    says(&output, &["step 1 of 6", "step 3 of 6", "step 6 of 6", "Switch to STREAMING now?"]);
    says(&output, &["grpcurl -plaintext", "CompleteBootstrap"]);
    assert_eq!(world.status().await["state"], "ACCUMULATING");
    let output = on_a_terminal("y\\n", "./bootstrap-kasho.sh").await;
    says(&output, &["going on with epoch 1", "state: STREAMING"]);
    world.engine.run(&["reset", "--yes"]).await.success();
    let automatic = "env WAIT_FOR_BOOTSTRAP=true ./bootstrap-kasho.sh --dump --dump-dir=dumps";
    let output = on_a_terminal("", automatic).await;
    says(&output, &["step 4 of 6", "the dump is removed", "state: STREAMING"]);
    assert!(!output.stdout.contains("Switch to STREAMING"), "{}", output.stdout);
}

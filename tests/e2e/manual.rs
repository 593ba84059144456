//! The README's chapter on the bootstrap, typed as it stands: every block of it is taken
//! from the text and run. Put in are the names of hosts (with Redis' password), and what an
//! earlier step printed; `grpcurl` and `docker` are small programs on the PATH that do the
//! same with what is here.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout};

use crate::harness::python::interpreter;
use crate::harness::{Output, Postgres, Redis, eventually, repository};
use crate::readme::block;
use crate::states;
use crate::world::{World, Writer};

/// As grpcurl, by Python's grpcio and server reflection.
const GRPCURL: &str = r#"#!/bin/bash
body='{}'
while true; do
  case "$1" in
    -plaintext) shift ;;
    -d) body="$2"; shift 2 ;;
    *) break ;;
  esac
done
exec PYTHON -I HOME/grpcurl.py "$1" "$2" "$body"
"#;

/// As docker, on this machine: a container is the engine's folder, an image is the PATH.
const DOCKER: &str = r#"#!/bin/bash
call="$1"; shift
case "$call" in
  run)
    while true; do
      case "$1" in
        --rm) shift ;;
        -v) from="${2%%:*}"; to="${2#*:}"; shift 2 ;;
        --network) shift 2 ;;
        *) break ;;
      esac
    done
    shift
    arguments=()
    for word in "$@"; do arguments+=("${word//$to\//$from/}"); done
    exec env -u KASHO_CONFIG -u KV_URL "${arguments[@]}" ;;
  exec)
    if [ "$1" = -it ]; then shift; fi
    shift
    cd HOME
    exec env KASHO_CONFIG=HOME/kasho.toml "$@" ;;
  stop)
    touch HOME/stop
    while [ -e HOME/stop ]; do sleep 0.1; done ;;
  start)
    touch HOME/start
    while [ -e HOME/start ]; do sleep 0.1; done ;;
esac
"#;

/// Where the chapter is typed.
struct Site {
    world: World,
    folder: PathBuf,
}

impl Site {
    async fn start(rows: u64) -> Site {
        let (pg, redis) = tokio::join!(Postgres::start(), Redis::start());
        let world = World::with(pg, redis, rows, "").await;
        let home = world.engine.home().path().to_owned();
        let python = tokio::task::spawn_blocking(interpreter).await.expect("interpreter");
        let folder = home.join("work");
        for name in ["work", "bin"] {
            std::fs::create_dir(home.join(name)).expect("folder");
        }
        std::fs::write(home.join("grpcurl.py"), include_str!("grpcurl.py")).expect("write");
        let fill = |text: &str| {
            let text = text.replace("HOME", &home.display().to_string());
            text.replace("PYTHON", &python.display().to_string())
        };
        let script = repository().join("config/container/bootstrap-kasho.sh");
        std::fs::copy(script, home.join("bootstrap-kasho.sh")).expect("script");
        for (name, text) in [("grpcurl", GRPCURL), ("docker", DOCKER)] {
            let path = home.join("bin").join(name);
            std::fs::write(&path, fill(text)).expect("write");
            std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).expect("chmod");
        }
        let links = "ln -s \"$KASHO\" bin/kasho; ln -s \"$KASHO\" bin/pg-bootstrap-sync";
        world.engine.shell(links).await.success();
        Site { world, folder }
    }

    /// A block of the chapter with the names of hosts, and `<…>`, put in.
    fn text(&self, info: &str, put_in: &[(&str, &str)]) -> String {
        let grpc = format!("127.0.0.1:{}", self.world.engine.home().grpc_port());
        let mut text = block(info)
            .replace("pg-change-stream:50051", &grpc)
            .replace("redis://redis:6379", &self.world.redis.url());
        for (name, value) in put_in {
            text = text.replace(name, value);
        }
        let open = |line: &&str| line.contains("<") && !line.trim_start().starts_with('#');
        assert_eq!(text.lines().find(open), None, "{info} wants something to be put in");
        text
    }

    /// What stands before a block: where it is typed.
    fn shell(&self) -> String {
        let home = self.world.engine.home().path().display();
        format!(
            "cd {}; unset KASHO_CONFIG; export PATH={home}/bin:$PATH\n\
             export PRIMARY_DATABASE_URL='{}'\n",
            self.folder.display(),
            self.world.pg.url()
        )
    }

    async fn sh(&self, info: &str, put_in: &[(&str, &str)]) -> Output {
        let script = format!("{}{}", self.shell(), self.text(info, put_in));
        self.world.engine.shell(&script).await
    }

    async fn sql(&self, info: &str, put_in: &[(&str, &str)]) -> String {
        self.world.pg.psql(&self.text(info, put_in)).await
    }

    /// GetStatus, as the chapter asks for it.
    async fn status(&self) -> Value {
        let output = self.sh("sh bootstrap-check", &[]).await.success();
        serde_json::from_str(output.stdout.lines().last().expect("an answer")).expect("JSON")
    }
}

/// The session of step 1: psql, kept open.
struct Session {
    _child: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
}

impl Session {
    async fn open(site: &Site) -> Session {
        let script = format!("{}{}", site.shell(), site.text("sh bootstrap-step-1", &[]));
        // A pipe is no terminal: without stdbuf its lines would come at the end.
        let mut command = tokio::process::Command::new("stdbuf");
        command.args(["-oL", "bash", "-euc", &script]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().expect("psql");
        let (input, output) = (child.stdin.take(), child.stdout.take());
        let output = BufReader::new(output.expect("piped")).lines();
        Session { _child: child, input: input.expect("piped"), output }
    }

    /// Types a statement and waits for a line that begins with `answer`.
    async fn type_in(&mut self, statement: &str, answer: &str) -> String {
        self.input.write_all(statement.as_bytes()).await.expect("psql");
        let look = async {
            while let Some(line) = self.output.next_line().await.expect("psql") {
                if line.trim_start().starts_with(answer) {
                    return line;
                }
            }
            panic!("psql ended without {answer:?}");
        };
        tokio::time::timeout(crate::harness::PATIENCE, look).await.expect("psql answers")
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_manual_path_is_typed_as_it_stands() {
    let site = Site::start(3_000).await;
    let world = &site.world;
    let writer = Writer::start(&world.pg, 3_000).await;
    writer.more(200).await;
    assert_eq!(site.status().await["state"], "WAITING");

    let mut session = Session::open(&site).await;
    let create = site.text("sql bootstrap-step-1", &[]);
    let made = session.type_in(&create, "kasho_temp_slot").await;
    let columns: Vec<&str> = made.split('|').map(str::trim).collect();
    let [_, lsn, snapshot, _] = columns[..] else { panic!("{made}") };
    let put_in = [("<lsn-from-step-1>", lsn), ("<snapshot-from-step-1>", snapshot)];
    writer.more(200).await;

    let started = site.sh("sh bootstrap-step-2", &put_in).await.success();
    assert!(started.stdout.contains("ACCUMULATING") && started.stdout.contains(lsn), "{started:?}");
    writer.more(200).await;
    site.sh("sh bootstrap-step-3", &put_in).await.success();

    // The large ones, and a look at what they would do.
    site.sh("sh bootstrap-compressed", &put_in).await.success();
    site.sh("sh bootstrap-parallel", &put_in).await.success();
    let dry = site.sh("sh bootstrap-dry-run", &[]).await.success();
    assert!(dry.stdout.contains("nothing was published"), "{}", dry.stdout);
    assert_eq!(world.entries("bootstrap").await, 0);

    let early = site.sh("sh bootstrap-step-5", &[]).await;
    assert!(early.code == 1 && early.stdout.contains("has not finished"), "{}", early.stdout);
    let loaded = site.sh("sh bootstrap-step-4", &[]).await.success();
    assert!(loaded.stdout.contains("loaded: "), "{}", loaded.stdout);
    let watched = eventually("the load to be seen as finished", async || {
        let watched = site.sh("sh bootstrap-watch", &[]).await.success();
        watched.stdout.contains("finished").then_some(watched)
    })
    .await;
    for word in ["accumulatedChanges", "ACCUMULATING", "external: ", "(100 %)"] {
        assert!(watched.stdout.contains(word), "no {word:?} in {}", watched.stdout);
    }

    session.type_in(&site.text("sql bootstrap-step-5", &[]), "pg_drop_replication_slot").await;
    let completed = site.sh("sh bootstrap-step-5", &[]).await.success();
    assert!(completed.stdout.contains("STREAMING"), "{}", completed.stdout);
    drop(session);
    assert_eq!(world.pg.value("SELECT count(*) FROM pg_replication_slots").await, "1");
    let last = writer.finish().await;
    let told = world.check_ledger(last + 1).await;
    assert!(told.contains("problems 0"), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_lsn_without_its_slot_is_refused() {
    let site = Site::start(10).await;
    let lsn = site.world.pg.value("SELECT pg_current_wal_lsn()").await;
    let put_in = [("<lsn-from-step-1>", lsn.as_str()), ("<snapshot-from-step-1>", "0-0-1")];
    let refused = site.sh("sh bootstrap-step-2", &put_in).await;
    assert_eq!(refused.code, 1, "{}", refused.stdout);
    assert!(refused.stdout.contains("temporary pgoutput slots"), "{}", refused.stdout);
    assert_eq!(site.status().await["state"], "WAITING");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_command_in_the_container_and_every_trouble() {
    let mut site = Site::start(500).await;
    let state = async |site: &Site| site.status().await["state"].clone();

    // Asked on a terminal, and no is an answer.
    let script = format!("{}{}", site.shell(), site.text("sh bootstrap-interactive", &[]));
    let typed = site.folder.join("interactive.sh");
    std::fs::write(&typed, script).expect("write");
    let on_a_terminal = format!("printf 'n\\n' | script -qec 'bash {}' /dev/null", typed.display());
    let output = site.world.engine.shell(&on_a_terminal).await.success();
    assert!(output.stdout.contains("Switch to STREAMING now?"), "{}", output.stdout);
    assert_eq!(state(&site).await, "ACCUMULATING");
    let output = site.sh("sh bootstrap-automatic", &[]).await.success();
    assert!(output.stdout.contains("state: STREAMING"), "{}", output.stdout);

    // Stop, drop, start: nobody reads the slot then.
    let script = format!("{}{}", site.shell(), site.text("sh bootstrap-drop", &[]));
    let running = site.world.engine.spawn_shell(&script);
    let home = site.world.engine.home().path().to_owned();
    eventually("docker stop", async || home.join("stop").exists().then_some(())).await;
    assert!(site.world.engine.terminate().await.success());
    eventually("the server to see that", async || {
        let active = "SELECT count(*) FROM pg_replication_slots WHERE active";
        (site.world.pg.value(active).await == "0").then_some(())
    })
    .await;
    std::fs::remove_file(home.join("stop")).expect("stop");
    eventually("docker start", async || home.join("start").exists().then_some(())).await;
    site.world.engine.start_again();
    std::fs::remove_file(home.join("start")).expect("start");
    assert!(running.wait_exit().await.success(), "{:?}", running.lines());
    eventually("the engine to miss its slot", async || {
        let status = site.world.try_status().await?;
        status["last_error"].as_str()?.contains("is gone although the state was").then_some(())
    })
    .await;
    assert_eq!(state(&site).await, "WAITING");

    // A slot that is there already.
    site.world.pg.sql("SELECT pg_create_logical_replication_slot('kasho_slot', 'pgoutput')").await;
    let refused = states::call(&site.world, "StartBootstrap", "{}", "0").await;
    assert!(refused.stdout.contains("\"kasho_slot\" already exists"), "{}", refused.stdout);
    let slots = site.sql("sql bootstrap-slots", &[]).await;
    assert!(slots.contains("kasho_slot"), "{slots}");
    site.sh("sh bootstrap-reset", &[]).await.success();
    assert_eq!(site.sql("sql bootstrap-slots", &[]).await, "");

    // A transaction that the slot waits for.
    let other = site.world.pg.client().await;
    other.batch_execute("BEGIN; SELECT txid_current()").await.expect("transaction");
    let script = format!("{}{}", site.shell(), site.text("sh bootstrap-automatic", &[]));
    let running = site.world.engine.spawn_shell(&script);
    let pid = eventually("the one it waits for", async || {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let status = site.world.try_status().await?;
        status["load"]["blocking_pid"].as_u64().filter(|pid| *pid > 0)
    })
    .await;
    assert!(site.status().await["load"]["blocking"].to_string().contains(&pid.to_string()));
    site.sql("sql bootstrap-stuck", &[("<pid-from-status>", &pid.to_string())]).await;
    assert!(running.wait_exit().await.success(), "{:?}", running.lines());
    assert_eq!(state(&site).await, "STREAMING");
}

//! What the image is made of, without a container engine: the install script into an empty
//! folder, the document's commands typed there, the files held against one another.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use crate::harness::engine::binary;
use crate::harness::process::Voice;
use crate::harness::{
    Output, Postgres, Process, Redis, eventually, free_port, get, guest, logs, python, repository,
};
use crate::world::{LEDGER, fill, loaded};

/// Runs install.sh into `root`, as the Dockerfile does.
async fn install(root: &Path) -> Output {
    let (program, plugin) =
        tokio::task::spawn_blocking(|| (binary().to_owned(), guest("anonymize"))).await.unwrap();
    let mut command = Command::new(repository().join("config/container/install.sh"));
    command.arg(program).arg(plugin).env("DESTDIR", root).env("APP", "/app");
    Output::of(command, "").await
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap_or_else(|e| panic!("{}: {e}", path.display())).permissions().mode()
        & 0o777
}

#[tokio::test(flavor = "multi_thread")]
async fn the_install_script_makes_what_the_document_names() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    install(root).await.success();
    for (path, expected) in [
        ("usr/local/bin/kasho", 0o755),
        ("app/bootstrap-kasho.sh", 0o755),
        ("etc/kasho/kasho.toml", 0o640),
        ("etc/kasho/plugins/anonymize.wasm", 0o644),
        ("usr/local/lib/systemd/system/kasho.service", 0o644),
        ("usr/local/share/kasho/setup.sql", 0o644),
        ("usr/local/share/kasho/ddl.sql", 0o644),
        ("var/lib/kasho", 0o700),
    ] {
        assert_eq!(mode(&root.join(path)), expected, "{path}");
    }
    for name in ["pg-change-stream", "pg-bootstrap-sync", "pg-translicator"] {
        let link = fs::read_link(root.join("usr/local/bin").join(name)).unwrap();
        assert_eq!(link, Path::new("kasho"), "{name}");
    }
    // An operator's configuration stays; the new one is put beside it.
    let config = root.join("etc/kasho/kasho.toml");
    fs::write(&config, "# mine\n").unwrap();
    let again = install(root).await.success();
    assert!(again.stdout.contains("kasho.toml.new"), "{}", again.stdout);
    assert_eq!(fs::read_to_string(&config).unwrap(), "# mine\n");
    let new = fs::read_to_string(config.with_extension("toml.new")).unwrap();
    assert!(new.contains("\nstore = \"/var/lib/kasho/store\"\n"));

    let mut wrong = Command::new(repository().join("config/container/install.sh"));
    wrong.arg("/no/such/binary").env("DESTDIR", root);
    assert_eq!(Output::of(wrong, "").await.code, 2);
}

/// A machine made by the install script, with the document's commands on its PATH.
struct Machine {
    folder: tempfile::TempDir,
    env: Vec<(String, String)>,
    http_port: u16,
}

impl Machine {
    async fn new(pg: &Postgres, redis: &Redis) -> Machine {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        install(root).await.success();
        // The paths of the configuration are those of the machine.
        let config = root.join("etc/kasho/kasho.toml");
        let state = root.join("var/lib/kasho").display().to_string();
        let text = fs::read_to_string(&config).unwrap().replace("/var/lib/kasho", &state);
        let text = text.replace("#state_dir", "state_dir");
        let text = text.replace("#listen = \"127.0.0.1:8052\"", "listen = \"127.0.0.1:0\"");
        fs::write(&config, text).unwrap();
        // grpcurl in Python, with the name of the container resolved.
        let (grpc, http_port) = (free_port(), free_port());
        fs::write(root.join("grpcurl.py"), include_str!("grpcurl.py")).unwrap();
        let shim = root.join("usr/local/bin/grpcurl");
        let interpreter = python("import sys; print(sys.executable)", &[]).await.success();
        let script = format!(
            "#!/bin/sh\n[ \"$1\" = -plaintext ] && shift\njson='{{}}'\n\
             [ \"$1\" = -d ] && {{ json=$2; shift 2; }}\n\
             [ \"$1\" = pg-change-stream:50051 ] && address=127.0.0.1:{grpc}\n\
             exec {} {}/grpcurl.py \"$address\" \"$2\" \"$json\"\n",
            interpreter.stdout.trim(),
            root.display()
        );
        fs::write(&shim, script).unwrap();
        fs::set_permissions(&shim, fs::Permissions::from_mode(0o755)).unwrap();
        let path = format!("{}:/usr/bin:/bin", root.join("usr/local/bin").display());
        let env = [
            ("PATH", path),
            ("KASHO_CONFIG", config.display().to_string()),
            ("PRIMARY_DATABASE_URL", pg.url()),
            ("KV_URL", redis.url()),
            ("GRPC_PORT", grpc.to_string()),
            ("HTTP_PORT", http_port.to_string()),
        ];
        let env = env.map(|(key, value)| (key.to_owned(), value)).into();
        Machine { folder, env, http_port }
    }

    /// A shell in the working folder, as `docker exec` opens one.
    fn shell(&self, line: &str) -> Command {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", line]).current_dir(self.folder.path().join("app")).env_clear();
        command.envs(self.env.iter().map(|(key, value)| (key, value)));
        command
    }

    async fn type_line(&self, line: &str) -> Output {
        let output = Output::of(self.shell(line), "").await;
        output.search("machine");
        output
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_documents_commands_work_where_the_script_has_installed() {
    let (pg, redis) = tokio::join!(Postgres::start(), Redis::start());
    pg.sql(LEDGER).await;
    fill(&pg, 1, 50).await;
    let machine = Machine::new(&pg, &redis).await;
    let service = Process::spawn("machine", machine.shell("exec pg-change-stream"), Voice::Engine);
    let mut service = service.expect("setpriv");
    eventually("the service", async || {
        get(machine.http_port, "/readyz").await.filter(|(code, _)| *code == 200)
    })
    .await;

    let status = "grpcurl -plaintext pg-change-stream:50051 kasho.ChangeStreamService/GetStatus";
    let waiting = machine.type_line(&format!("{status} | grep '\"state\": \"WAITING\"'")).await;
    waiting.success();
    let health = python(include_str!("container.py"), &[&config_folder()]).await;
    assert_eq!(health.code, 0, "{}", health.stderr);
    let health: Vec<String> = serde_json::from_str(&health.stdout).expect("JSON");
    let probe = |port: u16| {
        let mut probe = Command::new(&health[0]);
        probe.arg(&health[1]).arg(health[2].replace("/8051", &format!("/{port}")));
        Output::of(probe, "")
    };
    assert_eq!(probe(machine.http_port).await.code, 0, "the image's health check");
    assert_ne!(probe(free_port()).await.code, 0, "and it can fail");

    let script = machine.type_line("env WAIT_FOR_BOOTSTRAP=true ./bootstrap-kasho.sh").await;
    script.success();
    let streaming = machine.type_line(&format!("{status} | grep '\"state\": \"STREAMING\"'")).await;
    streaming.success();
    assert_eq!(loaded(&redis, 1).await, 51);
    let told = machine.type_line("kasho status").await.success();
    assert!(told.stdout.contains("STREAMING"), "{}", told.stdout);
    // Under its other name the program fills a target.
    let target = Postgres::start_target().await;
    target.sql(LEDGER).await;
    let line = format!("REPLICA_DATABASE_URL='{}' pg-translicator --until-caught-up", target.url());
    machine.type_line(&line).await.success();
    let rows = "SELECT count(*) FROM ledger";
    assert_eq!(target.value(rows).await, pg.value(rows).await);
    service.signal("TERM");
    assert!(service.wait_exit().await.success());
    service.finish();
    logs::verify("machine");
}

fn config_folder() -> String {
    repository().join("config").display().to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_containers_configurations_are_such() {
    let folder = tempfile::tempdir().unwrap();
    let secrets = folder.path().display().to_string();
    for name in ["primary_database_url", "replica_database_url"] {
        let secret = folder.path().join(name);
        fs::write(&secret, "postgresql://kasho@db.example/app\n").unwrap();
    }
    let program = tokio::task::spawn_blocking(binary).await.unwrap();
    for name in ["kasho.toml", "translicator.toml"] {
        let text = fs::read_to_string(repository().join("config/container").join(name)).unwrap();
        let path = folder.path().join(name);
        fs::write(&path, text.replace("/run/secrets", &secrets)).unwrap();
        let mut check = Command::new(program);
        check.arg("--config").arg(&path).args(["config", "check"]).env_clear();
        Output::of(check, "").await.success();
    }
}

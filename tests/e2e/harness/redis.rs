//! A Redis or Valkey server of a test's own: temporary folder, free port, a password
//! that is a canary of the log register.
//!
//! `KASHO_TEST_REDIS` names the program; without it `redis-server`, else `valkey-server`.

use std::fs;
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use super::process::{Process, Voice};
use super::{PATIENCE, free_port, logs, unique};

/// A Redis server. Dropping it kills it and removes its folder.
pub(crate) struct Redis {
    process: Process,
    folder: TempDir,
    program: String,
    settings: Vec<(String, String)>,
    port: u16,
    password: String,
}

/// What a server shall be like.
#[derive(Default)]
pub(crate) struct Builder {
    settings: Vec<(String, String)>,
}

impl Builder {
    /// A line of `redis.conf`; later ones win.
    pub(crate) fn setting(mut self, key: &str, value: &str) -> Builder {
        self.settings.push((key.to_owned(), value.to_owned()));
        self
    }

    /// An append-only file, with `appendfsync` as given (`always`, `everysec`, `no`).
    pub(crate) fn append_only(self, fsync: &str) -> Builder {
        self.setting("appendonly", "yes").setting("appendfsync", fsync)
    }

    /// Starts the server and returns when it accepts connections.
    pub(crate) async fn start(self) -> Redis {
        let folder = tempfile::Builder::new().prefix("kasho-redis-").tempdir().expect("folder");
        let password = logs::planted(format!("redispass-{}", unique()));
        let mut settings: Vec<(String, String)> = [
            ("bind", "127.0.0.1"),
            ("save", ""),
            ("appendonly", "no"),
            ("maxmemory-policy", "noeviction"),
            ("requirepass", &password),
            // A replica of this one asks its master with it.
            ("masterauth", &password),
        ]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into();
        settings.extend(self.settings);
        let program = program();
        let (port, process) = launch(&program, &settings, folder.path(), None).await;
        Redis { process, folder, program, settings, port, password }
    }
}

impl Redis {
    /// A server that keeps everything in memory only.
    pub(crate) async fn start() -> Redis {
        Redis::builder().start().await
    }

    /// Settings for a server to be.
    pub(crate) fn builder() -> Builder {
        Builder::default()
    }

    /// Its port on 127.0.0.1.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Its password.
    pub(crate) fn password(&self) -> &str {
        &self.password
    }

    /// Its URL, with the password.
    pub(crate) fn url(&self) -> String {
        self.url_through(self.port)
    }

    /// Its URL through somebody else's port, such as a proxy's.
    pub(crate) fn url_through(&self, port: u16) -> String {
        format!("redis://:{}@127.0.0.1:{port}/0", self.password)
    }

    /// A connection.
    pub(crate) async fn client(&self) -> redis::aio::MultiplexedConnection {
        let client = redis::Client::open(self.url()).expect("URL");
        let connection = client.get_multiplexed_async_connection_with_config(&patient()).await;
        connection.unwrap_or_else(|e| panic!("connect to Redis: {e}"))
    }

    /// The reply to a command.
    pub(crate) async fn command<T: redis::FromRedisValue>(&self, words: &[&str]) -> T {
        let reply = self.try_command(words).await;
        reply.unwrap_or_else(|e| panic!("{words:?}: {e}"))
    }

    /// The reply to a command, or its error.
    pub(crate) async fn try_command<T: redis::FromRedisValue>(
        &self,
        words: &[&str],
    ) -> redis::RedisResult<T> {
        let mut command = redis::cmd(words.first().expect("a command"));
        for word in words.iter().skip(1) {
            command.arg(*word);
        }
        command.query_async(&mut self.client().await).await
    }

    /// What `redis-cli` prints for a command: a reader that shares no code with ours.
    pub(crate) async fn cli(&self, words: &[&str]) -> String {
        let cli = Path::new(&self.program).with_file_name(match self.program.contains("valkey") {
            true => "valkey-cli",
            false => "redis-cli",
        });
        let mut command = Command::new(cli);
        // Not in the URL: redis-cli 7.0 ignores a password without a user's name there.
        command.env("REDISCLI_AUTH", &self.password);
        command.args(["-p", &self.port.to_string()]).args(words);
        let output = tokio::task::spawn_blocking(move || command.output()).await;
        let output = output.expect("redis-cli").expect("redis-cli: apt-get install -y redis-tools");
        assert!(output.status.success(), "redis-cli: {}", output.status);
        String::from_utf8_lossy(&output.stdout).trim_end().to_owned()
    }

    /// `kill -9`: what is not in the append-only file is gone.
    pub(crate) async fn kill9(&self) {
        self.process.kill9().await;
    }

    /// `SHUTDOWN NOSAVE`.
    pub(crate) async fn shutdown(&self) {
        let _ = self.try_command::<()>(&["SHUTDOWN", "NOSAVE"]).await;
        self.process.wait_exit().await;
    }

    /// `SIGSTOP`: takes connections, answers nothing.
    pub(crate) fn freeze(&self) {
        self.process.signal("STOP");
    }

    /// `SIGCONT`.
    pub(crate) fn thaw(&self) {
        self.process.signal("CONT");
    }

    /// Starts it again on the same port with whatever its files hold.
    pub(crate) async fn start_again(&mut self) {
        let (program, settings) = (&self.program, &self.settings);
        (_, self.process) = launch(program, settings, self.folder.path(), Some(self.port)).await;
    }

    /// Starts it again on the same port without any data.
    pub(crate) async fn start_empty(&mut self) {
        for entry in fs::read_dir(self.folder.path()).expect("folder").flatten() {
            let path = entry.path();
            let removed = match path.is_dir() {
                true => fs::remove_dir_all(&path),
                false => fs::remove_file(&path),
            };
            removed.expect("remove data");
        }
        self.start_again().await;
    }

    /// The server's log.
    pub(crate) fn log(&self) -> String {
        self.process.lines().join("\n")
    }
}

/// By itself a client waits half a second for a reply, which a server under load may not keep.
pub(crate) fn patient() -> redis::AsyncConnectionConfig {
    let config = redis::AsyncConnectionConfig::new();
    config.set_connection_timeout(Some(PATIENCE)).set_response_timeout(Some(PATIENCE))
}

impl Drop for Redis {
    fn drop(&mut self) {
        // Its pipes close when it is dead, and only then may the folder go.
        self.process.finish();
    }
}

/// Starts the server; on a fixed port, or on the first free one.
async fn launch(
    program: &str,
    settings: &[(String, String)],
    folder: &Path,
    fixed: Option<u16>,
) -> (u16, Process) {
    let conf: String = settings.iter().map(|(key, value)| format!("{key} \"{value}\"\n")).collect();
    let path = folder.join("redis.conf");
    for _ in 0..20 {
        let port = fixed.unwrap_or_else(free_port);
        fs::write(&path, format!("{conf}port {port}\n")).expect("redis.conf");
        let mut command = Command::new(program);
        command.arg(&path).arg("--dir").arg(folder);
        let process = Process::spawn("redis", command, Voice::Server).expect("setpriv");
        if process.try_wait_for("Ready to accept connections").await.is_some() {
            return (port, process);
        }
        let log = process.lines().join("\n");
        assert!(log.contains("Address already in use"), "Redis does not start:\n{log}");
    }
    panic!("Redis found no free port");
}

/// The program to run.
fn program() -> String {
    let found = |name: &str| Command::new(name).arg("--version").output().is_ok();
    if let Ok(name) = std::env::var("KASHO_TEST_REDIS") {
        assert!(found(&name), "KASHO_TEST_REDIS names {name:?}, which does not run");
        return name;
    }
    let known = ["redis-server", "valkey-server"].into_iter().find(|name| found(name));
    known.expect("no Redis: apt-get install -y redis-server, or set KASHO_TEST_REDIS").to_owned()
}

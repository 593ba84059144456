//! A PostgreSQL server of a test's own: temporary folder, free port on 127.0.0.1, Unix
//! socket in the folder, logical decoding on, durability off.
//!
//! `KASHO_TEST_PG` chooses the version: `15`, or the folder of `initdb` and `postgres` (or
//! the one above it); `make matrix` fetches others. Servers that are filled and not read from
//! may be of another one, `KASHO_TEST_TARGET_PG`. The superuser's password is a canary of
//! the log register.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

use super::process::{Process, Voice};
use super::{PATIENCE, free_port, logs, unique};

/// The superuser of every test server; also the database's name.
const USER: &str = "postgres";

/// A PostgreSQL server. Dropping it kills it and removes its folder.
pub(crate) struct Postgres {
    // Dropped in this order: the process, then its folder.
    process: Process,
    folder: TempDir,
    bin: PathBuf,
    port: u16,
    password: String,
}

/// What a server shall be like.
#[derive(Default)]
pub(crate) struct Builder {
    settings: Vec<(String, String)>,
    hba: Vec<String>,
    files: Vec<(String, Vec<u8>)>,
    target: bool,
}

impl Builder {
    /// A line of `postgresql.conf`; later ones win.
    pub(crate) fn setting(mut self, key: &str, value: &str) -> Builder {
        self.settings.push((key.to_owned(), value.to_owned()));
        self
    }

    /// A line of `pg_hba.conf`, ahead of the defaults (socket: trust, TCP: SCRAM).
    pub(crate) fn hba(mut self, line: &str) -> Builder {
        self.hba.push(line.to_owned());
        self
    }

    /// A private file in the data folder, such as a certificate for `ssl_cert_file`.
    pub(crate) fn file(mut self, name: &str, content: impl Into<Vec<u8>>) -> Builder {
        self.files.push((name.to_owned(), content.into()));
        self
    }

    /// It is one that others are copied into, and may be of another version than these.
    pub(crate) fn target(mut self) -> Builder {
        self.target = true;
        self
    }

    /// Starts the server and returns when it accepts connections.
    pub(crate) async fn start(self) -> Postgres {
        let bin = bin(self.target);
        let folder = tempfile::Builder::new().prefix("kasho-pg-").tempdir().expect("folder");
        let data = folder.path().join("data");
        run(Command::new("cp").arg("-a").arg(template(&bin)).arg(&data));
        self.write_files(&data, folder.path());
        own(folder.path());
        let password = logs::planted(format!("superuser-{}", unique()));
        let (port, process) = launch(&bin, folder.path(), None).await;
        let server = Postgres { process, folder, bin, port, password };
        server.sql(&format!("ALTER ROLE {USER} PASSWORD '{}'", server.password)).await;
        server
    }

    fn write_files(&self, data: &Path, sockets: &Path) {
        let mut conf = String::from(
            "wal_level = logical\nfsync = off\nsynchronous_commit = off\nfull_page_writes = off\n\
             max_wal_size = 128MB\nmin_wal_size = 32MB\nshared_buffers = 16MB\n\
             max_connections = 60\nmax_wal_senders = 20\nmax_replication_slots = 20\n\
             max_logical_replication_workers = 4\nautovacuum_naptime = 1h\n\
             log_line_prefix = '%m [%p] '\nlisten_addresses = '127.0.0.1'\n\
             logging_collector = off\n",
        );
        conf.push_str(&format!("unix_socket_directories = '{}'\n", sockets.display()));
        for (key, value) in &self.settings {
            conf.push_str(&format!("{key} = '{}'\n", value.replace('\'', "''")));
        }
        let mut hba = self.hba.join("\n");
        hba.push_str(
            "\nlocal all all trust\nlocal replication all trust\n\
             host all all 127.0.0.1/32 scram-sha-256\n\
             host replication all 127.0.0.1/32 scram-sha-256\n",
        );
        fs::write(data.join("postgresql.auto.conf"), conf).expect("configuration");
        fs::write(data.join("pg_hba.conf"), hba).expect("pg_hba.conf");
        for (name, content) in &self.files {
            let path = data.join(name);
            fs::write(&path, content).expect("file of the data folder");
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("0600");
        }
    }
}

impl Postgres {
    /// A server with the settings of [`Postgres::builder`].
    pub(crate) async fn start() -> Postgres {
        Postgres::builder().start().await
    }

    /// A server that others are copied into.
    pub(crate) async fn start_target() -> Postgres {
        Postgres::builder().target().start().await
    }

    /// Settings for a server to be.
    pub(crate) fn builder() -> Builder {
        Builder::default()
    }

    /// Its port on 127.0.0.1.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// The folder that holds its data folder and its Unix socket.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The superuser's URL, over TCP.
    pub(crate) fn url(&self) -> String {
        self.url_as(USER, &self.password)
    }

    /// A URL over TCP.
    pub(crate) fn url_as(&self, user: &str, password: &str) -> String {
        format!("postgresql://{user}:{password}@127.0.0.1:{}/{USER}", self.port)
    }

    /// The superuser's URL over TCP through somebody else's port, such as a proxy's.
    pub(crate) fn url_through(&self, port: u16) -> String {
        format!("postgresql://{USER}:{}@127.0.0.1:{port}/{USER}", self.password)
    }

    /// The superuser's URL over the Unix socket.
    pub(crate) fn socket_url(&self) -> String {
        let folder = self.folder().display().to_string().replace('/', "%2F");
        format!("postgresql://{USER}@/{USER}?host={folder}&port={}", self.port)
    }

    /// A connection of the superuser's, over the Unix socket.
    pub(crate) async fn client(&self) -> Client {
        let connected = tokio_postgres::connect(&self.socket_url(), NoTls).await;
        let (client, connection) = connected.unwrap_or_else(|e| panic!("connect: {e:?}"));
        tokio::spawn(connection);
        client
    }

    /// Runs statements, as one implicit transaction.
    pub(crate) async fn sql(&self, statements: &str) {
        let done = self.client().await.batch_execute(statements).await;
        done.unwrap_or_else(|e| panic!("{statements}: {e:?}"));
    }

    /// The rows of a query, every value as its text.
    pub(crate) async fn rows(&self, query: &str) -> Vec<Vec<Option<String>>> {
        let answer = self.client().await.simple_query(query).await;
        let answer = answer.unwrap_or_else(|e| panic!("{query}: {e:?}"));
        let row = |message: &SimpleQueryMessage| match message {
            SimpleQueryMessage::Row(row) => {
                Some((0..row.len()).map(|i| row.get(i).map(str::to_owned)).collect())
            }
            _ => None,
        };
        answer.iter().filter_map(row).collect()
    }

    /// The single value of a query, as text; empty for NULL or no row.
    pub(crate) async fn value(&self, query: &str) -> String {
        let first = self.rows(query).await.into_iter().next();
        first.and_then(|row| row.into_iter().next().flatten()).unwrap_or_default()
    }

    /// Its version, such as 15. What a version does not have, a test must say of it.
    pub(crate) async fn version(&self) -> u32 {
        let number = self.value("SHOW server_version_num").await;
        number.parse::<u32>().expect("a number") / 10_000
    }

    /// Runs `psql` with the script on its command line and returns its unaligned output.
    pub(crate) async fn psql(&self, script: &str) -> String {
        let mut command = self.tool("psql");
        command.args(["-X", "-At", "-v", "ON_ERROR_STOP=1", "-c", script, &self.socket_url()]);
        output(command).await
    }

    /// A program of this server's version (`pg_dump`, `pg_recvlogical`, …).
    pub(crate) fn tool(&self, name: &str) -> Command {
        let own = self.bin.join(name);
        // Server-only distributions lack the clients; those of the PATH will do.
        Command::new(if own.exists() { own } else { PathBuf::from(name) })
    }

    /// `pg_ctl stop`, in mode `fast`, `smart` or `immediate`; returns when it stopped.
    pub(crate) async fn stop(&self, mode: &str) {
        let mut command = as_server_user(&self.bin.join("pg_ctl"));
        let wait = PATIENCE.as_secs().to_string();
        command.arg("-D").arg(self.folder().join("data"));
        command.args(["-w", "-t", &wait, "-m", mode, "stop"]);
        output(command).await;
        self.process.wait_exit().await;
    }

    /// Starts it again, on the same port, after [`Postgres::stop`] or [`Postgres::kill9`].
    pub(crate) async fn start_again(&mut self) {
        (_, self.process) = launch(&self.bin, self.folder.path(), Some(self.port)).await;
    }

    /// Stops in `mode` and starts again.
    pub(crate) async fn restart(&mut self, mode: &str) {
        self.stop(mode).await;
        self.start_again().await;
    }

    /// `kill -9` of the postmaster; its children follow.
    pub(crate) async fn kill9(&mut self) {
        self.process.signal("KILL");
        self.process.wait_exit().await;
        // The lines end when the last child let go of the pipe, and of the shared memory.
        self.process.finish();
    }

    /// The server's log.
    pub(crate) fn log(&self) -> String {
        self.process.lines().join("\n")
    }

    /// Waits for a line of the server's log.
    pub(crate) async fn wait_for_log(&self, text: &str) -> String {
        self.process.wait_for(text).await
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // Immediate shutdown: the postmaster takes its children with it and removes its
        // semaphores, which a kill would leave. All are gone when the pipe closes.
        self.process.signal("CONT");
        self.process.signal("QUIT");
        self.process.drain();
    }
}

/// Starts the postmaster; on a fixed port, or on the first free one.
async fn launch(bin: &Path, folder: &Path, fixed: Option<u16>) -> (u16, Process) {
    for _ in 0..20 {
        let port = fixed.unwrap_or_else(free_port);
        let mut command = as_server_user(&bin.join("postgres"));
        command.arg("-D").arg(folder.join("data")).arg("-p").arg(port.to_string());
        let process = Process::spawn("postgres", command, Voice::Server).expect("setpriv");
        let kind = if folder.join("data/standby.signal").exists() { "read-only " } else { "" };
        let ready = format!("database system is ready to accept {kind}connections");
        let ready = process.try_wait_for(&ready).await;
        if ready.is_some() {
            return (port, process);
        }
        let log = process.lines().join("\n");
        assert!(log.contains("could not bind"), "PostgreSQL does not start:\n{log}");
    }
    panic!("PostgreSQL found no free port");
}

/// The folder of the programs.
fn bin(target: bool) -> PathBuf {
    let variables = ["KASHO_TEST_TARGET_PG", "KASHO_TEST_PG"];
    let asked =
        variables.iter().skip(usize::from(!target)).find_map(|name| std::env::var(name).ok());
    let wanted = asked.unwrap_or_else(|| "15".to_owned());
    let bin = match wanted.parse::<u32>() {
        Ok(version) => PathBuf::from(format!("/usr/lib/postgresql/{version}/bin")),
        Err(_) => PathBuf::from(&wanted),
    };
    // A distribution's root will do too.
    let below = ["bin", "native/bin"].map(|folder| bin.join(folder));
    let bin = below.into_iter().find(|bin| bin.join("initdb").exists()).unwrap_or(bin);
    assert!(
        bin.join("initdb").exists(),
        "no PostgreSQL in {}: apt-get install -y postgresql-{wanted}, or set KASHO_TEST_PG to a \
         version or to the folder of initdb (make matrix fetches some)",
        bin.display()
    );
    bin
}

/// A data folder fresh from initdb, made once for each version and kept: initdb takes
/// longer than most tests.
fn template(bin: &Path) -> PathBuf {
    let version = run(Command::new(bin.join("postgres")).arg("--version"));
    let name: String = version.chars().filter(char::is_ascii_alphanumeric).collect();
    let kept = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("initdb-{name}"));
    let lock = fs::File::create(kept.with_extension("lock")).expect("lock file");
    lock.lock().expect("lock");
    if !kept.exists() {
        let folder = tempfile::Builder::new().prefix("kasho-initdb-").tempdir().expect("folder");
        own(folder.path());
        let data = folder.path().join("data");
        let mut initdb = as_server_user(&bin.join("initdb"));
        initdb.args(["-U", USER, "-E", "UTF8", "--locale=C.UTF-8", "-A", "trust", "-N", "-D"]);
        run(initdb.arg(&data));
        let half = kept.with_extension("new");
        let _ = fs::remove_dir_all(&half);
        run(Command::new("cp").arg("-a").arg(&data).arg(&half));
        fs::rename(&half, &kept).expect("rename");
    }
    kept
}

/// PostgreSQL refuses to run as root; then its own user does.
fn as_server_user(program: &Path) -> Command {
    if !root() {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid", USER, "--regid", USER, "--clear-groups", "--"]).arg(program);
    // It would complain about a working folder that it may not enter.
    command.current_dir("/");
    command
}

/// Gives a folder to the user that the server runs as.
fn own(folder: &Path) {
    if root() {
        let owner = format!("{USER}:{USER}");
        run(Command::new("chown").arg("-R").arg(owner).arg(folder));
    }
}

fn root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|me| me.uid() == 0)
}

/// The output of a command that must succeed.
fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {}\n{errors}", output.status);
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// As [`run`], without blocking the test's other tasks.
async fn output(mut command: Command) -> String {
    let output = tokio::task::spawn_blocking(move || run(&mut command)).await;
    output.expect("command").trim_end().to_owned()
}

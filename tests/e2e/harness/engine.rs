//! The engine as its operator has it: the `kasho` binary, a folder with `kasho.toml` and
//! plugins, arguments, signals, exit codes.
//!
//! Whatever it says, on either output and of any subcommand, is searched for planted
//! canaries when the test is over.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use tempfile::TempDir;
use tokio::io::AsyncWriteExt;

use super::guest::{cargo_build, guest};
use super::process::{Process, Voice, kill};
use super::{free_port, logs, unique};

/// Marks every process that descends from a test's engine, holders included.
const MARK: &str = "KASHO_TEST_HOME";

/// The `kasho` binary: `KASHO_BIN`, or built once.
pub(crate) fn binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| match std::env::var_os("KASHO_BIN") {
        Some(path) => path.into(),
        // With the tests among the targets, so that the features are those the test
        // build has already compiled.
        None => cargo_build(
            &["-p", "kasho", "-p", "kasho-tests", "--bin", "kasho", "--test", "e2e"],
            |artifact| artifact["target"]["name"] == "kasho" && artifact["executable"].is_string(),
            "executable",
        ),
    })
}

/// An engine's folder before and after it runs: configuration, plugins, environment.
pub(crate) struct Home {
    folder: TempDir,
    name: String,
    env: Vec<(String, String)>,
    grpc_port: u16,
    http_port: u16,
}

impl Home {
    fn new() -> Home {
        let folder = tempfile::Builder::new().prefix("kasho-engine-").tempdir().expect("folder");
        fs::create_dir(folder.path().join("plugins")).expect("plugins");
        let name = format!("kasho-{}", unique());
        let (grpc_port, http_port) = (free_port(), free_port());
        Home { folder, name, env: Vec::new(), grpc_port, http_port }
    }

    /// The folder.
    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    /// A port kept for this engine's gRPC listener.
    pub(crate) fn grpc_port(&self) -> u16 {
        self.grpc_port
    }

    /// The port of its metrics and health.
    pub(crate) fn http_port(&self) -> u16 {
        self.http_port
    }

    /// The path of its configuration.
    pub(crate) fn config_path(&self) -> PathBuf {
        self.path().join("kasho.toml")
    }

    /// Writes `kasho.toml`, by rename as an editor does.
    pub(crate) fn write_config(&self, text: &str) {
        self.write("kasho.toml", text);
    }

    /// Writes a file of the folder, by rename.
    pub(crate) fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        let path = self.path().join(name);
        let half = path.with_extension("half");
        fs::write(&half, content).expect("write");
        fs::rename(half, path).expect("rename");
    }

    /// Runs a subcommand to its end. Its output is in the register, and searched.
    pub(crate) async fn run(&self, arguments: &[&str]) -> Output {
        self.run_typing(arguments, "").await
    }

    /// As [`Home::run`], with `input` on its standard input.
    pub(crate) async fn run_typing(&self, arguments: &[&str], input: &str) -> Output {
        let command = self.command(arguments);
        let limit = match arguments.first() {
            // They compile, and may have to fetch what they compile with.
            Some(&"plugin") => 6 * super::PATIENCE,
            _ => super::PATIENCE,
        };
        let output = Output::within(limit, command, input).await;
        output.search(&self.name);
        output
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(binary());
        command.args(arguments).current_dir(self.path());
        // What this machine's environment says is none of a test's business.
        for name in ["PRIMARY_DATABASE_URL", "KV_URL", "GRPC_PORT", "REPLICATION_SLOT_NAME"] {
            command.env_remove(name);
        }
        command.env_remove("RUST_LOG").env("KASHO_CONFIG", self.config_path());
        command.env(MARK, self.path()).env("HTTP_PORT", self.http_port.to_string());
        command.envs(self.env.iter().map(|(key, value)| (key, value)));
        command
    }

    /// A shell script in its folder and its environment; `$KASHO` is the binary.
    fn shell(&self, script: &str) -> Command {
        let kasho = self.command(&[]);
        let mut command = Command::new("bash");
        command.args(["-euc", script]).current_dir(self.path());
        for (key, value) in kasho.get_envs() {
            match value {
                Some(value) => command.env(key, value),
                None => command.env_remove(key),
            };
        }
        command.env("KASHO", binary());
        command
    }

    /// Kills every process that carries this home's mark: what outlives an engine on
    /// purpose does not outlive its test.
    fn kill_strays(&self) {
        let mark = format!("{MARK}={}", self.path().display());
        for process in fs::read_dir("/proc").expect("/proc").flatten() {
            let Some(pid) = process.file_name().to_str().and_then(|name| name.parse().ok()) else {
                continue;
            };
            let environment = fs::read(process.path().join("environ")).unwrap_or_default();
            if environment.split(|byte| *byte == 0).any(|entry| entry == mark.as_bytes()) {
                kill(pid, "KILL");
            }
        }
    }
}

/// A home being furnished.
pub(crate) struct Builder {
    home: Home,
}

impl Builder {
    /// The home so far.
    pub(crate) fn home(&self) -> &Home {
        &self.home
    }

    /// The content of `kasho.toml`.
    pub(crate) fn config(self, text: &str) -> Builder {
        self.home.write_config(text);
        self
    }

    /// A variable of its environment.
    pub(crate) fn env(mut self, key: &str, value: &str) -> Builder {
        self.home.env.push((key.to_owned(), value.to_owned()));
        self
    }

    /// Puts a plugin of ours into its plugin folder.
    pub(crate) fn plugin(self, name: &str) -> Builder {
        let to = self.home.path().join("plugins").join(format!("{name}.wasm"));
        fs::copy(guest(name), to).expect("copy the plugin");
        self
    }

    /// Furnished, for subcommands only.
    pub(crate) fn build(self) -> Engine {
        Engine { process: None, home: self.home, arguments: Vec::new() }
    }

    /// Starts the service, `kasho run`.
    pub(crate) fn start(self) -> Engine {
        self.start_with(&["run"])
    }

    /// Starts a subcommand that stays.
    pub(crate) fn start_with(self, arguments: &[&str]) -> Engine {
        let mut engine = self.build();
        engine.start_as(arguments);
        engine
    }
}

/// An engine and its home. Dropping it kills everything of it and searches what it said.
pub(crate) struct Engine {
    process: Option<Process>,
    home: Home,
    arguments: Vec<String>,
}

impl Engine {
    /// A home to be furnished.
    pub(crate) fn builder() -> Builder {
        Builder { home: Home::new() }
    }

    /// Its home.
    pub(crate) fn home(&self) -> &Home {
        &self.home
    }

    /// The running process.
    pub(crate) fn process(&self) -> &Process {
        self.process.as_ref().expect("the engine was started")
    }

    /// Starts a home that was only built, with a subcommand that stays.
    pub(crate) fn start_as(&mut self, arguments: &[&str]) {
        self.arguments = arguments.iter().map(|word| (*word).to_owned()).collect();
        self.start_again();
    }

    /// Starts it, again after it ended, with the same arguments.
    pub(crate) fn start_again(&mut self) {
        let arguments: Vec<&str> = self.arguments.iter().map(String::as_str).collect();
        let command = self.home.command(&arguments);
        let process = Process::spawn(&self.home.name, command, Voice::Engine);
        self.process = Some(process.expect("setpriv"));
    }

    /// Runs a subcommand in its home.
    pub(crate) async fn run(&self, arguments: &[&str]) -> Output {
        self.home.run(arguments).await
    }

    /// Starts a subcommand beside the service.
    pub(crate) fn spawn(&self, arguments: &[&str]) -> Process {
        let command = self.home.command(arguments);
        Process::spawn(&self.home.name, command, Voice::Engine).expect("setpriv")
    }

    /// Runs a shell script in its folder and its environment, where `$KASHO` is the
    /// binary. What it says is in the register.
    pub(crate) async fn shell(&self, script: &str) -> Output {
        let output = Output::of(self.home.shell(script), "").await;
        output.search(&self.home.name);
        output
    }

    /// Starts such a script.
    pub(crate) fn spawn_shell(&self, script: &str) -> Process {
        let command = self.home.shell(script);
        Process::spawn(&self.home.name, command, Voice::Engine).expect("setpriv")
    }

    /// Waits for a line that contains `text`.
    pub(crate) async fn wait_for(&self, text: &str) -> String {
        self.process().wait_for(text).await
    }

    /// Every line of the running process so far.
    pub(crate) fn log(&self) -> String {
        self.process().lines().join("\n")
    }

    /// `kill -9`, of it alone: a holder lives on.
    pub(crate) async fn kill9(&self) {
        self.process().kill9().await;
    }

    /// SIGTERM, then waits for its end.
    pub(crate) async fn terminate(&self) -> ExitStatus {
        self.process().signal("TERM");
        self.process().wait_exit().await
    }

    /// SIGHUP: read the configuration again.
    pub(crate) fn hang_up(&self) {
        self.process().signal("HUP");
    }

    /// Waits for its own end.
    pub(crate) async fn wait_exit(&self) -> ExitStatus {
        self.process().wait_exit().await
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.home.kill_strays();
        if let Some(process) = &mut self.process {
            process.finish();
        }
        if std::thread::panicking() {
            let log = self.process.as_ref().map(Process::lines).unwrap_or_default();
            eprintln!("--- what {} said last:\n{}", self.home.name, log.join("\n"));
        }
        logs::verify(&self.home.name);
    }
}

/// What a finished command said.
#[derive(Debug)]
pub(crate) struct Output {
    /// Exit code; 256 if a signal ended it.
    pub(crate) code: i32,
    /// Standard output.
    pub(crate) stdout: String,
    /// Standard error.
    pub(crate) stderr: String,
}

impl Output {
    /// Runs a command to its end.
    pub(crate) async fn of(command: Command, input: &str) -> Output {
        Output::within(super::PATIENCE, command, input).await
    }

    async fn within(limit: Duration, command: Command, input: &str) -> Output {
        let program = command.get_program().to_owned();
        let mut command = tokio::process::Command::from(command);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.kill_on_drop(true).spawn().unwrap_or_else(|e| {
            panic!("{}: {e}", program.display());
        });
        let mut stdin = child.stdin.take().expect("piped");
        // It may end without reading: a broken pipe is no failure.
        let _ = stdin.write_all(input.as_bytes()).await;
        drop(stdin);
        let output = tokio::time::timeout(limit, child.wait_with_output()).await;
        let output = output.unwrap_or_else(|_| panic!("{} does not end", program.display()));
        let output = output.expect("wait");
        Output {
            code: output.status.code().unwrap_or(256),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Adds it to the register under `who`, and searches what `who` said for canaries.
    pub(crate) fn search(&self, who: &str) {
        logs::record(who, &self.stdout);
        logs::record(who, &self.stderr);
        logs::verify(who);
    }

    /// Itself, if the exit code is 0.
    pub(crate) fn success(self) -> Output {
        assert_eq!(self.code, 0, "{}\n{}", self.stdout, self.stderr);
        self
    }
}

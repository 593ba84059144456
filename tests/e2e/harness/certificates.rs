//! Certificates made by openssl, as an operator makes them: a root (`ca`), a server's for
//! `localhost` and a client's for `certain` that it vouches for, and another root (`other`),
//! which is also what a self-signed server's certificate looks like. Each is a pair of
//! files, `<name>.pem` and `<name>.key`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

/// A folder of certificates; removed when dropped.
pub(crate) struct Certificates {
    folder: TempDir,
}

impl Certificates {
    /// Makes them all.
    pub(crate) fn make() -> Certificates {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path();
        let new = "req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes";
        for root in ["ca", "other"] {
            let files = format!("-keyout {root}.key -out {root}.pem");
            openssl(path, &format!("{new} -x509 -days 2 -subj /CN={root} {files}"));
        }
        for (name, subject) in [("server", "localhost"), ("client", "certain")] {
            fs::write(path.join("san"), format!("subjectAltName=DNS:{subject}")).expect("write");
            openssl(path, &format!("{new} -subj /CN={subject} -keyout {name}.key -out {name}.csr"));
            let by = "-CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile san";
            openssl(path, &format!("x509 -req -in {name}.csr {by} -out {name}.pem"));
        }
        Certificates { folder }
    }

    /// The content of a file.
    pub(crate) fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.file(name)).expect("read")
    }

    /// Where a file is.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The same as text.
    pub(crate) fn path(&self, name: &str) -> String {
        self.file(name).display().to_string()
    }
}

fn openssl(folder: &Path, arguments: &str) {
    let mut command = Command::new("openssl");
    let output = command.args(arguments.split(' ')).current_dir(folder).output();
    let output = output.expect("openssl: apt-get install -y openssl");
    assert!(output.status.success(), "{arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

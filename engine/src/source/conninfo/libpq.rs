//! The same connection for PostgreSQL's own programs, as variables of their environment:
//! a password on a command line stands in the list of processes.
//!
//! Format: the PostgreSQL manual, 34.15 "Environment Variables". What has none (keepalive
//! settings) is left to libpq's defaults; nothing can go wrong here.

use std::ffi::OsString;

use secrecy::ExposeSecret;

use super::{ChannelBinding, Conninfo, Host, Roots, SslMode, options_with};

/// What libpq reads from the environment and must not come from anywhere else.
pub const FOREIGN: [&str; 6] =
    ["PGSERVICE", "PGSERVICEFILE", "PGHOSTADDR", "PGPASSFILE", "PGCLIENTENCODING", "PGREQUIREAUTH"];

impl Conninfo {
    /// Every variable, the pinned settings among them. Holds the password.
    #[must_use]
    pub fn libpq_env(&self, app_name: &str) -> Vec<(&'static str, OsString)> {
        let hosts = |text: fn(&Host) -> String| {
            self.hosts.iter().map(text).collect::<Vec<_>>().join(",").into()
        };
        let mut env: Vec<(&'static str, OsString)> = vec![
            ("PGHOST", hosts(host)),
            ("PGPORT", hosts(port)),
            ("PGUSER", self.user.clone().into()),
            ("PGDATABASE", self.dbname.clone().into()),
            ("PGOPTIONS", options_with(self, &[]).into()),
            ("PGAPPNAME", app_name.into()),
            ("PGCLIENTENCODING", "UTF8".into()),
            ("PGSSLMODE", sslmode(self.sslmode).into()),
            ("PGCHANNELBINDING", binding(self.channel_binding).into()),
            ("PGCONNECT_TIMEOUT", self.connect_timeout.as_secs().max(2).to_string().into()),
        ];
        if self.hosts.iter().any(|host| !addr(host).is_empty()) {
            env.push(("PGHOSTADDR", hosts(addr)));
        }
        if let Some(password) = &self.password {
            env.push(("PGPASSWORD", password.expose_secret().into()));
        }
        match &self.roots {
            Some(Roots::System) => env.push(("PGSSLROOTCERT", "system".into())),
            Some(Roots::File(path)) => env.push(("PGSSLROOTCERT", path.into())),
            None => {}
        }
        if let Some((cert, key)) = &self.client_cert {
            env.extend([("PGSSLCERT", cert.into()), ("PGSSLKEY", key.into())]);
        }
        if self.primary {
            env.push(("PGTARGETSESSIONATTRS", "read-write".into()));
        }
        env
    }
}

fn host(host: &Host) -> String {
    match host {
        Host::Tcp { name, .. } => name.clone(),
        Host::Unix { folder, .. } => folder.display().to_string(),
    }
}

fn port(host: &Host) -> String {
    match host {
        Host::Tcp { port, .. } | Host::Unix { port, .. } => port.to_string(),
    }
}

fn addr(host: &Host) -> String {
    match host {
        Host::Tcp { addr: Some(addr), .. } => addr.to_string(),
        Host::Tcp { addr: None, .. } | Host::Unix { .. } => String::new(),
    }
}

fn sslmode(mode: SslMode) -> &'static str {
    match mode {
        SslMode::Disable => "disable",
        SslMode::Allow => "allow",
        SslMode::Prefer => "prefer",
        SslMode::Require => "require",
        SslMode::VerifyCa => "verify-ca",
        SslMode::VerifyFull => "verify-full",
    }
}

fn binding(binding: ChannelBinding) -> &'static str {
    match binding {
        ChannelBinding::Disable => "disable",
        ChannelBinding::Prefer => "prefer",
        ChannelBinding::Require => "require",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_stands_in_the_environment() {
        let url = "postgres://u:p%20w@h1:1,h2:2/d?sslmode=require&options=-c%20work_mem%3D1MB";
        let env = Conninfo::parse(url).unwrap().libpq_env("kasho dump");
        let value = |name: &str| {
            let found = env.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| value.to_string_lossy().into_owned()).unwrap_or_default()
        };
        assert_eq!((value("PGHOST"), value("PGPORT")), ("h1,h2".into(), "1,2".into()));
        assert_eq!((value("PGUSER"), value("PGPASSWORD")), ("u".into(), "p w".into()));
        assert_eq!((value("PGDATABASE"), value("PGSSLMODE")), ("d".into(), "require".into()));
        let options = value("PGOPTIONS");
        assert!(options.starts_with("-c work_mem=1MB ") && options.contains("-c timezone=UTC"));
        assert_eq!(value("PGHOSTADDR"), "");
        let socket = Conninfo::parse("host=/tmp user=u port=7").unwrap().libpq_env("x");
        assert!(
            socket.contains(&("PGHOST", "/tmp".into())) && socket.contains(&("PGPORT", "7".into()))
        );
        let no = |name: &str| !socket.iter().any(|(known, _)| *known == name);
        assert!(no("PGPASSWORD") && no("PGHOSTADDR"));
    }
}

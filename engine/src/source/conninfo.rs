//! Where a PostgreSQL server is and how to reach it: libpq's connection URLs and
//! `key=value` texts, parsed once, and the two ways of connecting that everybody uses.
//!
//! What can go wrong: a parameter that is unknown, unsupported or malformed. Errors name
//! the parameter and never its value, for any value may be the password misplaced.
//! Format: the PostgreSQL manual, 34.1.1 "Connection Strings" and 34.1.2.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use secrecy::SecretString;

mod connect;
mod dial;
mod libpq;
mod params;
mod tls;

pub(crate) use connect::{PATIENT, options_with};
pub use connect::{PINNED_SETTINGS, sql_connect, sql_connect_with};
pub(crate) use dial::{Dialer, Stream};
pub use libpq::FOREIGN as FOREIGN_VARIABLES;

/// What a session gets when no time limit is configured.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// One server address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Host {
    /// A name or address, and where to connect instead of resolving it (`hostaddr`).
    Tcp {
        /// The name, also the one that a certificate must carry.
        name: String,
        /// The address, if it was given.
        addr: Option<IpAddr>,
        /// TCP port.
        port: u16,
    },
    /// The folder that holds the socket `.s.PGSQL.<port>`.
    Unix {
        /// The folder.
        folder: PathBuf,
        /// Part of the socket's name.
        port: u16,
    },
}

impl std::fmt::Display for Host {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Host::Tcp { name, addr: Some(addr), port } => write!(f, "{name} ({addr}) port {port}"),
            Host::Tcp { name, addr: None, port } => write!(f, "{name} port {port}"),
            Host::Unix { folder, port } => {
                write!(f, "{}", folder.join(format!(".s.PGSQL.{port}")).display())
            }
        }
    }
}

/// `sslmode`, in the order of strength.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SslMode {
    /// Never TLS.
    Disable,
    /// Without TLS unless the server insists on it.
    Allow,
    /// With TLS if the server has it.
    Prefer,
    /// Always TLS, whatever the certificate.
    Require,
    /// Always TLS, with a certificate signed by a known root.
    VerifyCa,
    /// The same, and the certificate carries the host's name.
    VerifyFull,
}

/// `sslrootcert`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Roots {
    /// The operating system's.
    System,
    /// A PEM file.
    File(PathBuf),
}

/// `channel_binding`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChannelBinding {
    /// Never.
    Disable,
    /// If both sides can.
    Prefer,
    /// Or refuse to authenticate.
    Require,
}

/// What the server may ask for (`require_auth`), as a set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct AuthMethods {
    pub(crate) none: bool,
    pub(crate) password: bool,
    pub(crate) md5: bool,
    pub(crate) scram: bool,
}

/// TCP settings that libpq has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct TcpSettings {
    pub(crate) no_keepalive: bool,
    pub(crate) idle_s: Option<u32>,
    pub(crate) interval_s: Option<u32>,
    pub(crate) count: Option<u32>,
    pub(crate) user_timeout_ms: Option<u32>,
}

/// A parsed connection text. Its `Debug` form shows no password.
#[derive(Clone, Debug)]
pub struct Conninfo {
    /// Tried in this order.
    pub hosts: Vec<Host>,
    /// The role.
    pub user: String,
    /// The database; the role's name if the text names none.
    pub dbname: String,
    /// Time for one host to give a session, from the socket to the last greeting.
    pub connect_timeout: Duration,
    pub(crate) password: Option<SecretString>,
    pub(crate) options: Option<String>,
    pub(crate) sslmode: SslMode,
    pub(crate) roots: Option<Roots>,
    pub(crate) client_cert: Option<(PathBuf, PathBuf)>,
    pub(crate) channel_binding: ChannelBinding,
    pub(crate) auth: Option<AuthMethods>,
    pub(crate) primary: bool,
    pub(crate) tcp: TcpSettings,
}

impl Conninfo {
    /// Parses `postgres://…`, `postgresql://…` or `key=value …`.
    ///
    /// Without a host the local socket folder `/var/run/postgresql` is used, as libpq does.
    ///
    /// # Errors
    /// The first parameter that is unknown, unsupported, malformed or missing.
    pub fn parse(text: &str) -> Result<Conninfo, ConninfoError> {
        params::build(&params::split(text)?)
    }

    /// How the session may be described to people: host and database, no secret.
    #[must_use]
    pub fn describe(&self) -> String {
        let hosts: Vec<String> = self.hosts.iter().map(Host::to_string).collect();
        format!("database {:?} at {}", self.dbname, hosts.join(" or "))
    }
}

/// A connection text that cannot be used. It holds names of parameters, no values.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConninfoError {
    /// Neither a URL nor `key=value`.
    #[error(
        "the connection text is neither postgres://user@host/database nor key=value pairs: \
         {0}"
    )]
    Syntax(&'static str),
    /// libpq does not have it, or we do not.
    #[error("connection parameter {0:?} is not supported")]
    Unknown(String),
    /// The value cannot be used.
    #[error("connection parameter {name:?}: {reason}")]
    Invalid {
        /// Its name.
        name: String,
        /// What it should be.
        reason: &'static str,
    },
    /// Something that has no default is missing.
    #[error("the connection text lacks the parameter {0:?}")]
    Missing(&'static str),
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use secrecy::ExposeSecret;

    fn tcp(name: &str, port: u16) -> Host {
        Host::Tcp { name: name.to_owned(), addr: None, port }
    }

    #[test]
    fn a_url_with_everything() {
        let info = Conninfo::parse(
            "postgres://us%40er:p%3Aa%2Fss@h1:5433,[::1]:5434,h3/my%20db?sslmode=verify-full&\
             sslrootcert=/etc/ca.pem&sslcert=/c.pem&sslkey=/k.pem&channel_binding=require&\
             connect_timeout=3&options=-c%20work_mem%3D1MB&application_name=x",
        )
        .unwrap();
        assert_eq!(info.user, "us@er");
        assert_eq!(info.password.unwrap().expose_secret(), "p:a/ss");
        assert_eq!(info.dbname, "my db");
        assert_eq!(info.hosts, [tcp("h1", 5433), tcp("::1", 5434), tcp("h3", 5432)]);
        assert_eq!(info.sslmode, SslMode::VerifyFull);
        assert_eq!(info.roots, Some(Roots::File("/etc/ca.pem".into())));
        assert_eq!(info.client_cert, Some(("/c.pem".into(), "/k.pem".into())));
        assert_eq!(info.channel_binding, ChannelBinding::Require);
        assert_eq!(info.connect_timeout, Duration::from_secs(3));
        assert_eq!(info.options.as_deref(), Some("-c work_mem=1MB"));
    }

    #[test]
    fn key_value_form() {
        let info =
            Conninfo::parse("host = /tmp user=u password='a \\'b\\\\' dbname=d port=6000").unwrap();
        assert_eq!(info.hosts, [Host::Unix { folder: "/tmp".into(), port: 6000 }]);
        assert_eq!(info.password.unwrap().expose_secret(), "a 'b\\");
        assert_eq!(info.dbname, "d");
    }

    #[test]
    fn sockets_several_hosts_and_defaults() {
        let info = Conninfo::parse("postgres://u@%2Fvar%2Frun/db").unwrap();
        assert_eq!(info.hosts, [Host::Unix { folder: "/var/run".into(), port: 5432 }]);
        let info = Conninfo::parse("postgresql:///db?host=/tmp&user=u&port=7").unwrap();
        assert_eq!(info.hosts, [Host::Unix { folder: "/tmp".into(), port: 7 }]);
        let info = Conninfo::parse("postgres://u@a,b:7/?target_session_attrs=primary").unwrap();
        assert_eq!(info.hosts, [tcp("a", 5432), tcp("b", 7)]);
        assert_eq!(info.dbname, "u");
        assert!(info.primary);
        assert_eq!(info.sslmode, SslMode::Prefer);
        let info = Conninfo::parse("host=n hostaddr=127.0.0.1 user=u").unwrap();
        let addr = "127.0.0.1".parse().ok();
        assert_eq!(info.hosts, [Host::Tcp { name: "n".into(), addr, port: 5432 }]);
    }

    #[test]
    fn errors_name_the_parameter_and_no_value() {
        let cases = [
            ("postgres://u:s3cret@h/d?sslmode=s3cret", "sslmode"),
            ("postgres://u:s3cret@h:s3cret/d", "port"),
            ("postgres://u:s3cret@h/d?s3=s3cret", "\"s3\""),
            ("postgres://h/d", "user"),
            ("postgres://u:s3cret@h/d?sslcert=s3cret", "sslkey"),
            ("postgres://u:s3cret@h/d?sslrootcert=system&sslmode=require", "sslmode"),
            ("postgres://u:s3cret%zz@h/d", "password"),
            ("host=a,b port=1,2,3 user=u", "port"),
            ("user=u password='s3cret", "key=value"),
            ("mysql://s3cret", "key=value"),
            ("postgres://u@h/d?replication=database", "replication"),
        ];
        for (text, named) in cases {
            let error = Conninfo::parse(text).unwrap_err().to_string();
            assert!(error.contains(named), "{text}: {error}");
            assert!(!error.contains("s3cret"), "{error}");
        }
    }

    #[test]
    fn debug_shows_no_password() {
        let info = Conninfo::parse("postgres://u:s3cret@h/d").unwrap();
        assert!(!format!("{info:?} {}", info.describe()).contains("s3cret"));
    }

    proptest! {
        #[test]
        fn any_text_is_parsed_or_refused(text in "\\PC{0,60}") {
            let _ = Conninfo::parse(&text);
            let _ = Conninfo::parse(&format!("postgres://{text}"));
        }

        #[test]
        fn every_password_survives_both_forms(password in "\\PC{1,20}") {
            let encoded: String = password.bytes().map(|b| format!("%{b:02x}")).collect();
            let quoted = password.replace('\\', "\\\\").replace('\'', "\\'");
            for text in [format!("postgres://u:{encoded}@h"), format!("host=h user=u password='{quoted}'")] {
                let info = Conninfo::parse(&text).unwrap();
                let parsed = info.password.unwrap();
                prop_assert_eq!(parsed.expose_secret(), &password);
            }
        }
    }
}

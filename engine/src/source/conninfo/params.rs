//! From the connection text to its parameters, and from these to a [`Conninfo`].
//!
//! No I/O. What can go wrong is malformed input; see [`ConninfoError`].

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use secrecy::SecretString;

use super::{
    AuthMethods, CONNECT_TIMEOUT, ChannelBinding, Conninfo, ConninfoError, Host, Roots, SslMode,
    TcpSettings,
};

/// Parameters by name; the last of several values counts, as with libpq.
pub(super) type Params = BTreeMap<String, String>;

/// libpq's default when no host is named.
const DEFAULT_SOCKET_FOLDER: &str = "/var/run/postgresql";

pub(super) fn split(text: &str) -> Result<Params, ConninfoError> {
    let text = text.trim();
    let url = ["postgres://", "postgresql://"].iter().find_map(|s| text.strip_prefix(s));
    match url {
        Some(rest) => split_url(rest),
        None => split_pairs(text),
    }
}

/// `[user[:password]@][host[:port],…][/database][?name=value&…]`
fn split_url(rest: &str) -> Result<Params, ConninfoError> {
    let mut params = Params::new();
    let mut set = |name: &str, encoded: &str| -> Result<(), ConninfoError> {
        if !encoded.is_empty() {
            params.insert(name.to_owned(), decode(name, encoded)?);
        }
        Ok(())
    };
    // As libpq does: an @ before the first slash ends the credentials.
    let before_slash = rest.find('/').unwrap_or(rest.len());
    let mut rest = rest;
    if let Some(at) = rest[..before_slash].rfind('@') {
        let (user, password) = rest[..at].split_once(':').unwrap_or((&rest[..at], ""));
        set("user", user)?;
        set("password", password)?;
        rest = &rest[at + 1..];
    }
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (hosts, dbname) = rest.split_once('/').unwrap_or((rest, ""));
    let (hosts, ports) = split_hosts(hosts)?;
    set("host", &hosts)?;
    set("port", &ports)?;
    set("dbname", dbname)?;
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair
            .split_once('=')
            .ok_or(ConninfoError::Syntax("a part after the ? has no = in it"))?;
        let name = decode("name after the ?", name)?;
        set(&name, value)?;
    }
    if params.remove("ssl").is_some_and(|v| v == "true") {
        params.entry("sslmode".to_owned()).or_insert_with(|| "require".to_owned());
    }
    Ok(params)
}

/// The hosts and their ports, each joined by commas; no ports at all if none is given.
fn split_hosts(text: &str) -> Result<(String, String), ConninfoError> {
    let (mut hosts, mut ports) = (Vec::new(), Vec::new());
    for host in text.split(',') {
        let (name, port) = match host.strip_prefix('[') {
            Some(v6) => {
                let (name, rest) =
                    v6.split_once(']').ok_or(ConninfoError::Syntax("a [ is never closed"))?;
                (name, rest.strip_prefix(':').unwrap_or(rest))
            }
            None => host.split_once(':').unwrap_or((host, "")),
        };
        hosts.push(name);
        ports.push(port);
    }
    let ports = if ports.iter().all(|p| p.is_empty()) { String::new() } else { ports.join(",") };
    Ok((hosts.join(","), ports))
}

fn decode(name: &str, encoded: &str) -> Result<String, ConninfoError> {
    let invalid = |reason| ConninfoError::Invalid { name: name.to_owned(), reason };
    let mut bytes = Vec::with_capacity(encoded.len());
    let mut rest = encoded.as_bytes();
    while let [first, tail @ ..] = rest {
        if *first != b'%' {
            bytes.push(*first);
            rest = tail;
            continue;
        }
        let hex = |b: &u8| char::from(*b).to_digit(16).and_then(|d| u8::try_from(d).ok());
        match tail {
            [high, low, tail @ ..] if hex(high).is_some() && hex(low).is_some() => {
                bytes.push(hex(high).unwrap_or(0) << 4 | hex(low).unwrap_or(0));
                rest = tail;
            }
            _ => return Err(invalid("a % must be followed by two hexadecimal digits")),
        }
    }
    if bytes.contains(&0) {
        return Err(invalid("it must not hold a NUL character"));
    }
    String::from_utf8(bytes).map_err(|_| invalid("it is not UTF-8 once decoded"))
}

fn split_pairs(text: &str) -> Result<Params, ConninfoError> {
    let mut params = Params::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let (name, after) =
            rest.split_once('=').ok_or(ConninfoError::Syntax("a parameter has no = after it"))?;
        let name = name.trim_end();
        if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
            return Err(ConninfoError::Syntax("the text before a = is no parameter's name"));
        }
        let (value, after) = quoted(after.trim_start())?;
        params.insert(name.to_owned(), value);
        rest = after.trim_start();
    }
    Ok(params)
}

/// One value, bare or in single quotes, and what follows it.
fn quoted(text: &str) -> Result<(String, &str), ConninfoError> {
    let body = text.strip_prefix('\'');
    let quote = body.is_some();
    let text = body.unwrap_or(text);
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '\0' => return Err(ConninfoError::Syntax("it holds a NUL character")),
            '\\' => match chars.next() {
                Some((_, escaped)) => value.push(escaped),
                None => return Err(ConninfoError::Syntax("it ends in a backslash")),
            },
            '\'' if quote => return Ok((value, &text[at + 1..])),
            c if !quote && c.is_whitespace() => return Ok((value, &text[at..])),
            c => value.push(c),
        }
    }
    if quote { Err(ConninfoError::Syntax("a quote is never closed")) } else { Ok((value, "")) }
}

/// Harmless to leave out: they choose between things that we do one way only.
const IGNORED: [&str; 5] =
    ["application_name", "fallback_application_name", "sslcompression", "gssencmode", "sslsni"];

pub(super) fn build(params: &Params) -> Result<Conninfo, ConninfoError> {
    let take = Take(params);
    for name in params.keys() {
        if !KNOWN.contains(&name.as_str()) && !IGNORED.contains(&name.as_str()) {
            return Err(ConninfoError::Unknown(name.clone()));
        }
    }
    let encoding = take.text("client_encoding").unwrap_or("UTF8").to_ascii_uppercase();
    if !["UTF8", "UTF-8", "AUTO"].contains(&encoding.as_str()) {
        return Err(invalid("client_encoding", "only UTF8 is possible"));
    }
    let user = take.text("user").ok_or(ConninfoError::Missing("user"))?;
    let roots = take.text("sslrootcert").map(|value| match value {
        "system" => Roots::System,
        path => Roots::File(path.into()),
    });
    Ok(Conninfo {
        hosts: hosts(&take)?,
        user: user.to_owned(),
        dbname: take.text("dbname").unwrap_or(user).to_owned(),
        password: take.text("password").map(SecretString::from),
        options: take.text("options").map(str::to_owned),
        sslmode: sslmode(&take, roots.as_ref())?,
        roots,
        client_cert: client_cert(&take)?,
        channel_binding: channel_binding(&take)?,
        auth: auth(&take)?,
        primary: primary(&take)?,
        connect_timeout: match take.number("connect_timeout")? {
            None | Some(0) => CONNECT_TIMEOUT,
            Some(seconds) => Duration::from_secs(u64::from(seconds)),
        },
        tcp: TcpSettings {
            no_keepalive: take.number("keepalives")? == Some(0),
            idle_s: take.number("keepalives_idle")?,
            interval_s: take.number("keepalives_interval")?,
            count: take.number("keepalives_count")?,
            user_timeout_ms: take.number("tcp_user_timeout")?,
        },
    })
}

const KNOWN: [&str; 21] = [
    "host",
    "hostaddr",
    "port",
    "user",
    "password",
    "dbname",
    "options",
    "client_encoding",
    "connect_timeout",
    "sslmode",
    "sslrootcert",
    "sslcert",
    "sslkey",
    "channel_binding",
    "require_auth",
    "target_session_attrs",
    "keepalives",
    "keepalives_idle",
    "keepalives_interval",
    "keepalives_count",
    "tcp_user_timeout",
];

struct Take<'a>(&'a Params);

impl<'a> Take<'a> {
    /// An empty value counts as none, as with libpq.
    fn text(&self, name: &str) -> Option<&'a str> {
        self.0.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    fn number(&self, name: &str) -> Result<Option<u32>, ConninfoError> {
        let number = self.text(name).map(str::parse::<u32>).transpose();
        number.map_err(|_| invalid(name, "expected a whole number, not negative"))
    }
}

fn invalid(name: &str, reason: &'static str) -> ConninfoError {
    ConninfoError::Invalid { name: name.to_owned(), reason }
}

fn hosts(take: &Take<'_>) -> Result<Vec<Host>, ConninfoError> {
    let list = |name| take.text(name).map(|t| t.split(',').collect::<Vec<_>>());
    let addrs = list("hostaddr");
    let names = list("host").or_else(|| addrs.clone()).unwrap_or_else(|| vec![""]);
    let ports = list("port").unwrap_or_else(|| vec![""]);
    if addrs.as_ref().is_some_and(|a| a.len() != names.len()) {
        return Err(invalid("hostaddr", "expected as many as there are hosts"));
    }
    if ports.len() != 1 && ports.len() != names.len() {
        return Err(invalid("port", "expected one, or as many as there are hosts"));
    }
    let one = |(i, name): (usize, &&str)| {
        let port = ports.get(i).or(ports.first()).copied().unwrap_or("");
        let port = if port.is_empty() { Ok(5432) } else { port.parse() };
        let port = port.map_err(|_| invalid("port", "expected a number from 1 to 65535"))?;
        let addr = addrs.as_ref().and_then(|a| a.get(i)).filter(|a| !a.is_empty());
        let addr = addr.map(|a| a.parse()).transpose();
        let addr = addr.map_err(|_| invalid("hostaddr", "expected an IP address"))?;
        Ok(match (*name, addr) {
            ("", None) => Host::Unix { folder: DEFAULT_SOCKET_FOLDER.into(), port },
            (folder, None) if Path::new(folder).is_absolute() => {
                Host::Unix { folder: folder.into(), port }
            }
            (name, addr) => Host::Tcp { name: name.to_owned(), addr, port },
        })
    };
    names.iter().enumerate().map(one).collect()
}

fn sslmode(take: &Take<'_>, roots: Option<&Roots>) -> Result<SslMode, ConninfoError> {
    let system = roots == Some(&Roots::System);
    let mode = match take.text("sslmode") {
        // As libpq: the system's roots make sense only with the name checked.
        None if system => SslMode::VerifyFull,
        None => SslMode::Prefer,
        Some("disable") => SslMode::Disable,
        Some("allow") => SslMode::Allow,
        Some("prefer") => SslMode::Prefer,
        // As libpq: with a root given, "require" verifies against it.
        Some("require") if matches!(roots, Some(Roots::File(_))) => SslMode::VerifyCa,
        Some("require") => SslMode::Require,
        Some("verify-ca") => SslMode::VerifyCa,
        Some("verify-full") => SslMode::VerifyFull,
        Some(_) => {
            let reason = "expected disable, allow, prefer, require, verify-ca or verify-full";
            return Err(invalid("sslmode", reason));
        }
    };
    if system && mode != SslMode::VerifyFull {
        return Err(invalid("sslmode", "sslrootcert=system allows only verify-full"));
    }
    if mode >= SslMode::VerifyCa && roots.is_none() {
        let reason = "verify-ca and verify-full need it: a PEM file, or the word system";
        return Err(invalid("sslrootcert", reason));
    }
    Ok(mode)
}

fn client_cert(
    take: &Take<'_>,
) -> Result<Option<(std::path::PathBuf, std::path::PathBuf)>, ConninfoError> {
    match (take.text("sslcert"), take.text("sslkey")) {
        (Some(cert), Some(key)) => Ok(Some((cert.into(), key.into()))),
        (None, None) => Ok(None),
        (Some(_), None) => Err(ConninfoError::Missing("sslkey")),
        (None, Some(_)) => Err(ConninfoError::Missing("sslcert")),
    }
}

fn channel_binding(take: &Take<'_>) -> Result<ChannelBinding, ConninfoError> {
    match take.text("channel_binding") {
        Some("disable") => Ok(ChannelBinding::Disable),
        None | Some("prefer") => Ok(ChannelBinding::Prefer),
        Some("require") => Ok(ChannelBinding::Require),
        Some(_) => Err(invalid("channel_binding", "expected disable, prefer or require")),
    }
}

fn auth(take: &Take<'_>) -> Result<Option<AuthMethods>, ConninfoError> {
    let Some(text) = take.text("require_auth") else { return Ok(None) };
    let mut methods = AuthMethods { none: false, password: false, md5: false, scram: false };
    for word in text.split(',') {
        match word.trim() {
            "none" => methods.none = true,
            "password" => methods.password = true,
            "md5" => methods.md5 = true,
            "scram-sha-256" => methods.scram = true,
            _ => {
                let reason = "expected a list of scram-sha-256, md5, password and none";
                return Err(invalid("require_auth", reason));
            }
        }
    }
    Ok(Some(methods))
}

fn primary(take: &Take<'_>) -> Result<bool, ConninfoError> {
    match take.text("target_session_attrs") {
        None | Some("any") => Ok(false),
        Some("read-write" | "primary") => Ok(true),
        Some(_) => Err(invalid("target_session_attrs", "expected any, read-write or primary")),
    }
}

//! From a [`Conninfo`] to a byte stream on which a session may be started: sockets, TLS
//! as `sslmode` wants it, several hosts, and a guard on what the server may ask for.
//!
//! What can go wrong: a downgrade. A server (or someone in between) that asks for the
//! password in clear, or for MD5, over an unprotected TCP connection is refused before
//! anything is answered, for every session, because it is this stream that reads.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpStream, UnixStream, lookup_host};
use tokio_rustls::client::TlsStream;

use super::{AuthMethods, Conninfo, Host, SslMode, tls};
use crate::source::error::SourceError;
use crate::source::sockopt;

/// A connected byte stream.
pub(crate) struct Stream {
    inner: Inner,
    guard: AuthGuard,
    binding: Option<Vec<u8>>,
}

enum Inner {
    Tcp(TcpStream),
    Unix(UnixStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Stream {
    /// The channel binding data of its TLS session, if it has any.
    pub(crate) fn binding(&self) -> Option<&[u8]> {
        self.binding.as_deref()
    }

    /// A stream whose other end a test holds.
    #[cfg(test)]
    pub(crate) fn of_test(stream: UnixStream) -> Stream {
        Stream { inner: Inner::Unix(stream), guard: AuthGuard::spent(), binding: None }
    }

    /// Whether TLS protects it.
    pub(crate) fn is_tls(&self) -> bool {
        matches!(self.inner, Inner::Tls(_))
    }

    /// The TCP socket beneath, if there is one.
    pub(crate) fn tcp(&self) -> Option<&TcpStream> {
        match &self.inner {
            Inner::Tcp(stream) => Some(stream),
            Inner::Tls(stream) => Some(stream.get_ref().0),
            Inner::Unix(_) => None,
        }
    }
}

/// Reads along with the first nine bytes that the server says: its answer to the startup
/// message, `R`, length, and the authentication it asks for.
struct AuthGuard {
    allowed: AuthMethods,
    seen: [u8; 9],
    len: usize,
}

impl AuthGuard {
    fn new(info: &Conninfo, protected: bool) -> AuthGuard {
        let default = AuthMethods { none: true, password: protected, md5: protected, scram: true };
        AuthGuard { allowed: info.auth.unwrap_or(default), seen: [0; 9], len: 0 }
    }

    /// For a stream that stands already.
    #[cfg(test)]
    fn spent() -> AuthGuard {
        let allowed = AuthMethods { none: true, password: false, md5: false, scram: true };
        AuthGuard { allowed, seen: [0; 9], len: 9 }
    }

    fn check(&mut self, new: &[u8]) -> io::Result<()> {
        let take = new.len().min(self.seen.len() - self.len);
        if take == 0 {
            return Ok(());
        }
        self.seen[self.len..self.len + take].copy_from_slice(&new[..take]);
        self.len += take;
        let [b'R', _, _, _, _, a, b, c, d] = self.seen else { return Ok(()) };
        if self.len < self.seen.len() {
            return Ok(());
        }
        let (allowed, name) = match u32::from_be_bytes([a, b, c, d]) {
            0 => (self.allowed.none, "no authentication at all"),
            3 => (self.allowed.password, "the password in clear"),
            5 => (self.allowed.md5, "an MD5 of the password"),
            10 => (self.allowed.scram, "SCRAM"),
            _ => (true, ""),
        };
        if allowed {
            return Ok(());
        }
        let text = format!(
            "the server asks for {name}, which is not allowed here (use TLS or SCRAM, or name it \
             in require_auth)"
        );
        Err(io::Error::new(io::ErrorKind::PermissionDenied, text))
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        let poll = match &mut this.inner {
            Inner::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            Inner::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
            Inner::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        };
        if let Poll::Ready(Ok(())) = poll {
            this.guard.check(&buf.filled()[before..])?;
        }
        poll
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().inner {
            Inner::Tcp(stream) => Pin::new(stream).poll_write(cx, buf),
            Inner::Unix(stream) => Pin::new(stream).poll_write(cx, buf),
            Inner::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().inner {
            Inner::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Inner::Unix(stream) => Pin::new(stream).poll_flush(cx),
            Inner::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().inner {
            Inner::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Inner::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
            Inner::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

/// What one attempt does about TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tls {
    Never,
    IfOffered,
    Always,
}

/// Tries the hosts in order, and on each the ways that `sslmode` allows.
///
/// Use: `next`, start a session on the stream, and if that fails `failed` says whether
/// `next` is worth calling again.
pub(crate) struct Dialer<'a> {
    info: &'a Conninfo,
    host: usize,
    second_try: bool,
    was_tls: bool,
}

impl<'a> Dialer<'a> {
    pub(crate) fn new(info: &'a Conninfo) -> Dialer<'a> {
        Dialer { info, host: 0, second_try: false, was_tls: false }
    }

    /// The host now being tried.
    pub(crate) fn host(&self) -> &'a Host {
        // Never beyond the last: `advance` refuses to go there. A conninfo has a host.
        &self.info.hosts[self.host.min(self.info.hosts.len() - 1)]
    }

    /// A connected stream to the host now being tried.
    pub(crate) async fn next(&mut self) -> Result<Stream, SourceError> {
        let tls = match (self.info.sslmode, self.second_try) {
            (SslMode::Disable, _) | (SslMode::Allow, false) | (SslMode::Prefer, true) => Tls::Never,
            (SslMode::Prefer, false) => Tls::IfOffered,
            _ => Tls::Always,
        };
        let stream = open(self.info, self.host(), tls).await?;
        self.was_tls = stream.is_tls();
        Ok(stream)
    }

    /// Says whether another way is left after `error`, which is handed back if not.
    pub(crate) fn failed(&mut self, error: SourceError) -> Result<(), SourceError> {
        // pg_hba.conf may allow only the other kind of connection.
        let rejected = error.sqlstate() == Some("28000");
        let other_kind = match self.info.sslmode {
            SslMode::Allow => !self.was_tls,
            SslMode::Prefer => self.was_tls,
            _ => false,
        };
        if rejected && other_kind && !self.second_try {
            self.second_try = true;
            return Ok(());
        }
        // As libpq: a server that was reached and refused the role ends the search.
        let elsewhere = matches!(
            error,
            SourceError::Connect { .. }
                | SourceError::Io { .. }
                | SourceError::Timeout { .. }
                | SourceError::Tls { .. }
                | SourceError::ReadOnly { .. }
        ) || error.sqlstate().is_some_and(|state| state.starts_with("57P"));
        if elsewhere && self.host + 1 < self.info.hosts.len() {
            self.host += 1;
            self.second_try = false;
            return Ok(());
        }
        Err(error)
    }
}

async fn open(info: &Conninfo, host: &Host, tls: Tls) -> Result<Stream, SourceError> {
    let failed = |source| SourceError::Connect { host: host.to_string(), source };
    match host {
        Host::Unix { folder, port } => {
            let path = folder.join(format!(".s.PGSQL.{port}"));
            let stream = UnixStream::connect(path).await.map_err(failed)?;
            // As libpq: TLS is never spoken over a Unix socket.
            Ok(Stream {
                inner: Inner::Unix(stream),
                guard: AuthGuard::new(info, true),
                binding: None,
            })
        }
        Host::Tcp { name, addr, port } => {
            let mut stream = connect_tcp(name, *addr, *port).await.map_err(failed)?;
            sockopt::keepalive(&stream, info.tcp).map_err(failed)?;
            if tls == Tls::Never || !offers_tls(&mut stream).await.map_err(failed)? {
                if tls == Tls::Always {
                    let reason = "the server does not offer it, and sslmode asks for it".into();
                    return Err(SourceError::Tls { host: host.to_string(), reason });
                }
                let guard = AuthGuard::new(info, false);
                return Ok(Stream { inner: Inner::Tcp(stream), guard, binding: None });
            }
            handshake(info, host, name, stream).await
        }
    }
}

async fn connect_tcp(
    name: &str,
    addr: Option<std::net::IpAddr>,
    port: u16,
) -> io::Result<TcpStream> {
    let stream = match addr {
        Some(addr) => TcpStream::connect((addr, port)).await?,
        None => {
            let addrs: Vec<_> = lookup_host((name, port)).await?.collect();
            TcpStream::connect(&addrs[..]).await?
        }
    };
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// SSLRequest and its one byte of an answer.
async fn offers_tls(stream: &mut TcpStream) -> io::Result<bool> {
    let mut request = bytes::BytesMut::new();
    postgres_protocol::message::frontend::ssl_request(&mut request);
    stream.write_all(&request).await?;
    match stream.read_u8().await? {
        b'S' => Ok(true),
        b'N' => Ok(false),
        _ => Err(io::Error::new(io::ErrorKind::InvalidData, "it does not speak PostgreSQL")),
    }
}

async fn handshake(
    info: &Conninfo,
    host: &Host,
    name: &str,
    stream: TcpStream,
) -> Result<Stream, SourceError> {
    let tls_error = |reason: String| SourceError::Tls { host: host.to_string(), reason };
    let config = tls::client_config(info).map_err(tls_error)?;
    let server = ServerName::try_from(name.to_owned())
        .map_err(|_| tls_error("the host's name cannot be in a certificate".to_owned()))?;
    let connector = tokio_rustls::TlsConnector::from(config);
    let stream = connector.connect(server, stream).await.map_err(|source| {
        // rustls reports what it refuses as InvalidData; the rest is the network's.
        match source.get_ref().and_then(|e| e.downcast_ref::<rustls::Error>()) {
            Some(error) => tls_error(error.to_string()),
            None => SourceError::Connect { host: host.to_string(), source },
        }
    })?;
    let certificates = stream.get_ref().1.peer_certificates();
    let first = certificates.and_then(<[_]>::first);
    let binding = first.and_then(|cert| tls::server_end_point(cert));
    Ok(Stream { inner: Inner::Tls(Box::new(stream)), guard: AuthGuard::new(info, true), binding })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guard(text: &str, protected: bool) -> AuthGuard {
        AuthGuard::new(&Conninfo::parse(text).unwrap(), protected)
    }

    fn request(code: u8) -> [u8; 9] {
        [b'R', 0, 0, 0, 8, 0, 0, 0, code]
    }

    #[test]
    fn weak_requests_are_refused_unless_protected_or_named() {
        let plain = "postgres://u@h";
        assert!(guard(plain, false).check(&request(3)).is_err());
        assert!(guard(plain, false).check(&request(5)).is_err());
        assert!(guard(plain, false).check(&request(10)).is_ok());
        assert!(guard(plain, true).check(&request(3)).is_ok());
        let named = "postgres://u@h?require_auth=md5";
        assert!(guard(named, false).check(&request(5)).is_ok());
        assert!(guard(named, true).check(&request(10)).is_err());
    }

    #[test]
    fn a_request_is_recognised_in_pieces_and_only_at_the_start() {
        let mut pieces = guard("postgres://u@h", false);
        let bytes = request(3);
        assert!(pieces.check(&bytes[..4]).is_ok());
        assert!(pieces.check(&bytes[4..]).is_err());
        let mut later = guard("postgres://u@h", false);
        assert!(later.check(&request(10)).is_ok());
        assert!(later.check(&request(3)).is_ok());
    }

    #[test]
    fn ways_on_after_a_refusal() {
        let refused = |state: &str| SourceError::Server {
            doing: "x".into(),
            server: Box::new(crate::source::error::ServerError {
                sqlstate: state.into(),
                ..Default::default()
            }),
        };
        let unreachable =
            || SourceError::Connect { host: "h".into(), source: io::Error::other("x") };
        let info = Conninfo::parse("postgres://u@a,b?sslmode=allow").unwrap();
        let mut dialer = Dialer::new(&info);
        assert!(dialer.failed(refused("28000")).is_ok());
        assert!(dialer.second_try);
        assert!(dialer.failed(refused("28000")).is_err());
        assert!(dialer.failed(unreachable()).is_ok());
        assert_eq!((dialer.host, dialer.second_try), (1, false));
        assert!(dialer.failed(refused("28P01")).is_err());
        assert!(dialer.failed(unreachable()).is_err());
    }
}

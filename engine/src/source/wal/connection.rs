//! A replication session: greeting, authentication, and the few commands a walsender
//! knows. START_REPLICATION turns it into a stream and ends it as a session.
//!
//! What can go wrong: what the server says (as errors with its SQLSTATE), or a future
//! dropped in the middle of a command; the session is then out of step and refuses all
//! further ones.
//! Format: the PostgreSQL manual, 55.2 "Message Flow" and 55.4 "Streaming Replication".

use std::io;

use bytes::{Buf, BytesMut};
use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{self, ScramSha256};
use postgres_protocol::message::backend::{AuthenticationSaslBody, Message};
use postgres_protocol::message::frontend;
use secrecy::ExposeSecret;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_postgres::fallible_iterator::FallibleIterator;

use super::super::conninfo::{ChannelBinding, Conninfo, Dialer, PATIENT, Stream, options_with};
use super::super::error::{ServerError, SourceError};
use super::slot::SlotName;
use super::timeline::{SwitchPoint, switch_points};
use crate::position::Lsn;

/// No answer to a command of a session is larger than this.
const MAX_ANSWER: usize = 16 << 20;

/// What IDENTIFY_SYSTEM says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SystemId {
    /// The cluster's own number; the same on its standbys.
    pub system_identifier: String,
    /// The server's timeline.
    pub timeline: u32,
    /// End of its log, flushed.
    pub xlogpos: Lsn,
    /// The connected database.
    pub dbname: String,
}

/// An idle replication session.
pub struct ReplSession {
    pub(super) stream: Stream,
    pub(super) buf: BytesMut,
    /// A command was sent whose answer has not been read to its end.
    busy: bool,
}

/// Rows of an answer: the text of each column, `None` for NULL.
pub(super) type Rows = Vec<Vec<Option<String>>>;

impl ReplSession {
    /// Opens a session with `replication=database` and the pinned text settings.
    ///
    /// # Errors
    /// No host gave a session: see [`SourceError`].
    pub async fn connect(info: &Conninfo, app_name: &str) -> Result<ReplSession, SourceError> {
        let mut dialer = Dialer::new(info);
        loop {
            let host = dialer.host().to_string();
            let attempt = tokio::time::timeout(info.connect_timeout, async {
                let stream = dialer.next().await?;
                ReplSession::start(info, stream, app_name, &host).await
            });
            let ms = info.connect_timeout.as_millis();
            match attempt.await.unwrap_or(Err(SourceError::Timeout { host: host.clone(), ms })) {
                Ok(session) => return Ok(session),
                Err(error) => dialer.failed(error)?,
            }
        }
    }

    async fn start(
        info: &Conninfo,
        stream: Stream,
        app_name: &str,
        host: &str,
    ) -> Result<ReplSession, SourceError> {
        let mut session =
            ReplSession { stream, buf: BytesMut::with_capacity(8 << 10), busy: false };
        let doing = format!("a replication session for {:?} at {host}", info.user);
        // A warning that says what is left out must come through.
        let settings = [&PATIENT[..], &[("client_min_messages", "warning")]].concat();
        let options = options_with(info, &settings);
        let parameters = [
            ("user", info.user.as_str()),
            ("database", info.dbname.as_str()),
            ("replication", "database"),
            ("client_encoding", "UTF8"),
            ("application_name", app_name),
            ("options", options.as_str()),
        ];
        let mut out = BytesMut::new();
        frontend::startup_message(parameters, &mut out)
            .map_err(|e| SourceError::protocol(&doing, e.to_string()))?;
        session.send(&out, &doing).await?;
        session.authenticate(info, &doing).await?;
        // Parameters and the key for cancelling follow, then the server is ready.
        while !matches!(session.receive(&doing).await?, Message::ReadyForQuery(_)) {}
        if info.primary && session.show("transaction_read_only").await? != "off" {
            return Err(SourceError::ReadOnly { host: host.to_owned() });
        }
        // 17 and later can end a transaction for its age, and decoding a large one is one;
        // earlier versions would refuse the setting in the greeting.
        let off = "SELECT pg_catalog.set_config(name, '0', false) FROM pg_catalog.pg_settings \
                   WHERE name = 'transaction_timeout'";
        session.query(off, &doing).await?;
        Ok(session)
    }

    async fn authenticate(&mut self, info: &Conninfo, doing: &str) -> Result<(), SourceError> {
        let refuse =
            |reason: &str| SourceError::Auth { user: info.user.clone(), reason: reason.to_owned() };
        let password = info.password.as_ref().map(ExposeSecret::expose_secret);
        let request = self.receive(doing).await.map_err(|e| guarded(e, info))?;
        if info.channel_binding == ChannelBinding::Require
            && !matches!(request, Message::AuthenticationSasl(_))
        {
            return Err(refuse("channel_binding=require, but the server does not ask for SCRAM"));
        }
        if matches!(request, Message::AuthenticationOk) {
            return Ok(());
        }
        let password = password.ok_or_else(|| {
            refuse("the server asks for a password, and the connection text has none")
        })?;
        let mut out = BytesMut::new();
        match request {
            Message::AuthenticationSasl(body) => {
                return self.scram(info, &body, password, doing).await;
            }
            // Whether these two may be answered at all, the stream has judged.
            Message::AuthenticationCleartextPassword => {
                let _ = frontend::password_message(password.as_bytes(), &mut out);
            }
            Message::AuthenticationMd5Password(body) => {
                let hash = md5_hash(info.user.as_bytes(), password.as_bytes(), body.salt());
                let _ = frontend::password_message(hash.as_bytes(), &mut out);
            }
            _ => return Err(refuse("the server asks for a method other than SCRAM and password")),
        }
        self.send(&out, doing).await?;
        match self.receive(doing).await? {
            Message::AuthenticationOk => Ok(()),
            _ => Err(SourceError::protocol(doing, "an unexpected answer to the password")),
        }
    }

    async fn scram(
        &mut self,
        info: &Conninfo,
        body: &AuthenticationSaslBody,
        password: &str,
        doing: &str,
    ) -> Result<(), SourceError> {
        let broken = |e: io::Error| SourceError::protocol(doing, e.to_string());
        let refuse = |reason: String| SourceError::Auth { user: info.user.clone(), reason };
        let mechanisms: Vec<&str> = body.mechanisms().collect().map_err(broken)?;
        let (mechanism, binding) = mechanism(info, &mechanisms, self.stream.binding())
            .map_err(|reason| refuse(reason.to_owned()))?;
        let mut scram = ScramSha256::new(password.as_bytes(), binding);
        let mut out = BytesMut::new();
        frontend::sasl_initial_response(mechanism, scram.message(), &mut out).map_err(broken)?;
        self.send(&out, doing).await?;
        let Message::AuthenticationSaslContinue(body) = self.receive(doing).await? else {
            return Err(SourceError::protocol(doing, "expected the server's SCRAM challenge"));
        };
        scram.update(body.data()).map_err(|e| refuse(format!("SCRAM: {e}")))?;
        out.clear();
        frontend::sasl_response(scram.message(), &mut out).map_err(broken)?;
        self.send(&out, doing).await?;
        let Message::AuthenticationSaslFinal(body) = self.receive(doing).await? else {
            return Err(SourceError::protocol(doing, "expected the server's SCRAM proof"));
        };
        scram.finish(body.data()).map_err(|e| {
            refuse(format!("the server could not prove that it knows the password: {e}"))
        })?;
        match self.receive(doing).await? {
            Message::AuthenticationOk => Ok(()),
            _ => Err(SourceError::protocol(doing, "an unexpected message after SCRAM")),
        }
    }

    async fn send(&mut self, bytes: &[u8], doing: &str) -> Result<(), SourceError> {
        let write = async {
            self.stream.write_all(bytes).await?;
            self.stream.flush().await
        };
        write.await.map_err(|e| SourceError::io(doing, e))
    }

    /// The next message that is an answer: notices and parameters are passed over, an
    /// error is an error.
    pub(super) async fn receive(&mut self, doing: &str) -> Result<Message, SourceError> {
        loop {
            let parsed = Message::parse(&mut self.buf);
            match parsed.map_err(|e| SourceError::protocol(doing, e.to_string()))? {
                Some(Message::ErrorResponse(body)) => {
                    let server = Box::new(ServerError::from_response(&body, true));
                    return Err(SourceError::Server { doing: doing.to_owned(), server });
                }
                Some(Message::NoticeResponse(_) | Message::ParameterStatus(_)) => {}
                Some(message) => return Ok(message),
                None if self.buf.capacity() > MAX_ANSWER => {
                    return Err(SourceError::protocol(doing, "an answer of more than 16 MiB"));
                }
                None => self.fill(doing).await?,
            }
        }
    }

    /// Sends a command; its answer must be read with [`ReplSession::finish`] or by the
    /// stream that the session becomes.
    pub(super) async fn command(&mut self, sql: &str, doing: &str) -> Result<(), SourceError> {
        if self.busy {
            return Err(SourceError::protocol(doing, "the command before was given up half way"));
        }
        self.busy = true;
        let mut out = BytesMut::new();
        frontend::query(sql, &mut out).map_err(|e| SourceError::protocol(doing, e.to_string()))?;
        self.send(&out, doing).await
    }

    /// Sends a command and reads its rows. `doing` names it in errors.
    pub(super) async fn query(&mut self, sql: &str, doing: &str) -> Result<Rows, SourceError> {
        self.command(sql, doing).await?;
        let mut rows = Rows::new();
        let mut failed = None;
        loop {
            match self.receive(doing).await {
                Ok(Message::DataRow(body)) => {
                    let ranges = body.ranges().map(|range| {
                        Ok(range.map(|r| String::from_utf8_lossy(&body.buffer()[r]).into_owned()))
                    });
                    let row = ranges.collect();
                    rows.push(row.map_err(|e| SourceError::protocol(doing, e.to_string()))?);
                }
                Ok(Message::ReadyForQuery(_)) => break,
                Ok(_) => {}
                // After an error the server still says when it is ready, unless it ends.
                Err(error @ SourceError::Server { .. }) => failed = Some(error),
                Err(error) => return Err(failed.unwrap_or(error)),
            }
        }
        self.busy = false;
        failed.map_or(Ok(rows), Err)
    }

    /// The value of a setting.
    ///
    /// # Errors
    /// There is no such setting, or the connection broke.
    pub async fn show(&mut self, setting: &'static str) -> Result<String, SourceError> {
        let rows = self.query(&format!("SHOW {setting}"), "SHOW").await?;
        column(&rows, 0, "SHOW")
    }

    /// IDENTIFY_SYSTEM.
    ///
    /// # Errors
    /// The connection broke, or the answer has not its form.
    pub async fn identify_system(&mut self) -> Result<SystemId, SourceError> {
        let doing = "IDENTIFY_SYSTEM";
        let rows = self.query(doing, doing).await?;
        let malformed = |_| SourceError::protocol(doing, "an answer that is not its form");
        Ok(SystemId {
            system_identifier: column(&rows, 0, doing)?,
            timeline: column(&rows, 1, doing)?.parse().map_err(malformed)?,
            xlogpos: column(&rows, 2, doing)?
                .parse()
                .map_err(|_| SourceError::protocol(doing, "an LSN that is none"))?,
            dbname: column(&rows, 3, doing)?,
        })
    }

    /// The switch points on the way to `timeline`, oldest first; none for timeline 1.
    ///
    /// # Errors
    /// The server has not the history file (58P01), or the connection broke.
    pub async fn timeline_history(
        &mut self,
        timeline: u32,
    ) -> Result<Vec<SwitchPoint>, SourceError> {
        if timeline <= 1 {
            return Ok(Vec::new());
        }
        let doing = "TIMELINE_HISTORY";
        let rows = self.query(&format!("{doing} {timeline}"), doing).await?;
        switch_points(&column(&rows, 1, doing)?)
    }

    /// Sends START_REPLICATION; from its answer on the session is a stream.
    pub(super) async fn start_copy(
        &mut self,
        sql: &str,
        slot: &SlotName,
    ) -> Result<(), SourceError> {
        let doing = format!("START_REPLICATION SLOT {slot}");
        self.command(sql, &doing).await?;
        loop {
            // The answer has its own kind, which the protocol crate does not know.
            match self.buf.first() {
                Some(b'W') => match message_len(&self.buf) {
                    Some(len) if self.buf.len() >= len => {
                        self.buf.advance(len);
                        return Ok(());
                    }
                    _ => self.fill(&doing).await?,
                },
                Some(_) if message_len(&self.buf).is_some_and(|len| self.buf.len() >= len) => {
                    match Message::parse(&mut self.buf) {
                        Ok(Some(Message::ErrorResponse(body))) => {
                            let server = Box::new(ServerError::from_response(&body, true));
                            let error = SourceError::Server { doing, server };
                            return Err(error.about_slot(slot.as_str()));
                        }
                        Ok(Some(Message::NoticeResponse(_) | Message::ParameterStatus(_))) => {}
                        _ => return Err(SourceError::protocol(&doing, "an unexpected answer")),
                    }
                }
                _ => self.fill(&doing).await?,
            }
        }
    }

    /// Reads what is there, at least one byte.
    async fn fill(&mut self, doing: &str) -> Result<(), SourceError> {
        let read = self.stream.read_buf(&mut self.buf).await;
        match read.map_err(|e| SourceError::io(doing, e))? {
            0 => Err(SourceError::io(doing, io::ErrorKind::UnexpectedEof.into())),
            _ => Ok(()),
        }
    }

    /// Waits until the connection is lost: the holder of a snapshot has to know.
    ///
    /// Cancel-safe, and no command: a snapshot exported here stays valid.
    pub(super) async fn lost(&mut self) -> SourceError {
        match self.receive("waiting while a snapshot is needed").await {
            Ok(_) => SourceError::protocol("waiting", "an answer to no command"),
            Err(error) => error,
        }
    }
}

/// Length of the message at the start of `buf`, with its kind.
fn message_len(buf: &[u8]) -> Option<usize> {
    let (&[_, a, b, c, d], _) = buf.split_first_chunk::<5>()?;
    usize::try_from(u32::from_be_bytes([a, b, c, d])).ok()?.checked_add(1)
}

pub(super) fn column(rows: &Rows, i: usize, doing: &str) -> Result<String, SourceError> {
    let value = rows.first().and_then(|row| row.get(i)).cloned().flatten();
    value.ok_or_else(|| SourceError::protocol(doing, "an answer without its columns"))
}

/// A refusal by the stream's guard is about authentication, not about the network.
fn guarded(error: SourceError, info: &Conninfo) -> SourceError {
    match error {
        SourceError::Io { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
            SourceError::Auth { user: info.user.clone(), reason: source.to_string() }
        }
        other => other,
    }
}

/// SCRAM with channel binding wherever both sides can, as libpq decides it.
fn mechanism(
    info: &Conninfo,
    offered: &[&str],
    binding: Option<&[u8]>,
) -> Result<(&'static str, sasl::ChannelBinding), &'static str> {
    let plus = offered.contains(&sasl::SCRAM_SHA_256_PLUS);
    let plain = offered.contains(&sasl::SCRAM_SHA_256);
    let binding = binding.filter(|_| info.channel_binding != ChannelBinding::Disable);
    match binding {
        Some(data) if plus => {
            let bound = sasl::ChannelBinding::tls_server_end_point(data.to_vec());
            Ok((sasl::SCRAM_SHA_256_PLUS, bound))
        }
        _ if info.channel_binding == ChannelBinding::Require => {
            Err("channel_binding=require, but there is none: it needs TLS, a server that offers \
             SCRAM-SHA-256-PLUS, and a certificate whose signature names a hash")
        }
        // "We could": a server that can too now knows that someone hid its offer.
        Some(_) if plain => Ok((sasl::SCRAM_SHA_256, sasl::ChannelBinding::unrequested())),
        None if plain => Ok((sasl::SCRAM_SHA_256, sasl::ChannelBinding::unsupported())),
        _ => Err("the server offers no SASL mechanism but unknown ones"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_strongest_mechanism_is_chosen() {
        let info = |text: &str| Conninfo::parse(text).unwrap();
        let name = |info: &Conninfo, offered: &[&str], binding: Option<&[u8]>| {
            mechanism(info, offered, binding).map(|(name, _)| name)
        };
        let both = [sasl::SCRAM_SHA_256, sasl::SCRAM_SHA_256_PLUS];
        let prefer = info("postgres://u@h");
        assert_eq!(name(&prefer, &both, Some(b"x")), Ok(sasl::SCRAM_SHA_256_PLUS));
        assert_eq!(name(&prefer, &both, None), Ok(sasl::SCRAM_SHA_256));
        assert_eq!(name(&prefer, &both[..1], Some(b"x")), Ok(sasl::SCRAM_SHA_256));
        assert!(name(&prefer, &["X"], Some(b"x")).is_err());
        let require = info("postgres://u@h?channel_binding=require");
        assert!(name(&require, &both, None).is_err());
        assert!(name(&require, &both[..1], Some(b"x")).is_err());
        let disable = info("postgres://u@h?channel_binding=disable");
        assert_eq!(name(&disable, &both, Some(b"x")), Ok(sasl::SCRAM_SHA_256));
    }
}

//! What a service of `Type=notify` tells systemd: that it stands, what it does, that it
//! is alive, that it ends. A datagram to the socket that `NOTIFY_SOCKET` names; the few
//! lines that are needed are here, a crate for them would be one more to trust.
//!
//! Format: sd_notify(3). Nothing can go wrong for the service: without the variable
//! nothing is sent, and a message that cannot be sent is told at the level `debug`.

use std::env;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::bootstrap::State;
use crate::control::{Shared, Status};

/// How often the status line is looked at.
const LOOK: Duration = Duration::from_secs(1);

/// The way to systemd, if there is one.
#[derive(Clone, Debug, Default)]
pub struct Systemd {
    socket: Option<SocketAddr>,
    /// Silence after which systemd ends the service.
    watchdog: Option<Duration>,
}

impl Systemd {
    /// As the environment says.
    #[must_use]
    pub fn from_env() -> Systemd {
        let text = |name: &str| env::var(name).ok();
        let mine = text("WATCHDOG_PID").is_none_or(|pid| pid == std::process::id().to_string());
        let us = text("WATCHDOG_USEC").filter(|_| mine).and_then(|us| us.parse().ok());
        Systemd {
            socket: env::var_os("NOTIFY_SOCKET").and_then(|name| {
                use std::os::unix::ffi::OsStrExt;
                address(name.as_bytes())
            }),
            watchdog: us.filter(|us| *us > 0).map(Duration::from_micros),
        }
    }

    /// Tells it all until `stop`: READY=1 once both servers have answered, STATUS= when
    /// that changes, WATCHDOG=1 twice in its time while the engine's loop comes round, and
    /// STOPPING=1.
    pub async fn tell(self, shared: Arc<Shared>, stop: CancellationToken) {
        if self.socket.is_none() {
            return;
        }
        let every = self.watchdog.map_or(LOOK, |watchdog| (watchdog / 2).min(LOOK));
        let mut clock = tokio::time::interval(every);
        clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut ready, mut told) = (false, String::new());
        loop {
            tokio::select! {
                () = stop.cancelled() => return self.send_at_last("STOPPING=1\nSTATUS=draining").await,
                _ = clock.tick() => {}
            }
            let status = shared.status.load();
            let line = line(&status);
            // What a systemd that is busy did not take is told with the next look.
            if line != told && self.send(&format!("STATUS={line}")) {
                told = line;
            }
            ready = ready || (status.started && self.send("READY=1"));
            // A loop that stands still is what the watchdog is for.
            if self.watchdog.is_some_and(|watchdog| shared.beat_age() < watchdog.max(2 * LOOK)) {
                self.send("WATCHDOG=1");
            }
        }
    }

    /// There is no next look.
    async fn send_at_last(&self, text: &str) {
        for _ in 0..10 {
            if self.send(text) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Whether it was taken.
    fn send(&self, text: &str) -> bool {
        let Some(socket) = &self.socket else { return false };
        let sent = UnixDatagram::unbound().and_then(|from| {
            // A systemd that does not read must not hold anything up.
            from.set_nonblocking(true)?;
            from.send_to_addr(text.as_bytes(), socket)
        });
        if let Err(error) = &sent {
            tracing::debug!(%error, "NOTIFY_SOCKET cannot be written to");
        }
        sent.is_ok()
    }
}

/// A path, or a name in the abstract namespace behind an `@`.
fn address(name: &[u8]) -> Option<SocketAddr> {
    use std::os::unix::ffi::OsStrExt;
    match name {
        [b'@', rest @ ..] => SocketAddr::from_abstract_name(rest).ok(),
        [b'/', ..] => SocketAddr::from_pathname(std::ffi::OsStr::from_bytes(name)).ok(),
        _ => None,
    }
}

/// What `systemctl status` shows, on one line.
fn line(status: &Status) -> String {
    let state = status.state.unwrap_or(State::Waiting);
    let text = match (status.not_ready(), status.paused.as_str()) {
        (Some(why), _) if !status.started => why,
        (Some(why), _) => format!("{state}, not ready: {why}"),
        (None, "") => state.to_string(),
        (None, paused) => format!("{state}, paused: {paused}"),
    };
    text.replace(char::is_control, " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_kinds_of_addresses() {
        assert!(address(b"/run/systemd/notify").is_some_and(|a| a.as_pathname().is_some()));
        assert!(address(b"@kasho").is_some_and(|a| a.as_abstract_name() == Some(b"kasho")));
        assert!(address(b"").is_none() && address(b"vsock:2:1").is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_busy_systemd_did_not_take_is_told_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let systemd = UnixDatagram::bind(&path).unwrap();
        systemd.set_nonblocking(true).unwrap();
        let socket = Some(SocketAddr::from_pathname(&path).unwrap());
        let teller = Systemd { socket, watchdog: Some(Duration::from_millis(20)) };
        let mut room = 0;
        while teller.send("full") {
            room += 1;
        }
        let shared = Shared::new(Status { started: true, ..Status::default() });
        let stop = CancellationToken::new();
        let telling = tokio::spawn(teller.tell(shared, stop.clone()));
        // Some looks in vain: the clock is the test's.
        tokio::time::sleep(Duration::from_millis(50)).await;
        let (mut heard, mut buffer) = (Vec::new(), [0; 64]);
        for _ in 0..100 {
            while let Ok(n) = systemd.recv(&mut buffer) {
                heard.push(String::from_utf8_lossy(&buffer[..n]).into_owned());
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(heard.iter().filter(|text| *text == "full").count(), room);
        for text in ["STATUS=WAITING", "READY=1"] {
            assert_eq!(heard.iter().filter(|heard| *heard == text).count(), 1, "{heard:?}");
        }
        stop.cancel();
        telling.await.unwrap();
    }

    #[test]
    fn the_status_is_one_line() {
        let mut status = Status { last_error: "a\nb".into(), ..Status::default() };
        assert_eq!(line(&status), "a b");
        status.started = true;
        assert_eq!(line(&status), "WAITING, not ready: a b");
        status.last_error.clear();
        assert_eq!(line(&status), "WAITING");
        status.paused = "full".into();
        assert_eq!(line(&status), "WAITING, paused: full");
    }
}

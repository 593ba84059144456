//! A TCP wire that a test can spoil: cut, slow down, feed byte by byte, swallow replies.

use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::eventually;

/// What the wire does to bytes; applies to open connections too, from the next read on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Nothing.
    None,
    /// Every piece waits this long, in both directions.
    Delay(Duration),
    /// One byte a write, in both directions.
    Trickle,
    /// Requests arrive, replies vanish: the other side did it and nobody heard.
    SwallowReplies,
    /// Half open: nothing arrives anywhere, and nothing is closed.
    Silence,
    /// New connections are closed at once.
    Refuse,
}

/// State of the wire: its fault, and how often it was cut.
type Wire = (Fault, u64);

/// A proxy on 127.0.0.1. Dropping it cuts everything.
pub(crate) struct Proxy {
    port: u16,
    wire: watch::Sender<Wire>,
    listener: JoinHandle<()>,
    lose: Lose,
}

/// The request whose reply is lost, and whether the wire is refused from then on.
type Lose = Arc<Mutex<Option<(&'static str, bool)>>>;

impl Proxy {
    /// A proxy in front of a port of 127.0.0.1.
    pub(crate) async fn start(to: u16) -> Proxy {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("bind");
        let port = listener.local_addr().expect("address").port();
        let (wire, state) = watch::channel((Fault::None, 0));
        let lose = Lose::default();
        let (losing, setting) = (Arc::clone(&lose), wire.clone());
        let listener = tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                if state.borrow().0 != Fault::Refuse {
                    let lose = (Arc::clone(&losing), setting.clone());
                    tokio::spawn(connection(near, to, state.clone(), lose));
                }
            }
        });
        Proxy { port, wire, listener, lose }
    }

    /// The port to connect to.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Spoils or mends the wire.
    pub(crate) fn set(&self, fault: Fault) {
        self.wire.send_modify(|wire| wire.0 = fault);
    }

    /// Cuts the connection of the next request that contains `text` (in one piece) once it
    /// has been handed on: it is done, and nobody hears. With `refuse` nobody gets through
    /// any more from then on.
    pub(crate) fn lose_reply_to(&self, text: &'static str, refuse: bool) {
        *self.lose.lock().expect("lock") = Some((text, refuse));
    }

    /// Waits until that request came.
    pub(crate) async fn lost(&self) {
        eventually("the request whose reply is to be lost", async || {
            self.lose.lock().expect("lock").is_none().then_some(())
        })
        .await;
    }

    /// Cuts every open connection; new ones get through.
    pub(crate) fn cut(&self) {
        self.wire.send_modify(|wire| wire.1 += 1);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.listener.abort();
        self.cut();
    }
}

/// Carries one connection until either side closes or the wire is cut.
async fn connection(
    mut near: TcpStream,
    to: u16,
    state: watch::Receiver<Wire>,
    lose: (Lose, watch::Sender<Wire>),
) {
    let Ok(mut far) = TcpStream::connect((Ipv4Addr::LOCALHOST, to)).await else { return };
    let (near_read, near_write) = near.split();
    let (far_read, far_write) = far.split();
    let mut cuts = state.clone();
    let cuts_before = state.borrow().1;
    tokio::select! {
        () = carry(near_read, far_write, state.clone(), Some(lose)) => {}
        () = carry(far_read, near_write, state, None) => {}
        _ = cuts.wait_for(|wire| wire.1 != cuts_before) => {}
    }
}

/// Carries bytes one way.
async fn carry(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut state: watch::Receiver<Wire>,
    requests: Option<(Lose, watch::Sender<Wire>)>,
) {
    let replies = requests.is_none();
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        let fault = state.borrow_and_update().0;
        let piece = &buffer[..length];
        let written = match fault {
            Fault::None | Fault::Refuse => to.write_all(piece).await,
            Fault::Delay(pause) => {
                tokio::time::sleep(pause).await;
                to.write_all(piece).await
            }
            Fault::Trickle => trickle(&mut to, piece).await,
            Fault::SwallowReplies if replies => Ok(()),
            Fault::SwallowReplies => to.write_all(piece).await,
            Fault::Silence => {
                // What was under way arrives once the wire is mended.
                let _ = state.wait_for(|wire| wire.0 != Fault::Silence).await;
                to.write_all(piece).await
            }
        };
        if written.is_err() {
            return;
        }
        if let Some((lose, wire)) = &requests
            && let Some(refuse) = take_if_contained(lose, piece)
        {
            if refuse {
                wire.send_modify(|wire| *wire = (Fault::Refuse, wire.1 + 1));
            }
            return;
        }
    }
}

fn take_if_contained(lose: &Lose, piece: &[u8]) -> Option<bool> {
    let mut lose = lose.lock().expect("lock");
    let (text, refuse) = (*lose)?;
    let found = piece.windows(text.len()).any(|window| window == text.as_bytes());
    found.then(|| lose.take()).flatten().map(|_| refuse)
}

async fn trickle(to: &mut (impl AsyncWrite + Unpin), piece: &[u8]) -> std::io::Result<()> {
    for byte in piece {
        to.write_all(std::slice::from_ref(byte)).await?;
        to.flush().await?;
        tokio::task::yield_now().await;
    }
    Ok(())
}

//! Socket options that neither std nor tokio has: one call of `setsockopt`.
//!
//! What can go wrong: another system than Linux, where these are left alone; every one
//! of them is an improvement, none a need.

use std::io;

use tokio::net::TcpStream;

use super::conninfo::TcpSettings;

/// Sets one integer option.
#[cfg(target_os = "linux")]
fn set(stream: &TcpStream, level: libc::c_int, option: libc::c_int, value: u32) -> io::Result<()> {
    use std::os::fd::AsRawFd;
    let value = libc::c_int::try_from(value).unwrap_or(libc::c_int::MAX);
    let len = libc::socklen_t::try_from(size_of_val(&value)).unwrap_or(4);
    #[expect(
        unsafe_code,
        reason = "setsockopt has no safe form in std; pointer and size are of one int"
    )]
    let result = unsafe {
        libc::setsockopt(stream.as_raw_fd(), level, option, (&raw const value).cast(), len)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// `SO_RCVLOWAT`: a reader is woken once this many bytes wait.
#[cfg(target_os = "linux")]
pub(super) fn receive_low_water(stream: &TcpStream, bytes: u32) -> io::Result<()> {
    set(stream, libc::SOL_SOCKET, libc::SO_RCVLOWAT, bytes)
}

/// TCP keepalive, on unless the connection text says otherwise.
#[cfg(target_os = "linux")]
pub(super) fn keepalive(stream: &TcpStream, tcp: TcpSettings) -> io::Result<()> {
    set(stream, libc::SOL_SOCKET, libc::SO_KEEPALIVE, u32::from(!tcp.no_keepalive))?;
    let options = [
        (libc::TCP_KEEPIDLE, tcp.idle_s),
        (libc::TCP_KEEPINTVL, tcp.interval_s),
        (libc::TCP_KEEPCNT, tcp.count),
        (libc::TCP_USER_TIMEOUT, tcp.user_timeout_ms),
    ];
    for (option, value) in options {
        match value {
            None | Some(0) => {}
            Some(value) => set(stream, libc::IPPROTO_TCP, option, value)?,
        }
    }
    Ok(())
}

/// Not here.
#[cfg(not(target_os = "linux"))]
pub(super) fn receive_low_water(_: &TcpStream, _: u32) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Not here.
#[cfg(not(target_os = "linux"))]
pub(super) fn keepalive(_: &TcpStream, _: TcpSettings) -> io::Result<()> {
    Ok(())
}

//! What relays do with the connections that they carry.

use std::io;

use nix::sys::socket::{setsockopt, sockopt};
use tokio::net::TcpStream;

/// Makes both sides of a connection carry what comes at once, and notices who goes without a word.
///
/// # Errors
/// When the kernel refuses.
pub fn prepare(streams: [&TcpStream; 2]) -> io::Result<()> {
    for stream in streams {
        stream.set_nodelay(true)?;
        setsockopt(stream, sockopt::KeepAlive, &true)?;
    }
    Ok(())
}

/// Ends a connection as if nobody had listened.
///
/// # Errors
/// When the kernel refuses.
pub fn reset(stream: TcpStream) -> io::Result<()> {
    setsockopt(&stream, sockopt::Linger, &libc::linger { l_onoff: 1, l_linger: 0 })?;
    drop(stream);
    Ok(())
}

//! From a blocking writer to the body of an answer.

use std::io::{self, Write};

use axum::body::Body;
use bytes::Bytes;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

/// How many pieces may wait for the client.
const PIECES: usize = 8;
/// How large a piece is, at least, but for the last.
const PIECE: usize = 64 << 10;

/// The blocking side. When it is dropped before [`PipeWriter::finish`] the client sees a broken answer, not a shorter one.
pub struct PipeWriter {
    sender: mpsc::Sender<io::Result<Bytes>>,
    buffer: Vec<u8>,
    finished: bool,
}

/// A writer, and the body that has what is written.
pub fn pipe() -> (PipeWriter, Body) {
    let (sender, receiver) = mpsc::channel(PIECES);
    let writer = PipeWriter { sender, buffer: Vec::with_capacity(PIECE), finished: false };
    (writer, Body::from_stream(ReceiverStream::new(receiver)))
}

impl PipeWriter {
    /// Everything is written.
    ///
    /// # Errors
    /// When the client is gone.
    pub fn finish(mut self) -> io::Result<()> {
        self.flush()?;
        self.finished = true;
        Ok(())
    }
}

impl Write for PipeWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= PIECE {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let piece = std::mem::replace(&mut self.buffer, Vec::with_capacity(PIECE));
        self.sender.blocking_send(Ok(piece.into())).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

impl Drop for PipeWriter {
    fn drop(&mut self) {
        if !self.finished {
            // The client may be gone already; where there is no room for the error, the missing end says it.
            let _ = self.sender.try_send(Err(io::Error::other("the answer broke off")));
        }
    }
}

//! From an asynchronous stream of bytes to a blocking reader: unpacking is blocking work on its own thread.

use std::io::{self, Read};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::sync::mpsc;

/// How many pieces may wait between the two sides.
const PIECES: usize = 8;
/// How large a piece is read at once, in bytes.
const PIECE: usize = 128 << 10;

/// The sending side. Dropped without `finish`, it makes the reader fail rather than see a shorter stream.
pub(crate) struct ChannelWriter {
    sender: mpsc::Sender<Option<Bytes>>,
}

/// The blocking side. Must not be read on a thread that runs asynchronous tasks.
pub(crate) struct ChannelReader {
    receiver: mpsc::Receiver<Option<Bytes>>,
    piece: Bytes,
    ended: bool,
}

/// The two sides of a new stream.
pub(crate) fn channel() -> (ChannelWriter, ChannelReader) {
    let (sender, receiver) = mpsc::channel(PIECES);
    (ChannelWriter { sender }, ChannelReader { receiver, piece: Bytes::new(), ended: false })
}

impl ChannelWriter {
    /// Sends a piece; false when nobody reads any more.
    pub(crate) async fn send(&self, piece: Bytes) -> bool {
        piece.is_empty() || self.sender.send(Some(piece)).await.is_ok()
    }

    /// The stream is complete.
    pub(crate) async fn finish(self) {
        // A reader that is gone needs no end.
        let _ = self.sender.send(None).await;
    }
}

impl Read for ChannelReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() && !self.ended {
            match self.receiver.blocking_recv() {
                Some(Some(piece)) => self.piece = piece,
                Some(None) => self.ended = true,
                None => return Err(io::Error::new(io::ErrorKind::ConnectionAborted, "the transfer broke off")),
            }
        }
        let count = self.piece.len().min(buffer.len());
        buffer[..count].copy_from_slice(&self.piece.split_to(count));
        Ok(count)
    }
}

/// Sends everything that `reader` gives. Answers its error, if any; the other side then sees a broken stream.
pub(crate) async fn pump(mut reader: impl AsyncRead + Unpin, writer: ChannelWriter) -> io::Result<()> {
    loop {
        let mut piece = bytes::BytesMut::with_capacity(PIECE);
        if reader.read_buf(&mut piece).await? == 0 {
            writer.finish().await;
            return Ok(());
        }
        if !writer.send(piece.freeze()).await {
            return Ok(());
        }
    }
}

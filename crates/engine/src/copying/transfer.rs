//! An archive on its way out: from the thread that writes it to whoever takes it, at the taker's pace.

use std::io::{self, Write};
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::Stream;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// How many pieces may wait.
const PIECES: usize = 8;
/// How large a piece is, at least, but for the last.
const PIECE: usize = 64 << 10;

/// The pieces of an archive. One that ends before its end was written fails, so that it is not taken for whole.
pub struct ArchiveStream {
    receiver: mpsc::Receiver<Option<Bytes>>,
    over: bool,
}

impl Stream for ArchiveStream {
    type Item = io::Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<io::Result<Bytes>>> {
        if self.over {
            return Poll::Ready(None);
        }
        self.receiver.poll_recv(context).map(|piece| match piece {
            Some(Some(piece)) => Some(Ok(piece)),
            Some(None) => {
                self.over = true;
                None
            }
            None => {
                self.over = true;
                Some(Err(io::Error::new(io::ErrorKind::ConnectionAborted, "the copy was broken off")))
            }
        })
    }
}

/// The side that writes. Blocking; dropped without [`PieceWriter::finish`], it makes the stream fail.
pub struct PieceWriter {
    sender: mpsc::Sender<Option<Bytes>>,
    buffer: Vec<u8>,
}

/// The two sides of an archive on its way, which breaks off when it is cancelled, also where nobody takes it or writes it.
#[must_use]
pub fn outgoing(cancelled: CancellationToken) -> (PieceWriter, ArchiveStream) {
    let (sender, mut written) = mpsc::channel(PIECES);
    let (out, receiver) = mpsc::channel(1);
    tokio::spawn(cancelled.run_until_cancelled_owned(async move {
        while let Some(piece) = written.recv().await {
            if out.send(piece).await.is_err() {
                return;
            }
        }
    }));
    (PieceWriter { sender, buffer: Vec::with_capacity(PIECE) }, ArchiveStream { receiver, over: false })
}

impl PieceWriter {
    fn send(&self, piece: Option<Bytes>) -> io::Result<()> {
        self.sender.blocking_send(piece).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }

    /// Everything is written.
    ///
    /// # Errors
    /// When nobody takes it any more.
    pub fn finish(mut self) -> io::Result<()> {
        self.flush()?;
        self.send(None)
    }
}

impl Write for PieceWriter {
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
        self.send(Some(piece.into()))
    }
}

#[cfg(test)]
mod tests {
    use futures::StreamExt as _;

    use super::*;

    #[tokio::test]
    async fn what_breaks_off_is_not_taken_for_whole() {
        let (mut writer, stream) = outgoing(CancellationToken::new());
        let writing = std::thread::spawn(move || {
            writer.write_all(&[1; 3 * PIECE]).unwrap();
            writer.finish().unwrap();
        });
        let pieces: Vec<_> = stream.collect().await;
        writing.join().unwrap();
        assert_eq!(pieces.iter().map(|piece| piece.as_ref().unwrap().len()).sum::<usize>(), 3 * PIECE);

        let (mut writer, stream) = outgoing(CancellationToken::new());
        std::thread::spawn(move || writer.write_all(&[1; PIECE]).unwrap());
        let pieces: Vec<_> = stream.collect().await;
        assert!(pieces.last().unwrap().is_err());
    }

    #[tokio::test]
    async fn a_taker_that_stalls_holds_nobody_once_it_is_cancelled() {
        let cancel = CancellationToken::new();
        let (mut writer, stream) = outgoing(cancel.clone());
        let writing = std::thread::spawn(move || {
            loop {
                if writer.write_all(&[1; PIECE]).is_err() {
                    return;
                }
            }
        });
        cancel.cancel();
        tokio::task::spawn_blocking(move || writing.join().unwrap()).await.unwrap();
        let pieces: Vec<_> = stream.collect().await;
        assert!(pieces.last().unwrap().is_err());
    }
}

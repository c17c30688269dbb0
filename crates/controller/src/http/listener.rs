//! The doors: one TLS listener for everything between hosts, and a local socket for whoever may open it.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::{Extension, Router};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::guard::{self, PeerAddress};
use crate::identity::{Credentials, CredentialsError, Peer};

/// A peer that does not complete the TLS handshake in this time is let go.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// So many connections may be in the TLS handshake; more are closed at once, and their peers try again.
const HANDSHAKES: usize = 1024;
/// So many peers without a certificate may be connected: hosts that join, and whoever else reaches the port.
const STRANGERS: usize = 64;
/// A peer without a certificate is let go after this time, whatever it does.
const STRANGER_LIFE: Duration = Duration::from_secs(60);
/// Connections have this long to finish what they are doing when the listener ends.
const FAREWELL: Duration = Duration::from_secs(2);

fn finished(router: Router, peer: Peer, address: Option<SocketAddr>) -> Router {
    router.layer(axum::middleware::from_fn(guard::follow)).layer(Extension(peer)).layer(Extension(PeerAddress(address)))
}

async fn serve_connection<I>(stream: I, router: Router, stop: CancellationToken)
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http2()
        .timer(hyper_util::rt::TokioTimer::new())
        .keep_alive_interval(Some(Duration::from_secs(5)))
        .keep_alive_timeout(Duration::from_secs(10))
        .adaptive_window(true)
        .max_concurrent_streams(1024);
    let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), TowerToHyperService::new(router));
    tokio::pin!(connection);
    let result = tokio::select! {
        result = connection.as_mut() => result,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            tokio::time::timeout(FAREWELL, connection).await.unwrap_or(Ok(()))
        }
    };
    if let Err(error) = result {
        tracing::debug!(%error, "a connection broke");
    }
}

/// Serves a router over mutual TLS until told to stop, then returns when all connections have ended. Handlers find the
/// [`Peer`] among the request's extensions.
///
/// # Errors
/// When TLS refuses the credentials.
pub async fn serve_tls(
    listener: TcpListener,
    credentials: &Credentials,
    router: Router,
    stop: CancellationToken,
) -> Result<(), CredentialsError> {
    let acceptor = TlsAcceptor::from(Arc::new(credentials.server_config()?));
    let connections = TaskTracker::new();
    let (handshakes, strangers) = (Arc::new(Semaphore::new(HANDSHAKES)), Arc::new(Semaphore::new(STRANGERS)));
    while let Some((stream, address)) = accept(&stop, || listener.accept()).await {
        let Ok(handshake) = Arc::clone(&handshakes).try_acquire_owned() else {
            tracing::warn!(%address, "refused: too many connections are in the TLS handshake");
            continue;
        };
        let (acceptor, router, stop) = (acceptor.clone(), router.clone(), stop.clone());
        let strangers = Arc::clone(&strangers);
        connections.spawn(async move {
            let shaken = tokio::select! {
                () = stop.cancelled() => None,
                shaken = shake_hands(stream, address, &acceptor) => shaken,
            };
            drop(handshake);
            let Some((stream, peer)) = shaken else { return };
            let is_stranger = matches!(peer, Peer::Anonymous);
            let served = serve_connection(stream, finished(router, peer, Some(address)), stop);
            if !is_stranger {
                return served.await;
            }
            let Ok(_one) = strangers.try_acquire() else {
                tracing::warn!(%address, "refused: too many peers without a certificate are connected");
                return;
            };
            if tokio::time::timeout(STRANGER_LIFE, served).await.is_err() {
                tracing::debug!(%address, "a peer without a certificate stayed too long");
            }
        });
    }
    // Nobody connects any more before the last connection ends.
    drop(listener);
    connections.close();
    connections.wait().await;
    Ok(())
}

/// Serves a router on a local socket until told to stop: whoever may open it is trusted.
pub async fn serve_local(listener: UnixListener, router: Router, stop: CancellationToken) {
    let connections = TaskTracker::new();
    while let Some((stream, _address)) = accept(&stop, || listener.accept()).await {
        let router = finished(router.clone(), Peer::LocalSocket, None);
        connections.spawn(serve_connection(stream, router, stop.clone()));
    }
    drop(listener);
    connections.close();
    connections.wait().await;
}

/// The next connection; `None` when it is time to stop. A host that is short of descriptors tries again in a moment.
async fn accept<T, F: Future<Output = io::Result<T>>>(stop: &CancellationToken, next: impl Fn() -> F) -> Option<T> {
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return None,
            accepted = next() => accepted,
        };
        match accepted {
            Ok(connection) => return Some(connection),
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn shake_hands(
    stream: TcpStream,
    address: SocketAddr,
    acceptor: &TlsAcceptor,
) -> Option<(tokio_rustls::server::TlsStream<TcpStream>, Peer)> {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%address, %error, "a connection is gone");
        return None;
    }
    let stream = match tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) if error.kind() == io::ErrorKind::InvalidData => {
            tracing::warn!(%address, reason = %error, "refused: the TLS handshake failed");
            return None;
        }
        Ok(Err(error)) => {
            tracing::debug!(%address, %error, "a TLS handshake was not finished");
            return None;
        }
        Err(_elapsed) => {
            tracing::debug!(%address, "a TLS handshake took too long");
            return None;
        }
    };
    let peer = match stream.get_ref().1.peer_certificates().and_then(<[_]>::first) {
        None => Peer::Anonymous,
        Some(certificate) => match Peer::from_certificate(certificate) {
            Ok(peer) => peer,
            Err(error) => {
                tracing::warn!(%address, reason = %error, "refused: the certificate does not say who its holder is");
                return None;
            }
        },
    };
    Some((stream, peer))
}

//! Who looks at a container's files from outside. Its overlay must not be mounted twice where one of the two is written to, so
//! a start or a removal waits for copies, and does not wait for ever.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{OwnedRwLockReadGuard, OwnedRwLockWriteGuard, RwLock};
use tokio_util::sync::CancellationToken;

use super::locked;

/// So long a start waits for copies before it breaks them off.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// The copies of one container.
#[derive(Default)]
pub(super) struct Copies {
    lock: Arc<RwLock<()>>,
    cancel: Mutex<CancellationToken>,
}

/// Held as long as a copy goes on.
pub(super) enum CopyGuard {
    /// There may be others.
    Shared { _guard: OwnedRwLockReadGuard<()> },
    /// There are no others.
    Alone { _guard: OwnedRwLockWriteGuard<()> },
}

impl Copies {
    /// Begins a copy beside others.
    pub async fn share(&self) -> CopyGuard {
        CopyGuard::Shared { _guard: Arc::clone(&self.lock).read_owned().await }
    }

    /// Begins a copy when there are no others.
    pub async fn alone(&self) -> CopyGuard {
        CopyGuard::Alone { _guard: Arc::clone(&self.lock).write_owned().await }
    }

    /// When it is cancelled, a copy that has begun breaks off.
    pub fn cancelled(&self) -> CancellationToken {
        locked(&self.cancel).clone()
    }

    /// There are no copies any more: those that go on after a while are broken off. Until what is returned is dropped,
    /// none begins.
    pub async fn end(&self, patience: Duration) -> OwnedRwLockWriteGuard<()> {
        let mut alone = Box::pin(Arc::clone(&self.lock).write_owned());
        if let Ok(alone) = tokio::time::timeout(patience, &mut alone).await {
            return alone;
        }
        self.cancelled().cancel();
        let alone = alone.await;
        *locked(&self.cancel) = CancellationToken::new();
        alone
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_start_waits_a_while_and_then_breaks_copies_off() {
        let copies = Arc::new(Copies::default());
        let (one, other) = (copies.share().await, copies.share().await);
        let cancelled = copies.cancelled();
        let start = tokio::spawn({
            let copies = Arc::clone(&copies);
            async move { drop(copies.end(Duration::from_millis(50)).await) }
        });
        drop(one);
        cancelled.cancelled().await;
        assert!(!start.is_finished());
        drop(other);
        start.await.unwrap();
        assert!(!copies.cancelled().is_cancelled());
        drop(copies.alone().await);
    }
}

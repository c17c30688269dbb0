//! The end of the whole host: containers end in order before it, and not by what the system does to whatever is left.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::{Engine, GRACE, Slot, locked};
use crate::container::{ContainerState, text_of};

impl Engine {
    /// Asks every container to end, all at once, and kills what has not after its grace, which is at most `longest`. It is
    /// not as if somebody had stopped them: policies that start containers with the daemon hold at the next boot. From
    /// here on none starts anything again.
    pub async fn end_with_host(&self, longest: Duration) {
        self.inner.ending.store(true, Ordering::SeqCst);
        let slots: Vec<Arc<Slot>> = locked(&self.inner.containers).values().cloned().collect();
        let ends = slots.iter().map(|slot| async move {
            if let Some(pending) = locked(&slot.data).pending.take() {
                pending.abort();
            }
            // A start that is under way is let through first.
            drop(slot.turn.lock().await);
            if !matches!(slot.current(), ContainerState::Running { .. }) {
                return;
            }
            let record = slot.record();
            let grace = record.config.stop_grace.unwrap_or(GRACE).min(longest);
            if let Err(error) = self.end_now(slot, None, Some(grace)).await {
                tracing::warn!(container = %record.id, error = text_of(&error), "did not end with its host");
            }
        });
        futures::future::join_all(ends).await;
    }
}

//! Leases: while one is held, garbage collection keeps what it names although no record refers to it yet. They live in
//! memory only, because what a dead process was fetching is nobody's.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::Digest;

/// Everything that is leased at present. Cheap to clone; all clones are the same leases.
#[derive(Clone, Default)]
pub struct Leases {
    counts: Arc<Mutex<HashMap<Digest, usize>>>,
}

/// Keeps some digests from being collected until it is dropped.
#[must_use = "what a dropped lease named can be collected at once"]
pub struct Lease {
    leases: Leases,
    digests: BTreeSet<Digest>,
}

impl Leases {
    /// Takes a lease that names nothing yet.
    pub fn lease(&self) -> Lease {
        Lease { leases: self.clone(), digests: BTreeSet::new() }
    }

    /// Runs `collect` with what is leased, and keeps anybody from leasing more until it is done, so that nothing is
    /// found present and then collected.
    pub fn while_held<T>(&self, collect: impl FnOnce(&BTreeSet<Digest>) -> T) -> T {
        let counts = self.lock();
        let leased = counts.keys().cloned().collect();
        collect(&leased)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Digest, usize>> {
        // A panic while counting cannot leave a count half written.
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lease {
    /// From now on this digest is kept too. Waits for a running collection, so look for the content after this.
    pub fn add(&mut self, digest: &Digest) {
        if self.digests.insert(digest.clone()) {
            *self.leases.lock().entry(digest.clone()).or_default() += 1;
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut counts = self.leases.lock();
        for digest in &self.digests {
            if let Some(count) = counts.get_mut(digest) {
                *count -= 1;
                if *count == 0 {
                    counts.remove(digest);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_two_leases_name_is_kept_until_both_are_gone() {
        let leases = Leases::default();
        let digest = Digest::of(b"a");
        let mut first = leases.lease();
        first.add(&digest);
        first.add(&digest);
        let mut second = leases.lease();
        second.add(&digest);
        drop(first);
        assert!(leases.while_held(|leased| leased.contains(&digest)));
        drop(second);
        assert!(leases.while_held(BTreeSet::is_empty));
    }
}

//! Images that nothing uses any more are removed when the disk fills, those first that nothing has used for longest.
//!
//! Only what came from a registry goes: it can be had again. What is in use, wanted by a task, or was a short while ago
//! stays. When an image was used last is known for this life of the agent alone, so that a restart removes nothing soon.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use stack_api::error::full_text;
use stack_engine::Engine;
use stack_engine::container::Container;
use stack_engine::content::Digest;
use stack_engine::image::Origin;
use tokio_util::sync::CancellationToken;

use crate::ledger::SharedLedger;

/// The disk is looked at this often, or as often as images may be removed where that is less.
const LOOK: Duration = Duration::from_secs(60);

/// When images are removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImageCollection {
    /// When more than so much of the disk is used, in per cent. 100: never.
    pub above_percent: u8,
    /// Until at most so much is.
    pub down_to_percent: u8,
    /// Nothing that was used in this time.
    pub unused_for: Duration,
}

impl Default for ImageCollection {
    fn default() -> Self {
        Self { above_percent: 85, down_to_percent: 80, unused_for: Duration::from_secs(600) }
    }
}

/// When each image was used last.
#[derive(Debug, Default)]
struct Uses(BTreeMap<Digest, Instant>);

impl Uses {
    /// `images` are all that there are; those that are in use, or are seen first, count as used now.
    fn see(&mut self, images: &BTreeSet<Digest>, in_use: &BTreeSet<Digest>, now: Instant) {
        self.0.retain(|digest, _| images.contains(digest));
        for digest in images {
            if in_use.contains(digest) || !self.0.contains_key(digest) {
                self.0.insert(digest.clone(), now);
            }
        }
    }

    /// Of these the one that may go first.
    fn next(&self, among: &BTreeSet<Digest>, unused_for: Duration, now: Instant) -> Option<Digest> {
        let idle = self.0.iter().filter(|(digest, used)| {
            among.contains(digest) && now.saturating_duration_since(**used) >= unused_for.max(Duration::from_millis(1))
        });
        idle.min_by_key(|(_, used)| **used).map(|(digest, _)| digest.clone())
    }
}

/// How much of a directory's disk is used, as `df` says it, in per cent.
pub(crate) fn used_percent(directory: &Path) -> nix::Result<u8> {
    let disk = nix::sys::statvfs::statvfs(directory)?;
    let used = disk.blocks().saturating_sub(disk.blocks_free());
    let all = used.saturating_add(disk.blocks_available());
    let percent = used.saturating_mul(100).div_ceil(all.max(1));
    Ok(u8::try_from(percent).unwrap_or(u8::MAX))
}

/// Removes images whenever it is time, until told to stop. `directory` is where the engine keeps them.
pub async fn collect(
    engine: Engine,
    ledger: SharedLedger,
    directory: PathBuf,
    settings: ImageCollection,
    stop: CancellationToken,
) {
    let mut uses = Uses::default();
    let mut interval = tokio::time::interval(LOOK.min(settings.unused_for.max(Duration::from_millis(200))));
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = interval.tick() => {}
        }
        if let Err(error) = round(&engine, &ledger, &directory, settings, &mut uses).await {
            tracing::warn!(error = full_text(error.as_ref()), "images that nothing uses were not removed");
        }
    }
}

async fn round(
    engine: &Engine,
    ledger: &SharedLedger,
    directory: &Path,
    settings: ImageCollection,
    uses: &mut Uses,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let store = engine.images().clone();
    let images = tokio::task::spawn_blocking(move || store.list()).await??;
    let wanted: BTreeSet<String> = {
        let ledger = ledger.lock().await;
        let of_tasks = ledger.assignment().tasks.values();
        let images = of_tasks.flat_map(|task| task.spec.container.images());
        images.filter_map(|image| image.digest.as_ref()).map(ToString::to_string).collect()
    };
    let containers = engine.list();
    let of_containers: BTreeSet<String> = containers.iter().flat_map(Container::images).map(str::to_owned).collect();
    let in_use: BTreeSet<Digest> = images
        .iter()
        .filter(|image| {
            // A task may be pinned to an index, of which this image was chosen.
            let mut names = std::iter::once(&image.digest).chain(&image.indexes).map(Digest::as_str);
            names.any(|name| wanted.contains(name) || of_containers.contains(name))
        })
        .map(|image| image.digest.clone())
        .collect();
    let all: BTreeSet<Digest> = images.iter().map(|image| image.digest.clone()).collect();
    uses.see(&all, &in_use, Instant::now());
    let from_registries = images.iter().filter(|image| image.origin == Origin::Registry);
    let mut candidates: BTreeSet<Digest> =
        from_registries.map(|image| image.digest.clone()).filter(|digest| !in_use.contains(digest)).collect();
    if used_percent(directory)? <= settings.above_percent {
        return Ok(());
    }
    while used_percent(directory)? > settings.down_to_percent
        && let Some(digest) = uses.next(&candidates, settings.unused_for, Instant::now())
    {
        candidates.remove(&digest);
        // A container may have been made of it since.
        let user = |digest: &Digest| {
            let containers = engine.list().into_iter();
            containers.filter(|container| container.needs_image(digest.as_str())).map(|one| one.id.to_string()).next()
        };
        let names: Vec<String> = images
            .iter()
            .filter(|image| image.digest == digest)
            .flat_map(|image| image.references.iter().chain(&image.repository_digests).cloned())
            .collect();
        match engine.images().remove(digest.as_str(), &user).await {
            Ok(removed) => {
                let freed_bytes = removed.freed_bytes;
                tracing::info!(%digest, ?names, freed_bytes, "removed an image that nothing uses: the disk fills");
            }
            Err(error) => tracing::warn!(%digest, error = full_text(&error), "an image was not removed"),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(digit: char) -> Digest {
        format!("sha256:{}", digit.to_string().repeat(64)).parse().expect("a digest")
    }

    #[test]
    fn what_was_unused_for_longest_goes_first_and_what_was_used_lately_stays() {
        let set = |digits: &str| digits.chars().map(digest).collect::<BTreeSet<_>>();
        let begun = Instant::now();
        let at = |seconds| begun + Duration::from_secs(seconds);
        let unused_for = Duration::from_secs(10);
        let mut uses = Uses::default();
        uses.see(&set("abc"), &set(""), at(0));
        assert_eq!(uses.next(&set("abc"), unused_for, at(9)), None, "all were seen first a moment ago");
        uses.see(&set("abcd"), &set("a"), at(8));
        assert_eq!(uses.next(&set("abcd"), unused_for, at(10)), Some(digest('b')));
        assert_eq!(uses.next(&set("acd"), unused_for, at(10)), Some(digest('c')));
        assert_eq!(uses.next(&set("ad"), unused_for, at(10)), None);
        assert_eq!(uses.next(&set("ad"), unused_for, at(18)), Some(digest('a')));
        // One that went and came again is new.
        uses.see(&set("a"), &set(""), at(20));
        uses.see(&set("ab"), &set(""), at(21));
        assert_eq!(uses.next(&set("b"), unused_for, at(30)), None);
    }

    #[test]
    fn a_disk_says_how_full_it_is() {
        let place = tempfile::tempdir().expect("a directory");
        let nothing: Option<&str> = None;
        let flags = nix::mount::MsFlags::empty();
        nix::mount::mount(nothing, place.path(), Some("tmpfs"), flags, Some("size=1m")).expect("mounted");
        let empty = used_percent(place.path());
        std::fs::write(place.path().join("half"), vec![1; 512 * 1024]).expect("written");
        let half = used_percent(place.path());
        nix::mount::umount(place.path()).expect("unmounted");
        assert_eq!((empty, half), (Ok(0), Ok(50)));
    }
}

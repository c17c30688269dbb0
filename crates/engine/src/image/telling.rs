//! What is told of images.

use super::records::{Record, Records};
use super::reference::Reference;
use super::selection::is_tag;
use super::store::{Image, Inner};
use crate::events::{Happening, ImageEvent};

/// A full name as people write it.
pub(super) fn familiar(name: &str) -> String {
    name.parse().map_or_else(|_| name.to_owned(), |name: Reference| name.familiar())
}

impl Inner {
    /// Tells of an image that is kept.
    pub(super) fn tell(&self, record: &Record, name: &str, kind: ImageEvent) {
        self.teller.tell(|| {
            let text = self.blobs.read(&record.config, super::document::CONFIGURATION_LIMIT).unwrap_or_default();
            let labels = crate::container::image_defaults(&text).map(|found| found.labels).unwrap_or_default();
            Happening::Image { id: record.config.to_string(), name: name.to_owned(), labels, kind }
        });
    }

    /// Tells of names that images have no more. `before` is what was recorded when they had them.
    pub(super) fn tell_untagged(&self, before: &Records, names: &[String]) {
        for name in names.iter().filter(|name| is_tag(name)) {
            let record = before.names.get(name).and_then(|manifest| before.images.get(manifest));
            if let Some(record) = record {
                self.tell(record, record.config.as_str(), ImageEvent::Untagged);
            }
        }
    }

    /// Tells of an image that has just been made or read.
    pub(super) fn tell_image(&self, image: &Image, name: &str, kind: ImageEvent) {
        self.teller.tell(|| {
            let labels =
                crate::container::image_defaults(&image.raw_config).map(|found| found.labels).unwrap_or_default();
            Happening::Image { id: image.id.to_string(), name: name.to_owned(), labels, kind }
        });
    }

    /// Tells of an image that came from a registry or went to one: it is called by its name alone.
    pub(super) fn tell_transfer(&self, reference: &Reference, kind: ImageEvent) {
        self.teller.tell(|| {
            let name = familiar(&reference.name());
            let name = name.strip_suffix(":latest").unwrap_or(&name).to_owned();
            Happening::Image { id: reference.familiar(), name, labels: std::collections::BTreeMap::new(), kind }
        });
    }
}

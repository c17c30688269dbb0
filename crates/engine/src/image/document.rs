//! Pure. The documents that describe images: manifests, lists of manifests (OCI indexes), configurations; what is
//! needed of them, and the choice of a platform. Formats: OCI image specification 1.1 and Docker's image manifest
//! version 2, schema 2.

use std::fmt;

use oci_spec::image::ImageConfiguration;
use serde::{Deserialize, Serialize};

use crate::content::Digest;

/// The most bytes that a manifest or an index may have; registries hold them to 4 MiB as well.
pub const MANIFEST_LIMIT: u64 = 4 << 20;
/// The most bytes that a configuration may have.
pub const CONFIGURATION_LIMIT: u64 = 8 << 20;

/// Media type of an OCI manifest.
pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// Media type of an OCI index.
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// Media type of an OCI configuration.
pub const OCI_CONFIGURATION: &str = "application/vnd.oci.image.config.v1+json";
/// Media type of an uncompressed OCI layer.
pub const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
/// Media type of an OCI layer compressed by gzip.
pub const OCI_LAYER_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
/// Media type of an OCI layer compressed by Zstandard.
pub const OCI_LAYER_ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
/// Media type of Docker's layer, which is compressed by gzip.
pub const DOCKER_LAYER_GZIP: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";
/// Media type of Docker's manifest.
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
/// Media type of Docker's list of manifests.
pub const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";

/// A reference to content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// What it is.
    #[serde(default)]
    pub media_type: String,
    /// Which content.
    pub digest: Digest,
    /// Its length in bytes.
    pub size: u64,
    /// In an index: what it runs on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    /// Notes, among them names in an OCI layout.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub annotations: Option<std::collections::BTreeMap<String, String>>,
}

/// What an image runs on, in Go's words as the specification has them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Platform {
    /// `amd64`, `arm64`, …
    pub architecture: String,
    /// `linux`.
    pub os: String,
    /// The architecture's level: `v2` of `amd64`, `v7` of `arm`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
}

impl fmt::Display for Platform {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.os, self.architecture)?;
        self.variant.as_ref().map_or(Ok(()), |variant| write!(formatter, "/{variant}"))
    }
}

impl Platform {
    /// What this program was built for, with the highest level that its processor has.
    #[must_use]
    pub fn of_this_host() -> Self {
        let (architecture, variant) = match std::env::consts::ARCH {
            "x86_64" => ("amd64", Some(amd64_level())),
            "x86" => ("386", None),
            "aarch64" => ("arm64", Some("v8")),
            "arm" => ("arm", Some("v7")),
            "powerpc64" => ("ppc64le", None),
            "loongarch64" => ("loong64", None),
            other => (other, None),
        };
        Self { architecture: architecture.to_owned(), os: "linux".to_owned(), variant: variant.map(str::to_owned) }
    }

    /// The level to state for an image that is made here: only where leaving it out would mean another one. The host's own
    /// level of `amd64` says what it can run, not what an image needs.
    #[must_use]
    pub fn architecture_variant(&self) -> Option<&str> {
        match self.architecture.as_str() {
            "arm" | "arm64" => self.variant.as_deref(),
            _ => None,
        }
    }

    /// The level as a number; what gives none has its architecture's usual one.
    fn level(&self) -> Option<u32> {
        let usual = match self.architecture.as_str() {
            "arm64" => 8,
            "arm" => 7,
            _ => 1,
        };
        match self.variant.as_deref() {
            None | Some("") => Some(usual),
            // `v8.1` and the like are above v8 and below v9.
            Some(variant) => {
                let mut parts = variant.strip_prefix('v')?.splitn(2, '.').map(|part| part.parse::<u32>().ok());
                parts.next()?
            }
        }
    }

    /// How well an image for `offered` runs here: nothing if not at all, else more is better.
    #[must_use]
    pub fn suits(&self, offered: &Self) -> Option<u32> {
        if offered.os != self.os || offered.architecture != self.architecture {
            return None;
        }
        if offered.variant == self.variant {
            return Some(u32::MAX);
        }
        match (self.level(), offered.level()) {
            (Some(have), Some(need)) if need <= have => Some(need),
            _ => None,
        }
    }
}

#[cfg(target_arch = "x86_64")]
fn amd64_level() -> &'static str {
    use std::arch::is_x86_feature_detected as has;
    let second =
        has!("cmpxchg16b") && has!("popcnt") && has!("sse3") && has!("sse4.1") && has!("sse4.2") && has!("ssse3");
    let third = second
        && has!("avx")
        && has!("avx2")
        && has!("bmi1")
        && has!("bmi2")
        && has!("f16c")
        && has!("fma")
        && has!("lzcnt")
        && has!("movbe");
    let fourth =
        third && has!("avx512f") && has!("avx512bw") && has!("avx512cd") && has!("avx512dq") && has!("avx512vl");
    match (second, third, fourth) {
        (_, _, true) => "v4",
        (_, true, _) => "v3",
        (true, ..) => "v2",
        _ => "v1",
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn amd64_level() -> &'static str {
    "v1"
}

/// One image for one platform.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// Always 2.
    pub schema_version: u32,
    /// What this document is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    /// Its configuration.
    pub config: Descriptor,
    /// Its layers, lowest first.
    pub layers: Vec<Descriptor>,
}

/// The same image for several platforms.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Index {
    /// Always 2.
    pub schema_version: u32,
    /// What this document is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    /// What there is.
    pub manifests: Vec<Descriptor>,
}

/// What a reference can lead to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Document {
    /// An image.
    Manifest(Manifest),
    /// A choice of images.
    Index(Index),
}

/// Why a document cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DocumentError {
    /// It is not what it should be.
    #[error("{digest} is no valid {what}")]
    Malformed {
        /// Which content.
        digest: Digest,
        /// What it should be.
        what: &'static str,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// It is valid, and of a kind that cannot be run.
    #[error("{digest} is {what}, which cannot be run")]
    Unsupported {
        /// Which content.
        digest: Digest,
        /// What it is.
        what: String,
    },
    /// Configuration and manifest do not belong together.
    #[error("the configuration {digest} lists {diff_ids} layers and its manifest {layers}")]
    LayersDiffer {
        /// The configuration.
        digest: Digest,
        /// Layers of the configuration.
        diff_ids: usize,
        /// Layers of the manifest.
        layers: usize,
    },
    /// No image of the index runs here.
    #[error("there is no image for {wanted}; there is {}", if available.is_empty() { "none at all".to_owned() } else { available.join(", ") })]
    NoPlatform {
        /// What this host is.
        wanted: Platform,
        /// What there is.
        available: Vec<String>,
    },
}

/// Reads a manifest or an index. What it says it is decides, and only where it says nothing its form.
///
/// # Errors
/// When it is neither, or one of an abandoned or unknown kind.
pub fn parse_document(digest: &Digest, bytes: &[u8]) -> Result<Document, DocumentError> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Outline {
        schema_version: u32,
        media_type: Option<String>,
        manifests: Option<serde::de::IgnoredAny>,
    }
    let malformed = |what| move |source| DocumentError::Malformed { digest: digest.clone(), what, source };
    let outline: Outline = serde_json::from_slice(bytes).map_err(malformed("manifest"))?;
    let unsupported = |what| Err(DocumentError::Unsupported { digest: digest.clone(), what });
    if outline.schema_version != 2 {
        return unsupported(format!("a manifest of schema {}", outline.schema_version));
    }
    let is_index = match outline.media_type.as_deref() {
        Some(OCI_INDEX | DOCKER_LIST) => true,
        Some(OCI_MANIFEST | DOCKER_MANIFEST) => false,
        None | Some("") => outline.manifests.is_some(),
        Some(other) => {
            return unsupported(format!("a document of type `{}`", other.chars().take(100).collect::<String>()));
        }
    };
    if is_index {
        serde_json::from_slice(bytes).map(Document::Index).map_err(malformed("index"))
    } else {
        serde_json::from_slice(bytes).map(Document::Manifest).map_err(malformed("manifest"))
    }
}

/// The image of an index that suits a platform best; the first of equals.
///
/// # Errors
/// When none does.
pub fn choose<'a>(index: &'a Index, wanted: &Platform) -> Result<&'a Descriptor, DocumentError> {
    let mut best: Option<(u32, &Descriptor)> = None;
    for descriptor in &index.manifests {
        let fits = match &descriptor.platform {
            Some(platform) => wanted.suits(platform),
            // An index of one image need not say what it runs on, and an index within an index does not.
            None if index.manifests.len() == 1 || is_index(descriptor) => Some(0),
            None => None,
        };
        if let Some(fits) = fits
            && best.is_none_or(|(so_far, _)| fits > so_far)
        {
            best = Some((fits, descriptor));
        }
    }
    best.map(|(_, descriptor)| descriptor).ok_or_else(|| DocumentError::NoPlatform {
        wanted: wanted.clone(),
        available: index
            .manifests
            .iter()
            .filter_map(|descriptor| descriptor.platform.as_ref())
            // Attestations are listed as images of an unknown platform.
            .filter(|platform| platform.architecture != "unknown")
            .take(32)
            .map(ToString::to_string)
            .collect(),
    })
}

fn is_index(descriptor: &Descriptor) -> bool {
    matches!(descriptor.media_type.as_str(), OCI_INDEX | DOCKER_LIST)
}

/// A configuration and the digests of its layers' uncompressed archives, lowest first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Configuration {
    /// The document.
    pub document: ImageConfiguration,
    /// The layers.
    pub diff_ids: Vec<Digest>,
}

/// Reads a configuration and checks that it belongs to a manifest of this many layers.
///
/// # Errors
/// When it is no image's configuration, or another image's.
pub fn parse_configuration(digest: &Digest, bytes: &[u8], layers: usize) -> Result<Configuration, DocumentError> {
    let malformed = |source| DocumentError::Malformed { digest: digest.clone(), what: "image configuration", source };
    let document: ImageConfiguration = serde_json::from_slice(bytes).map_err(malformed)?;
    if document.os().to_string() != "linux" {
        return Err(DocumentError::Unsupported {
            digest: digest.clone(),
            what: format!("an image for {}", document.os()),
        });
    }
    let diff_ids = document
        .rootfs()
        .diff_ids()
        .iter()
        .map(|text| text.parse().map_err(|error| malformed(serde::de::Error::custom(error))))
        .collect::<Result<Vec<Digest>, _>>()?;
    if diff_ids.len() != layers {
        return Err(DocumentError::LayersDiffer { digest: digest.clone(), diff_ids: diff_ids.len(), layers });
    }
    Ok(Configuration { document, diff_ids })
}

/// The manifest of an image that came without one. The same content gives the same bytes on every host.
///
/// # Errors
/// Never in practice: these types always have a JSON form.
pub fn build_manifest(
    config: (Digest, u64),
    layers: Vec<(&'static str, Digest, u64)>,
) -> Result<Vec<u8>, serde_json::Error> {
    let descriptor = |media_type: &str, digest, size| Descriptor {
        media_type: media_type.to_owned(),
        digest,
        size,
        platform: None,
        annotations: None,
    };
    serde_json::to_vec(&Manifest {
        schema_version: 2,
        media_type: Some(OCI_MANIFEST.to_owned()),
        config: descriptor(OCI_CONFIGURATION, config.0, config.1),
        layers: layers.into_iter().map(|(media_type, digest, size)| descriptor(media_type, digest, size)).collect(),
    })
}

/// A manifest with another configuration and one more layer, compressed by gzip; each is called as the family of the manifest
/// calls such things.
#[must_use]
pub fn add_layer(mut manifest: Manifest, config: (Digest, u64), layer: (Digest, u64)) -> Manifest {
    let is_docker = manifest.media_type.as_deref() == Some(DOCKER_MANIFEST);
    let media_type = if is_docker { DOCKER_LAYER_GZIP } else { OCI_LAYER_GZIP };
    (manifest.config.digest, manifest.config.size) = config;
    let (digest, size) = layer;
    manifest.layers.push(Descriptor {
        media_type: media_type.to_owned(),
        digest,
        size,
        platform: None,
        annotations: None,
    });
    manifest
}

#[cfg(test)]
#[path = "document_tests.rs"]
mod tests;

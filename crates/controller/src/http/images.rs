//! What an image's name means: the digest that every task of a deploy will run.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::StreamExt as _;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use stack_api::bodies::ImageQuery;
use stack_api::routes;
use stack_api::views::{ImageSource, ImageView, ResolvedImage};
use stack_model::spec::PullPolicy;
use stack_model::{Digest, Node, Readiness, RegistryCredential, StackSpec};
use stack_planner::{State, assignment::registry_of};

use super::{Context, Failure};
use crate::mesh::with_request_id;

/// A host that does not say what images it has in this time is not waited for.
const ASK_HOST: Duration = Duration::from_secs(3);

/// Why an image's name leads nowhere.
#[derive(Debug, thiserror::Error)]
#[error("image `{reference}`: {reason}")]
pub struct ResolveImageError {
    /// As in the stack file.
    pub reference: String,
    /// What the registry said, or why it could not be asked. Without any credential.
    pub reason: String,
}

/// Asks registries what a name means now. Given by the daemon, which has an engine.
pub trait ImageResolver: Send + Sync + 'static {
    /// The digest of the manifest, or of the index of manifests, that the name stands for.
    ///
    /// # Errors
    /// See [`ResolveImageError`].
    fn resolve<'call>(
        &'call self,
        reference: &'call str,
        credential: Option<&'call RegistryCredential>,
    ) -> BoxFuture<'call, Result<Digest, ResolveImageError>>;
}

/// The digest that stands in a reference itself.
fn digest_in(reference: &str) -> Option<Digest> {
    reference.rsplit_once('@').and_then(|(_, digest)| digest.parse().ok())
}

/// Who says what an image's name means.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Authority {
    /// The hosts that have it by that name: this.
    Hosts(Digest),
    /// Its registry. Where that does not answer: what hosts have by that name.
    Registry { otherwise: Option<Digest> },
    /// Nobody: the registry may not be asked, and no host has it.
    Nobody,
}

/// `found` is what the hosts have by the name. An image that was loaded on hosts is what was loaded, and any other is what
/// its registry says now, unless the policy says otherwise: `always` takes the registry's word alone, `never` that of
/// the hosts alone.
fn authority(policy: PullPolicy, found: &[ImageView]) -> Authority {
    let any = found.first().map(|image| image.digest.clone());
    let loaded = found.iter().find(|image| image.origin != "registry").map(|image| image.digest.clone());
    match (policy, loaded) {
        (PullPolicy::Always, _) => Authority::Registry { otherwise: None },
        (PullPolicy::Missing | PullPolicy::Never, Some(loaded)) => Authority::Hosts(loaded),
        (PullPolicy::Missing, None) => Authority::Registry { otherwise: any },
        (PullPolicy::Never, None) => any.map_or(Authority::Nobody, Authority::Hosts),
    }
}

/// Fills in the digests of all images of a stack, each as its pull policy says.
pub(super) async fn pin(
    context: &Context,
    state: &State,
    spec: &mut StackSpec,
    request_id: &str,
) -> Result<Vec<ResolvedImage>, Failure> {
    let mut resolved: BTreeMap<(String, PullPolicy), ResolvedImage> = BTreeMap::new();
    for service in spec.services.values_mut() {
        let policy = service.container.pull_policy;
        let image = &mut service.container.image;
        let key = (image.reference.clone(), policy);
        if !resolved.contains_key(&key) {
            let answer = resolve(context, state, &image.reference, policy, request_id).await?;
            resolved.insert(key.clone(), answer);
        }
        image.digest = resolved.get(&key).map(|answer| answer.digest.clone());
    }
    let mut images: Vec<ResolvedImage> = resolved.into_values().collect();
    // Those of one reference are next to each other.
    images.dedup();
    Ok(images)
}

async fn resolve(
    context: &Context,
    state: &State,
    reference: &str,
    policy: PullPolicy,
    request_id: &str,
) -> Result<ResolvedImage, Failure> {
    let answer = |digest, source| ResolvedImage { reference: reference.to_owned(), digest, source };
    if let Some(digest) = digest_in(reference) {
        return Ok(answer(digest, ImageSource::Reference));
    }
    let (asked, found) = match policy {
        PullPolicy::Always => (0, Vec::new()),
        PullPolicy::Missing | PullPolicy::Never => ask_hosts(context, state, reference, request_id).await,
    };
    let on_hosts = |digest: Digest| {
        let nodes = found.iter().filter(|image| image.digest == digest).count();
        let nodes = u32::try_from(nodes).unwrap_or(u32::MAX);
        answer(digest, ImageSource::Loaded { nodes, asked })
    };
    let otherwise = match authority(policy, &found) {
        Authority::Hosts(digest) => return Ok(on_hosts(digest)),
        Authority::Registry { otherwise } => otherwise,
        Authority::Nobody => {
            return Err(ResolveImageError {
                reference: reference.to_owned(),
                reason: format!("none of {asked} hosts has it loaded, and its pull policy is `never`"),
            }
            .into());
        }
    };
    let credential = state.registry_credentials.get(registry_of(reference));
    match context.resolver.resolve(reference, credential).await {
        Ok(digest) => Ok(answer(digest, ImageSource::Registry)),
        Err(error) => match otherwise {
            Some(digest) => {
                tracing::warn!(reference, reason = %error, "the registry is not reached: taking what hosts have");
                Ok(on_hosts(digest))
            }
            None => Err(error.into()),
        },
    }
}

/// How many hosts were asked, and what those that have the image answered.
async fn ask_hosts(context: &Context, state: &State, reference: &str, request_id: &str) -> (u32, Vec<ImageView>) {
    let query = ImageQuery { reference: reference.to_owned() };
    let ask = |node: &Node| {
        let target = (node.id, node.address);
        let path = format!("{}?reference={}", routes::HOST_IMAGE.path, routes::encode(&query.reference));
        async move {
            let headers = with_request_id(request_id);
            let send = context.store.mesh().send(target, http::Method::GET, &path, headers, "".into(), Some(ASK_HOST));
            let response = send.await.ok()?;
            if !response.status().is_success() {
                return None;
            }
            response.json::<ImageView>().await.ok()
        }
    };
    let ready = state.nodes.values().filter(|node| node.readiness == Readiness::Ready);
    let mut questions: FuturesUnordered<_> = ready.map(ask).collect();
    let asked = u32::try_from(questions.len()).unwrap_or(u32::MAX);
    let mut found = Vec::new();
    while let Some(answer) = questions.next().await {
        found.extend(answer);
    }
    found.sort_by(|one, other| one.digest.cmp(&other.digest));
    (asked, found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn on_a_host(digit: &str, origin: &str) -> ImageView {
        let digest: Digest = format!("sha256:{}", digit.repeat(64)).parse().unwrap();
        ImageView {
            digest: digest.clone(),
            id: digest,
            references: vec!["app:1".to_owned()],
            size_bytes: 1,
            origin: origin.to_owned(),
            created: None,
        }
    }

    #[test]
    fn the_pull_policy_says_who_is_asked() {
        let (pulled, loaded) = (on_a_host("a", "registry"), on_a_host("b", "loaded"));
        let hosts = |image: &ImageView| Authority::Hosts(image.digest.clone());
        let both = [pulled.clone(), loaded.clone()];
        let only_pulled = std::slice::from_ref(&pulled);

        assert_eq!(authority(PullPolicy::Missing, &both), hosts(&loaded));
        let otherwise = Some(pulled.digest.clone());
        assert_eq!(authority(PullPolicy::Missing, only_pulled), Authority::Registry { otherwise });
        assert_eq!(authority(PullPolicy::Missing, &[]), Authority::Registry { otherwise: None });

        for found in [&both[..], only_pulled, &[]] {
            assert_eq!(authority(PullPolicy::Always, found), Authority::Registry { otherwise: None });
        }

        assert_eq!(authority(PullPolicy::Never, &both), hosts(&loaded));
        assert_eq!(authority(PullPolicy::Never, only_pulled), hosts(&pulled));
        assert_eq!(authority(PullPolicy::Never, &[]), Authority::Nobody);
    }

    #[test]
    fn a_digest_in_the_reference_is_taken() {
        let digest = format!("sha256:{}", "a".repeat(64));
        assert_eq!(digest_in(&format!("host:5000/app:1@{digest}")).unwrap().as_str(), digest);
        assert_eq!(digest_in("host:5000/app:1"), None);
        assert_eq!(digest_in("app@sha256:short"), None);
    }
}

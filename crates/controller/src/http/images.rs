//! What an image's name means: the digest that every task of a deploy will run.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{StreamExt as _, TryStreamExt as _};
use stack_api::bodies::ImageQuery;
use stack_api::routes;
use stack_api::views::{ImageSource, ImageView, ResolvedImage};
use stack_model::spec::{PullPolicy, ServiceSpec};
use stack_model::{Digest, Node, Readiness, RegistryCredential, StackName, StackSpec};
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
    /// Its registry. Where that does not answer: this.
    Registry { otherwise: Option<Otherwise> },
    /// Nobody: the registry may not be asked, and no host has it.
    Nobody,
}

/// What a name means while its registry does not answer.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Otherwise {
    /// What the stack runs by that name.
    Deployed(Digest),
    /// What hosts have by that name.
    Hosts(Digest),
}

/// `found` is what the hosts have by the name. An image that was loaded on hosts is what was loaded, and any other is what
/// its registry says now, unless the policy says otherwise: `always` takes the registry's word alone, `never` that of
/// the hosts alone. Where more than one answer is right, it is what the stack runs by that name, so that a deploy of
/// what is deployed changes nothing.
fn authority(policy: PullPolicy, found: &[ImageView], deployed: Option<&Digest>) -> Authority {
    let choose = |images: &mut dyn Iterator<Item = &ImageView>| {
        let mut digests: Vec<&Digest> = images.map(|image| &image.digest).collect();
        digests.sort();
        let kept = deployed.filter(|deployed| digests.contains(deployed));
        kept.or(digests.first().copied()).cloned()
    };
    let loaded = choose(&mut found.iter().filter(|image| image.origin != "registry"));
    let any = choose(&mut found.iter());
    match (policy, loaded) {
        (PullPolicy::Always, _) => Authority::Registry { otherwise: None },
        (PullPolicy::Missing | PullPolicy::Never, Some(loaded)) => Authority::Hosts(loaded),
        (PullPolicy::Missing, None) => {
            let deployed = deployed.cloned().map(Otherwise::Deployed);
            Authority::Registry { otherwise: deployed.or(any.map(Otherwise::Hosts)) }
        }
        (PullPolicy::Never, None) => any.map_or(Authority::Nobody, Authority::Hosts),
    }
}

/// What the services of a stack run by each name: where they differ, what the first of them does.
fn deployed(state: &State, stack: &StackName) -> BTreeMap<String, Digest> {
    let mut found = BTreeMap::new();
    let services = state.stacks.get(stack).map(|stack| &stack.spec.services);
    for service in services.into_iter().flat_map(|services| services.values()) {
        for image in service.container.images() {
            if let Some(digest) = &image.digest {
                found.entry(image.reference.clone()).or_insert_with(|| digest.clone());
            }
        }
    }
    found
}

/// So many names are looked up at once.
const AT_ONCE: usize = 8;

/// Fills in the digests of all images of a stack, each as its pull policy says.
pub(super) async fn pin(
    context: &Context,
    state: &State,
    spec: &mut StackSpec,
    request_id: &str,
) -> Result<Vec<ResolvedImage>, Failure> {
    let deployed = deployed(state, &spec.name);
    // An image that is mounted is looked for as the service's own is.
    let keys = |service: &ServiceSpec| -> Vec<(String, PullPolicy)> {
        let policy = service.container.pull_policy;
        service.container.images().map(|image| (image.reference.clone(), policy)).collect()
    };
    let wanted: BTreeSet<(String, PullPolicy)> = spec.services.values().flat_map(keys).collect();
    let questions = wanted.into_iter().map(|(reference, policy)| {
        let deployed = deployed.get(&reference);
        async move {
            let answer = resolve(context, state, (&reference, policy), deployed, request_id).await?;
            Ok::<_, Failure>(((reference, policy), answer))
        }
    });
    let resolved: BTreeMap<_, ResolvedImage> = futures::stream::iter(questions).buffered(AT_ONCE).try_collect().await?;
    for service in spec.services.values_mut() {
        let policy = service.container.pull_policy;
        for image in service.container.images_mut() {
            image.digest = resolved.get(&(image.reference.clone(), policy)).map(|answer| answer.digest.clone());
        }
    }
    let mut images: Vec<ResolvedImage> = resolved.into_values().collect();
    // Those of one reference are next to each other.
    images.dedup();
    Ok(images)
}

async fn resolve(
    context: &Context,
    state: &State,
    (reference, policy): (&str, PullPolicy),
    deployed: Option<&Digest>,
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
    let otherwise = match authority(policy, &found, deployed) {
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
    match (context.resolver.resolve(reference, credential).await, otherwise) {
        (Ok(digest), _) => Ok(answer(digest, ImageSource::Registry)),
        (Err(error), Some(otherwise)) => {
            tracing::warn!(reference, reason = %error, "the registry is not reached: taking what is known of the image");
            Ok(match otherwise {
                Otherwise::Deployed(digest) => answer(digest, ImageSource::Deployed),
                Otherwise::Hosts(digest) => on_hosts(digest),
            })
        }
        (Err(error), None) => Err(error.into()),
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

        assert_eq!(authority(PullPolicy::Missing, &both, None), hosts(&loaded));
        let otherwise = Some(Otherwise::Hosts(pulled.digest.clone()));
        assert_eq!(authority(PullPolicy::Missing, only_pulled, None), Authority::Registry { otherwise });
        assert_eq!(authority(PullPolicy::Missing, &[], None), Authority::Registry { otherwise: None });

        for found in [&both[..], only_pulled, &[]] {
            assert_eq!(authority(PullPolicy::Always, found, None), Authority::Registry { otherwise: None });
        }

        assert_eq!(authority(PullPolicy::Never, &both, None), hosts(&loaded));
        assert_eq!(authority(PullPolicy::Never, only_pulled, None), hosts(&pulled));
        assert_eq!(authority(PullPolicy::Never, &[], None), Authority::Nobody);
    }

    #[test]
    fn what_is_deployed_stays_where_it_is_one_of_the_answers() {
        let (one, other) = (on_a_host("a", "loaded"), on_a_host("b", "loaded"));
        let both = [one.clone(), other.clone()];
        for kept in [&one, &other] {
            for policy in [PullPolicy::Missing, PullPolicy::Never] {
                assert_eq!(authority(policy, &both, Some(&kept.digest)), Authority::Hosts(kept.digest.clone()));
            }
        }
        // Everybody has a new one: it is wanted.
        let old = on_a_host("c", "loaded").digest;
        assert_eq!(
            authority(PullPolicy::Missing, std::slice::from_ref(&other), Some(&old)),
            Authority::Hosts(other.digest.clone())
        );
        // Hosts may have pulled another one since, for another stack.
        let pulled = on_a_host("d", "registry");
        let otherwise = Some(Otherwise::Deployed(old.clone()));
        assert_eq!(authority(PullPolicy::Missing, &[pulled], Some(&old)), Authority::Registry { otherwise });
    }

    #[test]
    fn a_digest_in_the_reference_is_taken() {
        let digest = format!("sha256:{}", "a".repeat(64));
        assert_eq!(digest_in(&format!("host:5000/app:1@{digest}")).unwrap().as_str(), digest);
        assert_eq!(digest_in("host:5000/app:1"), None);
        assert_eq!(digest_in("app@sha256:short"), None);
    }
}

//! What an image's name means: the digest that every task of a deploy will run.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::StreamExt as _;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use stack_api::bodies::ImageQuery;
use stack_api::routes;
use stack_api::views::{ImageSource, ImageView, ResolvedImage};
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

/// Fills in the digests of all images of a stack. An image that was loaded on hosts is what was loaded; any other is what
/// its registry says now, or, where no registry answers, what hosts have by that name.
pub(super) async fn pin(
    context: &Context,
    state: &State,
    spec: &mut StackSpec,
    request_id: &str,
) -> Result<Vec<ResolvedImage>, Failure> {
    let mut resolved: BTreeMap<String, ResolvedImage> = BTreeMap::new();
    for service in spec.services.values_mut() {
        let image = &mut service.container.image;
        if !resolved.contains_key(&image.reference) {
            let answer = resolve(context, state, &image.reference, request_id).await?;
            resolved.insert(image.reference.clone(), answer);
        }
        image.digest = resolved.get(&image.reference).map(|answer| answer.digest.clone());
    }
    Ok(resolved.into_values().collect())
}

async fn resolve(
    context: &Context,
    state: &State,
    reference: &str,
    request_id: &str,
) -> Result<ResolvedImage, Failure> {
    let answer = |digest, source| ResolvedImage { reference: reference.to_owned(), digest, source };
    if let Some(digest) = digest_in(reference) {
        return Ok(answer(digest, ImageSource::Reference));
    }
    let (asked, found) = ask_hosts(context, state, reference, request_id).await;
    let on_hosts = |digest: Digest| {
        let nodes = found.iter().filter(|image| image.digest == digest).count();
        let nodes = u32::try_from(nodes).unwrap_or(u32::MAX);
        answer(digest, ImageSource::Loaded { nodes, asked })
    };
    if let Some(loaded) = found.iter().find(|image| image.origin != "registry") {
        return Ok(on_hosts(loaded.digest.clone()));
    }
    let credential = state.registry_credentials.get(registry_of(reference));
    match context.resolver.resolve(reference, credential).await {
        Ok(digest) => Ok(answer(digest, ImageSource::Registry)),
        Err(error) => match found.first() {
            Some(image) => {
                tracing::warn!(reference, reason = %error, "the registry is not reached: taking what hosts have");
                Ok(on_hosts(image.digest.clone()))
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
        let path = format!("{}?reference={}", routes::HOST_IMAGE.path, encoded(&query.reference));
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

/// A value of a query string: everything but RFC 3986's unreserved characters is percent-encoded.
fn encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_in_the_reference_is_taken() {
        let digest = format!("sha256:{}", "a".repeat(64));
        assert_eq!(digest_in(&format!("host:5000/app:1@{digest}")).unwrap().as_str(), digest);
        assert_eq!(digest_in("host:5000/app:1"), None);
        assert_eq!(digest_in("app@sha256:short"), None);
        assert_eq!(encoded("a/b:1 é"), "a%2Fb%3A1%20%C3%A9");
    }
}

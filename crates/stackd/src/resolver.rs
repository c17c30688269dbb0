//! Asks registries for the controller, with the engine's client.

use futures::FutureExt;
use futures::future::BoxFuture;
use stack_controller::http::{ImageResolver, ResolveImageError};
use stack_engine::Engine;
use stack_engine::image::Reference;
use stack_model::{Digest, RegistryCredential};

use crate::daemon::chain;

/// The engine as a resolver.
pub struct EngineResolver(pub Engine);

impl ImageResolver for EngineResolver {
    fn resolve<'call>(
        &'call self,
        reference: &'call str,
        credential: Option<&'call RegistryCredential>,
    ) -> BoxFuture<'call, Result<Digest, ResolveImageError>> {
        let refuse = move |error: &(dyn std::error::Error + 'static)| ResolveImageError {
            reference: reference.to_owned(),
            reason: chain(error),
        };
        async move {
            let parsed: Reference = reference.parse().map_err(|error| refuse(&error))?;
            let credentials = credential.map(stack_agent::engine_host::credentials);
            let digest =
                self.0.images().resolve(&parsed, credentials.as_ref()).await.map_err(|error| refuse(&error))?;
            digest.as_str().parse().map_err(|error| refuse(&error))
        }
        .boxed()
    }
}

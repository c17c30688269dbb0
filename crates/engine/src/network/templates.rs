//! Settings that are kept under a name, for networks that are made from them: Docker's configuration networks.

use super::choosing::check_network_name;
use super::errors::NetworkError;
use super::making::check;
use super::networks::{Networks, now};
use super::request::{NetworkSettings, NetworkTemplate};
use crate::events::{Happening, NetworkEvent};

/// As Docker writes the driver of what is no network.
const DRIVER: &str = "null";

impl Networks {
    /// Keeps settings under a name.
    ///
    /// # Errors
    /// When the name is taken, the settings make no sense, or they cannot be written down.
    pub async fn make_template(&self, name: &str, settings: &NetworkSettings) -> Result<NetworkTemplate, NetworkError> {
        check_network_name(name)?;
        check(settings).map_err(|problem| NetworkError::Settings { problem })?;
        let _shaping = self.shaping.lock().await;
        if self.is_name_taken(name) {
            return Err(NetworkError::Exists { name: name.to_owned() });
        }
        let template = NetworkTemplate {
            id: hex::encode(rand::random::<[u8; 32]>()),
            created_at: now(),
            name: name.to_owned(),
            settings: settings.clone(),
        };
        let failed = |source| NetworkError::Record { name: name.to_owned(), source };
        self.records.put_template(&template).map_err(failed)?;
        self.lock().templates.insert(name.to_owned(), template.clone());
        self.tell_template(&template, NetworkEvent::Created);
        Ok(template)
    }

    /// Forgets settings that no network was made from. Those that are not there are no error.
    ///
    /// # Errors
    /// When networks have them, or the record cannot be removed.
    pub async fn remove_template(&self, name: &str) -> Result<(), NetworkError> {
        let _shaping = self.shaping.lock().await;
        let template = {
            let state = self.lock();
            if state.networks.values().any(|network| network.settings.made_from.as_deref() == Some(name)) {
                return Err(NetworkError::TemplateInUse { name: name.to_owned() });
            }
            match state.templates.get(name) {
                Some(template) => template.clone(),
                None => return Ok(()),
            }
        };
        let failed = |source| NetworkError::Record { name: name.to_owned(), source };
        self.records.remove_template(&template).map_err(failed)?;
        self.lock().templates.remove(name);
        self.tell_template(&template, NetworkEvent::Removed);
        Ok(())
    }

    /// All of them, by name.
    #[must_use]
    pub fn templates(&self) -> Vec<NetworkTemplate> {
        self.lock().templates.values().cloned().collect()
    }

    /// Whether a network or settings have this name.
    pub(super) fn is_name_taken(&self, name: &str) -> bool {
        let state = self.lock();
        state.networks.contains_key(name) || state.templates.contains_key(name)
    }

    fn tell_template(&self, template: &NetworkTemplate, kind: NetworkEvent) {
        let (id, name) = (template.id.clone(), template.name.clone());
        self.teller.tell(|| Happening::Network { id, name, driver: DRIVER, kind });
    }
}

//! Ping: tells a monitor elsewhere that all is well. That the pings stop is what it listens for.

use std::time::Duration;

use reqwest::{Client, Url};

use super::{BuildError, tls};
use crate::config::Ping;
use crate::delivery::clean_text;

/// Longest time for one ping.
const PING_MAX: Duration = Duration::from_secs(10);

/// A monitor.
pub struct Monitor {
    client: Client,
    url: Url,
}

impl Monitor {
    /// Builds the HTTP client; touches no network.
    ///
    /// # Errors
    /// When the TLS library or the client refuses its settings.
    pub fn build(ping: &Ping) -> Result<Monitor, BuildError> {
        let url = Url::parse(ping.url.expose())
            .map_err(|_| BuildError::Tls("ping_url is no URL".to_owned()))?;
        let client = Client::builder()
            .tls_backend_preconfigured(rustls::ClientConfig::clone(&*tls::client_config(None)?))
            .http1_only()
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .referer(false)
            .no_proxy()
            .timeout(PING_MAX)
            .pool_max_idle_per_host(0)
            .user_agent(concat!("outboxd/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(BuildError::Http)?;
        Ok(Monitor { client, url })
    }

    /// One ping.
    ///
    /// # Errors
    /// Why the monitor did not take it, in words without the URL.
    pub async fn ping(&self) -> Result<(), String> {
        match self.client.get(self.url.clone()).send().await {
            Ok(response) if response.status().is_success() => Ok(()),
            Ok(response) => Err(format!("it answered {}", response.status())),
            Err(error) => Err(clean_text(&super::webhook::root_cause(&error))),
        }
    }
}

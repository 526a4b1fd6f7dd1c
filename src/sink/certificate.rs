//! When the certificate of a sink's server ends. Nothing is sent: no login, no request, no mail.

use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::timeout;

use super::smtp::Smtp;
use super::tls;
use crate::certificate::{Ends, Look};
use crate::config::{MailSecurity, SinkConfig, Way};

/// No look may take longer.
const LIMIT: Duration = Duration::from_secs(10);

/// The certificate a sink's server shows.
#[derive(Clone, Debug)]
pub struct Shown {
    /// Whose it is.
    pub host: String,
    /// When it ends.
    pub ends: Ends,
}

/// Shakes hands with a sink's server and looks at its certificate, also where it is not believed. None
/// where there is no TLS, or no handshake: why not, the sink's probe tells.
pub async fn shown(sink: &SinkConfig) -> Option<Shown> {
    let (config, look) = Look::client().ok()?;
    let host = match &sink.way {
        Way::Webhook(way) if way.url.scheme() == "https" => {
            let host = way.url.host_str()?.trim_matches(['[', ']']).to_owned();
            let port = way.url.port_or_known_default()?;
            let shake = async {
                let stream = TcpStream::connect((host.as_str(), port)).await?;
                tls::handshake(&config, &host, stream).await
            };
            let _ = timeout(LIMIT, shake).await;
            host
        }
        Way::Smtp(way) if way.server.security != MailSecurity::Plain => {
            let _ = timeout(LIMIT, Smtp::look(way, config)).await;
            way.server.host.clone()
        }
        Way::Webhook(_) | Way::Smtp(_) | Way::Csv(_) => return None,
    };
    Some(Shown { host, ends: look.ends()? })
}

//! When the certificate of a sink's server ends. Nothing is sent: no login, no request, no mail.

use std::iter;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::smtp::Smtp;
use super::tls;
use crate::certificate::{Ends, Look};
use crate::config::{MailSecurity, MailServer, SinkConfig, Way, WebhookConfig};

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

/// Shakes hands with a sink's servers and looks at their certificates, also where they are not believed.
/// None where there is no TLS, or no handshake: why not, the sink's probe tells.
pub async fn shown(sink: &SinkConfig) -> Vec<Shown> {
    match &sink.way {
        Way::Webhook(way) => of_webhook(way).await.into_iter().collect(),
        Way::Smtp(way) => {
            let servers = iter::once(&way.server).chain(way.fallback.as_deref());
            join_all(servers.map(of_mail_server)).await.into_iter().flatten().collect()
        }
        Way::Csv(_) => Vec::new(),
    }
}

async fn of_webhook(way: &WebhookConfig) -> Option<Shown> {
    if way.url.scheme() != "https" {
        return None;
    }
    let (config, look) = Look::client().ok()?;
    let host = way.url.host_str()?.trim_matches(['[', ']']).to_owned();
    let port = way.url.port_or_known_default()?;
    let shake = async {
        let stream = TcpStream::connect((host.as_str(), port)).await?;
        tls::handshake(&config, &host, stream).await
    };
    let _ = timeout(LIMIT, shake).await;
    Some(Shown { host, ends: look.ends()? })
}

async fn of_mail_server(server: &MailServer) -> Option<Shown> {
    if server.security == MailSecurity::Plain {
        return None;
    }
    let (config, look) = Look::client().ok()?;
    let _ = timeout(LIMIT, Smtp::shake_hands(server, config)).await;
    Some(Shown { host: server.host.clone(), ends: look.ends()? })
}

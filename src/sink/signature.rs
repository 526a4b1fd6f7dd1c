//! The Standard Webhooks signature, version 1 (HMAC-SHA256).

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::config::WebhookSecret;

/// The value of `webhook-signature`: one `v1,<base64>` for each secret, in the order given, with
/// exactly one space between them, because published verifiers fail on two. None without secrets.
///
/// What is signed is `id.timestamp.body`; `timestamp` is in seconds since 1970.
///
/// # Panics
/// Never: HMAC takes keys of any length.
#[must_use]
pub fn signature(
    secrets: &[WebhookSecret],
    id: &str,
    timestamp: i64,
    body: &[u8],
) -> Option<String> {
    let signed: Vec<String> = secrets.iter().map(|s| v1(s.key(), id, timestamp, body)).collect();
    (!signed.is_empty()).then(|| signed.join(" "))
}

fn v1(key: &[u8], id: &str, timestamp: i64, body: &[u8]) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
    mac.update(id.as_bytes());
    mac.update(format!(".{timestamp}.").as_bytes());
    mac.update(body);
    format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "msg_p5jXN8AQM9LWM0D4loKWxJek";
    const BODY: &[u8] = br#"{"test": 2432232314}"#;
    const VECTOR: &str = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";

    fn secret() -> WebhookSecret {
        WebhookSecret::parse("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap()
    }

    #[test]
    fn the_published_vector() {
        assert_eq!(signature(&[secret()], ID, 1_614_265_330, BODY).unwrap(), VECTOR);
    }

    #[test]
    fn every_secret_signs_newest_first_with_one_space_between() {
        let newest = WebhookSecret::parse("whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYX").unwrap();
        let both = signature(&[newest, secret()], ID, 1_614_265_330, BODY).unwrap();
        let parts: Vec<&str> = both.split(' ').collect();
        assert_eq!(parts.len(), 2);
        assert_eq!(parts[1], VECTOR);
        assert!(signature(&[], ID, 0, BODY).is_none());
    }
}

//! What a status line means: whose trouble it is, and for how long. Pure.

use jiff::Timestamp;
use reqwest::header::{HeaderMap, LOCATION, RETRY_AFTER};
use reqwest::{StatusCode, Url};

use crate::delivery::{Cause, Outcome, clean_text};
use crate::policy::Codes;
use crate::sink::retry_after::retry_after;

/// What a status line means. `url` is where the request went, and `now` when the answer came.
pub(super) fn judge(
    url: &Url,
    status: StatusCode,
    headers: &HeaderMap,
    permanent: Option<&Codes>,
    now: Timestamp,
) -> Outcome {
    let line = match status.canonical_reason() {
        Some(reason) => format!("HTTP {} {reason}", status.as_u16()),
        None => format!("HTTP {}", status.as_u16()),
    };
    if status.is_success() {
        return Outcome::Delivered { receipt: line };
    }
    match permanent {
        None if status == StatusCode::GONE => {
            return Outcome::Permanent { reason: format!("{line}: the receiver wants no more") };
        }
        Some(codes) if codes.has(status.as_u16()) => {
            return Outcome::Permanent { reason: format!("{line}: permanent by the config") };
        }
        _ => {}
    }
    let wait = headers
        .get_all(RETRY_AFTER)
        .iter()
        .filter_map(|value| retry_after(value.to_str().ok()?, now))
        .max();
    let reason = match headers.get(LOCATION) {
        Some(location) if status.is_redirection() => {
            let there = name_location(url, &String::from_utf8_lossy(location.as_bytes()));
            format!("{line}: redirects are not followed; correct the URL, it points to {there}")
        }
        _ => line,
    };
    let cause = cause(status, wait.is_some());
    Outcome::Transient { cause, reason: clean_text(&reason), wait }
}

/// A redirect's target without what could be secret in it: query, fragment, user name.
fn name_location(url: &Url, location: &str) -> String {
    let Ok(mut url) = url.join(location) else {
        return location.split(['?', '#']).next().unwrap_or_default().to_owned();
    };
    url.set_query(None);
    url.set_fragment(None);
    let _ = url.set_username("");
    let _ = url.set_password(None);
    url.into()
}

/// Why a receiver that answered did not take the message; `asked` says that it asked for a wait.
fn cause(status: StatusCode, asked: bool) -> Cause {
    match status {
        StatusCode::TOO_MANY_REQUESTS => Cause::Throttled,
        StatusCode::SERVICE_UNAVAILABLE if asked => Cause::Throttled,
        StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT => {
            Cause::Away
        }
        status if status.is_client_error() => Cause::Rejected,
        _ => Cause::Failed,
    }
}

#[cfg(test)]
mod tests {
    use reqwest::header::{HeaderName, HeaderValue};

    use super::*;

    fn judge(status: u16, headers: &[(&'static str, &str)], permanent: Option<&Codes>) -> Outcome {
        let pair = |(n, v): &(&'static str, &str)| {
            (HeaderName::from_static(n), HeaderValue::from_str(v).unwrap())
        };
        let headers = headers.iter().map(pair).collect();
        let status = StatusCode::from_u16(status).unwrap();
        let url = Url::parse("https://user:pw@shop.example/hooks/in?token=1").unwrap();
        super::judge(&url, status, &headers, permanent, Timestamp::UNIX_EPOCH)
    }

    #[test]
    fn every_status_has_an_outcome() {
        for status in 100..=999 {
            let outcome = judge(status, &[], None);
            let expected = match status {
                200..=299 => matches!(outcome, Outcome::Delivered { .. }),
                410 => matches!(outcome, Outcome::Permanent { .. }),
                _ => matches!(outcome, Outcome::Transient { wait: None, .. }),
            };
            assert!(expected, "{status}: {outcome:?}");
        }
        let receipt = |status| judge(status, &[], None);
        assert_eq!(receipt(204), Outcome::Delivered { receipt: "HTTP 204 No Content".to_owned() });
        assert_eq!(receipt(299), Outcome::Delivered { receipt: "HTTP 299".to_owned() });
    }

    /// A success is one whatever a list says; anything else in it is permanent, and nothing else.
    #[test]
    fn a_list_takes_the_place_of_what_is_permanent_otherwise() {
        let codes = Codes::new([204, 302, 400, 429, 503]);
        for status in 100..=599 {
            let outcome = judge(status, &[("retry-after", "9")], Some(&codes));
            let permanent = matches!(outcome, Outcome::Permanent { .. });
            assert_eq!(permanent, [302, 400, 429, 503].contains(&status), "{status}: {outcome:?}");
        }
        let none = judge(410, &[], Some(&Codes::default()));
        assert!(matches!(none, Outcome::Transient { cause: Cause::Rejected, .. }), "{none:?}");
    }

    #[test]
    fn a_redirect_is_named_without_its_secrets() {
        let reason = |location: &str| match judge(302, &[("location", location)], None) {
            Outcome::Transient { reason, .. } => reason,
            other => panic!("{other:?}"),
        };
        assert!(reason("/login?token=secret#x").ends_with("points to https://shop.example/login"));
        assert!(reason("https://a:secret@b.example/").ends_with("to https://b.example/"));
        assert!(!reason("http://[bad?secret").contains("secret"));
    }
}

//! Pages: what is answered to whom.

use std::convert::Infallible;
use std::sync::Arc;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{
    ALLOW, AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, HeaderValue, WWW_AUTHENTICATE,
};
use hyper::{Method, Request, Response, StatusCode};

use super::Desk;
use super::progress::{Progress, loop_turns};
use crate::config::Secret;
use crate::metrics;

type Page = Response<Full<Bytes>>;

const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";
const PAGES: &str = "there are /livez, /readyz and /metrics\n";

/// Answers a request. Whether the process is well is no secret; its numbers are, where the config has a
/// token.
pub(super) async fn answer(
    request: Request<Incoming>,
    desk: Arc<Desk>,
) -> Result<Page, Infallible> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut page = page(StatusCode::METHOD_NOT_ALLOWED, TEXT, "GET or HEAD\n".to_owned());
        page.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return Ok(page);
    }
    Ok(match request.uri().path() {
        "/livez" => live(&desk),
        "/readyz" => ready(&desk).await,
        "/metrics" if !may_read(&request, desk.token.as_ref()) => {
            let words = "needs the header Authorization: Bearer TOKEN, with [admin] token\n";
            let mut page = page(StatusCode::UNAUTHORIZED, TEXT, words.to_owned());
            page.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            page
        }
        "/metrics" => {
            drop(progress(&desk).await);
            page(StatusCode::OK, metrics::CONTENT_TYPE, desk.process.text())
        }
        _ => page(StatusCode::NOT_FOUND, TEXT, PAGES.to_owned()),
    })
}

fn live(desk: &Desk) -> Page {
    let turns = loop_turns(desk.process.metrics.pulse().silent_for());
    let status = if turns.ok { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    page(status, JSON, Progress { checks: vec![turns] }.text("live"))
}

/// How far the relay gets on, with the database looked at if that is due.
async fn progress(desk: &Desk) -> Progress {
    let metrics = &desk.process.metrics;
    Arc::clone(&desk.process).look().await;
    let is_draining = desk.stop.is_cancelled();
    let progress = Progress::of(metrics, is_draining);
    metrics.ready(progress.is_ready(), is_draining);
    progress
}

async fn ready(desk: &Desk) -> Page {
    let progress = progress(desk).await;
    let status = if progress.is_ready() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    page(status, JSON, progress.text("ready"))
}

fn page(status: StatusCode, kind: &'static str, text: String) -> Page {
    let mut page = Response::new(Full::new(Bytes::from(text)));
    *page.status_mut() = status;
    page.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    page.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    page
}

fn may_read<B>(request: &Request<B>, token: Option<&Secret>) -> bool {
    let Some(token) = token else { return true };
    let shown = request.headers().get(AUTHORIZATION).map(HeaderValue::as_bytes).unwrap_or_default();
    let shown = shown.strip_prefix(b"Bearer ").unwrap_or_default();
    is_same(shown, token.expose().as_bytes())
}

/// Compares hashes of both, so that the time it takes tells nothing of how much of the token is right.
fn is_same(shown: &[u8], token: &[u8]) -> bool {
    use sha2::{Digest as _, Sha256};
    let (shown, token) = (Sha256::digest(shown), Sha256::digest(token));
    shown.iter().zip(token.iter()).fold(0, |differs, (a, b)| differs | (a ^ b)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_metrics_are_for_who_shows_the_token() {
        let token = Secret::new("0123456789abcdef");
        let may = |header: Option<&str>| {
            let mut request = Request::builder().uri("/metrics");
            if let Some(header) = header {
                request = request.header(AUTHORIZATION, header);
            }
            may_read(&request.body(()).unwrap(), Some(&token))
        };
        assert!(may(Some("Bearer 0123456789abcdef")));
        for header in [
            None,
            Some(""),
            Some("Bearer"),
            Some("Bearer "),
            Some("0123456789abcdef"),
            Some("Basic 0123456789abcdef"),
            Some("Bearer 0123456789abcde"),
            Some("Bearer 0123456789abcdef0"),
            Some("Bearer 0123456789abcdeg"),
        ] {
            assert!(!may(header), "{header:?}");
        }
        assert!(may_read(&Request::new(()), None), "no token, no question");
    }
}

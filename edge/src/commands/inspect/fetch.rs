//! A picture by its URL: one GET after the other, as far as a few redirects lead, bounded in bytes and time.
//!
//! Whoever runs the command may ask any host that the machine reaches, private ones, too.

use std::time::Duration;

use anyhow::{Context, bail};
use bytes::Bytes;
use http::header::{ACCEPT, LOCATION, USER_AGENT};
use http::{HeaderValue, Request, Response, Uri};
use http_body_util::{BodyExt as _, Empty, Limited};

use crate::outbound::{self, Client, Trust};

const DEADLINE: Duration = Duration::from_secs(30);
const REDIRECTS_MAX: usize = 5;
const AGENT: HeaderValue = HeaderValue::from_static(concat!("bildkante-inspect/", env!("CARGO_PKG_VERSION")));

/// The body of what is at `url`.
pub(super) fn file(url: &str, bytes_max: usize) -> anyhow::Result<Bytes> {
    let uri: Uri = url.parse().context("it is no URL")?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let fetched = tokio::time::timeout(DEADLINE, followed(uri, bytes_max)).await;
        fetched.with_context(|| format!("it did not come within {} s", DEADLINE.as_secs()))?
    })
}

async fn followed(mut uri: Uri, bytes_max: usize) -> anyhow::Result<Bytes> {
    let client: Client<Empty<Bytes>> = outbound::http1(Trust::System, None, DEADLINE)?;
    for _ in 0..=REDIRECTS_MAX {
        let request = Request::get(&uri).header(ACCEPT, "image/*").header(USER_AGENT, AGENT).body(Empty::new())?;
        let response = client.request(request).await?;
        if response.status().is_redirection() {
            uri = target(&uri, &response)?;
            continue;
        }
        if !response.status().is_success() {
            bail!("it is answered with {}", response.status());
        }
        let body = Limited::new(response.into_body(), bytes_max).collect().await;
        return Ok(body.map_err(|error| anyhow::anyhow!(error)).context("its body cannot be read")?.to_bytes());
    }
    bail!("it redirects more than {REDIRECTS_MAX} times")
}

/// Where a redirect leads: a URL, or a path of the same host. From https never to http.
fn target<B>(from: &Uri, response: &Response<B>) -> anyhow::Result<Uri> {
    let location = response.headers().get(LOCATION).and_then(|location| location.to_str().ok());
    let location = location.context("it redirects to nowhere")?;
    let to: Uri = match location.strip_prefix('/') {
        Some(rest) if !rest.starts_with('/') => {
            let authority = from.authority().context("it has no host")?;
            format!("{}://{authority}{location}", from.scheme_str().unwrap_or("http")).parse()?
        }
        _ => location.parse().context("it redirects to something else than a URL")?,
    };
    let is_https = |uri: &Uri| uri.scheme_str() == Some("https");
    if !matches!(to.scheme_str(), Some("http" | "https")) || (is_https(from) && !is_https(&to)) {
        bail!("it redirects to {to}, which is not followed");
    }
    Ok(to)
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::{Ipv4Addr, TcpListener};

    use super::*;

    /// Answers each connection with the next of these.
    fn serving(answers: Vec<String>) -> String {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let at = format!("http://{}", listener.local_addr().expect("an address"));
        std::thread::spawn(move || {
            for answer in answers {
                let Ok((mut stream, _)) = listener.accept() else { return };
                let _ = stream.read(&mut [0; 4096]);
                let _ = stream.write_all(answer.as_bytes());
            }
        });
        at
    }

    fn answer(head: &str, body: &str) -> String {
        format!("HTTP/1.1 {head}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}", body.len())
    }

    #[test]
    fn redirects_are_followed_and_bodies_are_bounded() {
        let there = answer("200 OK", "picture");
        let at = serving(vec![answer("302 Found\r\nLocation: /elsewhere", ""), there.clone()]);
        assert_eq!(file(&at, 7).expect("seven bytes"), "picture");
        assert!(file(&serving(vec![there]), 6).is_err());
        let circle = vec![answer("301 Moved\r\nLocation: /", ""); REDIRECTS_MAX + 1];
        assert!(file(&serving(circle), 7).expect_err("a circle").to_string().contains("redirects more"));
        let missing = file(&serving(vec![answer("404 Not Found", "no")]), 7).expect_err("not there").to_string();
        assert!(missing.contains("404"), "{missing}");
    }

    #[test]
    fn a_redirect_never_leaves_https_or_the_web() {
        let from: Uri = "https://a.example/x".parse().expect("a URL");
        let to = |location: &str| {
            let response = Response::builder().header(LOCATION, location).body(()).expect("a field");
            target(&from, &response).map(|uri| uri.to_string()).ok()
        };
        assert_eq!(to("/y?z").as_deref(), Some("https://a.example/y?z"));
        assert_eq!(to("https://b.example/").as_deref(), Some("https://b.example/"));
        for refused in ["http://a.example/", "file:///etc/passwd", "//b.example/", "y"] {
            assert_eq!(to(refused), None, "{refused}");
        }
    }
}

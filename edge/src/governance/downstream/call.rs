//! What one cache is told, and what its answer means. Pure.
//!
//! Sources: Fastly API, "Purging" (`/service/{id}/purge` with `Surrogate-Key`, `Fastly-Soft-Purge`); Cloudflare API,
//! "Purge Cached Content" (`/zones/{id}/purge_cache`); vmod-xkey; RFC 9110 §10.2.3 (`Retry-After`).

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, RETRY_AFTER, USER_AGENT};
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::Full;
use serde_json::json;

use super::config::{CloudflareBy, CloudflareConfig, DownstreamConfig, FastlyConfig, VarnishConfig, WebhookConfig};
use super::template::{Syntax, Template};
use crate::governance::ledger::{Breadth, PurgeRecord};
use crate::governance::marks::{PurgeKind, PurgeReach};
use crate::words::EVERY_IMAGE_TAG;

/// Longest `Retry-After` that is obeyed.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(300);
/// Longest value of a header of tags. Varnish refuses a head with a longer line than `http_req_hdr_len`, 8 KiB unless set.
const TAGS_BYTES_MAX: usize = 4_000;
const AGENT: &str = concat!("bildkante-edge/", env!("CARGO_PKG_VERSION"));

/// A purge as a cache further down is told of it.
#[derive(Clone)]
pub(super) struct Call {
    pub(super) id: u64,
    pub(super) scope: &'static str,
    pub(super) kind: PurgeKind,
    pub(super) reach: PurgeReach,
    /// Empty: everything.
    pub(super) tags: Vec<String>,
    pub(super) url: Option<String>,
    /// Every campaign served now, for caches that know tags only.
    pub(super) campaigns: Vec<String>,
    pub(super) token: Option<String>,
}

impl fmt::Debug for Call {
    /// Without the secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Call").field("id", &self.id).field("scope", &self.scope).finish_non_exhaustive()
    }
}

impl Call {
    pub(super) fn new(record: &PurgeRecord, breadth: Breadth, campaigns: Vec<String>, token: Option<String>) -> Self {
        let call = Self {
            id: record.id,
            scope: record.scope.as_str(),
            kind: record.kind,
            reach: record.reach,
            tags: record.tags.clone(),
            url: record.url.clone(),
            campaigns,
            token,
        };
        match breadth {
            Breadth::AsAsked => call,
            Breadth::Everything => Self { scope: "everything", tags: Vec::new(), url: None, ..call },
        }
    }

    fn is_everything(&self) -> bool {
        self.tags.is_empty()
    }

    /// Why a cache that confirms the call may hold some of the purged all the same.
    fn misses(&self, config: &DownstreamConfig) -> Option<&'static str> {
        match config {
            DownstreamConfig::Cloudflare(config) if config.by == CloudflareBy::Urls && self.url.is_some() => {
                Some("it was told the URL as it was named; other spellings of it stay until they expire")
            }
            _ => None,
        }
    }
}

/// Why a request cannot be made; the configuration's fault.
pub(super) type Unmakeable = String;

/// What is sent, in order: the cache has confirmed once it has confirmed each.
pub(super) fn requests(config: &DownstreamConfig, call: &Call) -> Result<Vec<Request<Full<Bytes>>>, Unmakeable> {
    let request = match config {
        DownstreamConfig::Webhook(config) => return webhook(config, call).map(|request| vec![request]),
        DownstreamConfig::Fastly(config) => fastly(config, call),
        DownstreamConfig::Cloudflare(config) => cloudflare(config, call),
        DownstreamConfig::Varnish(config) => return varnish(config, call).map_err(|error| error.to_string()),
    };
    request.map(|request| vec![request]).map_err(|error| error.to_string())
}

fn builder(method: &str, url: String) -> http::request::Builder {
    Request::builder().method(method).uri(url).header(USER_AGENT, AGENT)
}

fn fastly(config: &FastlyConfig, call: &Call) -> http::Result<Request<Full<Bytes>>> {
    let what = if call.is_everything() { "purge_all" } else { "purge" };
    let url = format!("{}/service/{}/{what}", config.api.trim_end_matches('/'), config.service_id);
    let mut request = builder(Method::POST.as_str(), url)
        .header("fastly-key", call.token.as_deref().unwrap_or_default())
        .header(ACCEPT, "application/json");
    if !call.is_everything() {
        request = request.header("surrogate-key", call.tags.join(" "));
        // `purge_all` knows no soft purge.
        if call.kind == PurgeKind::Soft {
            request = request.header("fastly-soft-purge", "1");
        }
    }
    request.body(Full::default())
}

fn cloudflare(config: &CloudflareConfig, call: &Call) -> http::Result<Request<Full<Bytes>>> {
    let url = format!("{}/zones/{}/purge_cache", config.api.trim_end_matches('/'), config.zone_id);
    let body = match (config.by, &call.url) {
        (CloudflareBy::Tags, _) if !call.is_everything() => json!({ "tags": call.tags }),
        (CloudflareBy::Urls, Some(url)) => json!({ "files": [url] }),
        _ => json!({ "purge_everything": true }),
    };
    builder(Method::POST.as_str(), url)
        .header(AUTHORIZATION, format!("Bearer {}", call.token.as_deref().unwrap_or_default()))
        .header(CONTENT_TYPE, "application/json")
        .body(Full::from(body.to_string()))
}

fn varnish(config: &VarnishConfig, call: &Call) -> http::Result<Vec<Request<Full<Bytes>>>> {
    let header = match call.kind {
        PurgeKind::Hard => &config.header,
        PurgeKind::Soft => &config.soft_header,
    };
    let values = match (&config.everything, call.is_everything()) {
        (Some(everything), true) => vec![everything.clone()],
        (None, true) => {
            // The first is on every image. The campaigns are for answers of an edge that did not send it yet.
            let campaigns = call.campaigns.iter().map(|name| format!("campaign:{name}"));
            joined(std::iter::once(EVERY_IMAGE_TAG.to_owned()).chain(campaigns), &config.separator)
        }
        (_, false) => joined(call.tags.iter().cloned(), &config.separator),
    };
    let request = |value| {
        let mut request = builder(&config.method, config.url.clone()).header(header, value);
        if let Some(token) = &call.token {
            request = request.header(AUTHORIZATION, format!("Bearer {token}"));
        }
        request.body(Full::default())
    };
    values.into_iter().map(request).collect()
}

/// As few values as hold all tags, each no longer than a header may be.
fn joined(tags: impl Iterator<Item = String>, separator: &str) -> Vec<String> {
    let mut values: Vec<String> = Vec::new();
    for tag in tags {
        match values.last_mut() {
            Some(value) if value.len() + separator.len() + tag.len() <= TAGS_BYTES_MAX => {
                value.push_str(separator);
                value.push_str(&tag);
            }
            _ => values.push(tag),
        }
    }
    values
}

fn webhook(config: &WebhookConfig, call: &Call) -> Result<Request<Full<Bytes>>, Unmakeable> {
    let mut request = builder(&config.method, Template::parse(&config.url)?.fill(call, Syntax::Url));
    for (name, value) in &config.headers {
        request = request.header(name, Template::parse(value)?.fill(call, Syntax::Text));
    }
    let body = Template::parse(&config.body)?.fill(call, config.body_syntax());
    request.body(Full::from(body)).map_err(|error| error.to_string())
}

/// Whether the body is what it says it is, with values that are as odd as values can be.
pub(super) fn check_body(config: &WebhookConfig) -> Result<(), String> {
    if config.body_syntax() != Syntax::Json {
        return Ok(());
    }
    let odd = "a\"b\\c\n".to_owned();
    let call = Call {
        id: 1,
        scope: "url",
        kind: PurgeKind::Hard,
        reach: PurgeReach::Renditions,
        tags: vec![odd.clone()],
        url: Some(odd.clone()),
        campaigns: Vec::new(),
        token: Some(odd),
    };
    let body = Template::parse(&config.body)?.fill(&call, Syntax::Json);
    serde_json::from_str::<serde_json::Value>(&body)
        .map(drop)
        .map_err(|error| format!("`body` is no JSON once its placeholders are filled in: {error}"))
}

/// What an answer means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Judgement {
    Confirmed,
    /// Done as it was told, and it could not be told everything.
    Incomplete(&'static str),
    /// Too many calls; at the earliest after this.
    Limited(Option<Duration>),
    /// It does not want this call; its operator has to look.
    Refused(String),
    /// It has trouble of its own.
    Failed(String),
}

impl Judgement {
    pub(super) const fn as_str(&self) -> &'static str {
        match self {
            Self::Confirmed => "confirmed",
            Self::Incomplete(_) => "incomplete",
            Self::Limited(_) => "limited",
            Self::Refused(_) => "refused",
            Self::Failed(_) => "failed",
        }
    }
}

pub(super) fn judge(
    config: &DownstreamConfig,
    call: &Call,
    status: StatusCode,
    headers: &HeaderMap,
    body: &[u8],
) -> Judgement {
    let said = || format!("it answered {status}");
    if status == StatusCode::TOO_MANY_REQUESTS {
        let seconds = headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.trim().parse().ok());
        return Judgement::Limited(seconds.map(|seconds| Duration::from_secs(seconds).min(RETRY_AFTER_MAX)));
    }
    if status.is_success() {
        // Cloudflare says no with a 200 as well.
        let is_confirmed = match config {
            DownstreamConfig::Cloudflare(_) => serde_json::from_slice::<serde_json::Value>(body)
                .is_ok_and(|answer| answer["success"] == serde_json::Value::Bool(true)),
            _ => true,
        };
        return match (is_confirmed, call.misses(config)) {
            (true, None) => Judgement::Confirmed,
            (true, Some(reason)) => Judgement::Incomplete(reason),
            (false, _) => Judgement::Failed(format!("{}, without success", said())),
        };
    }
    let is_passing = status.is_server_error() || status == StatusCode::REQUEST_TIMEOUT;
    if is_passing { Judgement::Failed(said()) } else { Judgement::Refused(said()) }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    fn config(text: &str) -> DownstreamConfig {
        let config: DownstreamConfig = toml::from_str(text).unwrap();
        config.check().unwrap();
        config
    }

    fn call(tags: &[&str], kind: PurgeKind) -> Call {
        Call {
            id: 7,
            scope: if tags.is_empty() { "everything" } else { "tag" },
            kind,
            reach: PurgeReach::Renditions,
            tags: tags.iter().map(ToString::to_string).collect(),
            url: Some("https://img.example.com/i/a/b?x=\"y\"".to_owned()),
            campaigns: vec!["autumn".to_owned(), "studio".to_owned()],
            token: Some("s3cret".to_owned()),
        }
    }

    async fn made(config: &DownstreamConfig, call: &Call) -> (String, HeaderMap, String) {
        let mut requests = requests(config, call).unwrap();
        assert_eq!(requests.len(), 1);
        let (parts, body) = requests.remove(0).into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        (format!("{} {}", parts.method, parts.uri), parts.headers, String::from_utf8(body.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn fastly_purges_by_surrogate_key_softly_where_asked() {
        let config = config("kind = 'fastly'\nname = 'f'\nservice_id = 'SU1Z0isxPaozGVKXdv0eY'\ntoken_env = 'T'");
        let (line, headers, _) = made(&config, &call(&["campaign:a", "slot:a/b"], PurgeKind::Soft)).await;
        assert_eq!(line, "POST https://api.fastly.com/service/SU1Z0isxPaozGVKXdv0eY/purge");
        assert_eq!(headers["surrogate-key"], "campaign:a slot:a/b");
        assert_eq!(
            (&headers["fastly-soft-purge"], &headers["fastly-key"]),
            (&"1".parse().unwrap(), &"s3cret".parse().unwrap())
        );
        let (line, headers, _) = made(&config, &call(&[], PurgeKind::Soft)).await;
        assert!(line.ends_with("/purge_all") && !headers.contains_key("fastly-soft-purge"));
    }

    #[tokio::test]
    async fn cloudflare_purges_tags_urls_or_all_and_never_less_than_asked() {
        let by_tags = config("kind = 'cloudflare'\nname = 'c'\nzone_id = '023e105f4ecef8ad'\ntoken_env = 'T'");
        let (line, headers, body) = made(&by_tags, &call(&["recipe:x"], PurgeKind::Hard)).await;
        assert_eq!(line, "POST https://api.cloudflare.com/client/v4/zones/023e105f4ecef8ad/purge_cache");
        assert_eq!(
            (body.as_str(), &headers[AUTHORIZATION]),
            (r#"{"tags":["recipe:x"]}"#, &"Bearer s3cret".parse().unwrap())
        );
        assert_eq!(made(&by_tags, &call(&[], PurgeKind::Hard)).await.2, r#"{"purge_everything":true}"#);
        let by_urls = config("kind = 'cloudflare'\nname = 'c'\nzone_id = '0'\ntoken_env = 'T'\nby = 'urls'");
        assert!(made(&by_urls, &call(&["recipe:x"], PurgeKind::Hard)).await.2.starts_with(r#"{"files":["https://"#));
        let campaign = Call { url: None, ..call(&["campaign:a"], PurgeKind::Hard) };
        assert_eq!(made(&by_urls, &campaign).await.2, r#"{"purge_everything":true}"#);
    }

    #[tokio::test]
    async fn varnish_gets_the_tags_in_a_header() {
        let xkey = config("kind = 'varnish'\nname = 'v'\nurl = 'http://127.0.0.1:6081/'");
        let (line, headers, _) = made(&xkey, &call(&["campaign:a", "recipe:r"], PurgeKind::Hard)).await;
        assert_eq!(
            (line.as_str(), &headers["xkey-purge"]),
            ("PURGE http://127.0.0.1:6081/", &"campaign:a recipe:r".parse().unwrap())
        );
        let (_, headers, _) = made(&xkey, &call(&[], PurgeKind::Soft)).await;
        assert_eq!(headers["xkey-softpurge"], "bildkante campaign:autumn campaign:studio");
        let ban = config(
            "kind = 'varnish'\nname = 'v'\nurl = 'http://v/'\nmethod = 'BAN'\nheader = 'x-ban-tags'\nsoft_header = 'x-ban-tags'\nseparator = '|'\neverything = '.*'",
        );
        assert_eq!(
            made(&ban, &call(&["campaign:a", "recipe:r"], PurgeKind::Soft)).await.1["x-ban-tags"],
            "campaign:a|recipe:r"
        );
        assert_eq!(made(&ban, &call(&[], PurgeKind::Hard)).await.1["x-ban-tags"], ".*");
    }

    /// A head that is too long is refused each time: with many campaigns nothing would ever be purged.
    #[test]
    fn varnish_gets_many_tags_in_several_calls() {
        let xkey = config("kind = 'varnish'\nname = 'v'\nurl = 'http://127.0.0.1:6081/'");
        let campaigns: Vec<String> = (0..1_000).map(|number| format!("campaign-of-the-season-{number}")).collect();
        let call = Call { campaigns: campaigns.clone(), ..call(&[], PurgeKind::Hard) };
        let requests = requests(&xkey, &call).unwrap();
        let values: Vec<&str> =
            requests.iter().map(|request| request.headers()["xkey-purge"].to_str().unwrap()).collect();
        assert!((2..20).contains(&values.len()) && values.iter().all(|value| value.len() <= TAGS_BYTES_MAX));
        let tags: Vec<&str> = values.iter().flat_map(|value| value.split(' ')).collect();
        let expected = campaigns.iter().map(|name| format!("campaign:{name}"));
        let expected: Vec<String> = std::iter::once("bildkante".to_owned()).chain(expected).collect();
        assert_eq!(tags, expected, "each once");
        assert!(requests.iter().all(|request| request.headers()[AUTHORIZATION] == "Bearer s3cret"));
        let long = "x".repeat(TAGS_BYTES_MAX);
        assert_eq!(joined([long.clone(), "y".to_owned()].into_iter(), "|"), [long, "y".to_owned()]);
        assert_eq!(joined(["a".to_owned(), "b".to_owned()].into_iter(), "|"), ["a|b"]);
    }

    #[tokio::test]
    async fn a_webhook_is_filled_in() {
        let config = config(
            "kind = 'webhook'\nname = 'w'\nurl = 'http://h/purge?u=${url_encoded}'\nbody = '{\"id\":${id},\"tags\":${tags_json},\"soft\":\"${kind}\"}'\n[headers]\nauthorization = 'Token ${token}'\n",
        );
        let (line, headers, body) = made(&config, &call(&["campaign:a"], PurgeKind::Soft)).await;
        assert!(line.starts_with("POST http://h/purge?u=https%3A%2F%2F") && line.ends_with("%22y%22"), "{line}");
        assert_eq!(headers[AUTHORIZATION], "Token s3cret");
        assert_eq!(body, r#"{"id":7,"tags":["campaign:a"],"soft":"soft"}"#);
    }

    /// As the shipped configuration shows it: the URL of `call` has quotes in it.
    #[tokio::test]
    async fn the_documented_body_is_json_whatever_is_purged() {
        let shipped = include_str!("../../../../config/edge.toml");
        let line = shipped.lines().find(|line| line.contains("body = '{")).unwrap().trim_start_matches("# ");
        for (headers, line) in
            [("", line.to_owned()), ("headers = { content-type = 'application/json' }", line.to_owned())]
        {
            let config = config(&format!("kind = 'webhook'\nname = 'w'\nurl = 'http://h/'\n{headers}\n{line}"));
            for call in [call(&["campaign:a"], PurgeKind::Hard), Call { url: None, ..call(&[], PurgeKind::Soft) }] {
                let (_, _, body) = made(&config, &call).await;
                let value: serde_json::Value =
                    serde_json::from_str(&body).unwrap_or_else(|error| panic!("{error}: {body}"));
                assert_eq!(value["url"], call.url.clone().unwrap_or_default(), "{body}");
            }
        }
        let bare =
            config("kind = 'webhook'\nname = 'w'\nurl = 'http://h/?t=${tags}&u=${url}'\nbody = '{\"url\":${url}}'");
        let (line, _, body) = made(&bare, &call(&["campaign:a", "slot:a/b"], PurgeKind::Hard)).await;
        assert!(line.ends_with("?t=campaign:a,slot:a/b&u=https://img.example.com/i/a/b%3Fx%3D%22y%22"), "{line}");
        assert_eq!(body, r#"{"url":"https://img.example.com/i/a/b?x=\"y\""}"#);
        let nothing = Call { url: None, ..call(&[], PurgeKind::Hard) };
        assert_eq!(made(&bare, &nothing).await.2, r#"{"url":null}"#);
    }

    #[test]
    fn wrong_configurations_say_what_is_wrong() {
        let refused = |text: &str| toml::from_str::<DownstreamConfig>(text).unwrap().check().unwrap_err();
        let fastly = "kind = 'fastly'\nname = 'f'\nservice_id = 'x'";
        assert!(refused(fastly).contains("token_file"));
        assert!(refused(&format!("{fastly}\ntoken_env = 'a'\ntoken_file = 'b'")).contains("both"));
        assert!(refused("kind = 'webhook'\nname = 'w'\nurl = 'http://h/${tag}'").contains("`${tag}` is none of id"));
        assert!(refused("kind = 'webhook'\nname = 'w'\nurl = 'http://h/${tags'").contains("not closed"));
        assert!(refused("kind = 'webhook'\nname = 'w'\nurl = 'ftp://h/'").contains("no http"));
        assert!(refused("kind = 'webhook'\nname = 'w'\nurl = 'http://h/'\nbody = '{\"id\":}'").contains("no JSON"));
        assert!(refused("kind = 'varnish'\nname = 'V 1'\nurl = 'http://h/'").contains("`name`"));
        assert!(refused("kind = 'varnish'\nname = 'v'\nurl = 'http://h/'\nheader = 'a b'").contains("header name"));
        assert!(toml::from_str::<DownstreamConfig>("kind = 'akamai'\nname = 'a'").is_err());
    }

    #[test]
    fn answers_are_judged() {
        let cloudflare = config("kind = 'cloudflare'\nname = 'c'\nzone_id = '0'\ntoken_env = 'T'");
        let varnish = config("kind = 'varnish'\nname = 'v'\nurl = 'http://h/'");
        let any = call(&["campaign:a"], PurgeKind::Hard);
        let mut headers = HeaderMap::new();
        headers.insert(RETRY_AFTER, "86400".parse().unwrap());
        let limited = judge(&varnish, &any, StatusCode::TOO_MANY_REQUESTS, &headers, b"");
        assert_eq!(limited, Judgement::Limited(Some(RETRY_AFTER_MAX)));
        let none = HeaderMap::new();
        assert_eq!(judge(&varnish, &any, StatusCode::OK, &none, b""), Judgement::Confirmed);
        assert!(matches!(judge(&varnish, &any, StatusCode::BAD_GATEWAY, &none, b""), Judgement::Failed(_)));
        assert!(matches!(judge(&varnish, &any, StatusCode::UNAUTHORIZED, &none, b""), Judgement::Refused(_)));
        assert_eq!(judge(&cloudflare, &any, StatusCode::OK, &none, br#"{"success":true}"#), Judgement::Confirmed);
        // Which spellings of a URL a cache holds is not known: it is never called confirmed.
        let by_urls = config("kind = 'cloudflare'\nname = 'c'\nzone_id = '0'\ntoken_env = 'T'\nby = 'urls'");
        let success = br#"{"success":true}"#;
        assert!(matches!(judge(&by_urls, &any, StatusCode::OK, &none, success), Judgement::Incomplete(_)));
        let whole = Call { url: None, ..any.clone() };
        assert_eq!(judge(&by_urls, &whole, StatusCode::OK, &none, success), Judgement::Confirmed);
        for body in [&br#"{"success":false}"#[..], b"<html>"] {
            assert!(matches!(judge(&cloudflare, &any, StatusCode::OK, &none, body), Judgement::Failed(_)));
        }
    }
}

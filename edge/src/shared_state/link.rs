//! The connection to a primary: HTTP/2 over the edge's own client, with a token, a client certificate, or both.

use std::fmt::Debug;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use bildkante_shared::problem::Problem;
use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use http::header::{AUTHORIZATION, CONTENT_TYPE, DATE};
use http::{Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt, Full, Limited};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::log::LogError;
use super::wire::{Ask, CHANGES, Feed, PROPOSALS, SNAPSHOT, SentCommitted, SentProposal, SentSnapshot};
use crate::outbound::{self, MutualTlsConfig, MutualTlsError};
use crate::secret;

/// Largest answer with changes, in bytes: a feed's entries at their longest are sent in smaller feeds.
const FEED_BYTES_MAX: usize = 64 << 20;
/// Largest snapshot, in bytes: some millions of kills.
const SNAPSHOT_BYTES_MAX: usize = 1 << 30;
const TOKEN_BYTES_MAX: u64 = 4_096;
/// Beyond the wait for a change.
const MARGIN: Duration = Duration::from_millis(1_000);
const SNAPSHOT_DEADLINE: Duration = Duration::from_secs(60);
const PREFIX: &str = "/admin/v1/";
const PROBLEMS: &str = "/problems/";

/// `[state.follow]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FollowConfig {
    /// The primary's admin listener.
    pub primary: String,
    /// A file with a token of the scope `state`.
    #[serde(default)]
    pub token_file: Option<PathBuf>,
    /// For `https://`: whom to believe, and the certificate to show.
    #[serde(default)]
    pub tls: Option<MutualTlsConfig>,
}

impl FollowConfig {
    /// # Errors
    /// Says what cannot be right.
    pub fn check(&self) -> Result<(), String> {
        let uri: Option<Uri> = self.primary.parse().ok();
        let scheme = uri.as_ref().and_then(Uri::scheme_str);
        let is_origin = uri.as_ref().is_some_and(|uri| uri.authority().is_some() && uri.path() == "/");
        match scheme {
            Some("https") if is_origin && self.tls.is_some() => Ok(()),
            Some("https") if is_origin => Err("`state.follow.tls` names no authority for `https://`".to_owned()),
            Some("http") if is_origin => Ok(()),
            _ => Err("`state.follow.primary` is no address such as `https://edge-1.internal:8081`".to_owned()),
        }
    }
}

/// Why a primary cannot be followed.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    #[error(transparent)]
    Tls(#[from] MutualTlsError),
    #[error("{path}: {source}", path = path.display())]
    Token { path: PathBuf, source: std::io::Error },
}

/// What a follower asks of its primary, over whatever leads there.
pub(super) trait Upstream: Debug + Send + Sync {
    /// Entries, when there are some or the wait is over.
    fn feed<'a>(&'a self, ask: &'a Ask) -> BoxFuture<'a, Result<Fed, LogError>>;

    fn snapshot(&self) -> BoxFuture<'_, Result<SentSnapshot, LogError>>;

    fn propose<'a>(
        &'a self,
        proposal: &'a SentProposal,
        deadline: Duration,
    ) -> BoxFuture<'a, Result<SentCommitted, LogError>>;
}

/// A feed, and what the primary's clock said when it sent it.
#[derive(Debug, Clone)]
pub(super) struct Fed {
    pub(super) feed: Feed,
    /// To the second; `None` where it says nothing.
    pub(super) at: Option<SystemTime>,
}

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Link {
    client: outbound::Client<Full<Bytes>>,
    base: String,
    token: Option<String>,
}

impl Link {
    /// Opens no connection yet.
    pub(super) fn new(config: &FollowConfig) -> Result<Self, LinkError> {
        let token = match &config.token_file {
            Some(path) => {
                let read = secret::read(path, TOKEN_BYTES_MAX);
                let bytes = read.map_err(|source| LinkError::Token { path: path.clone(), source })?;
                Some(String::from_utf8_lossy(&bytes).trim().to_owned())
            }
            None => None,
        };
        let client = outbound::watched_http2(config.tls.as_ref())?;
        Ok(Self { client, base: config.primary.trim_end_matches('/').to_owned(), token })
    }

    async fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<Vec<u8>>,
        (deadline, bytes_max): (Duration, usize),
    ) -> Result<(T, Option<SystemTime>), LogError> {
        let mut request = Request::builder().method(method).uri(format!("{}{PREFIX}{path}", self.base));
        if let Some(token) = &self.token {
            request = request.header(AUTHORIZATION, format!("Bearer {token}"));
        }
        let body = body.unwrap_or_default();
        let request = request.header(CONTENT_TYPE, "application/json").body(Full::from(body));
        let request = request.map_err(|error| LogError::Away { reason: error.to_string() })?;
        let exchange = async {
            let (parts, body) = self.client.request(request).await.map_err(|error| away(&error))?.into_parts();
            let body = Limited::new(body, bytes_max).collect().await;
            let body = body.map_err(|error| LogError::Away { reason: error.to_string() })?;
            Ok::<_, LogError>((parts, body.to_bytes()))
        };
        let late = |_| LogError::Away { reason: format!("no answer within {deadline:?}") };
        let (parts, body) = tokio::time::timeout(deadline, exchange).await.map_err(late)??;
        if parts.status.is_success() {
            let at = parts.headers.get(DATE).and_then(|date| httpdate::parse_http_date(date.to_str().ok()?).ok());
            let told = |error: serde_json::Error| LogError::Declined { reason: format!("its answer: {error}") };
            return serde_json::from_slice(&body).map(|answer| (answer, at)).map_err(told);
        }
        Err(refusal(parts.status, &body))
    }
}

impl Upstream for Link {
    fn feed<'a>(&'a self, ask: &'a Ask) -> BoxFuture<'a, Result<Fed, LogError>> {
        async move {
            let path = format!("{CHANGES}?{}", ask.query());
            let deadline = Duration::from_millis(ask.wait_ms) + MARGIN;
            let (feed, at) = self.call(Method::GET, &path, None, (deadline, FEED_BYTES_MAX)).await?;
            Ok(Fed { feed, at })
        }
        .boxed()
    }

    fn snapshot(&self) -> BoxFuture<'_, Result<SentSnapshot, LogError>> {
        let call = self.call(Method::GET, SNAPSHOT, None, (SNAPSHOT_DEADLINE, SNAPSHOT_BYTES_MAX));
        async move { Ok(call.await?.0) }.boxed()
    }

    fn propose<'a>(
        &'a self,
        proposal: &'a SentProposal,
        deadline: Duration,
    ) -> BoxFuture<'a, Result<SentCommitted, LogError>> {
        async move {
            let body =
                serde_json::to_vec(proposal).map_err(|error| LogError::Declined { reason: error.to_string() })?;
            Ok(self.call(Method::POST, PROPOSALS, Some(body), (deadline, FEED_BYTES_MAX)).await?.0)
        }
        .boxed()
    }
}

/// What a problem says: the primary's refusal of a change is told as it is; that it does not take this edge for one of its own, or is
/// no primary, concerns the edges and not who asked.
pub(super) fn refusal(status: StatusCode, body: &[u8]) -> LogError {
    let problem: Option<Problem> = serde_json::from_slice(body).ok();
    let is_of_change = |problem: &Problem| problem.kind.strip_prefix(PROBLEMS).is_some_and(LogError::is_of_change);
    match problem {
        Some(problem) if is_of_change(&problem) => {
            LogError::Relayed(Box::new(Problem { status: status.as_u16(), instance: None, ..problem }))
        }
        problem => {
            let detail = problem.map_or_else(|| "it gives no reason".to_owned(), |problem| problem.detail);
            let reason = format!("{status}: {detail}");
            if status.is_server_error() { LogError::Away { reason } } else { LogError::Declined { reason } }
        }
    }
}

fn away(error: &(dyn std::error::Error + 'static)) -> LogError {
    let mut reason = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        reason.push_str(&format!(": {cause}"));
        source = cause.source();
    }
    LogError::Away { reason }
}

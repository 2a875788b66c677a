//! The admin API from the command line: one request, the whole answer.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::request::Builder;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use serde_json::Value;

use crate::admin::PREFIX;
use crate::outbound::{self, Trust};

const DEADLINE: Duration = Duration::from_secs(60);
const ANSWER_BYTES_MAX: usize = 16 << 20;
/// Of a long list, such as the results of a batch of 100,000 pictures.
const LARGE_ANSWER_BYTES_MAX: usize = 128 << 20;
/// Where a token may be kept when no file is named.
const TOKEN_VARIABLE: &str = "BILDKANTE_ADMIN_TOKEN";

/// Which edge, and with what token.
#[derive(Debug, clap::Args)]
pub struct RemoteArgs {
    /// The admin listener of the edge
    #[arg(long, value_name = "URL", env = "BILDKANTE_ADMIN", default_value = "http://127.0.0.1:8081")]
    pub admin: String,
    /// A file that holds a token; without it the environment's BILDKANTE_ADMIN_TOKEN
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
}

/// A connection to an admin API.
pub(super) struct Remote {
    client: outbound::Client<Full<Bytes>>,
    base: String,
    /// Reading takes none where the edge has none.
    token: Option<String>,
}

/// An answer.
pub(super) struct Reply {
    pub(super) status: StatusCode,
    pub(super) body: Value,
}

impl Remote {
    pub(super) fn new(args: &RemoteArgs) -> anyhow::Result<Self> {
        let token = match &args.token_file {
            Some(path) => std::fs::read_to_string(path).with_context(|| path.display().to_string())?,
            None => std::env::var(TOKEN_VARIABLE)
                .with_context(|| format!("name a `--token-file`, or set {TOKEN_VARIABLE} to a token"))?,
        };
        Self::with(args, Some(token))
    }

    /// For reading: a token is sent where there is one.
    pub(super) fn reading(args: &RemoteArgs) -> anyhow::Result<Self> {
        if args.token_file.is_some() || std::env::var_os(TOKEN_VARIABLE).is_some() {
            return Self::new(args);
        }
        Self::with(args, None)
    }

    fn with(args: &RemoteArgs, token: Option<String>) -> anyhow::Result<Self> {
        let base = args.admin.trim_end_matches('/').to_owned();
        let trust = if base.starts_with("https:") { Trust::System } else { Trust::None };
        let client = outbound::http1(trust, None, DEADLINE)?;
        Ok(Self { client, base, token: token.map(|token| token.trim().to_owned()) })
    }

    /// The answer, of any status.
    pub(super) async fn ask(&self, method: Method, path: &str, body: Option<&Value>) -> anyhow::Result<Reply> {
        let mut request = self.request(method, path);
        if body.is_some() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        let bytes = body.map(Value::to_string).unwrap_or_default();
        let (status, body) = self.exchange(request.body(Full::new(Bytes::from(bytes)))?, ANSWER_BYTES_MAX).await?;
        self.read(status, &body)
    }

    /// The page at a path. What is not answered with one is an error.
    pub(super) async fn page(&self, path: &str) -> anyhow::Result<String> {
        String::from_utf8(self.file(path).await?.into()).with_context(|| format!("{} answers with no text", self.base))
    }

    /// The bytes at a path, whatever they are.
    pub(super) async fn file(&self, path: &str) -> anyhow::Result<Bytes> {
        self.file_up_to(path, ANSWER_BYTES_MAX).await
    }

    /// The same of a long list.
    pub(super) async fn large_file(&self, path: &str) -> anyhow::Result<Bytes> {
        self.file_up_to(path, LARGE_ANSWER_BYTES_MAX).await
    }

    async fn file_up_to(&self, path: &str, bytes_max: usize) -> anyhow::Result<Bytes> {
        let request = self.request(Method::GET, path).body(Full::default())?;
        let (status, body) = self.exchange(request, bytes_max).await?;
        if status.is_success() {
            return Ok(body);
        }
        let body = serde_json::from_slice(&body).unwrap_or_default();
        anyhow::bail!("{}", problem(&Reply { status, body }))
    }

    /// The answer to a body of any kind, of any status; with a key, an order is carried out once.
    pub(super) async fn post(
        &self,
        path: &str,
        kind: &'static str,
        body: Bytes,
        key: Option<&str>,
    ) -> anyhow::Result<Reply> {
        let mut request = self.request(Method::POST, path).header(CONTENT_TYPE, kind);
        if let Some(key) = key {
            request = request.header("idempotency-key", key);
        }
        let (status, body) = self.exchange(request.body(Full::new(body))?, ANSWER_BYTES_MAX).await?;
        self.read(status, &body)
    }

    fn read(&self, status: StatusCode, body: &Bytes) -> anyhow::Result<Reply> {
        let body = serde_json::from_slice(body)
            .with_context(|| format!("{} answers {status} and no JSON: is it an admin listener?", self.base))?;
        Ok(Reply { status, body })
    }

    fn request(&self, method: Method, path: &str) -> Builder {
        let request = Request::builder().method(method).uri(format!("{}{PREFIX}{path}", self.base));
        match &self.token {
            Some(token) => request.header(AUTHORIZATION, format!("Bearer {token}")),
            None => request,
        }
    }

    async fn exchange(&self, request: Request<Full<Bytes>>, bytes_max: usize) -> anyhow::Result<(StatusCode, Bytes)> {
        let exchange = async {
            let (parts, body) = self.client.request(request).await?.into_parts();
            let body = Limited::new(body, bytes_max).collect().await.map_err(|error| anyhow::anyhow!(error))?;
            anyhow::Ok((parts.status, body.to_bytes()))
        };
        let answer = tokio::time::timeout(DEADLINE, exchange).await.context("no answer in time")?;
        answer.with_context(|| format!("the edge at {} cannot be asked", self.base))
    }

    /// The answer to what must go well.
    pub(super) async fn demand(&self, method: Method, path: &str, body: Option<&Value>) -> anyhow::Result<Reply> {
        let reply = self.ask(method, path, body).await?;
        if reply.status.is_success() {
            return Ok(reply);
        }
        anyhow::bail!("{}", problem(&reply))
    }
}

/// `AXIS=VALUE`, of commands that choose pictures.
pub(super) fn axis(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("it is written AXIS=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

/// What a problem says, with what would have been accepted.
pub(super) fn problem(reply: &Reply) -> String {
    let detail = reply.body["detail"].as_str().unwrap_or("no reason is given");
    let allowed: Vec<&str> = reply.body["allowed"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let allowed = if allowed.is_empty() { String::new() } else { format!(" (allowed: {})", allowed.join(", ")) };
    format!("{}: {detail}{allowed}", reply.status)
}

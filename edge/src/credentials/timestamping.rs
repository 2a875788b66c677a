//! A timestamp authority over HTTP (RFC 3161 §3.4).
//!
//! It is asked on the thread that signs, which may block, and only for final rungs: no reader waits for it. Its answer is
//! bounded in size and time.

use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{Request, StatusCode, Uri};
use http_body_util::{BodyExt as _, Full, Limited};
use tokio::runtime::Handle;

use super::config::TimestampConfig;
use super::timestamp::{TIMESTAMP_QUERY, TIMESTAMP_REPLY, TimestampError, Timestamper};
use crate::outbound::{self, Client, OutboundError, Trust};

const CONNECT_MAX: Duration = Duration::from_secs(5);
const IDLE_MAX: Duration = Duration::from_secs(60);

/// Asks one authority.
#[derive(Debug)]
pub struct TimestampAuthority {
    client: Client<Full<Bytes>>,
    url: Uri,
    deadline: Duration,
    token_bytes_max: usize,
    runtime: Handle,
}

impl TimestampAuthority {
    /// Connects to nothing yet. `url` was checked with the configuration; requests run on `runtime`.
    ///
    /// # Errors
    /// When the system's TLS cannot be set up.
    pub fn new(config: &TimestampConfig, url: Uri, runtime: Handle) -> Result<Self, OutboundError> {
        Ok(Self {
            client: outbound::http1(Trust::System, Some(CONNECT_MAX), IDLE_MAX)?,
            url,
            deadline: Duration::from_millis(config.deadline_ms),
            token_bytes_max: config.token_bytes_max,
            runtime,
        })
    }

    async fn post(&self, query: &[u8]) -> Result<Vec<u8>, String> {
        let request = Request::post(self.url.clone()).header(CONTENT_TYPE, TIMESTAMP_QUERY);
        let request = request.body(Full::from(query.to_vec())).map_err(|error| error.to_string())?;
        let response = self.client.request(request).await.map_err(|error| error.to_string())?;
        if response.status() != StatusCode::OK {
            return Err(format!("it says {}", response.status()));
        }
        let kind = response.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        if !kind.starts_with(TIMESTAMP_REPLY) {
            return Err(format!("it answers with `{}`", kind.chars().take(80).collect::<String>()));
        }
        let body = Limited::new(response.into_body(), self.token_bytes_max).collect().await;
        Ok(body.map_err(|error| error.to_string())?.to_bytes().to_vec())
    }
}

impl Timestamper for TimestampAuthority {
    fn token_bytes_max(&self) -> usize {
        self.token_bytes_max
    }

    fn ask(&self, request: &[u8]) -> Result<Vec<u8>, TimestampError> {
        let asked = self.runtime.block_on(async { tokio::time::timeout(self.deadline, self.post(request)).await });
        let late = || format!("no answer within {} ms", self.deadline.as_millis());
        asked.unwrap_or_else(|_| Err(late())).map_err(|reason| TimestampError::Away { reason })
    }
}

//! HTTP/1.1 as bytes on a connection that is kept: requests that no client library would send, and answers as they came.

use std::net::SocketAddr;

use anyhow::Context;
use bytes::Bytes;
use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::client::{Reply, within};

const HEAD_BYTES_MAX: usize = 64 << 10;
const BODY_BYTES_MAX: usize = 64 << 20;

/// An answer, parsed and as it came.
#[derive(Debug, Clone)]
pub struct RawReply {
    pub reply: Reply,
    /// Status line, fields, empty line and body.
    pub bytes: Vec<u8>,
}

/// One connection. Requests go one after the other.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    /// Read and not yet used.
    buffer: Vec<u8>,
}

/// A request without a body; `Host` is added unless a field is one.
#[must_use]
pub fn request(method: &str, target: &str, fields: &[(&str, &str)]) -> String {
    let mut text = format!("{method} {target} HTTP/1.1\r\n");
    if !fields.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
        text.push_str("host: localhost\r\n");
    }
    for (name, value) in fields {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    text + "\r\n"
}

impl Connection {
    /// # Errors
    /// When no server listens.
    pub async fn open(to: SocketAddr) -> anyhow::Result<Self> {
        Ok(Self { stream: TcpStream::connect(to).await?, buffer: Vec::new() })
    }

    /// # Errors
    /// When there is no whole answer in time.
    pub async fn get(&mut self, target: &str, fields: &[(&str, &str)]) -> anyhow::Result<Reply> {
        Ok(self.send(&request("GET", target, fields)).await?.reply)
    }

    /// Sends a whole request and reads its answer, which must say how long it is.
    ///
    /// # Errors
    /// When there is no whole answer in time.
    pub async fn send(&mut self, request: &str) -> anyhow::Result<RawReply> {
        let is_head = request.starts_with("HEAD ");
        let exchange = async {
            self.stream.write_all(request.as_bytes()).await?;
            self.read(is_head).await
        };
        let line = request.lines().next().unwrap_or_default().to_owned();
        within("an answer", exchange).await?.context(line)
    }

    async fn read(&mut self, is_head: bool) -> anyhow::Result<RawReply> {
        let head_end = loop {
            if let Some(end) = self.buffer.windows(4).position(|window| window == b"\r\n\r\n") {
                break end + 4;
            }
            anyhow::ensure!(self.buffer.len() < HEAD_BYTES_MAX, "the head does not end");
            self.fill().await?;
        };
        let (status, headers) = parse(std::str::from_utf8(&self.buffer[..head_end])?)?;
        let length = headers.get(CONTENT_LENGTH).map(|value| value.to_str()).transpose()?;
        let is_bodiless = is_head || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        let length = match length {
            _ if is_bodiless => 0,
            Some(length) => length.parse()?,
            None => anyhow::bail!("{status} without Content-Length"),
        };
        anyhow::ensure!(length <= BODY_BYTES_MAX, "{length} bytes");
        let end = head_end + length;
        while self.buffer.len() < end {
            self.fill().await?;
        }
        let bytes: Vec<u8> = self.buffer.drain(..end).collect();
        let body = Bytes::copy_from_slice(&bytes[head_end..]);
        Ok(RawReply { reply: Reply { status, headers, body }, bytes })
    }

    async fn fill(&mut self) -> anyhow::Result<()> {
        let read = self.stream.read_buf(&mut self.buffer).await?;
        anyhow::ensure!(read > 0, "the connection ended: {:?}", String::from_utf8_lossy(&self.buffer));
        Ok(())
    }
}

/// Sends `bytes` as they are and reads until the server closes.
///
/// # Errors
/// When the server does not close in time, or closes within an answer or with bytes that are none.
pub async fn exchange(to: SocketAddr, bytes: &[u8]) -> anyhow::Result<Vec<Reply>> {
    let mut stream = TcpStream::connect(to).await?;
    // A server that refuses the start may close before the end is written.
    let _ = stream.write_all(bytes).await;
    let mut read = Vec::new();
    // A reset behind a refusal is a close, too; what came before it is judged.
    let _ = within("the server closes", stream.read_to_end(&mut read)).await?;
    frames(&read)
}

/// Cuts a stream of bytes into answers to requests that were not HEAD.
///
/// # Errors
/// When something is left over, or an answer's length is not said exactly once.
pub fn frames(mut bytes: &[u8]) -> anyhow::Result<Vec<Reply>> {
    let mut answers = Vec::new();
    while !bytes.is_empty() {
        let end = bytes.windows(4).position(|window| window == b"\r\n\r\n").context("a head without an end")? + 4;
        let head = std::str::from_utf8(&bytes[..end])?;
        anyhow::ensure!(head.starts_with("HTTP/1.1 "), "no status line: {head}");
        let (status, headers) = parse(head)?;
        anyhow::ensure!(!headers.contains_key(TRANSFER_ENCODING), "an answer in chunks: {head}");
        let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
        let length = match (status.as_u16(), lengths.next(), lengths.next()) {
            (100..200 | 204 | 304, ..) => 0,
            (_, Some(length), None) => length.to_str()?.parse()?,
            _ => anyhow::bail!("not one length in {head}"),
        };
        let body = bytes[end..].get(..length).with_context(|| format!("a body shorter than {length} bytes: {head}"))?;
        bytes = &bytes[end + length..];
        answers.push(Reply { status, headers, body: Bytes::copy_from_slice(body) });
    }
    Ok(answers)
}

fn parse(head: &str) -> anyhow::Result<(StatusCode, HeaderMap)> {
    let mut lines = head.split("\r\n");
    let status = lines.next().and_then(|line| line.split(' ').nth(1)).context("a status line")?.parse()?;
    let mut headers = HeaderMap::new();
    for line in lines.filter(|line| !line.is_empty()) {
        let (name, value) = line.split_once(':').with_context(|| format!("no field: {line}"))?;
        headers.append(HeaderName::from_bytes(name.as_bytes())?, HeaderValue::from_str(value.trim())?);
    }
    Ok((status, headers))
}

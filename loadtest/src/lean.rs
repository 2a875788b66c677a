//! One exchange over HTTP/1.1 in the clear, with little more than two system calls: for floods.
//!
//! Where a generator shares the machine with the server it floods, what it spends on a request is what the server cannot answer with.
//! hyper's client passes each request through a task of its connection and back. Here the sender writes the request, which was put
//! together beforehand, and reads until the answer is whole. Bodies are counted and dropped.

use std::time::Instant;

use http::StatusCode;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::client::{BODY_BYTES_MAX, Exchange, ExchangeError, Moved, Requests, within};
use crate::outcome;
use crate::target::{Security, Target};

/// Longest head of an answer, and what is read at once.
const READ_BYTES: usize = 64 << 10;
const FIELDS_MAX: usize = 64;

/// One connection, opened anew where it was lost.
#[derive(Debug, Default)]
pub struct LeanLine {
    stream: Option<TcpStream>,
    read: Vec<u8>,
}

/// What an answer's head says.
struct Head {
    bytes: usize,
    body_bytes: u64,
    ends_connection: bool,
    exchange: Exchange,
}

impl LeanLine {
    /// Opens the connection that request `number` will use, so that its cost falls outside what is measured.
    ///
    /// # Errors
    /// When the server cannot be reached in time.
    pub async fn open(requests: &Requests, number: u64) -> Result<Self, ExchangeError> {
        let stream = within(requests.timeout(), connect(requests.target(number))).await?;
        Ok(Self { stream: Some(stream), read: Vec::with_capacity(READ_BYTES) })
    }

    /// Sends request `number` and reads the whole answer.
    ///
    /// # Errors
    /// When there is no complete answer within the plan's timeout. The connection is not used again then.
    pub async fn exchange(&mut self, requests: &Requests, number: u64) -> Result<Exchange, ExchangeError> {
        within(requests.timeout(), self.exchange_once(requests, number)).await
    }

    async fn exchange_once(&mut self, requests: &Requests, number: u64) -> Result<Exchange, ExchangeError> {
        // Taken out: what is not whole does not come back.
        let mut stream = match self.stream.take() {
            Some(stream) => stream,
            None => connect(requests.target(number)).await?,
        };
        let sent = Instant::now();
        stream.write_all(requests.head(number)).await.map_err(ExchangeError::Lost)?;
        self.read.clear();
        let mut first_byte = None;
        let head = loop {
            self.read_more(&mut stream).await?;
            let first_byte = *first_byte.get_or_insert_with(Instant::now);
            if let Some(head) = parse(&self.read, sent, first_byte)? {
                break head;
            }
            if self.read.len() >= READ_BYTES {
                return Err(ExchangeError::Malformed("its head is too long"));
            }
        };
        let mut missing = head
            .body_bytes
            .checked_sub((self.read.len() - head.bytes) as u64)
            .ok_or(ExchangeError::Malformed("more came than was announced"))?;
        while missing > 0 {
            self.read.clear();
            let read = self.read_more(&mut stream).await?;
            missing = missing.checked_sub(read).ok_or(ExchangeError::Malformed("more came than was announced"))?;
        }
        if !head.ends_connection {
            self.stream = Some(stream);
        }
        Ok(Exchange { done: Instant::now(), ..head.exchange })
    }

    async fn read_more(&mut self, stream: &mut TcpStream) -> Result<u64, ExchangeError> {
        self.read.reserve(READ_BYTES / 4);
        match stream.read_buf(&mut self.read).await.map_err(ExchangeError::Lost)? {
            0 => Err(ExchangeError::Lost(std::io::ErrorKind::UnexpectedEof.into())),
            read => Ok(read as u64),
        }
    }
}

async fn connect(target: &Target) -> Result<TcpStream, ExchangeError> {
    let address = target.server.address;
    if target.server.security != Security::Plain {
        return Err(ExchangeError::NoTrust);
    }
    let stream = TcpStream::connect(address).await.map_err(|error| ExchangeError::Connect(address, error))?;
    stream.set_nodelay(true).map_err(|error| ExchangeError::Connect(address, error))?;
    Ok(stream)
}

/// `None` where the head is not whole yet.
fn parse(read: &[u8], sent: Instant, first_byte: Instant) -> Result<Option<Head>, ExchangeError> {
    let malformed = ExchangeError::Malformed;
    let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
    let mut response = httparse::Response::new(&mut fields);
    let Ok(parsed) = response.parse(read) else { return Err(malformed("its head is no HTTP/1.1")) };
    let httparse::Status::Complete(bytes) = parsed else { return Ok(None) };
    let status = response.code.and_then(|code| StatusCode::from_u16(code).ok()).ok_or(malformed("it has no status"))?;
    let field = |name: &str| {
        let found = response.headers.iter().find(|field| field.name.eq_ignore_ascii_case(name))?;
        std::str::from_utf8(found.value).ok()
    };
    let body_bytes = match field("content-length").map(str::parse) {
        Some(Ok(bytes)) if bytes <= BODY_BYTES_MAX => bytes,
        Some(Ok(_)) => return Err(ExchangeError::BodyTooLong),
        None if status == StatusCode::NOT_MODIFIED || status == StatusCode::NO_CONTENT => 0,
        _ => return Err(malformed("it does not say how long it is")),
    };
    let exchange = Exchange {
        status,
        content_type: field("content-type").unwrap_or("none").to_owned(),
        etag: field("etag").unwrap_or("none").to_owned(),
        outcome: outcome::name(field("cache-status")),
        edge: field("server-timing").and_then(outcome::edge_time),
        sent,
        first_byte,
        done: first_byte,
        body_bytes,
        moved: Moved::Never,
    };
    let ends_connection = field("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"));
    Ok(Some(Head { bytes, body_bytes, ends_connection, exchange }))
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;
    use crate::plan::Settings;
    use crate::target::Reach;

    /// Answers each connection with the pieces, one after each request, and then closes it.
    async fn server(answers: &'static [&'static [&'static str]]) -> Requests {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/i/a?w=1", listener.local_addr().unwrap());
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                for pieces in answers {
                    let mut request = [0; 1024];
                    let read = stream.read(&mut request).await.unwrap();
                    assert!(request[..read].starts_with(b"GET /i/a?w=1 HTTP/1.1\r\n"));
                    assert!(request[..read].ends_with(b"\r\n\r\n"));
                    for piece in *pieces {
                        stream.write_all(piece.as_bytes()).await.unwrap();
                        tokio::task::yield_now().await;
                    }
                }
            }
        });
        Requests::new(&Settings::plain(vec![Target::resolve(&url, Reach::LoopbackOnly).unwrap()]))
    }

    #[tokio::test]
    async fn answers_are_read_whole_however_they_come_one_after_the_other() {
        let requests = server(&[
            &[
                "HTTP/1.1 200 OK\r\ncontent-le",
                "ngth: 6\r\nETag: \"e\"\r\ncache-status: edge; hit\r\n",
                "\r\nabc",
                "def",
            ],
            &["HTTP/1.1 304 Not Modified\r\n\r\n"],
            &["HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"],
        ])
        .await;
        let mut line = LeanLine::open(&requests, 0).await.unwrap();
        let whole = line.exchange(&requests, 0).await.unwrap();
        assert_eq!((whole.status.as_u16(), whole.body_bytes, whole.etag.as_str()), (200, 6, "\"e\""));
        assert_eq!(whole.outcome, "hit");
        assert!(whole.sent <= whole.first_byte && whole.first_byte <= whole.done);
        assert_eq!(line.exchange(&requests, 1).await.unwrap().status, StatusCode::NOT_MODIFIED);
        assert_eq!(line.exchange(&requests, 2).await.unwrap().body_bytes, 0);
        // The server is done with this connection: one loss, and the next request has a new one.
        assert!(matches!(line.exchange(&requests, 3).await.unwrap_err(), ExchangeError::Lost(_)));
        assert_eq!(line.exchange(&requests, 4).await.unwrap().body_bytes, 6);
    }

    #[tokio::test]
    async fn what_is_no_answer_is_an_error() {
        for answer in [
            &["SSH-2.0-OpenSSH\r\n\r\n"],
            &["HTTP/1.1 200 OK\r\n\r\n"],
            &["HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nabc"],
            &["HTTP/1.1 200 OK\r\ncontent-length: 99999999999\r\n\r\n"],
        ] {
            let requests = server(Box::leak(Box::new([answer.as_slice()]))).await;
            let mut line = LeanLine::open(&requests, 0).await.unwrap();
            let error = line.exchange(&requests, 0).await.unwrap_err();
            assert!(matches!(error, ExchangeError::Malformed(_) | ExchangeError::BodyTooLong), "{answer:?}: {error}");
        }
    }
}

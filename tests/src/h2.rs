//! HTTP/2 frames made by hand: what no client library would send.

/// What a client says first (RFC 9113 §3.4), with empty SETTINGS.
#[must_use]
pub fn opening() -> Vec<u8> {
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    bytes.extend(frame(SETTINGS, 0, 0, &[]));
    bytes
}

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const PRIORITY: u8 = 2;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PUSH_PROMISE: u8 = 5;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;
pub const PRIORITY_UPDATE: u8 = 16;

pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;

// Error codes (RFC 9113 §7).
pub const PROTOCOL_ERROR: u32 = 1;
pub const FLOW_CONTROL_ERROR: u32 = 3;
pub const STREAM_CLOSED: u32 = 5;
pub const FRAME_SIZE_ERROR: u32 = 6;
pub const REFUSED_STREAM: u32 = 7;
pub const COMPRESSION_ERROR: u32 = 9;
pub const ENHANCE_YOUR_CALM: u32 = 11;

/// One frame (RFC 9113 §4.1).
#[must_use]
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX).to_be_bytes();
    let mut bytes = vec![length[1], length[2], length[3], kind, flags];
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// `GET` or `POST` (HPACK's static table: 2, 3) of a path shorter than 127 bytes.
#[must_use]
pub fn request(method: u8, path: &str) -> Vec<u8> {
    let mut block = vec![0x80 | method, 0x86, 0x04, u8::try_from(path.len()).unwrap_or(0) & 0x7f];
    block.extend(path.as_bytes());
    block.extend([0x01, 1, b'x']);
    block
}

/// A field whose name and value are literals and enter no table (RFC 7541 §6.2.2), each shorter than 127 bytes.
#[must_use]
pub fn literal(name: &str, value: &str) -> Vec<u8> {
    let text = |text: &str| [&[u8::try_from(text.len()).unwrap_or(0) & 0x7f], text.as_bytes()].concat();
    [&[0][..], &text(name), &text(value)].concat()
}

/// What a server sent, as far as it is whole.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Heard {
    /// Error codes of GOAWAY.
    pub goaways: Vec<u32>,
    /// Streams and error codes of RST_STREAM.
    pub resets: Vec<(u32, u32)>,
    /// Streams with a head.
    pub answered: Vec<u32>,
}

impl Heard {
    #[must_use]
    pub fn parse(mut bytes: &[u8]) -> Self {
        let mut heard = Self::default();
        while let [a, b, c, kind, _, w, x, y, z, rest @ ..] = bytes {
            let length = u32::from_be_bytes([0, *a, *b, *c]) as usize;
            let stream = u32::from_be_bytes([*w & 0x7f, *x, *y, *z]);
            let Some((payload, next)) = rest.split_at_checked(length) else { break };
            match (*kind, payload) {
                (GOAWAY, [_, _, _, _, w, x, y, z, ..]) => heard.goaways.push(u32::from_be_bytes([*w, *x, *y, *z])),
                (RST_STREAM, [w, x, y, z]) => heard.resets.push((stream, u32::from_be_bytes([*w, *x, *y, *z]))),
                (HEADERS, _) => heard.answered.push(stream),
                _ => {}
            }
            bytes = next;
        }
        heard
    }
}

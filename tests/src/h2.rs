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
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const CONTINUATION: u8 = 9;

pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;

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

/// Kinds and error codes of the GOAWAY frames in what a server sent.
#[must_use]
pub fn goaways(mut bytes: &[u8]) -> Vec<u32> {
    let mut codes = Vec::new();
    while let [a, b, c, kind, _, _, _, _, _, rest @ ..] = bytes {
        let length = u32::from_be_bytes([0, *a, *b, *c]) as usize;
        let Some((payload, next)) = rest.split_at_checked(length) else { break };
        if let (GOAWAY, [_, _, _, _, w, x, y, z, ..]) = (*kind, payload) {
            codes.push(u32::from_be_bytes([*w, *x, *y, *z]));
        }
        bytes = next;
    }
    codes
}

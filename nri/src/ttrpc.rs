//! ttrpc: requests and responses on a byte stream.
//!
//! A message has a header of ten bytes: length and stream number (32 bits, big endian), a type and
//! flags. The engine and the plugin use unary calls only.

use std::io;

use crate::proto::{Fields, Malformed, length, push_bytes, push_number};

/// The length of a header.
const HEADER: usize = 10;
/// The most bytes of a message, which is the protocol's own limit.
const LARGEST: usize = 4 << 20;

/// The type of a request.
pub const REQUEST: u8 = 1;
/// The type of a response.
pub const RESPONSE: u8 = 2;

/// The gRPC status numbers that the plugin sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    /// The request could not be parsed.
    InvalidArgument = 3,
    /// The container may not be created.
    PermissionDenied = 7,
    /// The plugin does not serve this method.
    Unimplemented = 12,
    /// The kubelet could not be read, and a later try may succeed.
    Unavailable = 14,
}

/// One message of a stream.
#[derive(Debug, PartialEq, Eq)]
pub struct Message {
    /// The number that pairs a response with its request.
    pub stream: u32,
    /// [`REQUEST`], [`RESPONSE`] or another.
    pub kind: u8,
    /// The encoded request or response.
    pub body: Vec<u8>,
}

/// The received bytes of a connection that make no whole message yet.
#[derive(Debug, Default)]
pub struct Inbox(Vec<u8>);

impl Inbox {
    /// Appends a piece of the stream, and hands each message that is now whole to `sink`.
    pub fn push(&mut self, piece: &[u8], mut sink: impl FnMut(Message) -> io::Result<()>) -> io::Result<()> {
        self.0.extend_from_slice(piece);
        while let Some(message) = self.message()? {
            sink(message)?;
        }
        Ok(())
    }

    /// The bytes that wait for the rest of their message.
    pub fn waiting(&self) -> usize {
        self.0.len()
    }

    fn message(&mut self) -> io::Result<Option<Message>> {
        let Some((header, rest)) = self.0.split_first_chunk::<HEADER>() else {
            return Ok(None);
        };
        let ([length @ .., _, _, _, _, _, _], [_, _, _, _, stream @ .., kind, _flags]) = (header, header);
        let length = u32::from_be_bytes(*length) as usize;
        if length > LARGEST {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("a message of {length} bytes"),
            ));
        }
        let Some(body) = rest.get(..length) else {
            return Ok(None);
        };
        let message = Message {
            stream: u32::from_be_bytes(*stream),
            kind: *kind,
            body: body.to_vec(),
        };
        self.0.drain(..HEADER + length);
        // A large message must not keep its memory for the rest of the connection.
        if self.0.is_empty() {
            self.0 = Vec::new();
        }
        Ok(Some(message))
    }
}

/// A request's parts.
#[derive(Debug, PartialEq, Eq)]
pub struct Request<'a> {
    /// The full name of the service.
    pub service: &'a str,
    /// The name of the method.
    pub method: &'a str,
    /// The method's argument, encoded.
    pub payload: &'a [u8],
}

impl<'a> Request<'a> {
    /// Parses the body of a request.
    pub fn read(body: &'a [u8]) -> Result<Self, Malformed> {
        let mut request = Self {
            service: "",
            method: "",
            payload: &[],
        };
        for field in Fields::of(body) {
            match field? {
                (1, v) => request.service = v.text()?,
                (2, v) => request.method = v.text()?,
                (3, v) => request.payload = v.bytes()?,
                _ => {}
            }
        }
        Ok(request)
    }
}

/// The error text of a response, or none for success.
pub fn failure(body: &[u8]) -> Result<Option<String>, Malformed> {
    for field in Fields::of(body) {
        let (1, status) = field? else { continue };
        let (mut code, mut message) = (0, "");
        for field in Fields::of(status.bytes()?) {
            match field? {
                (1, v) => code = v.number()?,
                (2, v) => message = v.text()?,
                _ => {}
            }
        }
        if code != 0 {
            return Ok(Some(message.to_owned()));
        }
    }
    Ok(None)
}

fn message(stream: u32, kind: u8, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEADER + body.len());
    out.extend_from_slice(&length(body).to_be_bytes());
    out.extend_from_slice(&stream.to_be_bytes());
    out.extend_from_slice(&[kind, 0]);
    out.extend_from_slice(body);
    out
}

/// An encoded request.
pub fn request(stream: u32, service: &str, method: &str, payload: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    push_bytes(&mut body, 1, service.as_bytes());
    push_bytes(&mut body, 2, method.as_bytes());
    push_bytes(&mut body, 3, payload);
    message(stream, REQUEST, &body)
}

/// An encoded response: the method's result, or an error.
pub fn response(stream: u32, result: Result<&[u8], (Code, &str)>) -> Vec<u8> {
    let mut body = Vec::new();
    match result {
        Ok(payload) => push_bytes(&mut body, 2, payload),
        Err((code, text)) => {
            let mut status = Vec::new();
            push_number(&mut status, 1, code as u64);
            push_bytes(&mut status, 2, text.as_bytes());
            push_bytes(&mut body, 1, &status);
        }
    }
    message(stream, RESPONSE, &body)
}

//! The kubelet's pod-resources API: the devices that it allocated to one container.
//!
//! The call is `v1.PodResourcesLister/List` by gRPC over HTTP/2. A successful unary response has
//! one message, and a failed one has none, so the client needs no header of the response.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};

use crate::decide::{Allocation, is_domain};
use crate::proto::{Fields, Malformed, length};

/// The kubelet's socket.
pub const SOCKET: &str = "/var/lib/kubelet/pod-resources/kubelet.sock";

/// The most bytes of a response, which is also the window of flow control.
const LARGEST: u32 = 8 << 20;
/// The largest frame, the protocol's initial value.
const FRAME: usize = 16 << 10;
/// The client's only stream.
const STREAM: u32 = 1;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
/// `END_STREAM`, and `ACK` of settings and pings.
const END: u8 = 1;
const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;

/// The devices that the kubelet allocated to a container, read before `deadline`.
pub fn allocation(
    socket: &Path,
    (namespace, pod, container): (&str, &str, &str),
    deadline: Instant,
) -> Result<Allocation, String> {
    let failed = |e: io::Error| match e.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => "no answer in time".to_owned(),
        _ => format!("{}: {e}", socket.display()),
    };
    let stream = open(socket).map_err(failed)?;
    let message = call(Timed { stream, deadline }).map_err(failed)?;
    find(&message, namespace, pod, container).map_err(|e| e.to_string())
}

/// Connects without waiting: a listener whose queue is full would block for an unlimited time.
fn open(socket: &Path) -> io::Result<UnixStream> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let fd = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    connect(&fd, &SocketAddrUnix::new(socket)?)?;
    let stream = UnixStream::from(fd);
    stream.set_nonblocking(false)?;
    Ok(stream)
}

/// A stream whose reads and writes all end at one instant.
struct Timed {
    stream: UnixStream,
    deadline: Instant,
}

impl Timed {
    fn left(&self) -> io::Result<Duration> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            Err(io::ErrorKind::TimedOut.into())
        } else {
            Ok(left)
        }
    }
}

impl Read for Timed {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.stream.set_read_timeout(Some(self.left()?))?;
        self.stream.read(buffer)
    }
}

impl Write for Timed {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.stream.set_write_timeout(Some(self.left()?))?;
        self.stream.write(buffer)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn push_frame(out: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, body: &[u8]) {
    let [_, length @ ..] = length(body).to_be_bytes();
    out.extend_from_slice(&length);
    out.extend_from_slice(&[kind, flags]);
    out.extend_from_slice(&stream.to_be_bytes());
    out.extend_from_slice(body);
}

/// The whole request. The header block uses the static table and plain literals only.
fn request() -> Vec<u8> {
    let mut headers = vec![0x83, 0x86];
    let mut literal = |name: &[u8], value: &str| {
        headers.extend_from_slice(name);
        headers.extend_from_slice(&length(value.as_bytes()).to_be_bytes()[3..]);
        headers.extend_from_slice(value.as_bytes());
    };
    literal(&[0x04], "/v1.PodResourcesLister/List");
    literal(&[0x01], "localhost");
    literal(&[0x0f, 0x10], "application/grpc");
    literal(b"\x00\x02te", "trailers");

    let window = LARGEST.to_be_bytes();
    let mut out = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    // INITIAL_WINDOW_SIZE is setting 4.
    push_frame(&mut out, SETTINGS, 0, 0, &[&[0, 4], &window[..]].concat());
    push_frame(&mut out, WINDOW_UPDATE, 0, 0, &window);
    push_frame(&mut out, HEADERS, END_HEADERS, STREAM, &headers);
    push_frame(&mut out, DATA, END, STREAM, &[0; 5]);
    out
}

/// Sends the request and reads the response's message.
pub fn call(mut stream: impl Read + Write) -> io::Result<Vec<u8>> {
    let broken = |reason: &str| io::Error::new(io::ErrorKind::InvalidData, reason.to_owned());
    stream.write_all(&request())?;
    let mut data = Vec::new();
    let mut buffer = [0; FRAME];
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head)?;
        let [a, b, c, kind, flags, number @ ..] = head;
        let number = u32::from_be_bytes(number) & (u32::MAX >> 1);
        let size = u32::from_be_bytes([0, a, b, c]) as usize;
        let body = buffer
            .get_mut(..size)
            .ok_or_else(|| broken("a frame is too long"))?;
        stream.read_exact(body)?;
        let body = &*body;
        match (kind, number) {
            (DATA, STREAM) => {
                let body = if flags & PADDED == 0 {
                    Some(body)
                } else {
                    unpadded(body)
                };
                data.extend_from_slice(body.ok_or_else(|| broken("broken padding"))?);
                if length(&data) > LARGEST {
                    return Err(broken("the response is too long"));
                }
            }
            (RST_STREAM, STREAM) | (GOAWAY, _) => return Err(broken("the kubelet ended the call")),
            (SETTINGS | PING, 0) if flags & END == 0 => {
                let mut out = Vec::new();
                push_frame(&mut out, kind, END, 0, if kind == PING { body } else { &[] });
                stream.write_all(&out)?;
            }
            _ => {}
        }
        if number == STREAM && matches!(kind, DATA | HEADERS) && flags & END != 0 {
            return message(&data)
                .map(<[u8]>::to_vec)
                .ok_or_else(|| broken("the kubelet refused the call"));
        }
    }
}

fn unpadded(body: &[u8]) -> Option<&[u8]> {
    let (&padding, rest) = body.split_first()?;
    rest.get(..rest.len().checked_sub(padding.into())?)
}

/// The one uncompressed message of a response.
fn message(data: &[u8]) -> Option<&[u8]> {
    let (&[compressed, a, b, c, d], message) = data.split_first_chunk()?;
    (compressed == 0 && u32::from_be_bytes([a, b, c, d]) as usize == message.len()).then_some(message)
}

/// The allocation of one container in a `ListPodResourcesResponse`; empty if it is not listed.
pub fn find(list: &[u8], namespace: &str, pod: &str, container: &str) -> Result<Allocation, Malformed> {
    let mut allocation = Allocation::default();
    for field in Fields::of(list) {
        let (1, resources) = field? else { continue };
        let (mut name, mut space, mut containers) = ("", "", Vec::new());
        for field in Fields::of(resources.bytes()?) {
            match field? {
                (1, v) => name = v.text()?,
                (2, v) => space = v.text()?,
                (3, v) => containers.push(v.bytes()?),
                _ => {}
            }
        }
        if name == pod && space == namespace {
            for resources in containers {
                add_container(&mut allocation, resources, container)?;
            }
        }
    }
    Ok(allocation)
}

fn add_container(allocation: &mut Allocation, resources: &[u8], container: &str) -> Result<(), Malformed> {
    let (mut name, mut devices, mut claims) = ("", Vec::new(), Vec::new());
    for field in Fields::of(resources) {
        match field? {
            (1, v) => name = v.text()?,
            (2, v) => devices.push(v.bytes()?),
            (5, v) => claims.push(v.bytes()?),
            _ => {}
        }
    }
    if name != container {
        return Ok(());
    }
    for resource in devices {
        let (mut name, mut ids) = ("", Vec::new());
        for field in Fields::of(resource) {
            match field? {
                (1, v) => name = v.text()?,
                (2, v) => ids.push(v.text()?),
                _ => {}
            }
        }
        if name.split_once('/').is_some_and(|(domain, _)| is_domain(domain)) {
            // A shared GPU's replicas are `ID::NUMBER`. Other resources of the vendor, such as
            // network cards, have ids that could be the index of a GPU.
            let plain = |id: &'_ str| id.split_once("::").map_or(id, |(id, _)| id).to_owned();
            let is_gpu = |id: &String| id.starts_with("GPU-") || id.starts_with("MIG-") || is_uuid(id);
            allocation.ids.extend(ids.into_iter().map(plain).filter(is_gpu));
        }
    }
    for claim in claims {
        // claim_resources, cdi_devices, name.
        for device in nested(claim, 4)?
            .into_iter()
            .map(|c| nested(c, 1))
            .collect::<Result<Vec<_>, _>>()?
            .concat()
        {
            for name in nested(device, 1)? {
                allocation
                    .names
                    .insert(std::str::from_utf8(name).map_err(|_| Malformed)?.to_owned());
            }
        }
    }
    Ok(())
}

/// Whether an id is a UUID alone, as that of an Orin's GPU.
fn is_uuid(id: &str) -> bool {
    let digit = |(at, b): (usize, u8)| match at {
        8 | 13 | 18 | 23 => b == b'-',
        _ => b.is_ascii_hexdigit(),
    };
    id.len() == 36 && id.bytes().enumerate().all(digit)
}

fn nested(message: &[u8], number: u64) -> Result<Vec<&[u8]>, Malformed> {
    let mut found = Vec::new();
    for field in Fields::of(message) {
        let (n, v) = field?;
        if n == number {
            found.push(v.bytes()?);
        }
    }
    Ok(found)
}

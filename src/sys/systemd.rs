//! Updates the device rules that systemd keeps for a container.
//!
//! An engine with the systemd cgroup driver makes a scope unit for each container and gives systemd
//! the device rules. systemd does not see a hook's change to the cgroup, and `daemon-reload` undoes
//! it. So the hook also sets the unit's property, as `systemctl set-property --runtime` does: by
//! D-Bus calls on systemd's own socket. systemd keeps it below `/run/systemd/transient` until the
//! unit ends.
//!
//! The unit is found by the container's cgroup, never by the definition (`linux.cgroupsPath` is
//! only text if the runtime does not use systemd). The unit's control group must hold nothing but
//! the container's cgroup. crun's `container` cgroup is below its scope, whose rules hold for it
//! too.
//!
//! The wire format is little-endian D-Bus (dbus.freedesktop.org/doc/dbus-specification.html); the
//! calls are those of `org.freedesktop.systemd1`(5), unchanged since systemd 230.

use std::io::{self, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use super::root::DeviceNumber;
use rustix::io::Errno;

/// systemd's private socket: no bus daemon is involved, and only root may connect.
const SOCKET: &str = "/run/systemd/private";

/// The longest time that a container's start waits for one answer of systemd.
const PATIENCE: Duration = Duration::from_secs(2);

/// The longest message that is read, in bytes; replies have some hundred.
const MAX_MESSAGE: usize = 64 * 1024;
/// The most signals that are skipped before a reply.
const MAX_SIGNALS: usize = 64;

/// The scope of a cgroup: the first component of its path that is not a slice. A component below
/// another cgroup has a name that its maker chose, and a unit of a user's manager is not the
/// system's.
pub fn scope_of(cgroup: &str) -> Option<&str> {
    let mut parts = cgroup.split('/').filter(|part| !part.is_empty());
    parts
        .find(|part| !part.ends_with(".slice"))
        .filter(|part| part.ends_with(".scope"))
}

/// Result of [`allow_devices`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum AllowOutcome {
    /// systemd keeps the devices allowed.
    Kept,
    /// systemd has no such unit, or the unit is not the container's own.
    NotItsOwn,
    /// The unit allows every device; a rule would restrict it.
    Unrestricted,
}

/// Makes the scope `unit` keep the character devices `devices` readable and writable. `is_own`
/// receives the unit's control group and decides whether it may be changed.
///
/// # Errors
/// `ENOENT` or `ECONNREFUSED` if systemd does not run or its socket is not visible, `ETIMEDOUT` if
/// it does not answer, `EPERM` if it refuses; those of `is_own`.
pub fn allow_devices(
    unit: &str,
    devices: &[DeviceNumber],
    is_own: impl FnOnce(&str) -> io::Result<bool>,
) -> io::Result<AllowOutcome> {
    const SCOPE: &str = "org.freedesktop.systemd1.Scope";
    let mut bus = Bus::connect()?;
    let path = object(unit);
    // Empty for a unit that systemd has not started.
    let control_group = bus.get_text(&path, SCOPE, "ControlGroup")?;
    if control_group.is_empty() || !is_own(&control_group)? {
        return Ok(AllowOutcome::NotItsOwn);
    }
    // A policy of `auto` allows all devices as long as none is listed, as for a privileged
    // container.
    if bus.get_text(&path, SCOPE, "DevicePolicy")? == "auto" {
        return Ok(AllowOutcome::Unrestricted);
    }
    bus.set_device_allow(unit, devices)?;
    Ok(AllowOutcome::Kept)
}

/// The object path of a unit: every byte that is not a letter or digit becomes `_` and two
/// hexadecimal digits.
fn object(unit: &str) -> String {
    use std::fmt::Write as _;
    let mut path = String::from("/org/freedesktop/systemd1/unit/");
    for (at, byte) in unit.bytes().enumerate() {
        if byte.is_ascii_alphabetic() || (byte.is_ascii_digit() && at > 0) {
            path.push(char::from(byte));
        } else {
            // Writing to a string cannot fail.
            let _ = write!(path, "_{byte:02x}");
        }
    }
    path
}

struct Bus {
    stream: UnixStream,
    serial: u32,
}

impl Bus {
    fn connect() -> io::Result<Self> {
        let mut stream = UnixStream::connect(SOCKET)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        // The user id in decimal digits, each as the hexadecimal number of its character: 0x30 to
        // 0x39.
        let uid = rustix::process::geteuid().as_raw().to_string();
        let hex: String = uid.chars().flat_map(|digit| ['3', digit]).collect();
        stream.write_all(format!("\0AUTH EXTERNAL {hex}\r\n").as_bytes())?;
        // systemd sends one line, and nothing more before `BEGIN`.
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n") {
            let mut part = [0; 512];
            match stream.read(&mut part).map_err(late)? {
                0 => return Err(Errno::PROTO.into()),
                n => answer.extend_from_slice(part.get(..n).unwrap_or_default()),
            }
            if answer.len() > 512 {
                return Err(Errno::PROTO.into());
            }
        }
        if !answer.starts_with(b"OK ") {
            return Err(Errno::PERM.into());
        }
        stream.write_all(b"BEGIN\r\n")?;
        Ok(Self { stream, serial: 0 })
    }

    fn get_text(&mut self, path: &str, interface: &str, property: &str) -> io::Result<String> {
        let mut body = Body::default();
        body.text(interface);
        body.text(property);
        let reply = self.call(path, "org.freedesktop.DBus.Properties", "Get", "ss", &body)?;
        // A variant: its signature, then the value.
        let mut at = match reply.get(..3) {
            Some([1, b's', 0]) => 4,
            _ => return Err(Errno::PROTO.into()),
        };
        text_at(&reply, &mut at)
    }

    /// Calls `SetUnitProperties(name, runtime, [("DeviceAllow", a(ss))])`, which adds to the unit's
    /// list.
    fn set_device_allow(&mut self, unit: &str, devices: &[DeviceNumber]) -> io::Result<()> {
        let mut body = Body::default();
        body.text(unit);
        body.u32(1);
        body.array(8, |properties| {
            properties.align(8);
            properties.text("DeviceAllow");
            properties.signature("a(ss)");
            properties.array(8, |rules| {
                for device in devices {
                    rules.align(8);
                    // systemd takes the numbers from this name; the link need not exist.
                    rules.text(&format!("/dev/char/{device}"));
                    rules.text("rw");
                }
            });
        });
        self.call(
            "/org/freedesktop/systemd1",
            "org.freedesktop.systemd1.Manager",
            "SetUnitProperties",
            "sba(sv)",
            &body,
        )?;
        Ok(())
    }

    /// Calls a method; returns the reply's body.
    fn call(
        &mut self,
        path: &str,
        interface: &str,
        member: &str,
        signature: &str,
        body: &Body,
    ) -> io::Result<Vec<u8>> {
        self.serial += 1;
        let mut message = Body::default();
        // Little-endian, a method call, no flags, protocol version 1.
        message.0.extend([b'l', 1, 0, 1]);
        message.u32(length(body.0.len())?);
        message.u32(self.serial);
        message.array(8, |fields| {
            for (code, kind, value) in [
                (1, "o", path),
                (2, "s", interface),
                (3, "s", member),
                (6, "s", "org.freedesktop.systemd1"),
            ] {
                fields.align(8);
                fields.0.push(code);
                fields.signature(kind);
                fields.text(value);
            }
            fields.align(8);
            fields.0.push(8);
            fields.signature("g");
            fields.signature(signature);
        });
        message.align(8);
        message.0.extend(&body.0);
        self.stream.write_all(&message.0)?;
        for _ in 0..=MAX_SIGNALS {
            let (kind, body) = self.receive()?;
            match kind {
                2 => return Ok(body),
                3 => return Err(Errno::PERM.into()),
                // Signals.
                _ => {}
            }
        }
        Err(Errno::PROTO.into())
    }

    /// The next message's type and body.
    fn receive(&mut self) -> io::Result<(u8, Vec<u8>)> {
        let mut fixed = [0; 16];
        self.stream.read_exact(&mut fixed).map_err(late)?;
        let (mut body_at, mut fields_at) = (4, 12);
        let body = u32_at(&fixed, &mut body_at)? as usize;
        let fields = (u32_at(&fixed, &mut fields_at)? as usize).next_multiple_of(8);
        if fixed[0] != b'l' || body > MAX_MESSAGE || fields > MAX_MESSAGE {
            return Err(Errno::PROTO.into());
        }
        let mut rest = vec![0; fields + body];
        self.stream.read_exact(&mut rest).map_err(late)?;
        Ok((fixed[1], rest.split_off(fields)))
    }
}

/// A socket reports its timeout as EAGAIN.
fn late(e: io::Error) -> io::Error {
    match e.kind() {
        io::ErrorKind::WouldBlock => Errno::TIMEDOUT.into(),
        _ => e,
    }
}

fn length(n: usize) -> io::Result<u32> {
    u32::try_from(n).map_err(|_| Errno::MSGSIZE.into())
}

fn u32_at(bytes: &[u8], at: &mut usize) -> io::Result<u32> {
    let word = bytes.get(*at..*at + 4).and_then(|b| b.try_into().ok());
    *at += 4;
    word.map(u32::from_le_bytes).ok_or_else(|| Errno::PROTO.into())
}

/// A string or an object path.
fn text_at(bytes: &[u8], at: &mut usize) -> io::Result<String> {
    let length = u32_at(bytes, at)? as usize;
    let text = bytes
        .get(*at..)
        .and_then(|b| b.get(..length))
        .ok_or(Errno::PROTO)?;
    Ok(String::from_utf8_lossy(text).into_owned())
}

/// Values in D-Bus' form, each aligned to its size from the start.
#[derive(Debug, Default)]
struct Body(Vec<u8>);

impl Body {
    fn align(&mut self, to: usize) {
        self.0.resize(self.0.len().next_multiple_of(to), 0);
    }

    fn u32(&mut self, value: u32) {
        self.align(4);
        self.0.extend(value.to_le_bytes());
    }

    /// Appends a string or an object path. Ours are short.
    fn text(&mut self, text: &str) {
        self.u32(u32::try_from(text.len()).unwrap_or(u32::MAX));
        self.0.extend(text.as_bytes());
        self.0.push(0);
    }

    fn signature(&mut self, text: &str) {
        self.0.push(u8::try_from(text.len()).unwrap_or(u8::MAX));
        self.0.extend(text.as_bytes());
        self.0.push(0);
    }

    /// Appends an array of elements of alignment `align`. Its length does not count the padding
    /// before the first.
    fn array(&mut self, align: usize, fill: impl FnOnce(&mut Self)) {
        self.u32(0);
        let length_at = self.0.len() - 4;
        self.align(align);
        let start = self.0.len();
        fill(self);
        let length = u32::try_from(self.0.len() - start).unwrap_or(u32::MAX);
        self.0[length_at..length_at + 4].copy_from_slice(&length.to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lengths::{Field, each};

    #[test]
    fn a_scope_is_below_slices_and_nothing_else() {
        for (path, scope) in [
            ("/system.slice/docker-3f2a.scope", Some("docker-3f2a.scope")),
            (
                "/machine.slice/machine-pod.slice/libpod-3f.scope/container",
                Some("libpod-3f.scope"),
            ),
            (
                "/kubepods.slice/kubepods-pod1.slice/cri-containerd-3f.scope",
                Some("cri-containerd-3f.scope"),
            ),
            ("/docker/3f/docker-other.scope", None),
            ("/init.scope", Some("init.scope")),
            ("/a.slice/b.scope/c.scope/d", Some("b.scope")),
            ("/docker/system.slice/docker-victim.scope", None),
            ("/user.slice/user@1000.service/app.slice/x.scope", None),
            ("/system.slice/docker.service", None),
            ("/system.slice:docker:victim", None),
            ("/", None),
            ("", None),
        ] {
            assert_eq!(scope_of(path), scope, "{path}");
        }
    }

    #[test]
    fn units_are_objects() {
        assert_eq!(
            object("docker-3f.scope"),
            "/org/freedesktop/systemd1/unit/docker_2d3f_2escope"
        );
        assert_eq!(object("3f"), "/org/freedesktop/systemd1/unit/_33f");
    }

    /// Parses `answer`, of which a socket may hold only a part.
    fn reply(answer: &[u8]) -> io::Result<String> {
        let (stream, peer) = UnixStream::pair().unwrap();
        peer.set_nonblocking(true).unwrap();
        let _ = (&peer).write_all(answer);
        peer.shutdown(std::net::Shutdown::Write).unwrap();
        Bus { stream, serial: 0 }.get_text("/x", "y", "z")
    }

    #[test]
    fn lengths_of_replies_at_their_extremes() {
        let mut good = vec![b'l', 2, 0, 1];
        // Body, serial, header fields.
        for word in [16_u32, 1, 8] {
            good.extend(word.to_le_bytes());
        }
        good.extend([0; 8]);
        good.extend([1, b's', 0, 0, 4, 0, 0, 0]);
        good.extend(b"auto\0\0\0\0");
        assert_eq!(reply(&good).unwrap(), "auto");
        let fields = [Field(4, 4), Field(12, 4), Field(24, 1), Field(28, 4)];
        each(&good, &fields, 4 * MAX_MESSAGE, |answer| drop(reply(answer)));
        let mut signal = good.clone();
        signal[1] = 4;
        assert_eq!(
            reply(&[signal.repeat(MAX_SIGNALS), good.clone()].concat()).unwrap(),
            "auto"
        );
        assert!(reply(&[signal.repeat(MAX_SIGNALS + 1), good].concat()).is_err());
    }

    #[test]
    fn values_are_aligned() {
        let mut body = Body::default();
        body.signature("a(ss)");
        body.array(8, |a| a.text("ab"));
        // Signature, padding to 4, the array's length, padding to 8, the string's length, its
        // bytes.
        assert_eq!(body.0, b"\x05a(ss)\0\0\x07\0\0\0\0\0\0\0\x02\0\0\0ab\0");
    }
}

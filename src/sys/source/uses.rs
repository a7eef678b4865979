//! The table of sources by use: their type and the restrictions of their mount.

use rustix::fs::FileType;

use crate::sys::mount::Restrict;
use crate::sys::root::DeviceNumber;

/// The use of a source, which decides its type and mount.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Use {
    /// A device node. Its number identifies it; its path and owner do not matter.
    Device(DeviceNumber),
    /// A directory of data.
    Directory,
    /// A file of the driver.
    File,
    /// A driver package of Windows.
    Package,
    /// The directory of MPS's pipes and sockets, and the user who may own it besides root.
    Pipes(Option<u32>),
    /// A file or directory that a site or a Jetson adds.
    Site,
    /// A daemon's socket.
    Socket,
}

/// See [`Use::rule`].
#[derive(Clone, Copy, Debug)]
pub(super) struct Rule {
    pub(super) types: &'static [FileType],
    pub(super) expected: &'static str,
    pub(super) restrict: Restrict,
    /// Whether a directory is searched for sockets, which a read-only mount does not protect.
    pub(super) no_sockets: bool,
}

impl Use {
    /// Types and restrictions of each use. No mount is writable: clients connect to sockets and
    /// write to pipes through a read-only mount (measured with MPS on an H200, 580, as root and as
    /// another user).
    pub(super) const fn rule(self) -> Rule {
        use FileType as T;
        let (types, expected, restrict, no_sockets): (&[T], _, _, _) = match self {
            Self::Device(..) => (
                &[T::CharacterDevice],
                "a character device",
                Restrict::DEVICE,
                false,
            ),
            Self::Directory => (&[T::Directory], "a directory", Restrict::DATA, true),
            Self::File => (&[T::RegularFile], "a regular file", Restrict::FILE, false),
            Self::Package => (&[T::Directory], "a directory", Restrict::FILE, false),
            Self::Pipes(_) => (&[T::Directory], "a directory", Restrict::DATA, false),
            Self::Site => (
                &[T::RegularFile, T::Directory],
                "a file or a directory",
                Restrict::FILE,
                true,
            ),
            Self::Socket => (&[T::Socket], "a socket", Restrict::DATA, false),
        };
        Rule {
            types,
            expected,
            restrict,
            no_sockets,
        }
    }
}

//! The graphics device of WSL2, `/dev/dxg`: the adapters that Windows lends, and their facts.
//!
//! Numbers and layouts are those of microsoft/libdxg (`d3dkmthk.h`, MIT) and of the uapi header of
//! Microsoft's kernel; the assertions below compare them with figures taken from there. The kernel
//! compares the whole command word, so it answers a struct of a wrong size with `ENOTTY`, like an
//! unknown number. The device's state belongs to the process that opened it: open it after any
//! fork, and pass the descriptor to nobody.

use std::ffi::c_void;
use std::io;
use std::mem::offset_of;
use std::os::fd::{AsFd as _, OwnedFd};

use rustix::fs::{FileType, OFlags};
use rustix::io::Errno;
use rustix::ioctl::{Ioctl, IoctlOutput, Opcode, opcode};

use super::root::{Node, reopen};

/// The major number of miscellaneous devices, of which `/dev/dxg` is one; its minor number varies.
pub const MAJOR: u32 = 10;

/// The most adapters that the kernel lists in one `ENUMADAPTERS2`.
const MAX_ADAPTERS: u32 = 64;
/// A driver-store path has at most 260 UTF-16 units on Windows. A longer one is refused.
const MAX_PATH_BYTES: u32 = 4096;

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Luid {
    low: u32,
    high: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct AdapterInfo {
    handle: u32,
    luid: Luid,
    sources: u32,
    present: u32,
}

#[repr(C)]
struct EnumAdapters2 {
    count: u32,
    reserved: u32,
    adapters: u64,
}

#[repr(C)]
struct EnumAdapters3 {
    filter: u64,
    count: u32,
    reserved: u32,
    adapters: u64,
}

#[repr(C)]
struct QueryAdapterInfo {
    handle: u32,
    kind: u32,
    data: u64,
    size: u32,
    reserved: u32,
}

#[repr(C)]
struct CloseAdapter {
    handle: u32,
}

/// Argument and answer of [`QUERY_REGISTRY`]. The value begins at `output` and may exceed the
/// struct.
#[repr(C)]
struct QueryRegistry {
    query: u32,
    flags: u32,
    name: [u16; 260],
    value_type: u32,
    physical_adapter: u32,
    output_size: u32,
    status: u32,
    output: u64,
}

/// Argument and answer of [`DEVICE_IDS`].
#[repr(C)]
struct DeviceIds {
    physical_adapter: u32,
    vendor: u32,
    device: u32,
    subvendor: u32,
    subsystem: u32,
    revision: u32,
    bus_type: u32,
}

/// A command's argument struct, which the device also fills with its answer.
trait Command: Sized {
    const NUMBER: u8;
    const OPCODE: Opcode = opcode::read_write::<Self>(b'G', Self::NUMBER);
}

impl Command for QueryAdapterInfo {
    const NUMBER: u8 = 0x09;
}

impl Command for EnumAdapters2 {
    const NUMBER: u8 = 0x14;
}

impl Command for CloseAdapter {
    const NUMBER: u8 = 0x15;
}

impl Command for EnumAdapters3 {
    const NUMBER: u8 = 0x3e;
}

const _: () = {
    assert!(<QueryAdapterInfo as Command>::OPCODE == 0xC018_4709);
    assert!(<EnumAdapters2 as Command>::OPCODE == 0xC010_4714);
    assert!(<CloseAdapter as Command>::OPCODE == 0xC004_4715);
    assert!(<EnumAdapters3 as Command>::OPCODE == 0xC018_473E);

    assert!(size_of::<Luid>() == 8 && offset_of!(Luid, high) == 4);
    assert!(size_of::<AdapterInfo>() == 20 && align_of::<AdapterInfo>() == 4);
    assert!(offset_of!(AdapterInfo, luid) == 4);
    assert!(offset_of!(AdapterInfo, sources) == 12 && offset_of!(AdapterInfo, present) == 16);
    assert!(size_of::<EnumAdapters2>() == 16 && offset_of!(EnumAdapters2, adapters) == 8);
    assert!(size_of::<EnumAdapters3>() == 24 && offset_of!(EnumAdapters3, count) == 8);
    assert!(offset_of!(EnumAdapters3, adapters) == 16);
    assert!(size_of::<CloseAdapter>() == 4);
    assert!(size_of::<QueryAdapterInfo>() == 24 && offset_of!(QueryAdapterInfo, kind) == 4);
    assert!(offset_of!(QueryAdapterInfo, data) == 8 && offset_of!(QueryAdapterInfo, size) == 16);

    assert!(size_of::<QueryRegistry>() == 552 && align_of::<QueryRegistry>() == 8);
    assert!(offset_of!(QueryRegistry, flags) == 4 && offset_of!(QueryRegistry, name) == 8);
    assert!(offset_of!(QueryRegistry, value_type) == 528);
    assert!(offset_of!(QueryRegistry, physical_adapter) == 532);
    assert!(offset_of!(QueryRegistry, output_size) == 536);
    assert!(offset_of!(QueryRegistry, status) == 540 && offset_of!(QueryRegistry, output) == 544);
    assert!(size_of::<DeviceIds>() == 28);
    assert!(offset_of!(DeviceIds, vendor) == 4 && offset_of!(DeviceIds, device) == 8);
};

/// Kinds of `QUERYADAPTERINFO`: the WDDM version, as 2700 for 2.7.
const DRIVER_VERSION: u32 = 13;
/// Vendor and device numbers of the PCI function behind the adapter.
const DEVICE_IDS: u32 = 31;
/// A registry value or a path of the driver.
const QUERY_REGISTRY: u32 = 48;
/// The version of the kernel-mode driver, four 16-bit numbers.
const KMD_DRIVER_VERSION: u32 = 49;

/// `query` of [`QueryRegistry`].
const DRIVER_STORE_PATH: u32 = 2;
/// `status` of [`QueryRegistry`].
const STATUS_SUCCESS: u32 = 0;
const STATUS_OVERFLOW: u32 = 1;
const STATUS_FAIL: u32 = 2;

/// Lists compute-only adapters too.
const INCLUDE_COMPUTE_ONLY: u64 = 1;

/// The open device.
#[derive(Debug)]
pub struct Dxg {
    fd: OwnedFd,
}

/// An adapter that is open until it is dropped. Its queries fail with the kernel's error.
#[derive(Debug)]
pub struct Adapter<'a> {
    dxg: &'a Dxg,
    handle: u32,
}

impl Dxg {
    /// Whether an inode can be the device: a character device with the right major number.
    pub fn is(node: &Node) -> bool {
        node.kind() == FileType::CharacterDevice && node.rdev().major == MAJOR
    }

    /// Opens the device through the descriptor that was examined.
    ///
    /// # Errors
    /// `ENODEV` if the node is another device, or the kernel has no driver for its number.
    pub fn open(node: &Node) -> io::Result<Self> {
        if !Self::is(node) {
            return Err(Errno::NODEV.into());
        }
        let fd = reopen(node.as_fd(), OFlags::RDONLY)?;
        Ok(Self { fd })
    }

    /// The adapters, in the device's order.
    ///
    /// # Errors
    /// `ENOTTY` from another device, or from another version of the protocol.
    pub fn adapters(&self) -> io::Result<Vec<Adapter<'_>>> {
        // Only newer kernels list adapters without a display; every kernel has the older call.
        let list = self.enumerate3().or_else(|_| self.enumerate2())?;
        Ok(list
            .into_iter()
            .map(|info| Adapter {
                dxg: self,
                handle: info.handle,
            })
            .collect())
    }

    /// Pointers in `arg` must be 0 or lead to live memory of the length that `arg` gives.
    fn call<T: Command>(&self, arg: &mut T) -> rustix::io::Result<()> {
        // SAFETY: `Call` passes a struct of the layout and size that belong to the number.
        unsafe { rustix::ioctl::ioctl(&self.fd, Call(arg)) }
    }

    fn enumerate3(&self) -> io::Result<Vec<AdapterInfo>> {
        let call = |list: &mut [AdapterInfo]| {
            let mut arg = EnumAdapters3 {
                filter: INCLUDE_COMPUTE_ONLY,
                count: length(list),
                reserved: 0,
                adapters: address(list),
            };
            self.call(&mut arg)?;
            Ok(arg.count)
        };
        enumerate(call)
    }

    fn enumerate2(&self) -> io::Result<Vec<AdapterInfo>> {
        let call = |list: &mut [AdapterInfo]| {
            let mut arg = EnumAdapters2 {
                count: length(list),
                reserved: 0,
                adapters: address(list),
            };
            self.call(&mut arg)?;
            Ok(arg.count)
        };
        enumerate(call)
    }
}

struct Call<'a, T>(&'a mut T);

// SAFETY: the number is that of `T`, whose size is part of it, and the pointer that of a live `T`.
unsafe impl<T: Command> Ioctl for Call<'_, T> {
    type Output = ();

    const IS_MUTATING: bool = true;

    fn opcode(&self) -> Opcode {
        T::OPCODE
    }

    fn as_ptr(&mut self) -> *mut c_void {
        std::ptr::from_mut(self.0).cast()
    }

    /// Every value that is not negative is a success, also Windows's own codes.
    unsafe fn output_from_ptr(_: IoctlOutput, _: *mut c_void) -> rustix::io::Result<()> {
        Ok(())
    }
}

/// Queries the number of adapters, then their list.
fn enumerate(call: impl Fn(&mut [AdapterInfo]) -> rustix::io::Result<u32>) -> io::Result<Vec<AdapterInfo>> {
    let count = call(&mut [])?;
    if count == 0 {
        return Ok(Vec::new());
    }
    let mut list = vec![AdapterInfo::default(); count.min(MAX_ADAPTERS) as usize];
    let filled = call(&mut list)?;
    list.truncate(filled as usize);
    Ok(list)
}

fn length(list: &[AdapterInfo]) -> u32 {
    u32::try_from(list.len()).unwrap_or(MAX_ADAPTERS)
}

fn address<T>(list: &mut [T]) -> u64 {
    if list.is_empty() {
        0
    } else {
        list.as_mut_ptr().addr() as u64
    }
}

impl Adapter<'_> {
    /// The version of the driver model: 2700 for WDDM 2.7.
    pub fn wddm(&self) -> io::Result<u32> {
        let mut out = [0; 4];
        self.query(DRIVER_VERSION, &mut out)?;
        Ok(u32::from_ne_bytes(out))
    }

    /// PCI vendor and device number of the GPU behind the adapter, such as `(0x10de, 0x2684)`.
    pub fn device_ids(&self) -> io::Result<(u32, u32)> {
        let mut out = [0; size_of::<DeviceIds>()];
        self.query(DEVICE_IDS, &mut out)?;
        Ok((
            word(&out, offset_of!(DeviceIds, vendor)),
            word(&out, offset_of!(DeviceIds, device)),
        ))
    }

    /// The version of the driver on Windows, as its Device Manager shows it: `[32, 0, 15, 6636]`.
    pub fn driver_version(&self) -> io::Result<[u16; 4]> {
        let mut out = [0; 8];
        self.query(KMD_DRIVER_VERSION, &mut out)?;
        let packed = u64::from_ne_bytes(out);
        Ok([48, 32, 16, 0].map(|shift| u16::try_from(packed >> shift & 0xffff).unwrap_or(0)))
    }

    /// The driver's folder as Windows names it:
    /// `C:\Windows\System32\DriverStore\FileRepository\...`.
    ///
    /// # Errors
    /// `EINVAL` if Windows has none, or answers with something other than a path.
    pub fn store_path(&self) -> io::Result<String> {
        path_of(|room| self.registry(room))
    }

    /// One `DRIVER_STORE_PATH` query with room for `room` more bytes. Returns status, size and
    /// bytes of the value.
    fn registry(&self, room: u32) -> io::Result<(u32, u32, Vec<u8>)> {
        let mut data = vec![0; size_of::<QueryRegistry>() + room as usize];
        let mut put = |at: usize, value: u32| data[at..at + 4].copy_from_slice(&value.to_ne_bytes());
        put(offset_of!(QueryRegistry, query), DRIVER_STORE_PATH);
        put(offset_of!(QueryRegistry, status), STATUS_FAIL);
        self.query(QUERY_REGISTRY, &mut data)?;
        let status = word(&data, offset_of!(QueryRegistry, status));
        let size = word(&data, offset_of!(QueryRegistry, output_size));
        Ok((status, size, data.split_off(offset_of!(QueryRegistry, output))))
    }

    fn query(&self, kind: u32, data: &mut [u8]) -> io::Result<()> {
        let size = u32::try_from(data.len()).map_err(|_| Errno::INVAL)?;
        let mut arg = QueryAdapterInfo {
            handle: self.handle,
            kind,
            data: address(data),
            size,
            reserved: 0,
        };
        Ok(self.dxg.call(&mut arg)?)
    }
}

impl Drop for Adapter<'_> {
    fn drop(&mut self) {
        let mut arg = CloseAdapter { handle: self.handle };
        // When the device is closed, the kernel closes adapters that are still open.
        let _ = self.dxg.call(&mut arg);
    }
}

/// Reads the path through `registry`: once for its length, once with room for it.
fn path_of(registry: impl Fn(u32) -> io::Result<(u32, u32, Vec<u8>)>) -> io::Result<String> {
    // Windows reports the length only if the room is too small.
    let (status, size, _) = registry(0)?;
    if status != STATUS_OVERFLOW || size == 0 || size > MAX_PATH_BYTES {
        return Err(Errno::INVAL.into());
    }
    let (status, size, value) = registry(size)?;
    let value = value.get(..size as usize).ok_or(Errno::INVAL)?;
    if status != STATUS_SUCCESS {
        return Err(Errno::INVAL.into());
    }
    let units: Vec<u16> = value
        .chunks_exact(2)
        .map(|pair| u16::from_ne_bytes([pair[0], pair[1]]))
        // Whether the length counts the final NUL is not documented.
        .take_while(|&unit| unit != 0)
        .collect();
    String::from_utf16(&units).map_err(|_| Errno::INVAL.into())
}

fn word(bytes: &[u8], at: usize) -> u32 {
    bytes
        .get(at..at + 4)
        .and_then(|b| b.try_into().ok())
        .map_or(0, u32::from_ne_bytes)
}

#[cfg(test)]
mod tests {
    use super::super::peak::peak;
    use super::super::root::Root;
    use super::*;
    use crate::lengths::EXTREMES;

    #[test]
    fn another_device_is_not_opened() {
        let root = Root::open("/").unwrap();
        let null = root.resolve("dev/null").unwrap();
        assert!(!Dxg::is(&null));
        assert_eq!(Dxg::open(&null).unwrap_err().raw_os_error(), Some(libc::ENODEV));
        assert!(!Dxg::is(&root.resolve("etc").unwrap()));
    }

    /// A device that has none of these commands yields an error.
    #[test]
    fn a_device_with_another_protocol_is_an_error() {
        let fd = rustix::fs::open("/dev/null", OFlags::RDONLY, rustix::fs::Mode::empty()).unwrap();
        let dxg = Dxg { fd };
        assert_eq!(dxg.adapters().unwrap_err().raw_os_error(), Some(libc::ENOTTY));
        let adapter = Adapter { dxg: &dxg, handle: 1 };
        for e in [
            adapter.wddm().unwrap_err(),
            adapter.device_ids().unwrap_err(),
            adapter.driver_version().unwrap_err(),
            adapter.store_path().unwrap_err(),
        ] {
            assert_eq!(e.raw_os_error(), Some(libc::ENOTTY));
        }
    }

    #[test]
    fn counts_and_sizes_at_their_extremes() {
        let sizes = || EXTREMES.into_iter().filter_map(|n| u32::try_from(n).ok());
        for first in sizes() {
            for second in sizes() {
                let bytes = peak(|| {
                    let count = |list: &mut [AdapterInfo]| Ok(if list.is_empty() { first } else { second });
                    let listed = enumerate(count).map_or(0, |list| list.len());
                    assert!(listed <= MAX_ADAPTERS as usize);
                    let answer = |room: u32| {
                        assert!(room <= MAX_PATH_BYTES);
                        let (status, size) = if room == 0 {
                            (STATUS_OVERFLOW, first)
                        } else {
                            (STATUS_SUCCESS, second)
                        };
                        Ok((status, size, vec![b'a'; 8 + room as usize]))
                    };
                    let _ = path_of(answer);
                });
                assert!(bytes <= 64 << 10, "{first} {second}: {bytes} bytes");
            }
        }
        let utf16 = |_: u32| Ok((STATUS_SUCCESS, 6, vec![b'C', 0, b':', 0, 0, 0xd8]));
        assert!(path_of(utf16).is_err());
        let reports = |room: u32| {
            let status = if room == 0 {
                STATUS_OVERFLOW
            } else {
                STATUS_SUCCESS
            };
            Ok((status, 6, b"C\0:\0\0\0".to_vec()))
        };
        assert_eq!(path_of(reports).unwrap(), "C:");
    }

    #[test]
    fn a_count_that_grows_between_two_calls_is_bounded() {
        let list = enumerate(|list| {
            assert!(list.len() <= MAX_ADAPTERS as usize);
            Ok(if list.is_empty() { u32::MAX } else { 2 })
        });
        assert_eq!(list.unwrap().len(), 2);
        assert!(enumerate(|_| Ok(0)).unwrap().is_empty());
        assert!(enumerate(|_| Err(Errno::NOTTY)).is_err());
    }
}

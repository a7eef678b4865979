//! musl's loader has no cache: a file such as `/etc/ld-musl-x86_64.path` lists the directories that
//! it searches.

use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use super::abi::Arch;
use inroot::root::Root;

/// The directories without such a file (musl's `ldso/dynlink.c`).
const DEFAULT: &[u8] = b"/lib:/usr/local/lib:/usr/lib";
/// musl reads the whole file; usual ones have a line or two.
const MAX_BYTES: u64 = 64 * 1024;

/// The directories that the root's musl loader searches, in order.
pub fn search_path(root: &Root, arch: &Arch) -> Vec<Vec<u8>> {
    let text = root
        .read(arch.musl.1, MAX_BYTES)
        .unwrap_or_else(|_| DEFAULT.to_vec());
    text.split(|b| matches!(b, b':' | b'\n'))
        .filter(|dir| dir.starts_with(b"/"))
        .map(<[u8]>::to_vec)
        .collect()
}

/// The file that lists `first` before the directories that the root's loader searches already, one
/// a line.
pub fn path_file<'a>(root: &Root, arch: &Arch, first: impl Iterator<Item = &'a Path>) -> Vec<u8> {
    let mut dirs: Vec<Vec<u8>> = first.map(|dir| dir.as_os_str().as_bytes().to_vec()).collect();
    for dir in search_path(root, arch) {
        if !dirs.contains(&dir) {
            dirs.push(dir);
        }
    }
    let mut text = dirs.join(&b'\n');
    text.push(b'\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::abi::ARCHES;

    #[test]
    fn ours_first_once_and_the_default_kept() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::open(dir.path()).unwrap();
        let ours = || std::iter::once(Path::new("/usr/local/nvidia/lib64"));
        let text = path_file(&root, &ARCHES[0], ours());
        assert_eq!(text, b"/usr/local/nvidia/lib64\n/lib\n/usr/local/lib\n/usr/lib\n");
        std::fs::create_dir(dir.path().join("etc")).unwrap();
        std::fs::write(dir.path().join("etc/ld-musl-x86_64.path"), &text).unwrap();
        assert_eq!(path_file(&root, &ARCHES[0], ours()), text);
    }
}

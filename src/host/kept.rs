//! Caches the kernel module's `information` of each GPU between starts.
//!
//! The module reads it from the GPU's firmware: 0.22 ms each on an H200, twice a start. Model,
//! UUID, minor number and exclusion do not change while the module holds the GPU. Each time it
//! takes the GPU, sysfs makes a new inode for `bus/pci/drivers/nvidia/<address>`, so an entry is
//! valid for that inode. Kernels before 4.14 reuse inode numbers, and boots repeat them, so an
//! entry also has the inode's time. If the kernel drops and recreates the inode, only the cache is
//! lost.

use super::Roots;

/// The cache's file name in nvoci's directory below `/run`.
pub const NAME: &str = "gpus";
/// The most bytes of the cache that are read; a GPU prints some 300.
pub const MAX_SIZE: u64 = 1 << 20;

/// The cached texts of GPUs.
#[derive(Debug, Default)]
pub struct Kept {
    entries: Vec<Entry>,
    /// Whether an entry was added or replaced.
    new: bool,
}

/// The text of one GPU, and the binding for which it is valid.
#[derive(Debug)]
struct Entry {
    binding: Binding,
    text: String,
    /// Whether the GPU was found in this run.
    current: bool,
}

/// A GPU that the module holds: its address, and the number and time of sysfs's inode for it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Binding(String);

impl Binding {
    /// The binding of the GPU at the PCI address `name`; `None` if sysfs has none.
    pub(super) fn of(roots: &Roots, name: &str) -> Option<Self> {
        let path = format!("bus/pci/drivers/nvidia/{name}");
        let node = roots.sys.as_ref()?.resolve_nofollow(path).ok()?;
        let stat = node.stat();
        Some(Self(format!(
            "{name} {} {}.{}",
            stat.st_ino, stat.st_ctime, stat.st_ctime_nsec
        )))
    }
}

impl Kept {
    /// Parses the text of [`Self::to_text`] up to the first malformed entry.
    pub fn parse(mut text: &str) -> Self {
        let mut entries = Vec::new();
        while let Some((head, rest)) = text.split_once('\n')
            && let Some((binding, len)) = head.rsplit_once(' ')
            && let Some((text_of_it, after)) = len.parse().ok().and_then(|len| rest.split_at_checked(len))
        {
            entries.push(Entry {
                binding: Binding(binding.to_owned()),
                text: text_of_it.to_owned(),
                current: false,
            });
            text = after;
        }
        Self { entries, new: false }
    }

    /// The cache as text, without GPUs that are gone; `None` if nothing was added.
    pub fn to_text(&self) -> Option<String> {
        if !self.new {
            return None;
        }
        let mut all = String::new();
        for Entry { binding, text, .. } in self.entries.iter().filter(|entry| entry.current) {
            all.push_str(&format!("{} {}\n{text}", binding.0, text.len()));
        }
        Some(all)
    }

    /// The text of a GPU.
    pub(super) fn get(&mut self, binding: &Binding) -> Option<&str> {
        let entry = self.entries.iter_mut().find(|entry| entry.binding == *binding)?;
        entry.current = true;
        Some(&entry.text)
    }

    /// Adds or replaces the text of a GPU.
    pub(super) fn add(&mut self, binding: Binding, text: String) {
        self.entries.retain(|entry| entry.binding != binding);
        self.entries.push(Entry {
            binding,
            text,
            current: true,
        });
        self.new = true;
    }
}

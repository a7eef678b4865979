//! What the kernel module said of each GPU, kept as long as it holds.
//!
//! To print a GPU's `information` the module asks its firmware: 0.22 ms each on an H200, for which a start would wait
//! twice. What it prints of model, UUID, minor number and exclusion is settled when the module takes the GPU, and each
//! time that it does, sysfs makes a new inode for `bus/pci/drivers/nvidia/<address>`. So what was read holds for that
//! inode. Old kernels use numbers again (before Linux 4.14), and boots have the same ones, but no two inodes have the
//! same birth in memory as well; that one may be forgotten and made again only costs another look.

use super::Roots;

/// The file that it is kept in, in nvoci's own directory below `/run`.
pub const NAME: &str = "gpus";
/// The most that is read of what was kept, in bytes: a GPU prints some 300.
pub const MAX_SIZE: u64 = 1 << 20;

/// What was said of GPUs.
#[derive(Debug, Default)]
pub struct Kept {
    told: Vec<Told>,
    /// Whether there is more than was kept.
    new: bool,
}

/// What was said of one, and what it holds for.
#[derive(Debug)]
struct Told {
    binding: Binding,
    text: String,
    /// Whether the GPU was seen, this time.
    current: bool,
}

/// A GPU in the module's hands: its address, and the inode that says so.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Binding(String);

impl Binding {
    /// That of the GPU at the PCI address `name`; `None` where sysfs does not tell.
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
    /// Reads what [`Self::to_text`] made, up to what makes no sense.
    pub fn parse(mut text: &str) -> Self {
        let mut told = Vec::new();
        while let Some((head, rest)) = text.split_once('\n')
            && let Some((binding, len)) = head.rsplit_once(' ')
            && let Some((text_of_it, after)) = len.parse().ok().and_then(|len| rest.split_at_checked(len))
        {
            told.push(Told {
                binding: Binding(binding.to_owned()),
                text: text_of_it.to_owned(),
                current: false,
            });
            text = after;
        }
        Self { told, new: false }
    }

    /// As text, without GPUs that are gone; nothing if no more was said than is kept.
    pub fn to_text(&self) -> Option<String> {
        if !self.new {
            return None;
        }
        let mut all = String::new();
        for Told { binding, text, .. } in self.told.iter().filter(|told| told.current) {
            all.push_str(&format!("{} {}\n{text}", binding.0, text.len()));
        }
        Some(all)
    }

    /// What was said of a GPU.
    pub(super) fn get(&mut self, binding: &Binding) -> Option<&str> {
        let told = self.told.iter_mut().find(|told| told.binding == *binding)?;
        told.current = true;
        Some(&told.text)
    }

    /// Keeps what is said of a GPU, in place of what was.
    pub(super) fn add(&mut self, binding: Binding, text: String) {
        self.told.retain(|told| told.binding != binding);
        self.told.push(Told {
            binding,
            text,
            current: true,
        });
        self.new = true;
    }
}

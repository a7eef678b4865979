//! Searches a library for a text by its beginning, in pieces of bounded size.

use crate::ldso::elf::ReadAt;
use crate::sys::budget::Budget;

/// The bytes behind the beginning that are passed on.
pub(super) const MAX_TEXT: usize = 512;
const PIECE: usize = 256 << 10;

/// Passes the text behind each `beginning` in the `size` bytes from `at` on, up to [`MAX_TEXT`]
/// bytes, to `f`, until `f` returns a value.
pub(super) fn search<R: ReadAt + ?Sized, T>(
    file: &R,
    mut at: u64,
    size: u64,
    beginning: &[u8],
    budget: &Budget,
    mut f: impl FnMut(&[u8]) -> Option<T>,
) -> Option<T> {
    let end = at.saturating_add(size);
    let overlap = beginning.len() + MAX_TEXT;
    let mut piece = vec![0; PIECE + overlap];
    while at < end {
        budget.check().ok()?;
        let most = usize::try_from(end - at).map_or(piece.len(), |left| left.min(piece.len()));
        let mut filled = 0;
        while filled < most {
            match file.read_at(&mut piece[filled..most], at + filled as u64) {
                Ok(n) if n > 0 => filled += n,
                _ => break,
            }
        }
        let bytes = &piece[..filled];
        // A match that begins in the overlap is found whole in the next piece.
        let last = if filled == piece.len() { PIECE } else { filled };
        let places = bytes.windows(beginning.len()).take(last);
        for (place, _) in places.enumerate().filter(|(_, w)| *w == beginning) {
            let rest = &bytes[place + beginning.len()..];
            if let Some(found) = f(&rest[..rest.len().min(MAX_TEXT)]) {
                return Some(found);
            }
        }
        if filled < piece.len() {
            return None;
        }
        at += PIECE as u64;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wherever_it_lies() {
        for place in [0, 1, PIECE - 2, PIECE - 1, PIECE, PIECE + MAX_TEXT, 11 << 20] {
            let mut file = vec![b'-'; place.max(2 * PIECE) + 100];
            file[place..place + 8].copy_from_slice(b"key=1.2;");
            let budget = Budget::default();
            let all = file.len() as u64;
            let find = |at, size| {
                search(file.as_slice(), at, size, b"key=", &budget, |rest| {
                    rest.starts_with(b"1.2;").then_some(())
                })
            };
            assert_eq!(find(0, all), Some(()), "{place}");
            assert_eq!(find(0, u64::MAX), Some(()), "{place}");
            assert_eq!(find(place as u64 + 1, all), None, "{place}");
            assert_eq!(find(u64::MAX, u64::MAX), None);
            assert_eq!(find(0, 0), None);
        }
    }
}

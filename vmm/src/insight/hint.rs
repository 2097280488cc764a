//! What applications say of their data themselves, in the last two arguments of a call.

use std::collections::VecDeque;

use disk::{Class, DedupHint};

/// What the fifth argument of a call is where the sixth is a hint.
pub(super) const MAGIC: u64 = 0x534b_5948_494e_5431;
/// The bits of the class; a number that is no class leaves it to the size of the file.
const CLASS_MASK: u64 = 0xf;
const NO_DEDUP: u64 = 0x10;
const PREFETCH: u64 = 0x20;
/// Files of one process that were opened with a hint, and not met since.
const OPENED_MAX: usize = 8;

/// What an application says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Hint {
    pub(super) class: Option<Class>,
    pub(super) dedup: Option<DedupHint>,
}

impl Hint {
    /// What the sixth argument says. Bits that mean nothing yet are left out.
    pub(super) fn of(word: u64) -> Self {
        let class = usize::try_from(word & CLASS_MASK).unwrap_or(usize::MAX);
        let dedup = match word & (NO_DEDUP | PREFETCH) {
            NO_DEDUP => Some(DedupHint::NoDedup),
            PREFETCH => Some(DedupHint::Prefetch),
            // Nothing, or what contradicts itself.
            _ => None,
        };
        Self {
            class: Class::ALL.get(class).copied(),
            dedup,
        }
    }

    /// The same, and where it says nothing, what `other` says.
    pub(super) fn or(self, other: Self) -> Self {
        Self {
            class: self.class.or(other.class),
            dedup: self.dedup.or(other.dedup),
        }
    }
}

/// What was said of files when they were opened. A call is seen before it is known which descriptor
/// it brings: that follows from the path, when a descriptor is met that was not known.
#[derive(Debug, Default)]
pub(super) struct Opened(VecDeque<(Vec<u8>, Hint)>);

impl Opened {
    /// A file is about to be opened, by a path as the process has it.
    pub(super) fn push(&mut self, path: Vec<u8>, hint: Hint) {
        if self.0.len() >= OPENED_MAX {
            self.0.pop_front();
        }
        self.0.push_back((path, hint));
    }

    /// Whether nothing was said that is still to be taken.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What was said of the file at `path`, which is absolute and has no links.
    pub(super) fn take(&mut self, path: &[u8]) -> Option<Hint> {
        let at = self.0.iter().position(|(said, _)| leads_to(said, path))?;
        self.0.remove(at).map(|(_, hint)| hint)
    }
}

/// Whether `said` is a way to `path`. Of a relative one it is not known where it starts; through links
/// and upwards none is followed.
fn leads_to(said: &[u8], path: &[u8]) -> bool {
    if said.starts_with(b"/") {
        return said == path;
    }
    let said = said.strip_prefix(b"./").unwrap_or(said);
    let rest = path.strip_suffix(said);
    !said.is_empty() && rest.is_some_and(|rest| rest.ends_with(b"/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_says_a_class_and_whether_there_is_more_of_it() {
        let hint = |class, dedup| Hint { class, dedup };
        for (word, expected) in [
            (5, hint(Some(Class::Metadata), None)),
            (6, hint(None, None)),
            (0x14, hint(Some(Class::Below1Mib), Some(DedupHint::NoDedup))),
            (0x2f, hint(None, Some(DedupHint::Prefetch))),
            (0x3f, hint(None, None)),
            (0xff41, hint(Some(Class::Below10Mib), None)),
        ] {
            assert_eq!(Hint::of(word), expected, "{word:#x}");
        }
        assert_eq!(Hint::of(0x1f).or(Hint::of(0x24)), Hint::of(0x14));
    }

    #[test]
    fn what_is_said_at_open_is_found_by_the_path() {
        let mut opened = Opened::default();
        opened.push(b"/srv/a".to_vec(), Hint::of(1));
        opened.push(b"./d/b".to_vec(), Hint::of(2));
        opened.push(b"../c".to_vec(), Hint::of(3));
        opened.push(b"".to_vec(), Hint::of(4));
        assert_eq!(opened.take(b"/srv/b"), None);
        assert_eq!(opened.take(b"/srv/xd/b"), None);
        assert_eq!(opened.take(b"/srv/d/b"), Some(Hint::of(2)));
        assert_eq!(opened.take(b"/srv/d/b"), None);
        assert_eq!(opened.take(b"/x/srv/a"), None);
        assert_eq!(opened.take(b"/srv/a"), Some(Hint::of(1)));
        assert_eq!(opened.take(b"/c"), None);
    }

    #[test]
    fn memory_is_bounded() {
        let mut opened = Opened::default();
        for number in 0..100_u8 {
            opened.push(vec![b'/', number], Hint::of(number.into()));
        }
        assert_eq!(opened.0.len(), OPENED_MAX);
        assert_eq!(opened.take(&[b'/', 99]), Some(Hint::of(99)));
    }
}

//! What a call says of its data, in one number.

use crate::Class;

/// In place of a class: as the size of the file says.
const BY_SIZE: u64 = 0xf;
const NO_DEDUP: u64 = 0x10;
const PREFETCH: u64 = 0x20;

/// Whether there is data like it on the disk, or will be. It may be wrong, and then costs speed or
/// space, never content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dedup {
    /// There is none: looking for it is of no use. Encrypted data is so.
    No,
    /// It is being copied: what is read now is written elsewhere soon, or is what was read before.
    Prefetch,
}

/// What a program says of its data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Hint {
    /// What it is worth; without, that follows from the size of its file.
    pub class: Option<Class>,
    /// Whether there is more of it; without, nothing is known.
    pub dedup: Option<Dedup>,
}

impl Hint {
    /// The number that goes with the call.
    pub fn word(self) -> u64 {
        let class = self.class.map_or(BY_SIZE, |class| class as u64);
        let dedup = match self.dedup {
            None => 0,
            Some(Dedup::No) => NO_DEDUP,
            Some(Dedup::Prefetch) => PREFETCH,
        };
        class | dedup
    }
}

impl From<Class> for Hint {
    fn from(class: Class) -> Self {
        Self {
            class: Some(class),
            dedup: None,
        }
    }
}

impl From<Dedup> for Hint {
    fn from(dedup: Dedup) -> Self {
        Self {
            class: None,
            dedup: Some(dedup),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_those_of_the_interface() {
        for class in Class::ALL {
            assert_eq!(Hint::from(class).word(), class as u64);
        }
        assert_eq!(Hint::from(Dedup::No).word(), 0x1f);
        assert_eq!(Hint::default().word(), 0xf);
        let copied = Hint {
            class: Some(Class::Below1Mib),
            dedup: Some(Dedup::Prefetch),
        };
        assert_eq!(copied.word(), 0x24);
    }
}

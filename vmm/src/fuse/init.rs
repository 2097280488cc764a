//! What the kernel and we agree upon at the start (`FUSE_INIT`).

use super::TRANSFER_MAX_BYTES;
use super::abi::{InitIn, InitOut, MAJOR, MINOR, MINOR_MIN, init_flag as flag};

const PAGE_BYTES: u32 = 4096;
/// What the kernel keeps in flight of its own: asynchronous direct I/O, and reads ahead of mapped
/// memory. As much as a deep queue asks for.
const BACKGROUND_MAX: u16 = 256;

/// What to say to an offer.
#[derive(Debug)]
pub(super) enum Answer {
    /// We agree.
    Agreed(InitOut),
    /// The kernel is newer, and asks again in our version.
    Again(InitOut),
    /// The kernel is too old.
    TooOld,
}

/// Answers an offer.
pub(super) fn answer(offered: &InitIn) -> Answer {
    if offered.major > MAJOR {
        return Answer::Again(InitOut {
            major: MAJOR,
            minor: MINOR,
            ..InitOut::default()
        });
    }
    if offered.major < MAJOR || offered.minor < MINOR_MIN {
        return Answer::TooOld;
    }
    let flags = flags(offered);
    Answer::Agreed(InitOut {
        major: MAJOR,
        minor: MINOR,
        max_readahead: offered.max_readahead,
        flags: low(flags),
        max_background: BACKGROUND_MAX,
        congestion_threshold: BACKGROUND_MAX / 4 * 3,
        max_write: TRANSFER_MAX_BYTES,
        time_granularity_ns: 1,
        max_pages: u16::try_from(TRANSFER_MAX_BYTES / PAGE_BYTES).unwrap_or(u16::MAX),
        flags2: low(flags >> 32),
        ..InitOut::default()
    })
}

/// What we want of what is offered.
fn flags(offered: &InitIn) -> u64 {
    let wanted = flag::ASYNC_READ
        | flag::BIG_WRITES
        | flag::ASYNC_DIO
        | flag::MAX_PAGES
        | flag::INIT_EXT
        | flag::DIRECT_IO_ALLOW_MMAP;
    wanted & (u64::from(offered.flags) | u64::from(offered.flags2) << 32)
}

fn low(flags: u64) -> u32 {
    u32::try_from(flags & u64::from(u32::MAX)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OFFER: InitIn = InitIn {
        major: MAJOR,
        minor: 45,
        max_readahead: 131_072,
        flags: u32::MAX,
        flags2: u32::MAX,
        unused: [0; 11],
    };

    fn agreed(offered: &InitIn) -> InitOut {
        match answer(offered) {
            Answer::Agreed(agreed) => agreed,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn nothing_is_taken_that_is_not_offered() {
        let all = agreed(&OFFER);
        assert_eq!((all.max_write, all.max_pages), (1 << 20, 256));
        assert_eq!(u64::from(all.flags2) << 32, flag::DIRECT_IO_ALLOW_MMAP);
        let none = agreed(&InitIn {
            flags: 0,
            flags2: 0,
            ..OFFER
        });
        assert_eq!((none.flags, none.flags2), (0, 0));
    }

    #[test]
    fn other_versions_are_agreed_upon_or_refused() {
        let of = |major, minor| {
            answer(&InitIn {
                major,
                minor,
                ..OFFER
            })
        };
        assert!(matches!(of(8, 0), Answer::Again(InitOut { major: 7, .. })));
        assert!(matches!(of(7, 30), Answer::TooOld));
        assert!(matches!(of(6, 99), Answer::TooOld));
        assert!(matches!(of(7, 31), Answer::Agreed(_)));
    }
}

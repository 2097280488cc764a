//! Which files have content that is nowhere else: what is encrypted, and what looks so.
//!
//! How often pages look random, and how often eight of a file do one after the other:
//!
//! | | pages | look random | files | with eight |
//! | --- | ---: | ---: | ---: | ---: |
//! | `/dev/urandom` | 102,400 | 100 % | 7 | 7 |
//! | texts and sources | 7,295 | 0 | 1818 | 0 |
//! | programs and libraries of a Debian | 290,152 | 0.45 % | 350 | 23 |
//! | `.gz` | 6,056 | 89 % | 200 | 166 |
//! | `.xz`, `.crate`, `.deb` | 13,794 | 76 % | 189 | 167 |
//!
//! Those of the programs are what is compressed in them. What is compressed is seldom alike, so that it
//! does no harm to take it for encrypted.

use super::call::UserData;
use super::content::pieces;
use super::paging::{Memory, Root};
use super::partial_blocks::{BLOCK_BYTES, Block};

/// Programs that encrypt what they write.
const ENCRYPTORS: [&[u8]; 8] = [
    b"gpg",
    b"gpg2",
    b"gpgsm",
    b"openssl",
    b"age",
    b"rage",
    b"ccrypt",
    b"aescrypt",
];
/// What the names of encrypted files end in: those of gpg, of AES Crypt and others, of age, of
/// OpenSSL by custom, of S/MIME, of ccrypt and of password safes.
const EXTENSIONS: [&[u8]; 9] = [
    b".gpg", b".pgp", b".asc", b".aes", b".age", b".enc", b".p7m", b".cpt", b".kdbx",
];
/// So many pages must look random one after the other, and none between them not.
const PAGES_MIN: u8 = 8;

/// What a page is tried by first: so many bytes from its middle, where no header is.
const TRIED_FIRST: std::ops::Range<usize> = 2048..2304;
/// Values among those bytes. Of random ones 162 are expected, with a deviation of 6; half of the pages
/// of text have 43 at most, half of those of programs 66, and 99 in 100 of those 115.
const VALUES_MIN: u32 = 125;
/// Between these is the chi-squared of the values of all bytes against the same number of each: of
/// random ones 255 is expected, with a deviation of 22.6. It is outside once in 25 million pages.
/// Outside are Shannon's 7.93 to 7.97 bits a byte, roughly.
const CHI_SQUARED: std::ops::RangeInclusive<u32> = 150..=400;

/// Whether the executable at `path` encrypts.
pub(super) fn is_encryptor(path: &[u8]) -> bool {
    let name = path.rsplit(|&byte| byte == b'/').next();
    name.is_some_and(|name| ENCRYPTORS.contains(&name))
}

/// Whether the file at `path` is encrypted, by its name.
pub(super) fn is_encrypted_name(path: &[u8]) -> bool {
    EXTENSIONS.iter().any(|extension| path.ends_with(extension))
}

/// Whether a page looks as random bytes do: encrypted, or compressed well.
fn looks_random(page: &Block) -> bool {
    let mut seen = [false; 256];
    for &byte in &page[TRIED_FIRST] {
        seen[usize::from(byte)] = true;
    }
    let values: u32 = seen.iter().map(|&seen| u32::from(seen)).sum();
    values >= VALUES_MIN && CHI_SQUARED.contains(&chi_squared(page))
}

fn chi_squared(page: &Block) -> u32 {
    const VALUES: u32 = 256;
    const BYTES: u32 = 4096;
    let mut counts = [0_u32; VALUES as usize];
    for &byte in page {
        counts[usize::from(byte)] += 1;
    }
    // With e of each expected, the sum of (n - e)^2 / e is that of n^2 / e, less the number of bytes.
    let squares: u32 = counts.iter().map(|count| count * count).sum();
    squares / (BYTES / VALUES) - BYTES
}

/// What was seen of a file, as it was written through one descriptor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Randomness {
    /// Pages that looked random, since one did not.
    random: u8,
    /// Whether the last page that was looked at did not.
    plain: bool,
}

impl Randomness {
    /// Looks at some pages of what is written: as many as are missing to tell, then one each time.
    pub(super) fn look(&mut self, memory: Memory<'_>, root: Root, data: UserData) {
        let Some(&(address, len)) = pieces(memory, root, data).first() else {
            return;
        };
        let pages = len / BLOCK_BYTES as u64;
        let missing = u64::from(PAGES_MIN - self.random).max(1).min(pages);
        let mut page = [0; BLOCK_BYTES];
        for number in 0..missing {
            // Spread over the whole write.
            let at = number.saturating_mul(pages) / missing * BLOCK_BYTES as u64;
            let address = address.saturating_add(at);
            if memory.read_user(root, address, &mut page) < page.len() {
                return;
            }
            self.note(looks_random(&page));
            if self.plain {
                return;
            }
        }
    }

    fn note(&mut self, random: bool) {
        self.plain = !random;
        self.random = if random {
            (self.random + 1).min(PAGES_MIN)
        } else {
            0
        };
    }

    /// Whether all of the file is taken for random.
    pub(super) fn is_random(self) -> bool {
        self.random >= PAGES_MIN
    }

    /// Whether what was written last is no ciphertext, unless it is one in letters.
    pub(super) fn is_plain(self) -> bool {
        self.plain
    }
}

#[cfg(test)]
mod tests;

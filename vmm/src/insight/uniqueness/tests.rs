use ::tests::records::Numbers;
use vm_memory::{Bytes as _, GuestAddress, GuestMemoryMmap};

use super::*;

/// Pages of random numbers, always the same.
fn random(seed: u64) -> impl Iterator<Item = Block> {
    let mut numbers = Numbers::new(seed);
    std::iter::repeat_with(move || {
        let mut block = [0; BLOCK_BYTES];
        for bytes in block.chunks_exact_mut(8) {
            bytes.copy_from_slice(&numbers.draw().to_le_bytes());
        }
        block
    })
}

fn page(bytes: impl IntoIterator<Item = u8>) -> Block {
    let mut bytes = bytes.into_iter();
    std::array::from_fn(|_| bytes.next().unwrap_or_default())
}

#[test]
fn names_tell() {
    for path in ["/usr/bin/gpg", "gpg2", "./openssl"] {
        assert!(is_encryptor(path.as_bytes()), "{path}");
    }
    for path in ["", "/usr/bin/gpgv", "/gpg/cat", "gpg/"] {
        assert!(!is_encryptor(path.as_bytes()), "{path}");
    }
    for path in ["/home/a/b.gpg", "x.kdbx", "/a/mail.tar.age"] {
        assert!(is_encrypted_name(path.as_bytes()), "{path}");
    }
    for path in ["/a/gpg", "/a.gpg/b", "/a/b.gpg.txt", "", "/a/b.gp"] {
        assert!(!is_encrypted_name(path.as_bytes()), "{path}");
    }
}

#[test]
fn random_bytes_look_random() {
    assert!(random(1).take(10_000).all(|page| looks_random(&page)));
}

#[test]
fn what_has_an_order_does_not() {
    let text = include_str!("../../../../docs/insight.md").as_bytes();
    let program = std::fs::read(std::env::current_exe().unwrap()).unwrap();
    let counted = page((0..=255).cycle());
    let letters = page(random(2).flatten().map(|byte| b'A' + byte % 64));
    let mut half = random(3).next().unwrap();
    half[..1500].fill(0);
    for (name, page) in [
        ("zeros", &[0; BLOCK_BYTES]),
        ("text", &page(text.iter().copied())),
        ("a ladder", &counted),
        ("64 letters", &letters),
        ("a part of zeros", &half),
    ] {
        assert!(!looks_random(page), "{name}");
    }
    let (pages, _) = program.as_chunks::<BLOCK_BYTES>();
    let taken = pages.iter().filter(|page| looks_random(page)).count();
    assert!(taken * 50 < pages.len(), "{taken} of {}", pages.len());
}

#[test]
fn the_statistic_is_that_of_the_books() {
    assert_eq!(chi_squared(&page((0..=255).cycle())), 0);
    // Of 4096 in one of 256: 4080^2 / 16 + 255 * 16.
    assert_eq!(chi_squared(&[7; BLOCK_BYTES]), 1_044_480);
}

const ROOT: Root = Root {
    table: 0x1000,
    five_levels: false,
};
const ADDRESS: u64 = 0x20_0000;

/// Memory with `pages` in a large page at [`ADDRESS`].
fn memory(pages: impl IntoIterator<Item = Block>) -> GuestMemoryMmap {
    let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 8 << 20)]).unwrap();
    for (table, index, entry) in [
        (0x1000, 0, 0x2007),
        (0x2000, 0, 0x3007),
        (0x3000, 1, 0x40_0000 | 0x87),
    ] {
        Memory(&memory).set_entry(table, index, entry).unwrap();
    }
    for (at, page) in (0..).step_by(BLOCK_BYTES).zip(pages) {
        memory
            .write_slice(&page, GuestAddress(0x40_0000 + at))
            .unwrap();
    }
    memory
}

fn write(pages: u64) -> UserData {
    UserData::One {
        address: ADDRESS,
        len: pages * BLOCK_BYTES as u64 + 100,
    }
}

#[test]
fn it_takes_eight_pages_in_one_write_or_several() {
    let memory = memory(random(4).take(16));
    let look = |randomness: &mut Randomness, pages| {
        randomness.look(Memory(&memory), ROOT, write(pages));
        randomness.is_random()
    };
    assert!(look(&mut Randomness::default(), 16));
    assert!(!look(&mut Randomness::default(), 7));
    let mut grows = Randomness::default();
    let seen: Vec<_> = (0..3).map(|_| look(&mut grows, 3)).collect();
    assert_eq!(seen, [false, false, true]);
    assert!(!look(&mut Randomness::default(), 0));
}

#[test]
fn one_page_of_another_kind_begins_it_anew() {
    let mut pages: Vec<_> = random(5).take(9).collect();
    pages[8] = [b'x'; BLOCK_BYTES];
    let memory = memory(pages);
    let mut randomness = Randomness::default();
    randomness.look(Memory(&memory), ROOT, write(8));
    assert!(randomness.is_random() && !randomness.is_plain());
    let text = UserData::One {
        address: ADDRESS + 8 * BLOCK_BYTES as u64,
        len: BLOCK_BYTES as u64,
    };
    randomness.look(Memory(&memory), ROOT, text);
    assert!(!randomness.is_random() && randomness.is_plain());
    randomness.look(Memory(&memory), ROOT, write(7));
    assert!(!randomness.is_random() && !randomness.is_plain());
    // Memory that is not there, and more than there can be.
    for (address, len) in [(0, 1 << 20), (ADDRESS, u64::MAX), (u64::MAX - 9, u64::MAX)] {
        let data = UserData::One { address, len };
        Randomness::default().look(Memory(&memory), ROOT, data);
    }
}

//! Damaged and hostile kernels: an error or a kernel, never a panic.

use super::*;

/// A small, fast generator of numbers that are the same in every run (xorshift64*).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound as u64).unwrap()
    }
}

/// A kernel small enough to be loaded thousands of times.
fn small_vmlinux() -> Vec<u8> {
    elf(
        ENTRY,
        &[(2 * MIB, &[0x90; 3000], 100), (3 * MIB, b"data", 4096)],
    )
}

#[test]
fn a_truncated_kernel_is_called_so() {
    let file = vmlinux();
    let scene = Scene::new(&file[..file.len() - 3001]);
    let (needed, len) = (file.len() - 3000, file.len() - 3001);
    assert_eq!(
        scene.error(),
        format!("truncated kernel: it has {len} bytes and its segments would end at byte {needed}")
    );
    scene.write(&file[..100]);
    assert_eq!(
        scene.error(),
        "truncated kernel: it has 100 bytes and its program headers would end at byte 120"
    );
    let file = bzimage(&pack(Compression::Xz, &vmlinux()), |_| {});
    let (needed, len) = (file.len(), file.len() - 1);
    scene.write(&file[..len]);
    let code = "protected-mode code would end at byte";
    assert_eq!(
        scene.error(),
        format!("truncated kernel: it has {len} bytes and its {code} {needed}")
    );
    let far = bzimage(b"payload", |header| header.payload_offset = u32::MAX);
    let error = Scene::new(&far).error();
    assert!(
        error.contains(" and its payload would end at byte "),
        "{error}"
    );
}

#[test]
fn every_truncation_is_an_error() {
    let scene = Scene::new(b"");
    let mut file = small_vmlinux();
    file.truncate(file.len() - 3000);
    for len in (0..300).chain((300..file.len()).step_by(97)) {
        scene.write(&file[..len]);
        scene
            .load_into(&memory())
            .expect_err("a truncated ELF kernel");
    }
    let file = bzimage(&pack(Compression::Zstd, &small_vmlinux()), |_| {});
    for len in 0..file.len() {
        scene.write(&file[..len]);
        scene.load_into(&memory()).expect_err("a truncated bzImage");
    }
}

/// Cuts the payload inside of a file that is otherwise whole.
#[test]
fn a_truncated_payload_is_corrupt() {
    for compression in ALL {
        let packed = pack(compression, &vmlinux());
        let mut cut = packed[..packed.len() / 2].to_vec();
        cut.extend(u32::try_from(vmlinux().len()).unwrap().to_le_bytes());
        let error = Scene::new(&bzimage(&cut, |_| {})).error();
        let expected = format!("corrupt kernel payload ({compression}): ");
        assert!(error.starts_with(&expected), "{error}");
    }
}

#[test]
fn a_flipped_bit_of_a_payload_with_a_checksum_is_found() {
    for compression in [
        Compression::Gzip,
        Compression::Bzip2,
        Compression::Xz,
        Compression::Zstd,
    ] {
        let mut packed = pack(compression, &vmlinux());
        let middle = packed.len() / 2;
        packed[middle] ^= 0x04;
        let error = Scene::new(&bzimage(&packed, |_| {})).error();
        let expected = format!("corrupt kernel payload ({compression}): ");
        assert!(error.starts_with(&expected), "{error}");
    }
}

#[test]
fn a_payload_must_have_the_length_that_it_claims() {
    let file = vmlinux();
    for (claimed, reason) in [
        (file.len() - 1, "it decompresses to more than "),
        (file.len() + 1, "it decompresses to "),
        (
            100,
            "it ends before the end of the kernel's program headers",
        ),
        (usize::MAX >> 32, "it claims to hold more than 1 GiB"),
    ] {
        for compression in [Compression::Lz4, Compression::Bzip2] {
            let mut packed = pack(compression, &file);
            let length_at = packed.len() - 4;
            let claimed = u32::try_from(claimed).unwrap();
            packed[length_at..].copy_from_slice(&claimed.to_le_bytes());
            let error = Scene::new(&bzimage(&packed, |_| {})).error();
            let prefix = format!("corrupt kernel payload ({compression}): {reason}");
            assert!(error.starts_with(&prefix), "{error}");
        }
    }
}

#[test]
fn a_payload_that_is_no_kernel_is_corrupt() {
    let packed = pack(Compression::Gzip, &vec![7; 100_000]);
    let error = Scene::new(&bzimage(&packed, |_| {})).error();
    assert_eq!(
        error,
        "corrupt kernel payload (gzip): it does not hold an ELF kernel"
    );
    let empty = bzimage(b"", |_| {});
    assert_eq!(
        Scene::new(&empty).error(),
        "malformed kernel: its payload is empty"
    );
}

/// A dictionary of 4 GiB must not be allocated for a payload of a few bytes.
#[test]
fn a_decoder_gets_no_more_memory_than_a_kernel_needs() {
    let mut packed = pack(Compression::Lzma, &small_vmlinux());
    packed[1..5].copy_from_slice(&0xf000_0000_u32.to_le_bytes());
    // 0xf0 makes it another magic number than 5d 00 00, but 5d 00 is what is looked for.
    let error = Scene::new(&bzimage(&packed, |_| {})).error();
    assert!(error.contains("memory"), "{error}");
}

#[test]
fn no_mutation_of_a_header_makes_the_loader_panic() {
    for seed in [1, 2, 3_u64] {
        println!("seed {seed}");
        let mut random = Random(seed);
        let packed = bzimage(&pack(Compression::Gzip, &small_vmlinux()), |_| {});
        let kernels = [
            (small_vmlinux(), 0..64 + 2 * 56, 500),
            (packed, 0x1f1..0x26c, 500),
        ];
        for (kernel, header, rounds) in kernels {
            for _ in 0..rounds {
                let mut bytes = kernel.clone();
                for _ in 0..=random.below(3) {
                    let offset = header.start + random.below(header.len());
                    bytes[offset] = match random.below(4) {
                        0 => 0,
                        1 => 0xff,
                        _ => random.next().to_le_bytes()[0],
                    };
                }
                let scene = Scene {
                    kaslr: random.below(4) == 0,
                    ..Scene::new(&bytes)
                };
                let _ = scene.load_into(&memory());
            }
        }
    }
}

#[test]
fn no_mutation_of_a_payload_makes_the_loader_panic() {
    for seed in [4, 5_u64] {
        println!("seed {seed}");
        let mut random = Random(seed);
        for compression in ALL {
            let packed = pack(compression, &small_vmlinux());
            for _ in 0..60 {
                let mut packed = packed.clone();
                for _ in 0..=random.below(5) {
                    let offset = random.below(packed.len());
                    packed[offset] = random.next().to_le_bytes()[0];
                }
                let scene = Scene::new(&bzimage(&packed, |_| {}));
                if let Err(error) = scene.load_into(&memory()) {
                    assert_eq!(error.to_string().lines().count(), 1, "{error}");
                }
            }
        }
    }
}

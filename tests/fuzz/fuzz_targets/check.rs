//! Checks images of any content.
#![no_main]

use libfuzzer_sys::{fuzz_mutator, fuzz_target};

fuzz_target!(|image: &[u8]| {
    fuzz::exercise(image, fuzz::Aim::Check);
});
fuzz_mutator!(|data: &mut [u8], size: usize, size_max: usize, seed: u32| {
    fuzz::change(data, size, size_max, seed)
});

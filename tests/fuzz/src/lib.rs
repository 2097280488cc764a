//! What all targets share; the tests of the disk crate do the same with numbers in place of coverage.

#[path = "../../../disk/tests/hostile/exercise.rs"]
mod exercise;
#[path = "../../../disk/tests/hostile/mutate.rs"]
mod mutate;

pub use exercise::{Aim, exercise};
use mutate::{Numbers, mutate};

/// Changes an input of `size` bytes in a buffer; the new size.
pub fn change(buffer: &mut [u8], size: usize, size_max: usize, seed: u32) -> usize {
    let mut numbers = Numbers(seed.into());
    if numbers.below(2) == 0 {
        return libfuzzer_sys::fuzzer_mutate(buffer, size, size_max);
    }
    let mut image = buffer[..size].to_vec();
    mutate(&mut image, &mut numbers);
    let len = image.len().min(size_max).min(buffer.len());
    buffer[..len].copy_from_slice(&image[..len]);
    len
}

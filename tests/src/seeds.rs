//! Which seeds a test is to try.

use std::env;
use std::ops::Range;

/// Names the only seed, or the first of so many as [`COUNT_VARIABLE`] says.
const FIRST_VARIABLE: &str = "MICROVM_SEED";
/// Names how many.
const COUNT_VARIABLE: &str = "MICROVM_SEEDS";

/// The seeds that the environment asks for, by default the first `count`.
///
/// # Panics
/// When it asks for what is no number.
pub fn chosen(count: u64) -> Range<u64> {
    let first = number(FIRST_VARIABLE);
    let count = number(COUNT_VARIABLE).unwrap_or(if first.is_some() { 1 } else { count });
    let first = first.unwrap_or(0);
    first..first.saturating_add(count)
}

fn number(name: &str) -> Option<u64> {
    let value = env::var(name).ok()?;
    let number = value.parse();
    Some(number.unwrap_or_else(|_| panic!("{name}={value} is not a number")))
}

//! Deliberate breakages, each of which the random tests must notice.
//!
//! `cargo xtask soak mutants` builds the tests with `--cfg mutants`, and runs them once for each
//! breakage that the code names, here and in the program that stands on this crate.

/// Names the breakage to try.
#[cfg(mutants)]
const CHOSEN: &str = "MICROVM_MUTANT";

/// Whether to be broken in this way: never, in programs that people use.
#[cfg(not(mutants))]
pub const fn mutant(_name: &str) -> bool {
    false
}

/// Whether to be broken in this way.
#[cfg(mutants)]
pub fn mutant(name: &str) -> bool {
    static NAME: std::sync::LazyLock<Option<String>> =
        std::sync::LazyLock::new(|| std::env::var(CHOSEN).ok());
    NAME.as_deref() == Some(name)
}

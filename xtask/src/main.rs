//! The project's own commands: demo, test, lab, bench.

fn main() {}

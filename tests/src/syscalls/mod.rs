//! What `guest-syscalls` does in a guest whose system calls are watched: work that tells at once
//! when a call did not do what it should, and files that tell what each of their blocks is.
//!
//! It is an ordinary Linux program, which knows nothing of the hypervisor: all of it must pass on any
//! machine. A test in a guest adds what the hypervisor says that it saw.

mod calls;
mod child;
mod confined;
pub mod content;
mod copies;
mod descriptors;
mod gates;
mod generate;
mod hint;
mod judge;
mod kexec;
mod measure;
mod probe;
mod read;
mod sessions;
mod stack;
mod stress;
mod traced;
mod tree;

use std::path::Path;
use std::str::FromStr;

use anyhow::{Context as _, Result, bail};

use crate::loads::Load;
pub use traced::{Seen, calls_of};

/// What there is, in the order of [`run`].
const USAGE: &str = "\
loop getppid|write|read|lseek COUNT
stress THREADS ROUNDS SEED
descriptors DIR ROUNDS SEED
generate DIR FILES MIN_KIB MAX_KIB CHUNK MODE SEED
read DIR | find DIR | remove DIR
copy FROM TO CHUNK
encrypt FROM TO
hint FILE CLASS COUNT
open-hint FILE no-dedup|prefetch COUNT
seccomp | seccomp-filter | traced
int80 | read-lstar | port-attack PORT
exec-chain COUNT | setsid
kexec KERNEL INITRAMFS
load find|mail|join DIR FIRST ROUNDS
judge IMAGE LIST";

/// Does what the words say, and returns the line that tells of it: what was done, then words
/// `KEY=VALUE`.
pub fn run(words: &[&str]) -> Result<String> {
    match *words {
        ["loop", call, count] => measure::run(call, number(count)?),
        ["stress", threads, rounds, seed] => {
            stress::run(number(threads)?, number(rounds)?, number(seed)?)
        }
        ["descriptors", directory, rounds, seed] => {
            descriptors::run(Path::new(directory), number(rounds)?, number(seed)?)
        }
        [
            "generate",
            directory,
            files,
            from_kib,
            to_kib,
            chunk,
            mode,
            seed,
        ] => generate::run(
            Path::new(directory),
            &generate::Plan {
                files: number(files)?,
                kib: number(from_kib)?..=number(to_kib)?,
                chunk_bytes: number(chunk)?,
                mode: mode.parse()?,
                seed: number(seed)?,
            },
        ),
        ["read", directory] => read::run(Path::new(directory)),
        ["find", directory] => tree::find(Path::new(directory)),
        ["remove", directory] => tree::remove(Path::new(directory)),
        ["copy", from, to, chunk] => copies::copy(Path::new(from), Path::new(to), number(chunk)?),
        ["encrypt", from, to] => copies::encrypt(Path::new(from), Path::new(to)),
        ["hint", file, class, count] => hint::run(Path::new(file), number(class)?, number(count)?),
        ["open-hint", file, dedup, count] => hint::at_open(Path::new(file), dedup, number(count)?),
        ["seccomp"] => confined::strict(),
        ["seccomp-filter"] => confined::filtered(),
        ["traced"] => traced::run(),
        ["int80"] => gates::int80(),
        ["read-lstar"] => gates::read_lstar(),
        ["port-attack", port] => gates::port_attack(number(port)?),
        ["exec-chain", count, ref rest @ ..] => sessions::exec_chain(number(count)?, rest),
        ["setsid"] => sessions::setsid(),
        ["kexec", kernel, initramfs] => kexec::run(Path::new(kernel), Path::new(initramfs)),
        ["load", name, directory, first, rounds] => {
            let load: Load = name.parse()?;
            load.run(Path::new(directory), number(first)?, number(rounds)?)
        }
        ["judge", image, list] => judge::run(Path::new(image), Path::new(list)),
        _ => bail!("what it can do:\n{USAGE}"),
    }
}

/// A number, in words that people write: `4096` or `0x1000`.
fn number<N: FromStr + TryFrom<u64>>(word: &str) -> Result<N> {
    let number = match word.strip_prefix("0x") {
        Some(digits) => {
            let number = u64::from_str_radix(digits, 16).ok();
            number.and_then(|number| N::try_from(number).ok())
        }
        None => word.parse().ok(),
    };
    number.with_context(|| format!("{word:?} is no number, or too large"))
}

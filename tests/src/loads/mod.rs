//! Loads of a guest that waits for its disk: what they do, and the files that they do it with.
//!
//! They are those of `cargo xtask bench cache`, done by a program. `cargo xtask bench icache` makes the
//! files, and has `guest-syscalls load` do the work in a guest. What is done is the same in every run.

mod content;
mod find;
mod join;
mod mail;

use std::fmt;
use std::fs;
use std::path::Path;
use std::str::FromStr;
use std::time::Instant;

use anyhow::{Context as _, Result, bail};

/// What a guest does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Load {
    /// Looks at every name of a large tree, and into some small files, while a backup reads a large
    /// file.
    Find,
    /// Reads and delivers mails, some of which are read much more than others.
    Mail,
    /// For each row of a table that is scanned, looks up a row of another by an index, of which it
    /// says that it is worth as much as metadata.
    Join,
}

impl Load {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Find, Self::Mail, Self::Join];

    /// What it is called.
    pub fn name(self) -> &'static str {
        match self {
            Self::Find => "find",
            Self::Mail => "mail",
            Self::Join => "join",
        }
    }

    /// How many rounds fill a cache, until there is little that is read for the first time, and how many
    /// are worth counting after that.
    pub fn rounds(self) -> (u64, u64) {
        match self {
            Self::Find => (1, 1),
            Self::Mail => (3, 2),
            Self::Join => (2, 2),
        }
    }

    /// Makes its files in `directory`, which is empty.
    pub fn make(self, directory: &Path) -> Result<()> {
        match self {
            Self::Find => find::make(directory),
            Self::Mail => mail::make(directory),
            Self::Join => join::make(directory),
        }
        .with_context(|| format!("{}: cannot make the files of a load", directory.display()))
    }

    /// Does so many rounds, from round number `first` on, with its files in `directory`. Before each,
    /// the kernel's caches are emptied, as other programs empty them that need the memory: only root
    /// can do that. Returns the line that tells how long all took, without that.
    pub fn run(self, directory: &Path, first: u64, rounds: u64) -> Result<String> {
        let (mut operations, mut ns) = (0, 0);
        for round in first..first + rounds {
            empty_caches()?;
            let start = Instant::now();
            operations += match self {
                Self::Find => find::round(directory, round),
                Self::Mail => mail::round(directory, round),
                Self::Join => join::round(directory, round),
            }?;
            ns += start.elapsed().as_nanos();
        }
        Ok(format!(
            "load kind={self} rounds={rounds} operations={operations} ns={ns}"
        ))
    }
}

impl fmt::Display for Load {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Load {
    type Err = anyhow::Error;

    fn from_str(name: &str) -> Result<Self> {
        match Self::ALL.into_iter().find(|load| load.name() == name) {
            Some(load) => Ok(load),
            None => bail!("{name}: find, mail or join"),
        }
    }
}

/// Has the kernel forget what it has read: files, directories and inodes.
fn empty_caches() -> Result<()> {
    const PATH: &str = "/proc/sys/vm/drop_caches";
    rustix::fs::sync();
    fs::write(PATH, "3").with_context(|| format!("{PATH}: write"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loads_are_known_by_their_names() {
        for load in Load::ALL {
            assert_eq!(load.to_string().parse::<Load>().unwrap(), load);
        }
        assert!("scan".parse::<Load>().is_err());
    }
}

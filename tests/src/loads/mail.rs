//! A mail server: mailboxes of small files.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use super::content::{BLOCK_BYTES, write};
use crate::records::Numbers;

const MAILBOXES: u64 = 512;
const MAILS: u64 = 8 << 10;
/// The most blocks of a mail.
const BLOCKS_MAX: u64 = 8;
/// How many mails are read or delivered in a round.
const OPERATIONS: u64 = 300;
/// One of so many is delivered.
const DELIVER_ONE_OF: u64 = 5;

pub(super) fn make(directory: &Path) -> Result<()> {
    let mut numbers = Numbers::new(2);
    for mailbox in 0..MAILBOXES {
        fs::create_dir(directory.join(format!("box-{mailbox}")))?;
    }
    for mail in 0..MAILS {
        write(
            &path(directory, mail),
            mail * BLOCKS_MAX,
            bytes(&mut numbers),
        )?;
    }
    Ok(())
}

fn bytes(numbers: &mut Numbers) -> u64 {
    (BLOCKS_MAX - 1) * BLOCK_BYTES + 1 + numbers.below(BLOCK_BYTES)
}

/// Neighbours in number are in different mailboxes.
fn path(directory: &Path, mail: u64) -> PathBuf {
    directory.join(format!("box-{}/{mail}", mail % MAILBOXES))
}

pub(super) fn round(directory: &Path, round: u64) -> Result<u64> {
    let mut numbers = Numbers::new(1000 + round);
    for operation in 0..OPERATIONS {
        // Who is popular has nothing to do with the place: 7919 is prime.
        let mail = popular(&mut numbers) * 7919 % MAILS;
        let path = path(directory, mail);
        if numbers.below(DELIVER_ONE_OF) > 0 {
            fs::read(&path).with_context(|| format!("{}: read", path.display()))?;
        } else {
            let first = (MAILS + round * OPERATIONS + operation) * BLOCKS_MAX;
            deliver(&path, first, bytes(&mut numbers))?;
        }
    }
    Ok(OPERATIONS)
}

/// A mail takes the place of the old one once it is durable.
fn deliver(path: &Path, first: u64, bytes: u64) -> Result<()> {
    let problem = || format!("{}: deliver", path.display());
    let new = path.with_extension("new");
    let file = write(&new, first, bytes)?;
    file.sync_all().with_context(problem)?;
    fs::rename(&new, path).with_context(problem)
}

/// The number of a mail, small ones more often: about Zipf with an exponent of 1.
fn popular(numbers: &mut Numbers) -> u64 {
    let bound = 1 << numbers.below(u64::from(MAILS.ilog2()) + 1);
    (bound - 1 + numbers.below(bound)).min(MAILS - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn some_mails_are_read_more_than_others_and_all_may_be() {
        let mut numbers = Numbers::new(1);
        let drawn: Vec<_> = (0..100_000).map(|_| popular(&mut numbers)).collect();
        assert!(drawn.iter().all(|mail| *mail < MAILS));
        let below = |end| drawn.iter().filter(|mail| **mail < end).count();
        // Of 14 powers of two, each is drawn as often.
        assert!((5_000..9_000).contains(&below(1)) && below(MAILS / 2) < 95_000);
    }

    #[test]
    fn a_mail_takes_the_place_of_another() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("7");
        deliver(&path, 1, 10).unwrap();
        deliver(&path, 2, 20).unwrap();
        assert_eq!(fs::read(&path).unwrap().len(), 20);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }
}

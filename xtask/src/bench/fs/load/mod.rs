//! What is done in the file system of a guest.

mod append;
mod database;
mod files;
mod mail;
mod random;

use std::fmt;
use std::path::Path;

use anyhow::Result;
use rustix::fs::syncfs;

use database::Journal;
use mail::Mail;

/// A load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Load {
    /// Appends of 64 KiB, each with an `fsync`.
    Append,
    /// A mail server.
    Mail,
    /// A database that inserts a record a transaction.
    Records(Journal),
    /// A database that takes orders, as TPC-C has it.
    Orders,
    /// A database that is filled.
    Warehouse,
    /// A source tree that is unpacked.
    Unpack,
    /// Small files that are made.
    Create,
}

/// All of them, in the order of the table's rows.
pub(super) const LOADS: [Load; 8] = [
    Load::Append,
    Load::Mail,
    Load::Records(Journal::Wal),
    Load::Records(Journal::Rollback),
    Load::Orders,
    Load::Warehouse,
    Load::Unpack,
    Load::Create,
];

/// What came of a run.
#[derive(Clone, Copy, Debug)]
pub(super) struct Done {
    pub(super) operations: f64,
    pub(super) seconds: f64,
}

/// A load whose files are there, to be run.
pub(super) type Prepared = Box<dyn FnOnce() -> Result<Done>>;

impl Load {
    /// Makes what has to be there first in a new file system, or in `host`, a directory outside.
    /// All of it is durable.
    pub(super) fn prepare(self, directory: &Path, host: &Path) -> Result<Prepared> {
        let place = directory.to_owned();
        let prepared: Prepared = match self {
            Self::Append => Box::new(move || append::run(&place)),
            Self::Mail => {
                let mail = Mail::prepare(&place)?;
                Box::new(move || mail.run())
            }
            Self::Records(journal) => Box::new(move || database::insert_records(&place, journal)),
            Self::Orders => {
                database::prepare_orders(&place)?;
                Box::new(move || database::take_orders(&place))
            }
            Self::Warehouse => Box::new(move || database::load_warehouse(&place)),
            Self::Unpack => {
                let archive = files::pack(host)?;
                Box::new(move || files::unpack(&archive, &place))
            }
            Self::Create => Box::new(move || files::create(&place)),
        };
        syncfs(std::fs::File::open(directory)?)?;
        Ok(prepared)
    }
}

impl fmt::Display for Load {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Append => "append 64K + fsync",
            Self::Mail => "varmail, 16 threads",
            Self::Records(Journal::Wal) => "sqlite insert, WAL",
            Self::Records(Journal::Rollback) => "sqlite insert, rollback",
            Self::Orders => "sqlite orders (TPC-C-like)",
            Self::Warehouse => "sqlite load, new image",
            Self::Unpack => "tar -x, new image",
            Self::Create => "create files, new image",
        })
    }
}

#[expect(clippy::cast_precision_loss, reason = "three digits of it are shown")]
fn count(operations: u64) -> f64 {
    operations as f64
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// How many files and bytes a load that is run in a directory leaves there.
    fn left_by(load: Load) -> (usize, u64) {
        let [directory, host] = [(); 2].map(|()| tempfile::tempdir().unwrap());
        let done = load.prepare(directory.path(), host.path()).unwrap()().unwrap();
        assert!(done.operations > 0.0 && done.seconds > 0.0);
        let subdirectories = fs::read_dir(directory.path()).unwrap();
        let files = subdirectories.flat_map(|entry| {
            let path = entry.unwrap().path();
            let inside =
                fs::read_dir(&path).map(|all| all.map(|one| one.unwrap().path()).collect());
            inside.unwrap_or(vec![path])
        });
        let sizes: Vec<u64> = files.map(|file| file.metadata().unwrap().len()).collect();
        (sizes.len(), sizes.iter().sum())
    }

    #[test]
    fn loads_leave_the_same_files_every_time() {
        assert_eq!(left_by(Load::Create), left_by(Load::Create));
        let (files, bytes) = left_by(Load::Unpack);
        assert_eq!(files, 2000);
        assert!((10 << 20..40 << 20).contains(&bytes), "{bytes}");
    }

    #[test]
    fn a_mail_goes_for_each_that_comes() {
        let (mails, _) = left_by(Load::Mail);
        // Two threads may choose the same to go.
        assert!((1000..1050).contains(&mails), "{mails}");
    }
}

//! The workloads of the papers, as small models of what the programs do to files.

mod database;
mod mail;
mod records;
mod stream;

use std::fmt;

use ::disk::Error;

use super::guest::Guest;
use super::random::Random;
use database::Database;
use mail::Mail;
use records::Records;
use stream::Stream;

/// A workload, on a new or an aged file system: see [`guest`](super::guest).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Load {
    /// A mail server; an operation is the life of a mail.
    Mail { aged: bool },
    /// Transactions of a database; an operation is one of those.
    Database { aged: bool },
    /// 64 KiB at a file's end, and `fsync`.
    Append,
    /// 64 KiB in a file, and `fdatasync`.
    Overwrite,
    /// Records to a store that appends. An update goes to the blocks of older records.
    Records { update: bool },
}

impl Load {
    pub(super) const ALL: [Self; 8] = [
        Self::Mail { aged: false },
        Self::Mail { aged: true },
        Self::Database { aged: false },
        Self::Database { aged: true },
        Self::Append,
        Self::Overwrite,
        Self::Records { update: false },
        Self::Records { update: true },
    ];

    /// Whether the file system is aged.
    pub(super) fn is_aged(self) -> bool {
        match self {
            Self::Mail { aged } | Self::Database { aged } => aged,
            Self::Append => false,
            Self::Overwrite => true,
            Self::Records { update } => update,
        }
    }

    /// How many operations go on at a time.
    pub(super) fn workers(self) -> u64 {
        match self {
            Self::Mail { .. } => 16,
            Self::Database { .. } => 10,
            Self::Append | Self::Overwrite => 1,
            Self::Records { .. } => 4,
        }
    }

    /// How many are enough: the database comes to 23 checkpoints, the records to 5 tables.
    pub(super) fn operations_max(self) -> u32 {
        match self {
            Self::Mail { .. } => 1500,
            Self::Database { .. } => 3000,
            Self::Append | Self::Overwrite => 1000,
            Self::Records { .. } => 640,
        }
    }

    pub(super) fn start(self) -> Running {
        match self {
            Self::Mail { .. } => Running::Mail(Mail),
            Self::Database { aged } => Running::Database(Database::new(aged)),
            Self::Append => Running::Stream(Stream { append: true }),
            Self::Overwrite => Running::Stream(Stream { append: false }),
            Self::Records { .. } => Running::Records(Records::default()),
        }
    }
}

impl fmt::Display for Load {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Mail { aged: false } => "varmail new",
            Self::Mail { aged: true } => "varmail aged",
            Self::Database { aged: false } => "tpcc new",
            Self::Database { aged: true } => "tpcc aged",
            Self::Append => "append 64K",
            Self::Overwrite => "overwrite 64K",
            Self::Records { update: false } => "records insert",
            Self::Records { update: true } => "records update",
        })
    }
}

/// A workload at work, with what its workers share.
pub(super) enum Running {
    Mail(Mail),
    Database(Database),
    Stream(Stream),
    Records(Records),
}

impl Running {
    /// One operation of one worker.
    pub(super) async fn operation(&self, guest: &Guest, random: &mut Random) -> Result<(), Error> {
        match self {
            Self::Mail(mail) => mail.operation(guest, random).await,
            Self::Database(database) => database.operation(guest, random).await,
            Self::Stream(stream) => stream.operation(guest, random).await,
            Self::Records(records) => records.operation(guest).await,
        }
    }
}

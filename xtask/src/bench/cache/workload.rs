//! What a guest does with its disk. Each operation waits for the one before, as a program does that
//! needs what it reads.

use ::disk::{Buffers, Class, Disk, Error, Request};

use super::super::model::random::Random;

/// How large the data is.
pub(super) const DISK_BYTES: u64 = 512 << 20;
/// A block of the file system.
const BLOCK: u64 = 4096;
/// Metadata is spread over the disk in groups, as ext4 has it: so much of each group.
const GROUP_BLOCKS: u64 = 2048;
const GROUP_METADATA_BLOCKS: u64 = 128;
const GROUPS: u64 = DISK_BYTES / BLOCK / GROUP_BLOCKS;

#[derive(Clone, Copy, Debug)]
pub(super) enum Workload {
    /// `find -name '*.h' | xargs grep`, again and again: the metadata of a large tree in the order
    /// of its names, which is none on the disk, and after every eighth block a small file. Beside
    /// it, a backup reads a large file from its start to its end.
    Find,
    /// A mail server: mailboxes of small files, some of which are read much more than others. A
    /// mail is read by two blocks of metadata and its data, or delivered: data and metadata are
    /// written, and flushed.
    Mail,
    /// A database joins two tables: for each row of one, which is scanned, it looks up a row of the
    /// other by an index of three levels. It has hinted that the index is as metadata.
    Join,
}

impl Workload {
    pub(super) const ALL: [Self; 3] = [Self::Find, Self::Mail, Self::Join];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Find => "find over a large tree",
            Self::Mail => "mail server",
            Self::Join => "join by a hinted index",
        }
    }

    pub(super) async fn run(self, disk: &dyn Disk, operations: u32) -> Result<(), Error> {
        let mut random = Random::new(7);
        for n in 0..u64::from(operations) {
            match self {
                Self::Find => find(disk, n).await?,
                Self::Mail => mail(disk, &mut random).await?,
                Self::Join => join(disk, n, &mut random).await?,
            }
        }
        Ok(())
    }
}

async fn read(disk: &dyn Disk, block: u64, count: u64, class: Class) -> Result<(), Error> {
    let len = usize::try_from(count * BLOCK).unwrap_or(usize::MAX);
    let request = Request::read(block * BLOCK, Buffers::zeroed(len));
    disk.submit(request.of_class(class)).await
}

async fn write(disk: &dyn Disk, block: u64, count: u64, class: Class) -> Result<(), Error> {
    let len = usize::try_from(count * BLOCK).unwrap_or(usize::MAX);
    let request = Request::write(block * BLOCK, Buffers::zeroed(len));
    disk.submit(request.of_class(class)).await
}

/// Block `n` of all metadata.
fn metadata(n: u64) -> u64 {
    let (group, within) = (
        n / GROUP_METADATA_BLOCKS % GROUPS,
        n % GROUP_METADATA_BLOCKS,
    );
    group * GROUP_BLOCKS + within
}

/// Block `n` of all data, of which a piece of `count` does not run into metadata.
fn data(n: u64, count: u64) -> u64 {
    let room = GROUP_BLOCKS - GROUP_METADATA_BLOCKS - count;
    let (group, within) = (n / room % GROUPS, n % room);
    group * GROUP_BLOCKS + GROUP_METADATA_BLOCKS + within
}

/// The tree has a fifth of all metadata: 1.25 hundredths of the disk.
async fn find(disk: &dyn Disk, n: u64) -> Result<(), Error> {
    const TREE: u64 = GROUPS * GROUP_METADATA_BLOCKS / 5;
    let step = n % TREE;
    // Names and places have nothing to do with each other: 7919 is prime.
    read(disk, metadata(step * 7919 % TREE * 5), 1, Class::Metadata).await?;
    if n.is_multiple_of(8) {
        read(disk, data(step * 104_729, 4), 4, Class::Below1Mib).await?;
    }
    if n.is_multiple_of(4) {
        read(disk, data(n / 4 * 32, 32), 32, Class::Other).await?;
    }
    Ok(())
}

/// A number below `count`, small ones more often: about Zipf with an exponent of 1.
fn popular(random: &mut Random, count: u64) -> u64 {
    let bound = 1 << random.below(u64::from(count.ilog2()) + 1);
    (bound - 1 + random.below(bound)).min(count - 1)
}

async fn mail(disk: &dyn Disk, random: &mut Random) -> Result<(), Error> {
    const MAILS: u64 = 1 << 14;
    let mail = popular(random, MAILS) * 7919 % MAILS;
    let (directory, inode) = (metadata(mail / 16), metadata(20_000 + mail / 8));
    read(disk, directory, 1, Class::Metadata).await?;
    read(disk, inode, 1, Class::Metadata).await?;
    if random.below(5) > 0 {
        return read(disk, data(mail * 6, 4), 4, Class::Below1Mib).await;
    }
    write(disk, data(mail * 6, 4), 4, Class::Below1Mib).await?;
    write(disk, inode, 1, Class::Metadata).await?;
    disk.submit(Request::flush()).await
}

async fn join(disk: &dyn Disk, n: u64, random: &mut Random) -> Result<(), Error> {
    const LEAVES: u64 = 4096;
    const INDEX: u64 = 40_000;
    const ROWS: u64 = 60_000;
    let row = random.below(ROWS);
    let leaf = row * LEAVES / ROWS;
    for block in [0, 1 + leaf / 256, 17 + leaf] {
        read(disk, data(INDEX + block, 1), 1, Class::Metadata).await?;
    }
    read(disk, data(50_000 + row, 1), 1, Class::Other).await?;
    if n.is_multiple_of(8) {
        read(disk, data(n / 8 * 16, 16), 16, Class::Other).await?;
    }
    Ok(())
}

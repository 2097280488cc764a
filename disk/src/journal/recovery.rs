//! What a journal holds after a crash, and bringing it home.
//!
//! The last record that is whole counts, and those before it that it needs. Its own data may be
//! missing, for it may have been on its way when the power failed: then its checksums tell, and
//! the record before it counts, whose data is durable because this one was begun after that.
//! Nothing here changes what the checksums are of: recovery that was interrupted comes to the same
//! end when it is repeated.

use std::collections::BTreeMap;
use std::ops::Range;

use zerocopy::FromBytes;

use super::checks::checksums;
use super::format::{
    BLOCK_BYTES, Identity, REGION_BYTES_MAX, REGION_BYTES_MIN, SUPERBLOCK_CRC_AT, SUPERBLOCK_MAGIC,
    Superblock, crc_without,
};
use super::record::{Item, Record};
use crate::mutant::mutant;
use crate::ranges::Ranges;
use crate::{Buffers, Error, Storage};

/// Data that a record may have checksums of: more than any of ours has.
const CHECKED_BYTES_MAX: u64 = 64 << 20;
/// How far behind the end of the file a record may write, or have it end: what it points to there
/// was lost with the power. More than the largest transaction of the largest clusters maps.
const REACH_BYTES_MAX: u64 = 64 << 30;
/// Zeros that all records together may write: more than any of ours do.
const ZEROS_BYTES_MAX: u64 = 4 << 30;

/// A step takes at least so much of a record, or of one that frees a part of it.
const STEP_RECORD_BYTES: usize = 16;

/// What was found in a journal, and what became of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecoveryReport {
    /// Transactions that count.
    pub transactions: u64,
    /// The sequence number of the last of those, 0 if there is none.
    pub last_sequence: u64,
    /// Whether there was one more, that never became durable and does not count.
    pub dropped: bool,
    /// Bytes that they bring to their places.
    pub bytes: u64,
}

/// A journal as it was found.
pub(crate) struct Found {
    region: Range<u64>,
    bytes: Vec<u8>,
    identity: Identity,
    /// Where the records are that count, the oldest first.
    records: Vec<usize>,
    /// What the format wanted to have back.
    pub(crate) kept: Vec<u8>,
    pub(crate) report: RecoveryReport,
}

fn damaged(storage: &impl Storage, offset: u64, problem: impl Into<String>) -> Error {
    Error::Damaged {
        path: storage.path().to_owned(),
        offset,
        problem: problem.into(),
    }
}

/// Looks at the journal in `region`, without changing anything.
pub(crate) async fn find(
    storage: &impl Storage,
    region: Range<u64>,
    identity: Identity,
) -> Result<Found, Error> {
    let len = region.end.saturating_sub(region.start);
    let is_sound = (REGION_BYTES_MIN..=REGION_BYTES_MAX).contains(&len)
        && len.is_multiple_of(BLOCK_BYTES)
        && region.end <= storage.size_bytes();
    if !is_sound {
        let problem = "the journal is not where it can be";
        return Err(damaged(storage, region.start, problem));
    }
    let buffers = Buffers::zeroed(usize::try_from(len).expect("at most 16 MiB"));
    storage.read_at(region.start, buffers.clone()).await?;
    let bytes = buffers.to_vec();
    let kept = kept(&bytes, &identity, len).ok_or_else(|| {
        damaged(
            storage,
            region.start,
            "the journal's first block is damaged",
        )
    })?;
    let mut found = Found {
        region,
        bytes,
        identity,
        records: Vec::new(),
        kept,
        report: RecoveryReport::default(),
    };
    found.choose(storage).await?;
    Ok(found)
}

/// What a superblock keeps for the format, if it is whole and this journal's.
fn kept(bytes: &[u8], identity: &Identity, region_bytes: u64) -> Option<Vec<u8>> {
    let block = bytes.get(..usize::try_from(BLOCK_BYTES).ok()?)?;
    let (head, body) = Superblock::read_from_prefix(block).ok()?;
    let is_sound = head.magic == SUPERBLOCK_MAGIC
        && head.identity == *identity
        && head.region_bytes.get() == region_bytes
        && crc_without(block, SUPERBLOCK_CRC_AT) == head.crc.get();
    let kept = body.get(..head.kept_bytes.get() as usize)?;
    is_sound.then(|| kept.to_vec())
}

impl Found {
    fn record(&self, at: usize) -> Option<Record<'_>> {
        Record::parse(&self.bytes[at..], &self.identity)
    }

    /// Finds the records that count.
    async fn choose(&mut self, storage: &impl Storage) -> Result<(), Error> {
        let mut all = BTreeMap::new();
        let block = usize::try_from(BLOCK_BYTES).expect("small");
        for at in (block..self.bytes.len()).step_by(block) {
            if let Some(record) = self.record(at) {
                all.insert(record.sequence, at);
            }
        }
        let Some((&last, &at)) = all.last_key_value() else {
            return Ok(());
        };
        let newest = self.record(at).expect("it was parsed");
        let is_durable = self.data_is_there(storage, &newest).await?;
        let chosen = if is_durable || mutant("data checksums are not looked at") {
            Some(newest)
        } else {
            self.report.dropped = true;
            let before = last.checked_sub(1).and_then(|before| all.get(&before));
            before.and_then(|at| self.record(*at))
        };
        // Without one before it, nothing was ever promised.
        let Some(chosen) = chosen else {
            return match last {
                1 => Ok(()),
                _ => Err(self.lacks(storage, last - 1)),
            };
        };
        let (tail, last) = (chosen.tail, chosen.sequence);
        if tail > last || last - tail > self.bytes.len() as u64 / BLOCK_BYTES {
            return Err(self.lacks(storage, tail));
        }
        let mut records = Vec::new();
        for sequence in tail..=last {
            let at = all.get(&sequence);
            records.push(*at.ok_or_else(|| self.lacks(storage, sequence))?);
        }
        self.report.transactions = records.len() as u64;
        self.report.last_sequence = last;
        self.records = records;
        self.report.bytes = self.plan(storage)?.iter().map(Step::len).sum();
        Ok(())
    }

    fn lacks(&self, storage: &impl Storage, sequence: u64) -> Error {
        let problem = format!("the journal lacks transaction {sequence}, which recovery needs");
        damaged(storage, self.region.start, problem)
    }

    /// Whether the data of a record is what its checksums say.
    async fn data_is_there(
        &self,
        storage: &impl Storage,
        record: &Record<'_>,
    ) -> Result<bool, Error> {
        let mut checked = 0;
        for item in record.items() {
            let Some(Item::Check { offset, len, crcs }) = item else {
                continue;
            };
            checked += len;
            if checked > CHECKED_BYTES_MAX {
                return Ok(false);
            }
            let sums = checksums(storage, &(offset..offset + len)).await?;
            if !sums.iter().zip(crcs).all(|(sum, crc)| *sum == crc.get()) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// What to write, in order.
    fn plan(&self, storage: &impl Storage) -> Result<Vec<Step<'_>>, Error> {
        let size_bytes = storage.size_bytes();
        let (mut steps, mut freed, mut zeros) = (Vec::new(), Ranges::default(), 0);
        // What a record frees does not count in it, nor in those before.
        for at in self.records.iter().rev() {
            let record = self.record(*at).expect("it was parsed");
            if record.file_end > size_bytes + REACH_BYTES_MAX {
                return Err(self.unreadable(storage, record.sequence));
            }
            let first = steps.len();
            let mut items = Vec::new();
            for item in record.items() {
                let item = item.ok_or_else(|| self.unreadable(storage, record.sequence))?;
                match item {
                    Item::Free { offset, len } => freed.insert(offset..offset + len),
                    Item::Check { .. } => {}
                    Item::Write { .. } | Item::Zero { .. } => items.push(item),
                }
            }
            if mutant("what was freed is written home") {
                freed = Ranges::default();
            }
            for item in items {
                let step = Step::of(item).expect("it writes");
                let reaches = step.range.end > size_bytes + REACH_BYTES_MAX;
                let into = step.range.start < self.region.end && self.region.start < step.range.end;
                zeros += if step.bytes.is_none() { step.len() } else { 0 };
                if reaches || into || zeros > ZEROS_BYTES_MAX {
                    return Err(self.unreadable(storage, record.sequence));
                }
                let left = freed.missing(&step.range);
                steps.extend(left.into_iter().map(|part| step.part(part)));
                if steps.len() > self.bytes.len() / STEP_RECORD_BYTES {
                    return Err(self.unreadable(storage, record.sequence));
                }
            }
            steps[first..].reverse();
        }
        steps.reverse();
        Ok(steps)
    }

    fn unreadable(&self, storage: &impl Storage, sequence: u64) -> Error {
        let problem = format!("the journal's transaction {sequence} makes no sense");
        damaged(storage, self.region.start, problem)
    }

    /// Writes everything to its place, durably.
    pub(crate) async fn bring_home(&self, storage: &impl Storage) -> Result<(), Error> {
        for step in self.plan(storage)? {
            match step.bytes {
                Some(bytes) => {
                    let buffers = Buffers::from_vec(bytes);
                    storage.write_at(step.range.start, buffers).await?;
                }
                None => write_zeros(storage, &step.range).await?,
            }
        }
        let newest = self.records.last().and_then(|at| self.record(*at));
        if let Some(end) = newest.map(|record| record.file_end)
            && storage.size_bytes() < end
        {
            storage.set_len(end).await?;
        }
        storage.sync().await
    }
}

/// Writes zeros, past the end of the file too.
async fn write_zeros(storage: &impl Storage, range: &Range<u64>) -> Result<(), Error> {
    let within = range.start..range.end.min(storage.size_bytes());
    if !within.is_empty() {
        let len = within.end - within.start;
        storage.write_zeroes(within.start, len, false).await?;
    }
    Ok(())
}

/// Something to be written.
#[derive(Clone)]
struct Step<'a> {
    range: Range<u64>,
    /// Zeros, if absent.
    bytes: Option<&'a [u8]>,
}

impl<'a> Step<'a> {
    fn of(item: Item<'a>) -> Option<Self> {
        match item {
            Item::Write { offset, bytes } => Some(Self {
                range: offset..offset + bytes.len() as u64,
                bytes: Some(bytes),
            }),
            Item::Zero { offset, len } => Some(Self {
                range: offset..offset + len,
                bytes: None,
            }),
            Item::Free { .. } | Item::Check { .. } => None,
        }
    }

    fn len(&self) -> u64 {
        self.range.end - self.range.start
    }

    fn part(&self, range: Range<u64>) -> Self {
        let index = |n: u64| usize::try_from(n - self.range.start).expect("within memory");
        Self {
            bytes: self
                .bytes
                .map(|bytes| &bytes[index(range.start)..index(range.end)]),
            range,
        }
    }
}

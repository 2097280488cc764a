//! The report as it goes through the control socket, and as it is printed with `--json`.

use disk::{Class, ClassStatistics};
use serde::{Deserialize, Serialize};

/// Rows of a kind; of more, those with the least bytes are left out.
const ROWS_MAX: usize = 1000;

/// What the hooks have seen of the guest's file I/O since its last boot.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Summary {
    /// Since the first call that was seen.
    pub(crate) observed_ms: u64,
    pub(crate) disks: Vec<DiskRow>,
    /// Those with the most bytes first, and so with files.
    pub(crate) processes: Vec<ProcessRow>,
    pub(crate) files: Vec<FileRow>,
    pub(crate) lifetimes: Lifetimes,
    /// For windows of 1, 2, 4… seconds.
    pub(crate) working_sets: Vec<WorkingSet>,
    pub(crate) limits: Limits,
}

/// Reads and writes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Traffic {
    pub(crate) reads: u64,
    pub(crate) read_bytes: u64,
    pub(crate) writes: u64,
    pub(crate) written_bytes: u64,
}

/// What the guest asked of a disk.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct DiskRow {
    /// `blk0` is the first.
    pub(crate) disk: String,
    /// All classes, from the least on.
    pub(crate) classes: Vec<ClassRow>,
    /// Of the bytes read and written; nothing where there were none.
    pub(crate) metadata_read_percent: Option<f64>,
    pub(crate) metadata_written_percent: Option<f64>,
}

/// What was asked of the blocks of a class.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ClassRow {
    pub(crate) class: String,
    #[serde(flatten)]
    pub(crate) traffic: Traffic,
}

/// What the processes of an executable did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ProcessRow {
    pub(crate) executable: String,
    /// At most 64 are told apart.
    pub(crate) processes: u64,
    /// All calls that came to the hooks.
    pub(crate) calls: u64,
    /// Of regular files.
    #[serde(flatten)]
    pub(crate) traffic: Traffic,
}

/// What was done with a file, or with files of one path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FileRow {
    /// What it was called when it was met, where the guest's kernel says.
    pub(crate) path: Option<String>,
    /// The numbers of the device in the guest, MAJOR:MINOR.
    pub(crate) device: String,
    pub(crate) inode: u64,
    pub(crate) size_bytes: u64,
    /// How often a descriptor of it was met.
    pub(crate) opens: u64,
    /// At most 64 are told apart.
    pub(crate) processes: u64,
    /// How many of this path are no more.
    pub(crate) ended: u64,
    #[serde(flatten)]
    pub(crate) traffic: Traffic,
}

/// How long files and blocks lasted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Lifetimes {
    /// Of files from their first write to their end, with the sizes that they had then.
    pub(crate) files: Vec<Bucket>,
    /// Files that were written and are there.
    pub(crate) files_alive: u64,
    /// Of blocks of 4 KiB from when they were written.
    pub(crate) blocks: BlockLifetimes,
}

/// How long blocks lasted, by what ended that.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct BlockLifetimes {
    pub(crate) overwritten: Vec<Bucket>,
    pub(crate) truncated: Vec<Bucket>,
    pub(crate) unlinked: Vec<Bucket>,
    /// Blocks that were written and are there.
    pub(crate) alive: u64,
}

/// What lasted about as long: from `from_ms` to less than twice that; from 0 to less than 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Bucket {
    pub(crate) from_ms: u64,
    pub(crate) count: u64,
    pub(crate) bytes: u64,
}

/// How many blocks of 4 KiB were in use within a window of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct WorkingSet {
    pub(crate) window_s: u64,
    /// In the window that ends now.
    pub(crate) read_blocks: u64,
    pub(crate) written_blocks: u64,
    /// In all windows of this length, on average.
    pub(crate) mean_read_blocks: u64,
    pub(crate) mean_written_blocks: u64,
}

/// What is not in the rest, and how exact it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Limits {
    /// One block in so many was followed, and stands for all of those. 1 is exact.
    pub(crate) one_block_in: u64,
    /// Blocks that were not followed, behind the first 16 MiB of a call.
    pub(crate) blocks_skipped: u64,
    /// Files that were forgotten for others with more bytes, and their bytes.
    pub(crate) files_forgotten: u64,
    pub(crate) files_forgotten_bytes: u64,
    /// Rows that are left out because there are too many.
    pub(crate) files_left_out: u64,
    pub(crate) processes_left_out: u64,
    /// Reads and writes of which it is not known where in their file.
    pub(crate) positions_unknown: u64,
    /// Calls by which the kernel copies by itself, or maps a file: their data is not counted.
    pub(crate) transfers: u64,
    pub(crate) maps: u64,
    /// Names that were unlinked or replaced whose file has others, or had not been met.
    pub(crate) unlinks_of_linked: u64,
    pub(crate) unlinks_of_unknown: u64,
    /// Files that had become smaller without a call that was seen.
    pub(crate) ends_unseen: u64,
}

impl Summary {
    /// Leaves out what is more than there is room for.
    pub(super) fn limit(mut self) -> Self {
        let rows = |len: usize| (len.saturating_sub(ROWS_MAX)) as u64;
        self.limits.files_left_out = rows(self.files.len());
        self.limits.processes_left_out = rows(self.processes.len());
        self.files.truncate(ROWS_MAX);
        self.processes.truncate(ROWS_MAX);
        self
    }
}

impl DiskRow {
    /// Of the disk that is called `disk`.
    pub(crate) fn new(disk: String, counts: &ClassStatistics) -> Self {
        let classes = Class::ALL.map(|class| {
            let counts = counts[class];
            let traffic = Traffic {
                reads: counts.reads,
                read_bytes: counts.read_bytes,
                writes: counts.writes,
                written_bytes: counts.written_bytes,
            };
            let class = class.name().to_owned();
            ClassRow { class, traffic }
        });
        let metadata = classes[Class::Metadata as usize].traffic;
        let mut all = Traffic::default();
        for class in &classes {
            all.add(class.traffic);
        }
        Self {
            disk,
            metadata_read_percent: percent(metadata.read_bytes, all.read_bytes),
            metadata_written_percent: percent(metadata.written_bytes, all.written_bytes),
            classes: classes.into(),
        }
    }
}

/// In percent, with one decimal.
fn percent(part: u64, whole: u64) -> Option<f64> {
    let permille = u128::from(part) * 1000 / u128::from(whole.max(1));
    let permille = u32::try_from(permille).unwrap_or(u32::MAX);
    (whole > 0).then_some(f64::from(permille) / 10.0)
}

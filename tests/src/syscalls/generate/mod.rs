//! Makes files whose every block tells what it is, in each way that a file can come to be.

mod transfer;
mod write;

use std::fs;
use std::ops::RangeInclusive;
use std::path::Path;
use std::str::FromStr;
use std::time::Instant;

use anyhow::{Context as _, Result, bail, ensure};

use super::content::{BLOCK_BYTES, Content, Kind};
use crate::records::Numbers;

/// How many directories the files are spread over.
const DIRECTORIES: u32 = 20;

/// What is to be made.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) files: u32,
    /// The sizes are drawn from these, in KiB.
    pub(super) kib: RangeInclusive<u64>,
    /// How much is written at a time.
    pub(super) chunk_bytes: usize,
    pub(super) mode: Mode,
    pub(super) seed: u64,
}

/// How the content gets into a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    Write,
    Pwrite,
    Writev,
    Pwritev,
    Direct,
    Append,
    /// Each is durable before the next begins.
    Deliver,
    /// Some blocks at a time are.
    Commit,
    Mmap,
    Sendfile,
    CopyFileRange,
    Splice,
    Dup,
    Fork,
    TruncateGrow,
    Zeros,
    Duplicates,
}

/// All of them, by name.
const MODES: [(&str, Mode); 17] = [
    ("write", Mode::Write),
    ("pwrite", Mode::Pwrite),
    ("writev", Mode::Writev),
    ("pwritev", Mode::Pwritev),
    ("direct", Mode::Direct),
    ("append", Mode::Append),
    ("deliver", Mode::Deliver),
    ("commit", Mode::Commit),
    ("mmap", Mode::Mmap),
    ("sendfile", Mode::Sendfile),
    ("copy-file-range", Mode::CopyFileRange),
    ("splice", Mode::Splice),
    ("dup", Mode::Dup),
    ("fork", Mode::Fork),
    ("truncate-grow", Mode::TruncateGrow),
    ("zeros", Mode::Zeros),
    ("duplicates", Mode::Duplicates),
];

impl Mode {
    fn name(self) -> &'static str {
        let named = MODES.iter().find(|(_, mode)| *mode == self);
        named.map_or("", |(name, _)| name)
    }

    fn kind(self) -> Kind {
        match self {
            Self::Zeros => Kind::Zeros,
            Self::Duplicates => Kind::Duplicate,
            _ => Kind::Unique,
        }
    }
}

impl FromStr for Mode {
    type Err = anyhow::Error;

    fn from_str(word: &str) -> Result<Self> {
        match MODES.iter().find(|(name, _)| *name == word) {
            Some((_, mode)) => Ok(*mode),
            None => bail!(
                "{word}: not one of {}",
                MODES.map(|(name, _)| name).join(", ")
            ),
        }
    }
}

/// A file to be made.
struct Job<'a> {
    path: &'a Path,
    bytes: u64,
    chunk_bytes: usize,
    content: Content,
    numbers: Numbers,
}

impl Job<'_> {
    /// The pieces that are written one after the other: where each begins, and its length.
    fn pieces(&self) -> impl DoubleEndedIterator<Item = (u64, usize)> + use<> {
        let (bytes, chunk_bytes) = (self.bytes, self.chunk_bytes);
        let pieces = 0..bytes.div_ceil(chunk_bytes as u64);
        pieces.map(move |piece| {
            let offset = piece * chunk_bytes as u64;
            let rest = usize::try_from(bytes - offset).unwrap_or(usize::MAX);
            (offset, rest.min(chunk_bytes))
        })
    }

    /// What is in one of them.
    fn piece(&mut self, (offset, count): (u64, usize)) -> Vec<u8> {
        let mut bytes = vec![0; count];
        self.content.read(offset, &mut bytes);
        bytes
    }
}

/// Makes the files of a plan.
pub(super) fn run(directory: &Path, plan: &Plan) -> Result<String> {
    ensure!(!plan.kib.is_empty(), "the least size is above the greatest");
    ensure!(plan.chunk_bytes > 0, "nothing is to be written at a time");
    let start = Instant::now();
    let mut numbers = Numbers::new(plan.seed);
    let (mut bytes, mut blocks) = (0, 0);
    for number in 0..plan.files {
        let directory = directory.join(format!("d{}", number % DIRECTORIES));
        let path = directory.join(format!("f{number}"));
        let problem = || format!("{}: make", path.display());
        fs::create_dir_all(&directory).with_context(problem)?;
        let job = plan.job(&path, number, &mut numbers);
        bytes += job.bytes;
        blocks += job.bytes.div_ceil(BLOCK_BYTES as u64);
        make(plan.mode, job).with_context(problem)?;
    }
    Ok(format!(
        "generate mode={} files={} bytes={bytes} blocks={blocks} seed={} ns={}",
        plan.mode.name(),
        plan.files,
        plan.seed,
        start.elapsed().as_nanos()
    ))
}

impl Plan {
    fn job<'a>(&self, path: &'a Path, number: u32, numbers: &mut Numbers) -> Job<'a> {
        let (least, greatest) = (*self.kib.start(), *self.kib.end());
        let mut bytes = (least + numbers.below(greatest - least + 1)) * 1024;
        let mut chunk_bytes = self.chunk_bytes;
        if self.mode == Mode::Direct {
            // What goes around the page cache is whole blocks.
            bytes = bytes.next_multiple_of(BLOCK_BYTES as u64);
            chunk_bytes = chunk_bytes.next_multiple_of(BLOCK_BYTES);
        }
        Job {
            path,
            bytes,
            chunk_bytes,
            content: Content::new(self.mode.kind(), self.seed, number, bytes),
            numbers: Numbers::new(numbers.draw()),
        }
    }
}

fn make(mode: Mode, job: Job<'_>) -> Result<()> {
    match mode {
        Mode::Write | Mode::Zeros | Mode::Duplicates => write::in_order(job),
        Mode::Pwrite => write::in_any_order(job),
        Mode::Writev => write::from_pieces(job),
        Mode::Pwritev => write::from_pieces_backwards(job),
        Mode::Direct => write::around_the_cache(job),
        Mode::Append => write::append(job).map(drop),
        Mode::Deliver => Ok(write::append(job)?.sync_all()?),
        Mode::Commit => write::transactions(job),
        Mode::Mmap => write::in_memory(job),
        Mode::Dup => write::through_two_descriptors(job),
        Mode::Fork => write::parent_then_child(job),
        Mode::TruncateGrow => write::into_a_hole(job),
        Mode::Sendfile => transfer::sendfile(job),
        Mode::CopyFileRange => transfer::copy_file_range(job),
        Mode::Splice => transfer::splice(job),
    }
}

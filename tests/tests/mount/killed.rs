//! A program that is killed while the file is written.

use std::fs::{self, File};
use std::io::{self, IoSlice};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};

use rustix::fs::{FallocateFlags, OFlags, fallocate};
use rustix::io::{ReadWriteFlags, pwritev2};
use rustix::process::Signal;
use tests::killed::{BLOCK_BYTES, Change, Ledger, Load, Medium};
use tests::seeds;

use crate::setting::{FORMATS, Mounted, Setting, can_mount};

const WRITERS: usize = 4;
const BLOCKS: usize = 4096;
/// Syncs until the program is killed.
const SYNCS: u64 = 150;

/// How a change is made durable.
#[derive(Clone, Copy, Debug)]
enum Way {
    /// By an `fsync` behind it.
    Sync,
    /// By the file, which was opened with `O_DSYNC`. Nobody asks for an `fsync`.
    OpenedSo,
    /// By the write itself (`RWF_DSYNC`). Nobody asks for an `fsync`.
    WrittenSo,
}

const WAYS: [Way; 3] = [Way::Sync, Way::OpenedSo, Way::WrittenSo];

/// A writer's own descriptor of the file. Its changes wait for each other: several are in flight
/// because there are several writers.
struct Opened {
    file: File,
    /// What makes changes durable if the way is to open it so.
    durable: File,
    way: Way,
}

impl Opened {
    fn new(mounted: &Mounted, way: Way) -> Self {
        let mut options = File::options();
        let flags = OFlags::DSYNC.bits().cast_signed();
        options.write(true).custom_flags(flags);
        Self {
            file: mounted.open(),
            durable: options.open(mounted.path()).unwrap(),
            way,
        }
    }
}

impl Medium for Opened {
    fn change(&mut self, changes: &[Change], durable: bool) -> io::Result<()> {
        for change in changes {
            match self.way {
                Way::OpenedSo if durable => make(&self.durable, change)?,
                Way::WrittenSo if durable => write_durably(&self.file, change)?,
                _ => make(&self.file, change)?,
            }
        }
        match self.way {
            Way::Sync if durable => self.file.sync_data(),
            _ => Ok(()),
        }
    }

    fn flushes(&self) -> bool {
        matches!(self.way, Way::Sync)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.sync_all()
    }
}

fn make(file: &File, Change { offset, data }: &Change) -> io::Result<()> {
    let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    match data {
        Some(data) => file.write_all_at(data, *offset),
        None => Ok(fallocate(file, punch, *offset, BLOCK_BYTES as u64)?),
    }
}

/// There is no hole that is durable by itself, so that zeros are written.
fn write_durably(file: &File, Change { offset, data }: &Change) -> io::Result<()> {
    let data = data.as_deref().unwrap_or(&[0; BLOCK_BYTES]);
    let written = pwritev2(file, &[IoSlice::new(data)], *offset, ReadWriteFlags::DSYNC)?;
    assert_eq!(written, BLOCK_BYTES);
    Ok(())
}

/// Has writers at work, and kills the program under them.
fn kill_under(load: Load, way: Way, mounted: Mounted, ledger: &Ledger) {
    let mut files: Vec<_> = (0..WRITERS).map(|_| Opened::new(&mounted, way)).collect();
    load.run(ledger, &mut files, &|| mounted.signal(Signal::KILL));
    drop(files);
    mounted.kill();
}

#[test]
fn what_was_synced_is_there_after_a_kill() {
    if !can_mount("what_was_synced_is_there_after_a_kill") {
        return;
    }
    let kinds: Vec<_> = WAYS
        .iter()
        .flat_map(|way| FORMATS.iter().map(move |format| (way, format)))
        .collect();
    for seed in seeds::chosen(kinds.len() as u64) {
        let (way, format) = kinds[usize::try_from(seed).unwrap() % kinds.len()];
        println!("seed {seed}: {format:?}, {way:?}");
        let load = Load {
            seed,
            promises: SYNCS,
            answers: seed % 20,
        };
        let ledger = Ledger::new(BLOCKS, false);
        let setting = Setting::new();
        let image = setting.image(*format, (BLOCKS * BLOCK_BYTES) as u64 >> 20);
        kill_under(load, *way, setting.mount(&image), &ledger);

        // Opening it for writing brings home what the journal holds, with a line that says so.
        let mut mounted = setting.mount(&image);
        if format.0 == "qcow2" {
            let line = mounted.complaint();
            assert!(line.contains("recover"), "{line}");
        }
        let verdict = ledger.verify(&fs::read(mounted.path()).unwrap());
        println!("  {:?}", verdict.unwrap());
        mounted.stop();
        setting.check(format.0);
        ledger.verify(&setting.content(format.0)).unwrap();
    }
}

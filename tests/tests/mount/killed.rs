//! A program that is killed while the file is written.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt as _;

use rustix::fs::{FallocateFlags, fallocate};
use rustix::process::Signal;
use tests::killed::{BLOCK_BYTES, Change, Ledger, Load, Medium};
use tests::seeds;

use crate::setting::{FORMATS, Mounted, Setting, can_mount};

const WRITERS: usize = 4;
const BLOCKS: usize = 4096;
/// Syncs until the program is killed.
const SYNCS: u64 = 150;

/// A writer's own descriptor of the file. Its changes wait for each other: several are in flight
/// because there are several writers.
struct Opened(File);

impl Medium for Opened {
    fn change(&mut self, changes: &[Change], durable: bool) -> io::Result<()> {
        let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        for Change { offset, data } in changes {
            match data {
                Some(data) => self.0.write_all_at(data, *offset)?,
                None => fallocate(&self.0, punch, *offset, BLOCK_BYTES as u64)?,
            }
        }
        if durable { self.0.sync_data() } else { Ok(()) }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.sync_all()
    }
}

/// Has writers at work, and kills the program under them.
fn kill_under(load: Load, mounted: Mounted, ledger: &Ledger) {
    let mut files: Vec<_> = (0..WRITERS).map(|_| Opened(mounted.open())).collect();
    load.run(ledger, &mut files, &|| mounted.signal(Signal::KILL));
    drop(files);
    mounted.kill();
}

#[test]
fn what_was_synced_is_there_after_a_kill() {
    if !can_mount("what_was_synced_is_there_after_a_kill") {
        return;
    }
    for (seed, format) in seeds::chosen(FORMATS.len() as u64).zip(FORMATS.iter().cycle()) {
        println!("seed {seed}: {format:?}");
        let load = Load {
            seed,
            promises: SYNCS,
            answers: seed % 20,
        };
        let ledger = Ledger::new(BLOCKS, false);
        let setting = Setting::new();
        let image = setting.image(*format, (BLOCKS * BLOCK_BYTES) as u64 >> 20);
        kill_under(load, setting.mount(&image), &ledger);

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

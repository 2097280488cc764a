//! A program that is killed while the file is written.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use crate::setting::{FORMATS, Mounted, Setting, can_mount};

const WRITERS: u64 = 4;
const BLOCK_BYTES: usize = 4096;
/// Blocks of one writer, each of which is new to the image when it is written first.
const BLOCKS: u64 = 200;
/// Syncs until the program is killed.
const SYNCS: u64 = 150;

/// What a writer writes in its step number `step`.
fn block(writer: u64, step: u64) -> Vec<u8> {
    let word = (writer << 32 | step).to_le_bytes();
    word.repeat(BLOCK_BYTES / word.len())
}

/// Where it goes: over all blocks of the writer, again and again.
fn place(writer: u64, step: u64) -> u64 {
    (writer * BLOCKS + step * 7 % BLOCKS) * 5 * BLOCK_BYTES as u64
}

/// Writes and syncs until the file is gone, and returns the last step that was synced.
fn write_until_the_end(file: &File, writer: u64, syncs: &AtomicU64) -> u64 {
    let mut synced = 0;
    loop {
        let step = synced + 1;
        let written = file.write_all_at(&block(writer, step), place(writer, step));
        if written.and_then(|()| file.sync_all()).is_err() {
            return synced;
        }
        synced = step;
        syncs.fetch_add(1, Ordering::Relaxed);
    }
}

/// Has writers at work, kills the program under them, and returns what they have synced.
fn kill_under_load(mounted: Mounted) -> Vec<u64> {
    let file = mounted.open();
    let syncs = AtomicU64::new(0);
    thread::scope(|scope| {
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| {
                let (file, syncs) = (&file, &syncs);
                scope.spawn(move || write_until_the_end(file, writer, syncs))
            })
            .collect();
        while syncs.load(Ordering::Relaxed) < SYNCS {
            thread::yield_now();
        }
        mounted.kill();
        let ends = writers.into_iter().map(|writer| writer.join().unwrap());
        ends.collect()
    })
}

#[test]
fn what_was_synced_is_there_after_a_kill() {
    if !can_mount("what_was_synced_is_there_after_a_kill") {
        return;
    }
    for format in FORMATS {
        let setting = Setting::new();
        let image = setting.image(format, 64);
        let synced = kill_under_load(setting.mount(&image));
        assert!(synced.iter().sum::<u64>() >= SYNCS);

        // Opening it for writing brings home what the journal holds, with a line that says so.
        let mut mounted = setting.mount(&image);
        if format.0 == "qcow2" {
            let line = mounted.complaint();
            assert!(line.contains("recover"), "{line}");
        }
        let content = fs::read(mounted.path()).unwrap();
        mounted.stop();
        setting.check(format.0);
        for (writer, &last) in (0..).zip(&synced) {
            // Of the step after the last, any part may be there.
            let next = place(writer, last + 1);
            for step in last.saturating_sub(BLOCKS - 1).max(1)..=last {
                let place = place(writer, step);
                let start = usize::try_from(place).unwrap();
                let found = content[start..start + BLOCK_BYTES] == block(writer, step);
                assert!(found || place == next, "{format:?} {writer} {step}");
            }
        }
    }
}

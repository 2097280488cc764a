//! The verifier finds what it should, on directories that were changed.

use std::fs;
use std::path::Path;

use super::{Operation, Plan, Trim, file_name, log_name, verify, write};

const SEED: u64 = 7;
/// Enough for every kind of step but a few.
const STEPS: u64 = 200;

/// A directory as a writer left it after `STEPS` steps.
fn written() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    write(directory.path(), SEED, STEPS, Trim::LeaveOut, |_, _| Ok(())).unwrap();
    directory
}

fn faults(directory: &Path, reported: u64) -> Vec<String> {
    verify(directory, SEED, 0, reported).unwrap().faults
}

/// The file of the last step that `is_wanted`, its number, and where its record is.
fn last(is_wanted: impl Fn(&Operation) -> bool) -> u64 {
    let mut plan = Plan::new(SEED, 0);
    let steps = (0..STEPS).map(|_| plan.step());
    let wanted = steps.filter(|step| is_wanted(&step.operation));
    wanted.last().unwrap().number
}

#[test]
fn all_writers_are_found_whole_however_few_reports_were_read() {
    let directory = written();
    for writer in 0..super::WRITERS {
        for reported in [STEPS, STEPS - 1, STEPS - 100] {
            let verdict = verify(directory.path(), SEED, writer, reported).unwrap();
            assert_eq!(verdict.faults, Vec::<String>::new());
            assert!(verdict.found <= STEPS && verdict.found >= reported.max(STEPS - 5));
        }
    }
}

#[test]
fn what_was_reported_and_is_not_there_is_found() {
    let directory = written();
    assert_ne!(faults(directory.path(), STEPS + 20), Vec::<String>::new());
    assert_ne!(
        faults(&directory.path().join("nowhere"), 1),
        Vec::<String>::new()
    );
}

#[test]
fn a_lost_tail_a_torn_page_and_a_foreign_byte_are_found() {
    for (name, at, byte) in [("pages", 4095, b'!'), (log_name(1).as_str(), 100, 0)] {
        let directory = written();
        let path = directory.path().join("0").join(name);
        let mut bytes = fs::read(&path).unwrap();
        bytes[at] = byte;
        fs::write(&path, bytes).unwrap();
        let faults = faults(directory.path(), STEPS);
        assert!(faults.len() == 1 && faults[0].contains(name), "{faults:?}");
    }
    let directory = written();
    let path = directory.path().join("0").join(log_name(2));
    let log = fs::read(&path).unwrap();
    fs::write(&path, &log[..log.len() - 1]).unwrap();
    assert_eq!(faults(directory.path(), STEPS).len(), 1);
    fs::write(&path, [&log[..], b"more"].concat()).unwrap();
    assert_eq!(faults(directory.path(), STEPS).len(), 1);
}

#[test]
fn a_file_that_vanished_and_one_that_came_back_are_found() {
    let directory = written();
    let files = Plan::after(SEED, 0, STEPS).state().files.clone();
    let missing = directory.path().join("0").join(file_name(files[1].0));
    fs::remove_file(&missing).unwrap();
    let back = directory.path().join("0").join(file_name(1));
    fs::write(&back, "back").unwrap();
    let faults = faults(directory.path(), STEPS);
    assert_eq!(faults.len(), 2, "{faults:?}");
    assert!(faults[0].contains("is missing") && faults[1].contains("is there"));
}

#[test]
fn of_a_step_that_had_begun_a_part_may_be_there() {
    let number = last(|operation| matches!(operation, Operation::Append { .. }));
    let directory = tempfile::tempdir().unwrap();
    write(
        directory.path(),
        SEED,
        number,
        Trim::LeaveOut,
        |_, _| Ok(()),
    )
    .unwrap();
    let mut plan = Plan::after(SEED, 0, number - 1);
    let Operation::Append { log, offset, bytes } = plan.step().operation else {
        unreachable!("it is the last append")
    };
    let path = directory.path().join("0").join(log_name(log));
    let whole = fs::read(&path).unwrap();
    fs::write(&path, &whole[..offset + bytes / 2]).unwrap();
    assert_eq!(faults(directory.path(), number - 1), Vec::<String>::new());
    assert_eq!(faults(directory.path(), number).len(), 1);
}

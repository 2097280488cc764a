//! Calls that go on without an exit, and what is known of them.

use super::*;

const LOUD: Quiet = Quiet {
    reads: false,
    writes: false,
};

#[test]
fn a_file_that_is_known_is_read_without_an_exit() {
    let mut guest = Guest::with("on", "/bin/reader", false);
    guest.call(libc::SYS_execve, [PATH, 0, 0, 0, 0, 0]);
    guest.open(3, "/srv/file", vec![b'x'; 100 * CHUNK_BYTES]);
    guest.open(4, "/dev/null", Vec::new());
    guest.read(3);
    guest.write(4, 1);
    let (reads, writes) = (true, true);
    assert_eq!(guest.quiet(3), Quiet { reads, ..LOUD });
    assert_eq!(guest.quiet(4), Quiet { reads, writes });
    guest.note(libc::SYS_write, [4, BUFFER, 1]);
    for _ in 0..62 {
        guest.note(libc::SYS_read, [3, BUFFER, CHUNK_BYTES as u64]);
    }
    let read = guest.observer.report.summary(0).files[0].traffic;
    assert_eq!((read.reads, read.read_bytes), (63, 63 * CHUNK_BYTES as u64));
    // Where it stands is not believed for ever.
    guest.note(libc::SYS_read, [3, BUFFER, 1]);
    assert_eq!(guest.quiet(3), LOUD);
    assert_eq!(guest.observer.counts.noted, 64);
}

#[test]
fn what_was_closed_is_met_again() {
    let mut guest = Guest::with("on", "/bin/reader", false);
    guest.open(3, "/srv/file", vec![b'x'; 4096]);
    guest.read(3);
    guest.note(libc::SYS_close, [3, 0, 0]);
    assert_eq!(guest.quiet(3), LOUD);
    assert!(guest.read_and_count(3).1 > 0);
    // Others stay as they are.
    guest.note(libc::SYS_close, [5, 0, 0]);
    assert!(guest.quiet(3).reads);
    guest.call(libc::SYS_dup2, [5, 3, 0, 0, 0, 0]);
    assert_eq!(guest.quiet(3), LOUD);
}

#[test]
fn page_tables_that_may_be_another_s_are_not_quiet() {
    let mut guest = Guest::with("on", "/bin/forker", false);
    guest.open(3, "/srv/file", vec![b'x'; 4096]);
    for number in [
        libc::SYS_fork,
        libc::SYS_execve,
        libc::SYS_vfork,
        libc::SYS_exit_group,
    ] {
        guest.read(3);
        assert!(guest.quiet(3).reads);
        guest.call(number, [PATH, 0, 0, 0, 0, 0]);
        assert_eq!(guest.quiet(3), LOUD, "{number}");
    }
    let mut guest = Guest::with("on", "/bin/ends", false);
    guest.open(3, "/srv/file", vec![b'x'; 4096]);
    guest.read(3);
    guest.call(libc::SYS_exit_group, [0; 6]);
    assert_eq!(guest.quiet(3), LOUD);
}

#[test]
fn the_source_of_a_copy_is_asked_for_again() {
    let mut guest = Guest::new("on", "/bin/copier");
    guest.open(3, "/srv/source", random(1, 4 * CHUNK_BYTES));
    guest.open(4, "/srv/target", Vec::new());
    let bytes = guest.read(3);
    assert!(guest.quiet(3).reads);
    guest.write(4, bytes.len());
    assert_eq!(guest.observer.counts.copies, 1);
    assert_eq!(guest.quiet(3), LOUD);
    guest.located();
    guest.read(3);
    assert_eq!(guest.located(), [(3, DedupHint::Prefetch)]);
    assert!(guest.quiet(3).reads);
    // When it is none any more, the next read exits.
    guest.note(libc::SYS_close, [4, 0, 0]);
    guest.note(libc::SYS_read, [3, BUFFER, CHUNK_BYTES as u64]);
    assert_eq!(guest.quiet(3), LOUD);
}

#[test]
fn notes_of_who_is_not_known_are_nothing() {
    let mut guest = Guest::with("on", "/bin/reader", false);
    guest.note(libc::SYS_close, [3, 0, 0]);
    assert_eq!(guest.observer.counts.noted, 0);
    assert!(guest.observer.report.summary(0).processes.is_empty());
}

/// Others are made all the time, and who is met next has to say who it is first.
#[test]
fn what_was_closed_before_its_process_said_who_it_is_is_met_again() {
    let mut guest = Guest::with("on", "/bin/reader", false);
    guest.open(3, "/srv/file", vec![b'x'; 4096]);
    guest.read(3);
    guest.observer.processes.forks(0x9000, false, || None);
    guest.note(libc::SYS_close, [3, 0, 0]);
    assert_eq!(guest.quiet(3), LOUD);
    let asked = guest.read_and_count(3).1;
    assert_eq!(
        asked, 4,
        "who it is, and all of 3: what, where, its position"
    );
}

/// By the time that a note is looked at, what was written is not in the buffer any more.
#[test]
fn what_was_written_to_a_file_without_an_exit_is_not_known() {
    let mut guest = Guest::with("on", "/bin/writer", false);
    guest.open(3, "/srv/file", Vec::new());
    guest.write(3, 4096);
    guest.put(BUFFER, &[b'x'; 4096]);
    guest.take_note(libc::SYS_write, [3, BUFFER, 4096]);
    assert_eq!(guest.mark(&[b'x'; 4096]), None);
    assert!(guest.write(3, 4096) > 0, "where it stands is not known");
}

/// A process does not wait for its notes to be looked at.
#[test]
fn what_was_closed_meanwhile_is_not_made_quiet() {
    let mut guest = Guest::with("on", "/bin/reader", false);
    guest.open(3, "/srv/file", vec![b'x'; 4096]);
    guest.read(3);
    // As its stub does.
    guest.window.listen(process_bit(ROOT.table), 3, LOUD);
    guest.take_note(libc::SYS_read, [3, BUFFER, 4096]);
    assert_eq!(guest.quiet(3), LOUD);
}

#[test]
fn where_another_descriptor_of_the_file_stands_is_asked() {
    let mut guest = Guest::with("on", "/bin/reader", false);
    guest.call(libc::SYS_execve, [PATH, 0, 0, 0, 0, 0]);
    for fd in [3, 4] {
        guest.open(fd, "/srv/file", vec![b'x'; 2 * CHUNK_BYTES]);
        guest.inode = Some(9);
        guest.read(fd);
    }
    assert_eq!((guest.quiet(3), guest.quiet(4).reads), (LOUD, true));
    assert_eq!(guest.read_and_count(3).1, 1, "where it stands");
    assert_eq!((guest.quiet(3).reads, guest.quiet(4)), (true, LOUD));
    guest.read(4);
    guest.note(libc::SYS_read, [4, BUFFER, 1]);
    assert_eq!(guest.quiet(3), LOUD);
    let limits = guest.observer.report.summary(0).limits;
    assert_eq!(limits.positions_unknown, 0);
}

/// The stub cannot tell them apart.
#[test]
fn who_shares_a_bit_has_no_quiet_descriptors() {
    let mut guest = Guest::with("on", "/bin/reader", false);
    guest.open(3, "/srv/file", vec![b'x'; 4096]);
    guest.read(3);
    assert!(guest.quiet(3).reads);
    let other = (1..1 << 20)
        .map(|number| ROOT.table + (number << 13))
        .find(|&cr3| process_bit(cr3) == process_bit(ROOT.table))
        .unwrap();
    guest.observer.processes.meet(other, || None);
    guest.read(3);
    assert_eq!(guest.quiet(3), LOUD);
}

#[test]
fn what_was_no_descriptor_is_met_when_it_is_one() {
    let mut guest = Guest::with("on", "/bin/reader", false);
    for _ in 0..2 {
        guest.call(libc::SYS_write, [3, BUFFER, 4096, 0, 0, 0]);
        assert_eq!(guest.quiet(3), LOUD);
    }
    guest.open(3, "/srv/file", Vec::new());
    guest.put(BUFFER, &[b'x'; 4096]);
    guest.write(3, 4096);
    assert!(guest.mark(&[b'x'; 4096]).is_some());
}

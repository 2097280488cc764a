//! The list of an image's snapshots, as `qemu-img` prints it.

use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::info::Snapshot;
use crate::human;

/// The lines of the table, with its title and heads.
pub(super) fn snapshot_table(snapshots: &[Snapshot]) -> Vec<String> {
    let heads = format!(
        "{:<10}{:<17}{:>8}{:>20}{:>13}{:>11}",
        "ID", "TAG", "VM SIZE", "DATE", "VM CLOCK", "ICOUNT"
    );
    // The columns stay apart even where their text is too long.
    let line = |snapshot: &Snapshot| {
        format!(
            "{:<9} {:<16} {:>8} {:>19} {:>12} {:>10}",
            snapshot.id,
            snapshot.name,
            human::size(snapshot.vm_state_size),
            date(snapshot.date_sec),
            clock(snapshot),
            snapshot
                .icount
                .map_or_else(String::new, |count| count.to_string()),
        )
    };
    let title = "Snapshot list:".to_owned();
    [title, heads]
        .into_iter()
        .chain(snapshots.iter().map(line))
        .collect()
}

/// Local time.
fn date(seconds: u32) -> String {
    let Ok(time) = Timestamp::from_second(seconds.into()) else {
        return String::new();
    };
    let time = time.to_zoned(TimeZone::system());
    time.strftime("%Y-%m-%d %H:%M:%S").to_string()
}

fn clock(snapshot: &Snapshot) -> String {
    let seconds = snapshot.vm_clock_sec;
    format!(
        "{:02}:{:02}:{:02}.{:03}",
        seconds / 3600,
        seconds / 60 % 60,
        seconds % 60,
        snapshot.vm_clock_nsec / 1_000_000,
    )
}

//! The list of an image's snapshots, as `qemu-img` prints it.

use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::human;
use super::info::Snapshot;

/// The table with its title and heads.
pub(super) fn snapshot_table(snapshots: &[Snapshot]) -> String {
    let mut text = format!(
        "Snapshot list:\n{:<10}{:<17}{:>8}{:>20}{:>13}{:>11}\n",
        "ID", "TAG", "VM SIZE", "DATE", "VM CLOCK", "ICOUNT"
    );
    for snapshot in snapshots {
        // The columns stay apart even where their text is too long.
        text += &format!(
            "{:<9} {:<16} {:>8} {:>19} {:>12} {:>10}\n",
            human::printable(&snapshot.id),
            human::printable(&snapshot.name),
            human::size(snapshot.vm_state_size),
            date(snapshot.date_sec),
            clock(snapshot),
            snapshot
                .icount
                .map_or_else(String::new, |count| count.to_string()),
        );
    }
    text
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

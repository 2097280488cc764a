//! Numbers as people read them.

/// Bytes as `qemu-img` prints them: three digits and a binary unit.
pub(crate) fn size(bytes: u64) -> String {
    const UNITS: [&str; 7] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let mut unit = 0;
    // As long as it has more than three digits before the point.
    while bytes >> (10 * unit) > 999 {
        unit += 1;
    }
    let scaled = float(bytes) / float(1 << (10 * unit));
    format!("{} {}", three_digits(scaled), UNITS[unit])
}

/// A share of a whole, in percent.
pub(crate) fn percent(part: u64, whole: u64) -> String {
    let percent = float(part) * 100.0 / float(whole.max(1));
    format!("{percent:.2}%")
}

/// So many of `what`, which is one.
pub(crate) fn counted(number: u64, what: &str) -> String {
    let s = if number == 1 { "" } else { "s" };
    format!("{number} {what}{s}")
}

/// Text that an image holds, without what would command a terminal.
pub(crate) fn printable(text: &str) -> String {
    let printable = |c: char| {
        if c.is_control() { '\u{FFFD}' } else { c }
    };
    text.chars().map(printable).collect()
}

/// A number in three significant digits, without zeros at the end.
fn three_digits(number: f64) -> String {
    let decimals = match number {
        100.0.. => 0,
        10.0.. => 1,
        1.0.. => 2,
        _ => 3,
    };
    let text = format!("{number:.decimals$}");
    if text.contains('.') {
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    } else {
        text
    }
}

/// A number of which only the first digits count.
#[expect(clippy::cast_precision_loss, reason = "few digits of it are printed")]
pub(crate) fn float(number: u64) -> f64 {
    number as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_three_digits() {
        for (bytes, text) in [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "0.977 KiB"),
            (4096, "4 KiB"),
            (200_704, "196 KiB"),
            (1 << 20, "1 MiB"),
            (3 << 29, "1.5 GiB"),
            (u64::MAX, "16 EiB"),
        ] {
            assert_eq!(size(bytes), text);
        }
    }
}

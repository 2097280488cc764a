//! Sizes as people write them: `512M`, `4G`.

/// Parses a number of bytes with an optional binary suffix `K`, `M`, `G` or `T`, either case.
pub(crate) fn parse_size(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let shift = match text[digits.len()..].to_ascii_uppercase().as_str() {
        "" | "B" => 0,
        "K" | "KB" | "KIB" => 10,
        "M" | "MB" | "MIB" => 20,
        "G" | "GB" | "GIB" => 30,
        "T" | "TB" | "TIB" => 40,
        other => return Err(format!("unknown unit '{other}': use K, M, G or T")),
    };
    let number: u64 = digits
        .parse()
        .map_err(|_| "not a size: write 512M or 4G, for example".to_string())?;
    number
        .checked_mul(1 << shift)
        .ok_or_else(|| "larger than 2^64 bytes".to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suffixes_are_binary_and_case_does_not_matter() {
        for (text, bytes) in [
            ("4096", 4096),
            ("64k", 64 << 10),
            ("512M", 512 << 20),
            ("4GiB", 4 << 30),
            ("1T", 1 << 40),
        ] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn what_is_no_size_is_refused() {
        for text in ["", "M", "-1", "1.5G", "12X", "99999999999T", "0x10", "1 G"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }
}

//! Sizes as people write them: `512M`, `4G`, `1.5T`.

/// Parses a number of bytes with an optional binary suffix from `K` to `E`, either case. There may
/// be a fraction, of at most 18 digits, where the size is a whole number of bytes.
pub(crate) fn parse_size(text: &str) -> Result<u64, String> {
    let number = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let shift = match text[number.len()..].to_ascii_uppercase().as_str() {
        "" | "B" => 0,
        "K" | "KB" | "KIB" => 10,
        "M" | "MB" | "MIB" => 20,
        "G" | "GB" | "GIB" => 30,
        "T" | "TB" | "TIB" => 40,
        "P" | "PB" | "PIB" => 50,
        "E" | "EB" | "EIB" => 60,
        other => return Err(format!("unknown unit '{other}': use K, M, G, T, P or E")),
    };
    let (whole, fraction) = match number.split_once('.') {
        Some((whole, fraction)) => (whole, fraction_of(fraction, shift)?),
        None => (number, 0),
    };
    let size = digits(whole)?.checked_mul(1 << shift);
    size.and_then(|size| size.checked_add(fraction))
        .ok_or_else(|| "larger than 2^64 bytes".to_string())
}

/// The bytes of a decimal fraction of `1 << shift`. Units are powers of two: `0.1G` is no size.
fn fraction_of(text: &str, shift: u32) -> Result<u64, String> {
    let scale = u32::try_from(text.len())
        .ok()
        .and_then(|len| 10_u64.checked_pow(len))
        .ok_or_else(no_size)?;
    let scaled = u128::from(digits(text)?) << shift;
    let bytes = scaled / u128::from(scale);
    if !scaled.is_multiple_of(scale.into()) {
        return Err("not a whole number of bytes; use a smaller unit".to_string());
    }
    // Less than the unit, for the digits are less than their scale.
    u64::try_from(bytes).map_err(|_| no_size())
}

fn digits(text: &str) -> Result<u64, String> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(no_size());
    }
    text.parse()
        .map_err(|_| "larger than 2^64 bytes".to_string())
}

fn no_size() -> String {
    "not a size: write 512M or 4G, for example".to_string()
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
            ("2P", 2 << 50),
            ("15e", 15 << 60),
        ] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn fractions_are_whole_numbers_of_bytes() {
        for (text, bytes) in [
            ("1.5G", 3 << 29),
            ("0.5k", 512),
            ("2.0", 2),
            ("15.9375E", 255 << 56),
            ("0.000000000000000000E", 0),
        ] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for text in ["0.1G", "1.5", "1.M", ".5M", "1.5.5M", "1.-5M", "1.+5M"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
        let long = format!("1.{}M", "5".repeat(19));
        assert!(parse_size(&long).is_err());
    }

    #[test]
    fn what_is_no_size_is_refused() {
        for text in [
            "",
            "M",
            "-1",
            "+1",
            "12X",
            "16E",
            "99999999999T",
            "0x10",
            "1 G",
        ] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }
}

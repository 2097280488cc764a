//! The argument of `--disk`.

use std::path::PathBuf;
use std::str::FromStr;

use disk::{Format, OpenOptions};

use super::parse_size;

/// The most bytes of a serial number that virtio-blk has room for (virtio 1.2 section 5.2.6).
const SERIAL_MAX_BYTES: usize = 20;

/// `PATH[,readonly][,format=F][,data-file=PATH][,l2-cache-size=N][,serial=S]`, as written; a comma
/// in a path is written twice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DiskArgument {
    /// The image file or block device.
    pub(crate) path: PathBuf,
    /// The guest may not write.
    pub(crate) read_only: bool,
    /// The image format; without it, raw.
    pub(crate) format: Option<Format>,
    /// The external data file, in place of the one that the image names.
    pub(crate) data_file: Option<PathBuf>,
    /// The most memory for the metadata of each file of the image.
    pub(crate) l2_cache_bytes: Option<u64>,
    /// What the guest reads as the disk's serial number.
    pub(crate) serial: Option<String>,
}

impl FromStr for DiskArgument {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut fields = split_fields(text).into_iter();
        let path = fields.next().filter(|path| !path.is_empty());
        let path = path.ok_or("the path is missing")?.into();
        let mut argument = Self {
            path,
            read_only: false,
            format: None,
            data_file: None,
            l2_cache_bytes: None,
            serial: None,
        };
        for field in fields {
            argument.apply(&field)?;
        }
        Ok(argument)
    }
}

impl DiskArgument {
    /// How to open the image.
    pub(crate) fn open_options(&self) -> OpenOptions {
        let mut options = OpenOptions::new(&self.path).read_only(self.read_only);
        if let Some(format) = self.format {
            options = options.format(format);
        }
        if let Some(path) = &self.data_file {
            options = options.data_file(path);
        }
        if let Some(bytes) = self.l2_cache_bytes {
            options = options.l2_cache_bytes(bytes);
        }
        options
    }

    fn apply(&mut self, field: &str) -> Result<(), String> {
        match field.split_once('=') {
            None if field == "readonly" => self.read_only = true,
            Some(("format", name)) => {
                self.format = Some(
                    name.parse()
                        .map_err(|error: disk::Error| error.to_string())?,
                );
            }
            Some(("data-file", path)) if !path.is_empty() => self.data_file = Some(path.into()),
            Some(("l2-cache-size", size)) => self.l2_cache_bytes = Some(parse_size(size)?),
            Some(("serial", serial)) => self.serial = Some(check_serial(serial)?),
            _ => {
                let known = "readonly, format=F, data-file=PATH, l2-cache-size=SIZE and serial=S";
                return Err(format!("unknown option '{field}': there are {known}"));
            }
        }
        Ok(())
    }
}

fn check_serial(serial: &str) -> Result<String, String> {
    let printable = serial
        .bytes()
        .all(|byte| byte.is_ascii_graphic() || byte == b' ');
    if serial.is_empty() || serial.len() > SERIAL_MAX_BYTES || !printable {
        return Err(format!(
            "a serial number is 1 to {SERIAL_MAX_BYTES} printable ASCII characters"
        ));
    }
    Ok(serial.to_string())
}

/// Splits at single commas; two commas stand for one, as in QEMU's options.
pub(crate) fn split_fields(text: &str) -> Vec<String> {
    let mut fields = vec![String::new()];
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        if c == ',' && rest.next_if_eq(&',').is_none() {
            fields.push(String::new());
        } else if let Some(field) = fields.last_mut() {
            field.push(c);
        }
    }
    fields
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_follow_the_path_in_any_order() {
        let text = "vm.img,serial=S 1,readonly,l2-cache-size=2M,data-file=d,,1,format=raw";
        let disk: DiskArgument = text.parse().unwrap();
        assert_eq!(disk.path, PathBuf::from("vm.img"));
        assert!(disk.read_only);
        assert_eq!(disk.format, Some(Format::Raw));
        assert_eq!(disk.serial.as_deref(), Some("S 1"));
        assert_eq!(disk.l2_cache_bytes, Some(2 << 20));
        assert_eq!(disk.data_file, Some("d,1".into()));
    }

    #[test]
    fn two_commas_in_a_path_are_one() {
        let disk: DiskArgument = "a,,b,readonly".parse().unwrap();
        assert_eq!(disk.path, PathBuf::from("a,b"));
        assert!(disk.read_only);
    }

    #[test]
    fn what_is_not_known_is_refused_by_name() {
        for (text, part) in [
            ("", "path is missing"),
            (",readonly", "path is missing"),
            ("a,readonly=1", "'readonly=1'"),
            ("a,cache=none", "'cache=none'"),
            ("a,", "''"),
            ("a,format=vmdk", "vmdk"),
            ("a,l2-cache-size=much", "unknown unit"),
            ("a,data-file=", "'data-file='"),
            ("a,serial=", "1 to 20"),
            ("a,serial=123456789012345678901", "1 to 20"),
        ] {
            let error = text.parse::<DiskArgument>().unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}

//! The kernel's command line.

use linux_loader::bootparam::setup_header;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use crate::Error;
use crate::layout::{CMDLINE, CMDLINE_BYTES_MAX};

/// Writes `cmdline` with its terminating zero, if it is no longer than the kernel takes.
pub(crate) fn load(
    memory: &GuestMemoryMmap,
    cmdline: &str,
    header: &setup_header,
) -> Result<(), Error> {
    if let Some(offset) = cmdline.find('\0') {
        return Err(Error::CmdlineZero { offset });
    }
    let bytes_max = (header.cmdline_size as usize).min(CMDLINE_BYTES_MAX - 1);
    if cmdline.len() > bytes_max {
        return Err(Error::CmdlineTooLong {
            bytes: cmdline.len(),
            bytes_max,
        });
    }
    let mut bytes = cmdline.as_bytes().to_vec();
    bytes.push(0);
    memory
        .write_slice(&bytes, GuestAddress(CMDLINE))
        .map_err(|source| Error::GuestMemory {
            what: "command line",
            source,
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout;

    fn try_load(cmdline: &str, cmdline_size: u32) -> Result<Vec<u8>, Error> {
        let memory = GuestMemoryMmap::from_ranges(&layout::ram_ranges(2 << 20)).unwrap();
        let filler = [0xff_u8; 32];
        memory.write_slice(&filler, GuestAddress(CMDLINE)).unwrap();
        load(
            &memory,
            cmdline,
            &setup_header {
                cmdline_size,
                ..Default::default()
            },
        )?;
        let mut bytes = vec![0; cmdline.len() + 1];
        memory
            .read_slice(&mut bytes, GuestAddress(CMDLINE))
            .unwrap();
        Ok(bytes)
    }

    #[test]
    fn the_line_is_written_with_its_terminating_zero() {
        assert_eq!(try_load("console=ttyS0", 13).unwrap(), b"console=ttyS0\0");
        assert_eq!(try_load("", 2047).unwrap(), b"\0");
    }

    #[test]
    fn a_line_longer_than_the_kernel_takes_is_refused() {
        let error = try_load("console=ttyS0", 12).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the kernel's command line has 13 bytes and this kernel takes 12; shorten it"
        );
        let long = "x".repeat(CMDLINE_BYTES_MAX);
        let error = try_load(&long, u32::MAX).unwrap_err();
        assert!(
            matches!(
                error,
                Error::CmdlineTooLong {
                    bytes_max: 65535,
                    ..
                }
            ),
            "{error}"
        );
    }

    #[test]
    fn a_zero_byte_is_refused() {
        let error = try_load("a\0b", 2047).unwrap_err();
        assert!(matches!(error, Error::CmdlineZero { offset: 1 }), "{error}");
    }
}

//! The calls with a hint, on descriptors of the standard library.
#![expect(unsafe_code, reason = "makes system calls on descriptors")]

use std::ffi::{CString, c_int};
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, FromRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use crate::Hint;
use crate::raw::{self, Errno};

/// `O_CLOEXEC`: as all that the standard library opens.
const CLOSE_ON_EXEC: c_int = 0o2_000_000;

/// `write(2)`, with what is known of the data. It may write a part.
pub fn iwrite(fd: impl AsFd, buf: &[u8], hint: impl Into<Hint>) -> io::Result<usize> {
    let fd = fd.as_fd().as_raw_fd();
    // SAFETY: the descriptor is borrowed.
    unsafe { raw::iwrite(fd, buf, hint) }.map_err(error)
}

/// `pwrite(2)`, with what is known of the data. It may write a part.
pub fn ipwrite(fd: impl AsFd, buf: &[u8], offset: u64, hint: impl Into<Hint>) -> io::Result<usize> {
    let fd = fd.as_fd().as_raw_fd();
    // SAFETY: the descriptor is borrowed.
    unsafe { raw::ipwrite(fd, buf, offset, hint) }.map_err(error)
}

/// `read(2)`, with what is known of the data. It may read a part; 0 bytes are the end.
pub fn iread(fd: impl AsFd, buf: &mut [u8], hint: impl Into<Hint>) -> io::Result<usize> {
    let fd = fd.as_fd().as_raw_fd();
    // SAFETY: the descriptor is borrowed.
    unsafe { raw::iread(fd, buf, hint) }.map_err(error)
}

/// `pread(2)`, with what is known of the data. It may read a part; 0 bytes are the end.
pub fn ipread(
    fd: impl AsFd,
    buf: &mut [u8],
    offset: u64,
    hint: impl Into<Hint>,
) -> io::Result<usize> {
    let fd = fd.as_fd().as_raw_fd();
    // SAFETY: the descriptor is borrowed.
    unsafe { raw::ipread(fd, buf, offset, hint) }.map_err(error)
}

/// `open(2)` with these flags and this mode, and what is known of the file's data unless a call
/// says otherwise. The descriptor is closed on exec.
pub fn iopen(
    path: impl AsRef<Path>,
    flags: c_int,
    mode: u32,
    hint: impl Into<Hint>,
) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_ref().as_os_str().as_bytes())?;
    let fd = raw::iopen(&path, flags | CLOSE_ON_EXEC, mode, hint).map_err(error)?;
    // SAFETY: the kernel has just opened it for nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn error(Errno(number): Errno) -> io::Error {
    io::Error::from_raw_os_error(number)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::{Class, Dedup};

    const READ_WRITE_CREATE: c_int = 0o102;

    #[test]
    fn hints_change_nothing_that_the_kernel_does() {
        let path = std::env::temp_dir().join(format!("insight-hints-{}", std::process::id()));
        let classes = Class::ALL.map(Hint::from);
        for class in classes.into_iter().chain([Dedup::No.into()]) {
            let file = iopen(&path, READ_WRITE_CREATE, 0o600, class).unwrap();
            assert_eq!(iwrite(&file, b"twelve bytes", class).unwrap(), 12);
            assert_eq!(ipwrite(&file, b"dozen!", 12, class).unwrap(), 6);
            let mut found = [0; 32];
            assert_eq!(ipread(&file, &mut found, 7, class).unwrap(), 11);
            assert_eq!(&found[..11], b"bytesdozen!");
            // From where the write ended, which ipwrite does not move.
            assert_eq!(iread(&file, &mut found, class).unwrap(), 6);
            assert_eq!(&found[..6], b"dozen!");
            assert_eq!(iread(&file, &mut found, class).unwrap(), 0);
        }
        fs::remove_file(&path).unwrap();
    }

    #[test]
    fn errors_are_those_of_the_kernel() {
        let (end, _writer) = io::pipe().unwrap();
        let error = iwrite(&end, b"to the wrong end", Class::Other).unwrap_err();
        // EBADF.
        assert_eq!(error.raw_os_error(), Some(9));
        let error = iopen("/nowhere/at/all", 0, 0, Class::Other).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        assert!(iopen("a\0path", 0, 0, Class::Other).is_err());
    }
}

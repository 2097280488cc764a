//! A listening socket that has a name in the file system.

use std::fs;
use std::io::{self, ErrorKind, Read as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use rustix::fs::{Mode, fchmod};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, connect, listen, socket_with,
};

/// The longest path of a socket: `sun_path` of `unix(7)` without the zero at its end.
const PATH_MAX_BYTES: usize = 107;
/// A server greets at once; one that is stuck is given this long.
const PATIENCE: Duration = Duration::from_millis(500);
/// How many clients may wait until they are accepted.
const BACKLOG: i32 = 128;

/// Who may connect to a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// Whom the user's mask lets write.
    Mask,
    /// Only the user, from the first moment on.
    Owner,
}

/// Removes the name when it is dropped, if it still is that of our socket.
pub(crate) struct SocketPath {
    path: PathBuf,
    /// Device and inode.
    identity: (u64, u64),
}

impl SocketPath {
    /// Listens at `path`. A socket that a dead server left there is replaced.
    pub(crate) fn listen(path: &Path, access: Access) -> Result<(UnixListener, Self)> {
        let cannot = || format!("{}: cannot listen", path.display());
        let len = path.as_os_str().as_bytes().len();
        if len > PATH_MAX_BYTES {
            bail!(
                "{}: has {len} bytes, and the path of a socket at most {PATH_MAX_BYTES}; choose a \
                 shorter one",
                path.display()
            );
        }
        let listener = match new_listener(path, access) {
            Err(error) if error.kind() == ErrorKind::AddrInUse => {
                remove_stale(path)?;
                new_listener(path, access)
            }
            result => result,
        };
        let listener = listener.with_context(cannot)?;
        let identity = identity(path).with_context(cannot)?;
        let path = path.to_owned();
        Ok((listener, Self { path, identity }))
    }
}

impl Drop for SocketPath {
    fn drop(&mut self) {
        if identity(&self.path).is_ok_and(|identity| identity == self.identity) {
            // If it cannot be removed, the next server replaces it.
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn new_listener(path: &Path, access: Access) -> io::Result<UnixListener> {
    let (family, kind) = (AddressFamily::UNIX, SocketType::STREAM);
    let socket = socket_with(family, kind, SocketFlags::CLOEXEC, None)?;
    if access == Access::Owner {
        // Linux takes the socket's mode for the name (unix_bind), as far as the mask has it.
        fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
    }
    bind(&socket, &SocketAddrUnix::new(path)?)?;
    listen(&socket, BACKLOG)?;
    Ok(socket.into())
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let metadata = fs::symlink_metadata(path)?;
    Ok((metadata.dev(), metadata.ino()))
}

/// Removes a socket that nobody listens on; anything else is an error.
fn remove_stale(path: &Path) -> Result<()> {
    let shown = path.display();
    let metadata = fs::symlink_metadata(path).with_context(|| format!("{shown}"))?;
    if !metadata.file_type().is_socket() {
        bail!("{shown}: exists and is not a socket; choose another path");
    }
    let is_used = has_server(path).with_context(|| format!("{shown}: cannot be replaced"))?;
    if is_used {
        bail!("{shown}: another server listens there; stop it or choose another path");
    }
    fs::remove_file(path).with_context(|| format!("{shown}: cannot remove the old socket"))
}

/// Whether somebody listens. Waits for nobody who has no room for one more client.
fn has_server(path: &Path) -> io::Result<bool> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    match connect(&socket, &SocketAddrUnix::new(path)?) {
        Ok(()) => {
            let stream = UnixStream::from(socket);
            stream.set_nonblocking(false)?;
            Ok(is_alive(&stream))
        }
        Err(Errno::AGAIN | Errno::INPROGRESS) => Ok(true),
        Err(Errno::CONNREFUSED) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Whether whoever listens is there, whatever it says or does not say. The socket of a server that
/// was killed takes connections until the host has put away its `io_uring`, and ends them then.
fn is_alive(mut stream: &UnixStream) -> bool {
    let greeting = stream
        .set_read_timeout(Some(PATIENCE))
        .and_then(|()| stream.read(&mut [0]));
    match greeting {
        Ok(count) => count > 0,
        Err(error) => error.kind() != ErrorKind::ConnectionReset,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_may_be_for_its_owner_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("control");
        let _server = SocketPath::listen(&path, Access::Owner).unwrap();
        let mode = fs::metadata(&path).unwrap().mode();
        assert_eq!(mode & 0o777 & !0o600, 0, "{mode:o}");
        UnixStream::connect(&path).unwrap();
    }

    #[test]
    fn a_stale_socket_is_replaced_and_a_used_one_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("nbd");
        drop(UnixListener::bind(&path).unwrap());
        let (_listener, name) = SocketPath::listen(&path, Access::Mask).unwrap();
        let error = SocketPath::listen(&path, Access::Mask)
            .err()
            .unwrap()
            .to_string();
        assert!(error.contains("another server listens"), "{error}");
        drop(name);
        assert!(!path.exists());
    }

    #[test]
    fn a_server_that_has_no_room_for_more_is_not_waited_for() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("nbd");
        let listener = UnixListener::bind(&path).unwrap();
        rustix::net::listen(&listener, 0).unwrap();
        let address = SocketAddrUnix::new(&path).unwrap();
        let mut waiting = Vec::new();
        loop {
            let (family, kind) = (AddressFamily::UNIX, SocketType::STREAM);
            let socket = socket_with(family, kind, SocketFlags::NONBLOCK, None).unwrap();
            match connect(&socket, &address) {
                Ok(()) => waiting.push(socket),
                Err(error) => break assert_eq!(error, Errno::AGAIN),
            }
        }
        let error = SocketPath::listen(&path, Access::Mask)
            .err()
            .unwrap()
            .to_string();
        assert!(error.contains("another server listens"), "{error}");
    }

    #[test]
    fn a_path_that_is_too_long_is_told_how_long_it_may_be() {
        let directory = tempfile::tempdir().unwrap();
        let len = |name: &Path| name.as_os_str().len();
        let room = PATH_MAX_BYTES - len(directory.path()) - 1;
        let path = directory.path().join("n".repeat(room));
        SocketPath::listen(&path, Access::Mask).unwrap();
        let path = directory.path().join("n".repeat(room + 1));
        let error = SocketPath::listen(&path, Access::Mask)
            .err()
            .unwrap()
            .to_string();
        assert!(error.contains("has 108 bytes"), "{error}");
        assert!(error.contains("at most 107"), "{error}");
    }

    #[test]
    fn what_is_no_socket_of_ours_stays() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("nbd");
        fs::write(&path, "precious").unwrap();
        let error = SocketPath::listen(&path, Access::Mask)
            .err()
            .unwrap()
            .to_string();
        assert!(error.contains("not a socket"), "{error}");
        fs::remove_file(&path).unwrap();
        let (_listener, name) = SocketPath::listen(&path, Access::Mask).unwrap();
        fs::remove_file(&path).unwrap();
        fs::write(&path, "precious").unwrap();
        drop(name);
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    }
}

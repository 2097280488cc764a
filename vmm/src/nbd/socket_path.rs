//! A listening socket that has a name in the file system.

use std::fs;
use std::io::{self, ErrorKind, Read as _};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

/// A server greets at once; one that is stuck is given this long.
const PATIENCE: Duration = Duration::from_millis(500);

/// Removes the name when it is dropped, if it still is that of our socket.
pub(crate) struct SocketPath {
    path: PathBuf,
    /// Device and inode.
    identity: (u64, u64),
}

impl SocketPath {
    /// Listens at `path`. A socket that a dead server left there is replaced.
    pub(crate) fn listen(path: &Path) -> Result<(UnixListener, Self)> {
        let cannot = || format!("{}: cannot listen", path.display());
        let listener = match UnixListener::bind(path) {
            Err(error) if error.kind() == ErrorKind::AddrInUse => {
                remove_stale(path)?;
                UnixListener::bind(path)
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
    match UnixStream::connect(path) {
        Ok(stream) if is_alive(&stream) => {
            bail!("{shown}: another server listens there; stop it or choose another path")
        }
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => {}
        Err(error) => return Err(error).with_context(|| format!("{shown}: cannot be replaced")),
    }
    fs::remove_file(path).with_context(|| format!("{shown}: cannot remove the old socket"))
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
    fn a_stale_socket_is_replaced_and_a_used_one_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("nbd");
        drop(UnixListener::bind(&path).unwrap());
        let (_listener, name) = SocketPath::listen(&path).unwrap();
        let error = SocketPath::listen(&path).err().unwrap().to_string();
        assert!(error.contains("another server listens"), "{error}");
        drop(name);
        assert!(!path.exists());
    }

    #[test]
    fn what_is_no_socket_of_ours_stays() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("nbd");
        fs::write(&path, "precious").unwrap();
        let error = SocketPath::listen(&path).err().unwrap().to_string();
        assert!(error.contains("not a socket"), "{error}");
        fs::remove_file(&path).unwrap();
        let (_listener, name) = SocketPath::listen(&path).unwrap();
        fs::remove_file(&path).unwrap();
        fs::write(&path, "precious").unwrap();
        drop(name);
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    }
}

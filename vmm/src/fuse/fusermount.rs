//! `fusermount3`, which mounts for users who may not: it opens `/dev/fuse`, mounts it, and hands
//! the descriptor over. How to talk to it is in `lib/mount.c` and `util/fusermount.c` of libfuse.

use std::ffi::OsString;
use std::io::{self, ErrorKind, IoSliceMut, Read as _};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result, bail};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

use super::mount::{MountOptions, SUBTYPE, kernel_options};

const PROGRAM: &str = "fusermount3";
/// Names the descriptor of the socket on which it answers.
const SOCKET_VARIABLE: &str = "_FUSE_COMMFD";
/// What it says of itself when it fails is one line.
const REASON_MAX_BYTES: u64 = 4096;

/// Has a file system mounted at `path`.
pub(super) fn mount(path: &Path, options: &MountOptions) -> Result<OwnedFd> {
    let (ours, theirs) = UnixStream::pair().context("a socket pair")?;
    let mut command = Command::new(PROGRAM);
    command.arg("-o").arg(option_text(options));
    command.arg("--").arg(path);
    // Its standard input is the socket: a descriptor that it surely gets.
    command
        .env(SOCKET_VARIABLE, "0")
        .stdin(OwnedFd::from(theirs));
    let child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn();
    // Or its end of the socket stays open here, and nothing tells that it has gone.
    drop(command);
    let child = match child {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            bail!("mounting takes root or {PROGRAM}, which is not here: apt-get install fuse3")
        }
        child => child.with_context(|| format!("cannot run {PROGRAM}"))?,
    };
    let descriptor = receive(&ours);
    let reason = end(child).with_context(|| format!("cannot run {PROGRAM}"))?;
    match descriptor {
        Ok(Some(descriptor)) => Ok(descriptor),
        Ok(None) => bail!("{}: cannot mount: {}", path.display(), remedied(&reason)),
        Err(error) => Err(error).with_context(|| format!("{PROGRAM} does not answer")),
    }
}

/// Has the file system at `path` unmounted.
pub(super) fn unmount(path: &Path, lazily: bool) -> io::Result<()> {
    let mut command = Command::new(PROGRAM);
    command.arg("-u").args(lazily.then_some("-z"));
    let output = command.arg("--").arg(path).stdin(Stdio::null()).output()?;
    if output.status.success() {
        return Ok(());
    }
    let reason = String::from_utf8_lossy(&output.stderr);
    let kind = if reason.contains("busy") {
        ErrorKind::ResourceBusy
    } else if reason.contains("not found") {
        ErrorKind::NotFound
    } else {
        ErrorKind::Other
    };
    Err(io::Error::new(kind, one_line(&reason)))
}

/// The options as it takes them: commas and backslashes of a name are escaped.
fn option_text(options: &MountOptions) -> OsString {
    let mut text = kernel_options(options).into_bytes();
    text.extend(format!(",nosuid,nodev,subtype={SUBTYPE},fsname=").bytes());
    for &byte in options.source.as_os_str().as_bytes() {
        if b",\\".contains(&byte) {
            text.push(b'\\');
        }
        text.push(byte);
    }
    text.extend(if options.read_only { ",ro" } else { ",rw" }.bytes());
    OsString::from_vec(text)
}

/// The descriptor that it sends, or nothing if it ends without.
fn receive(socket: &UnixStream) -> io::Result<Option<OwnedFd>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let mut pieces = [IoSliceMut::new(&mut byte)];
    let flags = RecvFlags::CMSG_CLOEXEC;
    rustix::io::retry_on_intr(|| recvmsg(socket, &mut pieces, &mut control, flags))?;
    let descriptors = control.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
        _ => None,
    });
    Ok(descriptors.flatten().next())
}

/// Waits for its end, and returns what it complained of.
fn end(mut child: Child) -> io::Result<String> {
    let mut reason = Vec::new();
    if let Some(stderr) = child.stderr.take() {
        stderr.take(REASON_MAX_BYTES).read_to_end(&mut reason)?;
    }
    child.wait()?;
    Ok(one_line(&String::from_utf8_lossy(&reason)))
}

fn one_line(text: &str) -> String {
    text.lines().map(str::trim).collect::<Vec<_>>().join("; ")
}

/// The reason, with what helps where we know it.
fn remedied(reason: &str) -> String {
    if reason.contains("user_allow_other") {
        return format!("{reason}; add that line there, or leave out --allow-other");
    }
    if reason.contains("open /dev/fuse") {
        return format!("{reason}; let users read and write it (chmod 666), or run as root");
    }
    if reason.contains("Permission denied") || reason.contains("not permitted") {
        return format!("{reason}; the mount point must be the user's own, or run as root");
    }
    reason.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_escaped() {
        let options = MountOptions {
            source: "/a,b\\c".into(),
            read_only: true,
            allow_other: true,
        };
        let text = option_text(&options).into_string().unwrap();
        assert!(text.contains("fsname=/a\\,b\\\\c,ro"), "{text}");
        assert!(text.contains(",allow_other,"), "{text}");
    }

    #[test]
    fn an_end_without_a_descriptor_is_seen() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        drop(theirs);
        assert!(receive(&ours).unwrap().is_none());
    }

    #[test]
    fn complaints_are_one_line_with_a_remedy() {
        let complaint = one_line(
            "fusermount3: option allow_other only allowed if\n 'user_allow_other' is set\n",
        );
        assert_eq!(complaint.lines().count(), 1);
        assert!(remedied(&complaint).ends_with("leave out --allow-other"));
    }
}

//! The socket and its thread.

use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};
use disk::cache::CachedRange;

use super::disks::Disks;
use super::protocol::{REQUEST_BYTES_MAX, Range, Reply, Request, receive, send};
use crate::insight::{Board, DiskRow, Summary};
use crate::socket_path::{Access, SocketPath};

/// A client has its request ready when it connects, and takes its reply at once.
const PATIENCE: Duration = Duration::from_secs(2);

/// Listens until it is dropped; then the socket's name is gone.
pub(crate) struct Server {
    _path: SocketPath,
}

impl Server {
    /// Listens at `path`, one client after the other.
    pub(crate) fn start(path: &Path, disks: Arc<Disks>, hooks: Arc<Board>) -> Result<Self> {
        let (listener, socket_path) = SocketPath::listen(path, Access::Owner)?;
        thread::Builder::new()
            .name("control".to_owned())
            .spawn(move || serve(&listener, &disks, &hooks))
            .context("cannot start the thread of the control socket")?;
        Ok(Self { _path: socket_path })
    }
}

fn serve(listener: &UnixListener, disks: &Disks, hooks: &Board) {
    for client in listener.incoming() {
        let served = client
            .map_err(Into::into)
            .and_then(|client| answer(&client, disks, hooks));
        if let Err(error) = served {
            tracing::info!("control socket: {error:#}");
        }
    }
}

fn answer(client: &UnixStream, disks: &Disks, hooks: &Board) -> Result<()> {
    client.set_read_timeout(Some(PATIENCE))?;
    client.set_write_timeout(Some(PATIENCE))?;
    let request = receive(client, REQUEST_BYTES_MAX);
    let reply = request.and_then(|request| obey(request, disks, hooks));
    let reply = reply.unwrap_or_else(|error| Reply::Error(format!("{error:#}")));
    send(client, &reply)
}

fn obey(request: Request, disks: &Disks, hooks: &Board) -> Result<Reply> {
    match request {
        Request::Snapshot { disk, file, format } => disks.snapshot(&disk, file, format.parse()?)?,
        Request::Insight { on } => hooks.switch(on)?,
        Request::InsightReport => return Ok(Reply::Report(Box::new(report(disks, hooks)?))),
        Request::CacheClear { disk } => disks.clear_cache(&disk)?,
        Request::CacheList { disk, offset } => {
            let ranges = disks.list_cache(&disk, offset)?;
            return Ok(Reply::Ranges(ranges.iter().map(Range::from).collect()));
        }
    }
    Ok(Reply::Done)
}

/// What the hooks have seen, and the disks.
fn report(disks: &Disks, hooks: &Board) -> Result<Summary> {
    let mut summary = hooks.report()?;
    for name in disks.names() {
        let statistics = disks.statistics(&name)?;
        summary.disks.push(DiskRow::new(name, &statistics.classes));
    }
    Ok(summary)
}

impl From<&CachedRange> for Range {
    fn from(range: &CachedRange) -> Self {
        Self {
            offset: range.offset,
            len: range.len,
            class: range.class.name().to_owned(),
            dirty: range.is_dirty,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::net::Shutdown;

    use super::*;

    /// The reply to these bytes.
    fn reply(bytes: &[u8]) -> Reply {
        let (mut client, server) = UnixStream::pair().unwrap();
        let disks = Disks::new(vec!["vm.img".parse().unwrap()], true);
        let hooks = Board::new(None, false).unwrap();
        thread::scope(|scope| {
            scope.spawn(|| answer(&server, &disks, &hooks).unwrap());
            // It may be refused before it has all been sent.
            let _ = client.write_all(bytes);
            let _ = client.shutdown(Shutdown::Write);
            receive(&client, 1 << 20).unwrap()
        })
    }

    #[test]
    fn what_is_not_understood_is_refused_in_words() {
        let snapshot = |disk: &str, format: &str| {
            format!(
                "{{\"command\":\"snapshot\",\"disk\":\"{disk}\",\"file\":\"/f\",\
                 \"format\":\"{format}\"}}\n"
            )
        };
        for (line, part) in [
            (String::new(), "not a line"),
            ("{".to_owned(), "not a line"),
            ("x".repeat(100 << 10), "not a line"),
            ("\n".to_owned(), "not understood"),
            ("{\"command\":\"reboot\"}\n".to_owned(), "unknown variant"),
            ("[".repeat(5000) + "\n", "not understood"),
            (snapshot("blk0", "vmdk"), "vmdk"),
            (snapshot("blk1", "flat"), "has blk0"),
            (snapshot("blk-1", "flat"), "has blk0"),
            (snapshot("vda", "flat"), "'vda' is no disk"),
            (
                "{\"command\":\"insight\",\"on\":true}\n".to_owned(),
                "without --insight",
            ),
            (
                "{\"command\":\"insight-report\"}\n".to_owned(),
                "without --insight",
            ),
            // It was never opened.
            (snapshot("blk0", "flat"), "just starting"),
            (
                "{\"command\":\"cache-clear\",\"disk\":\"blk7\"}\n".to_owned(),
                "has blk0",
            ),
            (
                "{\"command\":\"cache-list\",\"disk\":\"blk0\"}\n".to_owned(),
                "missing field",
            ),
        ] {
            match reply(line.as_bytes()) {
                Reply::Error(said) => assert!(said.contains(part), "{line:.80}: {said}"),
                reply => panic!("{line:.80}: {reply:?}"),
            }
        }
    }
}

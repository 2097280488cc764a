//! A disk that notes what is read of it.

use std::cell::RefCell;
use std::fs::File;
use std::io::{Read as _, Seek as _, Write as _};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use crate::ranges::Ranges;
use crate::trace::{MAGIC, RANGES_MAX, Trace};
use crate::{BoxFuture, Disk, Error, Extent, Op, Properties, Request, Statistics};

/// Passes everything on to a disk, and writes a trace of what was read first when it is closed.
pub(crate) struct Recorder {
    disk: Rc<dyn Disk>,
    path: PathBuf,
    file: File,
    seen: RefCell<Seen>,
}

/// What was read, and what needs no more notes.
#[derive(Default)]
struct Seen {
    trace: Trace,
    /// What was read or written before: it says nothing about what the disk held at first.
    known: Ranges,
}

impl Recorder {
    /// Notes what is read of `disk` for the file at `path`, which is made, or else is a trace.
    pub(crate) fn new(disk: Rc<dyn Disk>, path: &Path) -> Result<Self, Error> {
        let mut file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .map_err(Error::io(path, "open the trace"))?;
        check_is_trace(&mut file, path)?;
        Ok(Self {
            disk,
            path: path.to_owned(),
            file,
            seen: RefCell::default(),
        })
    }

    fn write(&self) -> Result<(), Error> {
        let text = self.seen.borrow().trace.to_string();
        let mut file = &self.file;
        file.set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| file.write_all(text.as_bytes()))
            .map_err(Error::io(&self.path, "write the trace"))
    }
}

impl Seen {
    fn note(&mut self, request: &Request) {
        let range = match request.offset.checked_add(request.len) {
            Some(end) if end > request.offset => request.offset..end,
            _ => return,
        };
        if self.trace.is_full() || self.known.len() >= RANGES_MAX {
            return;
        }
        match request.op {
            Op::Read(_) => {
                for part in self.known.missing(&range) {
                    self.trace.push(part);
                }
            }
            Op::Write(_) | Op::WriteZeroes { .. } | Op::Discard => {}
            Op::Flush => return,
        }
        self.known.insert(range);
    }
}

/// Refuses to write over something else that somebody needs, an image for example.
fn check_is_trace(file: &mut File, path: &Path) -> Result<(), Error> {
    let mut start = [0; MAGIC.len()];
    let metadata = file.metadata();
    let metadata = metadata.map_err(Error::io(path, "open the trace"))?;
    let is_empty = metadata.is_file() && metadata.len() == 0;
    let is_trace = is_empty || (file.read_exact(&mut start).is_ok() && start == *MAGIC);
    if is_trace {
        return Ok(());
    }
    Err(Error::Unsupported {
        path: path.to_owned(),
        problem: "is not a trace, and is not written over; name another file".into(),
    })
}

impl Disk for Recorder {
    fn properties(&self) -> Properties {
        self.disk.properties()
    }

    fn submit(&self, request: Request) -> BoxFuture<'_, Result<(), Error>> {
        // A request that no disk of this size can do is none that a guest makes at a boot.
        if request.problem(self.disk.properties().size_bytes).is_none() {
            self.seen.borrow_mut().note(&request);
        }
        self.disk.submit(request)
    }

    fn extent(&self, offset: u64, len: u64) -> BoxFuture<'_, Result<Extent, Error>> {
        self.disk.extent(offset, len)
    }

    fn give_up(&self) {
        self.disk.give_up();
    }

    fn close(&self) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(async move {
            let written = self.write();
            self.disk.close().await.and(written)
        })
    }

    fn statistics(&self) -> Statistics {
        self.disk.statistics()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Backend, Buffers, Executor, Raw, SimulatedStorage};

    fn recorded(requests: Vec<Request>) -> Trace {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("trace");
        let executor = Executor::with_backend(Backend::Simulated { seed: 1 }).unwrap();
        executor.run(async {
            let disk = Rc::new(Raw::new(SimulatedStorage::new(1 << 20, 1)).unwrap());
            let recorder = Recorder::new(disk, &path).unwrap();
            for request in requests {
                let _ = recorder.submit(request).await;
            }
            recorder.close().await.unwrap();
        });
        Trace::load(&path).unwrap()
    }

    fn read(offset: u64, len: usize) -> Request {
        Request::read(offset, Buffers::zeroed(len))
    }

    #[test]
    fn what_is_read_first_is_noted_once() {
        let trace = recorded(vec![
            read(8192, 4096),
            read(0, 1024),
            read(1024, 512),
            // Not new, and partly new.
            read(512, 512),
            read(4096, 8192),
        ]);
        assert_eq!(trace.ranges(), [8192..12288, 0..1536, 4096..8192]);
    }

    #[test]
    fn what_the_guest_wrote_is_not_noted() {
        let trace = recorded(vec![
            Request::write(4096, Buffers::zeroed(4096)),
            Request::discard(16384, 4096),
            Request::flush(),
            read(0, 12288),
            read(16384, 4096),
            read(1 << 20, 512),
        ]);
        assert_eq!(trace.ranges(), [0..4096, 8192..12288]);
    }

    #[test]
    fn only_a_trace_is_written_over() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        std::fs::write(&path, b"QFI\xfb and more").unwrap();
        let disk = Rc::new(Raw::new(SimulatedStorage::new(512, 1)).unwrap());
        let refused = Recorder::new(disk.clone(), &path).err().unwrap();
        assert!(refused.to_string().contains("not a trace"), "{refused}");
        std::fs::write(&path, Trace::default().to_string()).unwrap();
        assert!(Recorder::new(disk, &path).is_ok());
    }
}

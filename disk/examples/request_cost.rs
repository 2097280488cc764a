//! What a request costs in the engine, on an image that the host has in memory: processor time of
//! all threads and, in brackets, time by the clock, beside that of a loop of plain system calls on
//! a file in memory.
//!
//! ```text
//! cargo run --release -p disk --example request_cost -- [raw|qcow2|flat IMAGE]
//! ```
//! Without an image it makes a raw one of 64 MiB in the directory for temporary files. An image
//! that is given must have that much data allocated from its beginning, and is overwritten.

use std::cell::Cell;
use std::error::Error;
use std::fs::File;
use std::future::poll_fn;
use std::os::unix::fs::FileExt;
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::Instant;

use disk::{Backend, Buffers, Disk, Executor, Format, OpenOptions, Request, spawn};

const SIZE_BYTES: u64 = 64 << 20;
const REQUESTS: u64 = 200_000;

/// One kind of load.
#[derive(Clone, Copy)]
struct Load {
    write: bool,
    len: usize,
    depth: u64,
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let file = tempfile::NamedTempFile::new()?;
    file.as_file().write_all_at(&vec![1; 64 << 20], 0)?;
    let (format, path) = match arguments.as_slice() {
        [] => (Format::Raw, file.path().to_owned()),
        [format, path] => (format.parse()?, path.into()),
        _ => return Err("give a format and an image, or neither".into()),
    };
    let executor = Executor::with_backend(Backend::IoUring)?;
    let disk = executor.run(OpenOptions::new(path).format(format).open())?;
    println!("nanoseconds a request        plain calls             engine");
    for len in [4096, 65536] {
        for write in [false, true] {
            for depth in [1, 32] {
                let load = Load { write, len, depth };
                let plain = plain(load, file.as_file())?;
                let engine = executor.run(engine(load, &disk));
                let kind = if write { "write" } else { "read" };
                println!("{kind:5} {len:6} depth {depth:2}   {plain:>16}   {engine:>16}");
            }
        }
    }
    executor.run(disk.close())?;
    Ok(())
}

/// Where the `n`th request goes.
fn offset(n: u64, len: usize) -> u64 {
    let len = len as u64;
    n.wrapping_mul(0x9E37_79B9_7F4A_7C15) % (SIZE_BYTES / len) * len
}

fn plain(load: Load, file: &File) -> std::io::Result<String> {
    let mut buffer = vec![1; load.len];
    let meter = Meter::start();
    for n in 0..REQUESTS {
        let at = offset(n, load.len);
        if load.write {
            file.write_all_at(&buffer, at)?;
        } else {
            file.read_exact_at(&mut buffer, at)?;
        }
    }
    Ok(meter.each())
}

async fn engine(load: Load, disk: &Rc<dyn Disk>) -> String {
    let meter = Meter::start();
    let next = Rc::new(Cell::new(0));
    let running = Rc::new(Cell::new(load.depth));
    let waiting: Rc<Cell<Option<Waker>>> = Rc::default();
    for _ in 0..load.depth {
        let (disk, next) = (Rc::clone(disk), Rc::clone(&next));
        let (running, waiting) = (Rc::clone(&running), Rc::clone(&waiting));
        spawn(async move {
            let buffers = Buffers::from_vec(vec![1; load.len]);
            while next.get() < REQUESTS {
                let at = offset(next.replace(next.get() + 1), load.len);
                let request = if load.write {
                    Request::write(at, buffers.clone())
                } else {
                    Request::read(at, buffers.clone())
                };
                disk.submit(request).await.expect("the image can be used");
            }
            running.set(running.get() - 1);
            if let Some(waker) = waiting.take() {
                waker.wake();
            }
        });
    }
    poll_fn(|context| {
        waiting.set(Some(context.waker().clone()));
        match running.get() {
            0 => Poll::Ready(()),
            _ => Poll::Pending,
        }
    })
    .await;
    meter.each()
}

/// What is measured, from its beginning.
struct Meter {
    start: Instant,
    processor_ns: u64,
}

impl Meter {
    fn start() -> Self {
        Self {
            start: Instant::now(),
            processor_ns: processor_ns(),
        }
    }

    /// What a request took.
    fn each(&self) -> String {
        let processor_ns = (processor_ns() - self.processor_ns) / REQUESTS;
        let clock_ns = self.start.elapsed().as_nanos() / u128::from(REQUESTS);
        format!("{processor_ns} ({clock_ns})")
    }
}

/// The time that the threads of this process have run, those of the kernel included that work for
/// it; 0 where the host does not tell.
fn processor_ns() -> u64 {
    let threads = std::fs::read_dir("/proc/self/task").into_iter().flatten();
    let time_of = |thread: std::fs::DirEntry| {
        let schedstat = std::fs::read_to_string(thread.path().join("schedstat")).ok()?;
        schedstat.split(' ').next()?.parse::<u64>().ok()
    };
    threads.flatten().filter_map(time_of).sum()
}

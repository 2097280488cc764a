//! Tests of the whole crate through its public face.

use std::os::fd::AsRawFd;
use std::sync::Arc;

use crate::event::eventfd;
use crate::*;

#[test]
fn writes_and_reads_back() {
    for backend in [Backend::IoUring, Backend::Threads] {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(1 << 20).unwrap();
        let executor = Executor::with_backend(backend).unwrap();
        executor.run(async {
            let disk = OpenOptions::new(file.path()).open().await.unwrap();
            disk.submit(Request::write(4096, Buffers::from_vec([7; 4096])))
                .await
                .unwrap();
            disk.submit(Request::flush()).await.unwrap();
            let read = Buffers::zeroed(8192);
            disk.submit(Request::read(512, read.clone())).await.unwrap();
            let read = read.to_vec();
            assert!(read[..3584].iter().all(|b| *b == 0));
            assert!(read[3584..7680].iter().all(|b| *b == 7));
            disk.close().await.unwrap();
        });
    }
}

#[test]
fn receives_events() {
    for backend in [Backend::IoUring, Backend::Threads] {
        let executor = Executor::with_backend(backend).unwrap();
        let event = Arc::new(eventfd().unwrap());
        executor.run(async {
            let receiver = EventReceiver::new(Arc::clone(&event));
            for _ in 0..3 {
                let other = Arc::clone(&event);
                std::thread::spawn(move || {
                    std::io::Write::write_all(&mut &*other, &1_u64.to_ne_bytes()).unwrap();
                    assert!(other.as_raw_fd() >= 0);
                });
                receiver.recv().await.unwrap();
            }
        });
    }
}

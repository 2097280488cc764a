//! The client, and servers of all kinds.

mod hostile;
mod lost;
mod server;

use std::path::Path;
use std::time::Duration;

use crate::rng::Rng;
use crate::storage::remote::{Address, RemoteStorage};
use crate::test_support::{real_backends, scattered, seeded};
use crate::{Backend, Buffers, Error, Executor, Storage as _, StorageExtent};
use server::{Offer, Server};

/// Long enough for a server that answers.
const DEADLINE: Duration = Duration::from_secs(20);
/// For one that does not.
const SHORT: Duration = Duration::from_secs(1);

async fn open(server: &Server, deadline: Duration) -> Result<RemoteStorage, Error> {
    let address = Address::parse(&server.url).unwrap();
    RemoteStorage::open(Path::new(&server.url), address, deadline).await
}

async fn read(storage: &RemoteStorage, offset: u64, len: usize) -> Result<Vec<u8>, Error> {
    let buffers = Buffers::zeroed(len);
    storage.read_at(offset, buffers.clone()).await?;
    Ok(buffers.to_vec())
}

/// As [`read`], by as many reads as it takes until one is quick enough.
async fn read_at_last(storage: &RemoteStorage, offset: u64, len: usize) -> Vec<u8> {
    for _ in 0..20 {
        if let Ok(bytes) = read(storage, offset, len).await {
            return bytes;
        }
    }
    panic!("it does not come back");
}

/// Blocks of 512 bytes, half of them zeros.
fn content(len: usize) -> Vec<u8> {
    let mut rng = Rng::new(5);
    let mut content = vec![0; len];
    for block in content.chunks_mut(512) {
        if rng.coin() {
            block.fill_with(|| u8::try_from(rng.below(255)).unwrap() + 1);
        }
    }
    content
}

fn executors() -> impl Iterator<Item = (Backend, Executor)> {
    let with = |backend| (backend, Executor::with_backend(backend).unwrap());
    real_backends().into_iter().map(with)
}

#[test]
fn every_kind_of_server_is_read_alike() {
    let bytes = content(1 << 20);
    seeded(3, |seed| {
        for (structured, allocation, block_sizes) in [
            (true, true, None),
            (true, true, Some((512, 4096, 64 << 10))),
            (true, false, Some((4096, 65536, u32::MAX))),
            (false, false, None),
            (false, false, Some((1, 512, 100_000))),
        ] {
            let server = Server::honest(Offer {
                content: bytes.clone(),
                structured,
                allocation,
                block_sizes,
            });
            for (_, executor) in executors() {
                executor.run(read_at_random(&server, &bytes, seed));
            }
        }
    });
}

async fn read_at_random(server: &Server, bytes: &[u8], seed: u64) {
    let mut rng = Rng::new(seed);
    let storage = open(server, DEADLINE).await.unwrap();
    assert_eq!(storage.size_bytes(), bytes.len() as u64);
    let mut expected = Vec::new();
    for _ in 0..40 {
        let start = rng.index(bytes.len());
        let len = (1 + rng.index(200_000)).min(bytes.len() - start);
        let buffers = scattered(&vec![9; len], &mut rng);
        expected.push((start, buffers));
    }
    let reads = expected.iter().map(|(start, buffers)| {
        let read = storage.read_at(*start as u64, buffers.clone());
        async { read.await.unwrap() }
    });
    crate::test_support::join_all(reads).await;
    for (start, buffers) in &expected {
        let range = *start..*start + buffers.len();
        assert!(buffers.to_vec() == bytes[range.clone()], "{range:?}");
    }
    assert!(read(&storage, bytes.len() as u64 - 10, 11).await.is_err());
    storage.close();
}

#[test]
fn holes_are_where_the_server_says() {
    let mut bytes = content(64 << 10);
    bytes.resize(128 << 20, 0);
    let server = Server::honest(Offer::all(bytes.clone()));
    for (_, executor) in executors() {
        executor.run(async {
            let storage = open(&server, DEADLINE).await.unwrap();
            let size = bytes.len() as u64;
            let mut at = 0;
            while at < size {
                let StorageExtent { len, data } = storage.extent(at, size - at).await.unwrap();
                let range = usize::try_from(at).unwrap()..usize::try_from(at + len).unwrap();
                let is_zero = bytes[range].chunks(512).all(|block| block[0] == 0);
                assert!(len > 0 && is_zero != data, "{len} at {at}");
                at += len;
            }
            let behind = storage.extent(size + 5, 10).await.unwrap();
            assert_eq!(
                behind,
                StorageExtent {
                    len: 10,
                    data: false
                }
            );
        });
    }
}

#[test]
fn a_server_that_tells_no_holes_has_none() {
    let server = Server::honest(Offer {
        allocation: false,
        ..Offer::all(vec![0; 4096])
    });
    Executor::new().unwrap().run(async {
        let storage = open(&server, DEADLINE).await.unwrap();
        let extent = storage.extent(512, 1024).await.unwrap();
        assert_eq!(
            extent,
            StorageExtent {
                len: 1024,
                data: true
            }
        );
    });
}

#[test]
fn nothing_is_ever_written() {
    let server = Server::honest(Offer::all(content(4096)));
    Executor::new().unwrap().run(async {
        let storage = open(&server, DEADLINE).await.unwrap();
        assert!(storage.geometry().read_only);
        let refused = [
            storage.write_at(0, Buffers::zeroed(512)).await,
            storage.write_zeroes(0, 512, true).await,
            storage.zero_ahead(0, 4096).await,
            storage.set_len(0).await,
            storage.barrier().await,
            storage.discard(0, 512).await.map(drop),
        ];
        for result in refused {
            assert!(matches!(result, Err(Error::ReadOnly { .. })), "{result:?}");
        }
    });
}

//! Changes of what an image stands on, and of whether it holds anything.

use std::rc::Rc;

use super::behaviour::{flush, read, rig, write};
use super::rig::{Image, Rig, simulated};
use crate::flat::{Base, Flat, Parts};
use crate::{
    Buffers, Disk, Fault, FaultyOperation, Order, Raw, Request, SimulatedStorage, Storage as _,
};

const BLOCK_BYTES: u64 = 4096;

/// What a power cut can leave in the place of a block that is not local.
async fn leave(rig: &Rig, disk: &Image, block: u64) {
    let place = disk.header().data_offset + block * BLOCK_BYTES;
    let data = Buffers::from_vec(vec![9; 4096]);
    rig.image.write_at(place, data).await.unwrap();
}

/// The image on a base of so many zeros, or on none.
async fn open_on(rig: &Rig, base_bytes: Option<u64>) -> Image {
    let base = base_bytes.map(|bytes| Raw::new(SimulatedStorage::new(bytes, 1)).unwrap());
    let parts = Parts {
        base: base.map(|base| Rc::new(base) as Rc<dyn Disk>),
        ..Parts::default()
    };
    Flat::open(rig.image.clone(), parts).await.unwrap()
}

/// Nobody had read what lies there: it must not be what the disk has from now on.
#[test]
fn what_no_base_has_any_more_reads_as_zeros() {
    for base_bytes in [None, Some(2 * BLOCK_BYTES), Some(3 * BLOCK_BYTES + 512)] {
        simulated(1, async || {
            // The last block is a part of one.
            let rig = Rig::create(1, 128, 12, vec![2; 90], Order::Journal, false).await;
            let disk = rig.open().await.unwrap();
            write(&disk, 5, 7).await;
            flush(&disk).await;
            leave(&rig, &disk, 3).await;
            leave(&rig, &disk, 11).await;
            let base = rig.base_reference().zip(base_bytes);
            let base = base.map(|(base, size_bytes)| Base { size_bytes, ..base });
            disk.set_base(base).await.unwrap();
            disk.close().await.unwrap();
            let disk = open_on(&rig, base_bytes).await;
            for block in [3, 11] {
                let data = Buffers::from_vec(vec![1; 4096]);
                let request = Request::read(block * BLOCK_BYTES, data.clone());
                disk.submit(request).await.unwrap();
                assert!(data.is_zero(), "{base_bytes:?}: block {block}");
            }
            assert_eq!((read(&disk, 40).await, read(&disk, 41).await), (7, 2));
            disk.close().await.unwrap();
        });
    }
}

/// The base has all of it by then: the image must not let go of that.
#[test]
fn an_image_that_could_not_be_emptied_keeps_its_base() {
    for fault in 0..3 {
        simulated(1, async || {
            let rig = rig(Order::Ordered, false).await;
            let disk = rig.open().await.unwrap();
            for block in 0..12 {
                write(&disk, block, 1).await;
            }
            flush(&disk).await;
            let operation = FaultyOperation::Zero;
            rig.image
                .inject(Fault::new(operation, libc::EIO).after(fault));
            let emptied = disk.empty().await;
            assert_eq!(emptied.is_err(), fault < 2, "{fault}: {emptied:?}");
            rig.image.heal();
            disk.close().await.unwrap();
            let disk = rig.open().await.unwrap();
            // Nothing was done, or what has begun can be told.
            let (missing, stamp) = if fault == 0 { (0, 1) } else { (12, 2) };
            assert!(disk.header().base.is_some() || fault == 0, "{fault}");
            assert_eq!(disk.missing_blocks(), missing, "{fault}");
            assert_eq!(read(&disk, 0).await, stamp, "{fault}");
        });
    }
}

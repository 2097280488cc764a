//! Block devices that are made larger before a compact image fills them.

use std::cell::Cell;
use std::fmt;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use super::behaviour::{flush, read, write};
use super::compact::{BLOCK_SECTORS, CHUNK_BITS, rig, submit};
use super::rig::{Rig, simulated};
use crate::flat::{Flat, Grow, Parts};
use crate::test_support::join_all;
use crate::timer::sleep;
use crate::{BoxFuture, Disk, Order, SimulatedStorage, Storage as _};

/// What a hook does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Does {
    Gives(u64),
    GivesNothing,
    Fails,
    Hangs,
}

/// Makes a simulated device larger, by so many places.
struct Hook {
    device: SimulatedStorage,
    does: Cell<Does>,
    attempts: Cell<u64>,
    /// How many of them are at work.
    running: Cell<u64>,
}

impl fmt::Debug for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.does.get().fmt(f)
    }
}

/// An attempt, until it is dropped.
struct Running<'a>(&'a Hook);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.running.set(self.0.running.get() - 1);
    }
}

impl Grow for Hook {
    fn grow<'a>(
        &'a self,
        _device: &'a Path,
        size_bytes: u64,
        needed_bytes: u64,
    ) -> BoxFuture<'a, Result<(), String>> {
        assert_eq!(size_bytes, self.device.size_bytes());
        assert!(needed_bytes > 0);
        Box::pin(async move {
            self.attempts.set(self.attempts.get() + 1);
            assert_eq!(self.running.replace(1), 0, "one at a time");
            let _running = Running(self);
            sleep(Duration::from_millis(5)).await.unwrap();
            match self.does.get() {
                Does::Gives(places) => self.device.grow_block_device(places << CHUNK_BITS),
                Does::GivesNothing => {}
                Does::Fails => return Err("no extents".to_owned()),
                Does::Hangs => std::future::pending().await,
            }
            Ok(())
        })
    }
}

/// An image of 16 chunks on a device with two places, that a hook makes larger.
async fn growing(order: Order, does: Does) -> (Rig, Rc<Hook>) {
    growing_from(rig(order, 64, 8, Some(2)).await, does)
}

fn growing_from(mut rig: Rig, does: Does) -> (Rig, Rc<Hook>) {
    let hook = Rc::new(Hook {
        device: rig.image.clone(),
        does: Cell::new(does),
        attempts: Cell::default(),
        running: Cell::default(),
    });
    let grow: Rc<dyn Grow> = Rc::<Hook>::clone(&hook);
    rig.grow = Some(grow);
    (rig, hook)
}

/// Many writes at once find no place, and wait.
#[test]
fn a_device_grows_while_it_is_written() {
    for order in [Order::Journal, Order::Ordered] {
        simulated(1, async || {
            let (rig, hook) = growing(order, Does::Gives(3)).await;
            let disk = rig.open().await.unwrap();
            join_all((0..16).map(async |chunk| write(&disk, chunk * 4, chunk + 10).await)).await;
            flush(&disk).await;
            for chunk in 0..16 {
                assert_eq!(read(&disk, chunk * 4 * BLOCK_SECTORS).await, chunk + 10);
            }
            // Two and five times three: all that the disk can need.
            assert_eq!(hook.attempts.get(), 5);
            disk.close().await.unwrap();
            assert_eq!(rig.check().await.exit_status(), 0);
            let disk = rig.open().await.unwrap();
            assert_eq!(read(&disk, 60 * BLOCK_SECTORS).await, 25);
        });
    }
}

/// The places of tables that have moved are none of the chunks'.
#[test]
fn a_device_grows_for_the_last_chunk_of_a_disk_whose_tables_have_moved() {
    simulated(1, async || {
        let device = rig(Order::Journal, 64, 0, Some(40)).await;
        let (rig, _hook) = growing_from(device, Does::Gives(1));
        let disk = rig.open().await.unwrap();
        disk.resize(1025 * 4 * 4096).await.unwrap();
        for chunk in 0..1025 {
            write(&disk, chunk * 4, chunk + 1).await;
        }
        disk.close().await.unwrap();
        assert_eq!(rig.check().await.exit_status(), 0);
    });
}

/// Nobody waits for what comes before it is needed.
#[test]
fn a_device_grows_ahead_of_need() {
    simulated(1, async || {
        let (rig, hook) = growing(Order::Journal, Does::Gives(1)).await;
        let disk = rig.open().await.unwrap();
        write(&disk, 0, 1).await;
        sleep(Duration::from_secs(1)).await.unwrap();
        // An eighth of what the device has then is ten places; one was free.
        assert_eq!(hook.attempts.get(), 9);
    });
}

#[test]
fn a_hook_that_fails_is_tried_again_later() {
    for does in [Does::Fails, Does::GivesNothing] {
        simulated(1, async || {
            let (rig, hook) = growing(Order::Journal, does).await;
            let disk = rig.open().await.unwrap();
            for block in [0, 4] {
                write(&disk, block, 1).await;
            }
            let error = submit(&disk, 8, 1).await.unwrap_err();
            assert!(error.is_no_space(), "{error}");
            assert_eq!(hook.attempts.get(), 1);
            submit(&disk, 8, 1).await.unwrap_err();
            assert_eq!(hook.attempts.get(), 1, "not at once");
            // After 1, 2, 4, 8 and 16 seconds.
            sleep(Duration::from_secs(40)).await.unwrap();
            assert_eq!(hook.attempts.get(), 6);
            hook.does.set(Does::Gives(9));
            sleep(Duration::from_mins(1)).await.unwrap();
            write(&disk, 8, 1).await;
            assert!(hook.attempts.get() > 6);
            disk.close().await.unwrap();
        });
    }
}

#[test]
fn closing_gives_up_a_hook_that_hangs_and_who_waits_for_it() {
    simulated(1, async || {
        let (rig, hook) = growing(Order::Journal, Does::Hangs).await;
        let disk = rig.open().await.unwrap();
        for block in [0, 4] {
            write(&disk, block, 1).await;
        }
        let close = async {
            sleep(Duration::from_secs(1000)).await.unwrap();
            assert_eq!(hook.running.get(), 1);
            disk.close().await
        };
        let (written, closed) = futures_util::future::join(submit(&disk, 8, 1), close).await;
        assert!(written.unwrap_err().is_no_space());
        closed.unwrap();
        sleep(Duration::from_millis(1)).await.unwrap();
        assert_eq!((hook.attempts.get(), hook.running.get()), (1, 0));
    });
}

/// Without any hook.
#[test]
fn a_device_that_somebody_makes_larger_is_used() {
    simulated(1, async || {
        let rig = rig(Order::Journal, 64, 8, Some(1)).await;
        let disk = rig.open().await.unwrap();
        write(&disk, 0, 1).await;
        submit(&disk, 4, 1).await.unwrap_err();
        rig.image.grow_block_device(1 << CHUNK_BITS);
        write(&disk, 4, 1).await;
        disk.close().await.unwrap();
    });
}

#[test]
fn what_cannot_grow_is_refused() {
    simulated(1, async || {
        let (growing, _) = growing(Order::Journal, Does::Fails).await;
        for rig in [
            rig(Order::Journal, 64, 8, None).await,
            super::behaviour::rig(Order::Journal, false).await,
        ] {
            let parts = Parts {
                grow: growing.grow.clone(),
                ..Parts::default()
            };
            let Err(error) = Flat::open(rig.image.clone(), parts).await else {
                panic!("it was opened");
            };
            assert!(
                error
                    .to_string()
                    .contains("not a compact image on a block device")
            );
        }
    });
}

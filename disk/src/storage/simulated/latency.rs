//! How long a simulated disk takes.

use super::SimulatedDevice;

/// What operations cost, in virtual time. A disk does as many at once as it has channels; each
/// operation takes the channel that is free first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LatencyModel {
    /// How many operations are done at once, at least 1.
    pub channels: usize,
    /// What every read takes.
    pub read_ns: u64,
    /// What every write takes, into the disk's cache.
    pub write_ns: u64,
    /// What 4096 bytes of either take beyond that.
    pub page_ns: u64,
    /// What it takes to reach the other end of the disk. A stretch of the way takes the square
    /// root of its share; where the last operation ended, the next takes nothing.
    pub seek_ns: u64,
    /// What a sync takes that has nothing to do.
    pub sync_ns: u64,
    /// What 4096 bytes take in a sync that were written since the last one.
    pub dirty_page_ns: u64,
    /// What a barrier takes. It waits neither for the disk's cache to be written out nor for a
    /// transfer to it (`BarrierFS`, FAST'18), so that it costs what it takes to issue a command:
    /// nobody has measured one on these disks.
    pub barrier_ns: u64,
}

impl LatencyModel {
    /// A fast solid-state disk on PCI Express, with protection against power loss: a sync costs
    /// little more than the way there.
    pub const fn nvme() -> Self {
        Self {
            channels: 32,
            read_ns: 70_000,
            write_ns: 12_000,
            page_ns: 1_200,
            seek_ns: 0,
            sync_ns: 20_000,
            dirty_page_ns: 1_000,
            barrier_ns: 5_000,
        }
    }

    /// A solid-state disk for consumers, on SATA: a sync waits for the flash.
    pub const fn sata_ssd() -> Self {
        Self {
            channels: 8,
            read_ns: 90_000,
            write_ns: 40_000,
            page_ns: 8_000,
            seek_ns: 0,
            sync_ns: 500_000,
            dirty_page_ns: 10_000,
            barrier_ns: 10_000,
        }
    }

    /// A disk that turns 7200 times a minute, and writes its cache out at a sync.
    pub const fn hdd() -> Self {
        Self {
            channels: 1,
            read_ns: 100_000,
            write_ns: 50_000,
            page_ns: 25_000,
            seek_ns: 16_000_000,
            sync_ns: 8_300_000,
            dirty_page_ns: 100_000,
            barrier_ns: 10_000,
        }
    }

    /// The virtual disk of the cloud machine that this was developed on, which has a volatile
    /// cache. Fitted to what fio 3.33 (`--direct=1 --ioengine=io_uring`) did in a second, on a
    /// file of 1 GiB that was written before: 4 KiB reads 19,600 at depth 1 and 89,000 at depth
    /// 32; writes 22,400 and 135,000; 64 KiB reads 9,900 at depth 1; 4 KiB writes each with
    /// `--fdatasync=1` 4,900.
    pub const fn measured() -> Self {
        Self {
            channels: 5,
            read_ns: 48_000,
            write_ns: 39_000,
            page_ns: 2_500,
            seek_ns: 0,
            sync_ns: 161_000,
            dirty_page_ns: 1_000,
            barrier_ns: 10_000,
        }
    }
}

/// A request, as far as it matters for its time.
#[derive(Clone, Copy, Debug)]
pub(super) enum Work {
    Read { offset: u64, len: u64 },
    Write { offset: u64, len: u64 },
    Sync,
    Barrier,
}

/// A disk at work.
pub(super) struct Latency {
    device: SimulatedDevice,
    /// Where the disk begins on the device.
    start: u64,
    /// Of this disk alone: a sync writes out nothing of others on the device.
    dirty_bytes: u64,
}

impl Latency {
    pub(super) fn new(model: LatencyModel) -> Self {
        Self::on(&SimulatedDevice::of_one(model), 0)
    }

    /// A disk on a device that it may share.
    pub(super) fn on(device: &SimulatedDevice, start: u64) -> Self {
        Self {
            device: device.clone(),
            start,
            dirty_bytes: 0,
        }
    }

    /// Takes work that comes at `now_ns`, to a disk of `size_bytes`, and says how long until it is
    /// done.
    pub(super) fn take(&mut self, work: Work, now_ns: u64, size_bytes: u64) -> u64 {
        let service_ns = self.service_ns(work, size_bytes);
        self.device.queue(service_ns, now_ns)
    }

    fn service_ns(&mut self, work: Work, size_bytes: u64) -> u64 {
        let model = self.device.model();
        let pages = |bytes: u64, page_ns: u64| page_ns * bytes.div_ceil(512) / 8;
        match work {
            Work::Read { offset, len } => {
                model.read_ns + self.seek_ns(offset, len, size_bytes) + pages(len, model.page_ns)
            }
            Work::Write { offset, len } => {
                self.dirty_bytes += len;
                model.write_ns + self.seek_ns(offset, len, size_bytes) + pages(len, model.page_ns)
            }
            Work::Sync => {
                let dirty_bytes = std::mem::take(&mut self.dirty_bytes);
                model.sync_ns + pages(dirty_bytes, model.dirty_page_ns)
            }
            Work::Barrier => model.barrier_ns,
        }
    }

    fn seek_ns(&self, offset: u64, len: u64, size_bytes: u64) -> u64 {
        let offset = self.start.saturating_add(offset);
        self.device.seek_ns(offset, len, size_bytes)
    }
}

#[cfg(test)]
mod tests {
    use std::cmp::Reverse;

    use super::*;

    const SIZE: u64 = 1 << 30;

    fn read(offset: u64) -> Work {
        Work::Read { offset, len: 4096 }
    }

    #[test]
    fn channels_work_side_by_side_and_then_queue() {
        let mut disk = Latency::new(LatencyModel {
            channels: 2,
            ..LatencyModel::nvme()
        });
        let alone = disk.take(read(0), 0, SIZE);
        assert_eq!(alone, 71_200);
        assert_eq!(disk.take(read(0), 0, SIZE), alone);
        assert_eq!(disk.take(read(0), 0, SIZE), 2 * alone);
        assert_eq!(disk.take(read(0), alone, SIZE), alone);
        assert_eq!(disk.take(read(0), 10 * alone, SIZE), alone);
    }

    /// Operations a second at a queue depth, by the model.
    fn rate(model: LatencyModel, depth: usize, work: impl Fn(u64) -> Work) -> u64 {
        const COUNT: u64 = 10_000;
        let mut disk = Latency::new(model);
        let mut in_flight = std::collections::BinaryHeap::new();
        let mut now_ns = 0;
        for n in 0..COUNT {
            if in_flight.len() == depth {
                let Reverse(done_ns) = in_flight.pop().unwrap();
                now_ns = done_ns;
            }
            in_flight.push(Reverse(now_ns + disk.take(work(n), now_ns, SIZE)));
        }
        COUNT * 1_000_000_000 / now_ns
    }

    #[test]
    fn measured_disk_is_as_fast_as_it_was_measured() {
        let is_near = |rate: u64, measured: u64| rate.abs_diff(measured) < measured / 6;
        let read = |_| read(0);
        let write = |_| Work::Write {
            offset: 0,
            len: 4096,
        };
        let measured = LatencyModel::measured();
        assert!(is_near(rate(measured, 1, read), 19_600));
        assert!(is_near(rate(measured, 32, read), 89_000));
        assert!(is_near(rate(measured, 1, write), 22_400));
        assert!(is_near(rate(measured, 32, write), 135_000));
        let synced = |n| if n % 2 == 0 { write(n) } else { Work::Sync };
        assert!(is_near(rate(measured, 1, synced), 2 * 4_900));
    }

    #[test]
    fn heads_move_and_solid_state_does_not() {
        let mut disk = Latency::new(LatencyModel::hdd());
        let still = disk.take(read(0), 0, SIZE);
        let mut after = |work| disk.take(work, 1 << 50, SIZE);
        assert_eq!(still, 125_000);
        let near = after(read(SIZE / 100));
        assert_eq!(near, 125_000 + 1_600_000 - 16_000);
    }

    #[test]
    fn sync_costs_what_was_written_since_the_last() {
        let mut disk = Latency::new(LatencyModel::sata_ssd());
        let empty = disk.take(Work::Sync, 0, SIZE);
        let write = Work::Write {
            offset: 0,
            len: 40_960,
        };
        disk.take(write, 0, SIZE);
        // A barrier leaves all of it to the sync.
        assert_eq!(disk.take(Work::Barrier, 0, SIZE), 10_000);
        assert_eq!(disk.take(Work::Sync, 0, SIZE), empty + 100_000);
        assert_eq!(disk.take(Work::Sync, 1 << 50, SIZE), empty);
    }

    #[test]
    fn disks_on_one_device_share_its_channels_and_its_heads() {
        let device = SimulatedDevice::new(LatencyModel::hdd(), 4 * SIZE);
        let mut near = Latency::on(&device, 0);
        let mut far = Latency::on(&device, SIZE);
        let first = near.take(read(0), 0, SIZE);
        // It waits for the other's operation, and then for half the way between the ends.
        assert_eq!(far.take(read(4096), 0, SIZE), first + 8_000_000 + 125_000);
        // Where the other ended, it goes on without a way.
        let mut behind = Latency::on(&device, SIZE + 8192);
        assert_eq!(behind.take(read(0), 1 << 50, SIZE), 125_000);
    }

    #[test]
    fn sync_pays_for_its_own_disk_only() {
        let device = SimulatedDevice::new(LatencyModel::sata_ssd(), 4 * SIZE);
        let mut quiet = Latency::on(&device, 0);
        let mut busy = Latency::on(&device, SIZE);
        let write = Work::Write {
            offset: 0,
            len: 40_960,
        };
        busy.take(write, 0, SIZE);
        let empty = quiet.take(Work::Sync, 0, SIZE);
        assert_eq!(empty, LatencyModel::sata_ssd().sync_ns);
        assert_eq!(busy.take(Work::Sync, 0, SIZE), empty + 100_000);
    }
}

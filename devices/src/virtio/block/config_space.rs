//! The device configuration space (virtio 1.2 section 5.2.4).

use disk::Properties;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{Immutable, IntoBytes, KnownLayout};

/// The unit of capacity and of all sector numbers, whatever the block size.
pub(super) const SECTOR_BYTES: u64 = 512;
/// The largest buffer of one descriptor that a driver should use.
pub(super) const SEGMENT_BYTES_MAX: u32 = 256 << 10;
/// The most buffers that a driver should give one request, where the queue is large enough.
pub(super) const SEGMENTS_MAX: u16 = 254;
/// The most data of one request; what drivers make within the two limits above fits.
pub(super) const REQUEST_BYTES_MAX: u64 = 64 << 20;
/// The most ranges of one discard request.
pub(super) const DISCARD_RANGES_MAX: u32 = 64;
/// The most ranges of one write-zeroes request. Drivers use no more, and so a queue full of them is
/// no more work for the host, which a reset waits for, than one full of writes.
pub(super) const ZERO_RANGES_MAX: u32 = 1;
/// The most sectors of one range to discard: 2 GiB, less a sector.
pub(super) const DISCARD_SECTORS_MAX: u32 = (1 << 22) - 1;
/// The most sectors of one range to zero: 64 MiB, for the host may have to write them.
pub(super) const ZERO_SECTORS_MAX: u32 = 1 << 17;

/// Where the driver finds and sets the cache mode.
pub(super) const WRITEBACK_OFFSET: u64 = std::mem::offset_of!(ConfigSpace, writeback) as u64;

/// `struct virtio_blk_config`, without the tail that only secure erase and zones use.
#[derive(Clone, Copy, Debug, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(super) struct ConfigSpace {
    pub(super) capacity_sectors: U64,
    pub(super) size_max: U32,
    pub(super) seg_max: U32,
    /// Cylinders, heads and sectors, which nobody asks for.
    pub(super) geometry: U32,
    pub(super) blk_size: U32,
    pub(super) physical_block_exp: u8,
    pub(super) alignment_offset: u8,
    pub(super) min_io_size_blocks: U16,
    pub(super) opt_io_size_blocks: U32,
    pub(super) writeback: u8,
    pub(super) unused0: u8,
    pub(super) num_queues: U16,
    pub(super) max_discard_sectors: U32,
    pub(super) max_discard_seg: U32,
    pub(super) discard_sector_alignment: U32,
    pub(super) max_write_zeroes_sectors: U32,
    pub(super) max_write_zeroes_seg: U32,
    pub(super) write_zeroes_may_unmap: u8,
    pub(super) unused1: [u8; 3],
}

const _: () = assert!(size_of::<ConfigSpace>() == 60);

impl ConfigSpace {
    /// What a disk like `disk` looks like through `queues` queues of `queue_size` descriptors.
    pub(super) fn new(disk: &Properties, queues: u16, queue_size: u16) -> Self {
        let block_bytes = disk.block_size_bytes.max(1);
        let blocks_per_physical = (disk.physical_block_size_bytes / block_bytes).max(1);
        let discard_sectors = u64::from(disk.discard_granularity_bytes) / SECTOR_BYTES;
        Self {
            capacity_sectors: (disk.size_bytes / SECTOR_BYTES).into(),
            size_max: SEGMENT_BYTES_MAX.into(),
            // The header and the status take a descriptor each.
            seg_max: u32::from(SEGMENTS_MAX.min(queue_size.saturating_sub(2)).max(1)).into(),
            geometry: 0.into(),
            blk_size: block_bytes.into(),
            physical_block_exp: u8::try_from(blocks_per_physical.ilog2()).unwrap_or(0),
            alignment_offset: 0,
            min_io_size_blocks: u16::try_from(blocks_per_physical).unwrap_or(1).into(),
            opt_io_size_blocks: (disk.optimal_io_size_bytes / block_bytes).into(),
            writeback: 1,
            unused0: 0,
            num_queues: queues.into(),
            max_discard_sectors: DISCARD_SECTORS_MAX.into(),
            max_discard_seg: DISCARD_RANGES_MAX.into(),
            discard_sector_alignment: u32::try_from(discard_sectors).unwrap_or(1).max(1).into(),
            max_write_zeroes_sectors: ZERO_SECTORS_MAX.into(),
            max_write_zeroes_seg: ZERO_RANGES_MAX.into(),
            write_zeroes_may_unmap: 1,
            unused1: [0; 3],
        }
    }

    /// Copies what lies at `offset`; past the end are zeros.
    pub(super) fn read(&self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let bytes = self.as_bytes().get(start..).unwrap_or_default();
        let len = bytes.len().min(data.len());
        data[..len].copy_from_slice(&bytes[..len]);
    }
}

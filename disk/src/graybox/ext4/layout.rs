//! Where an ext4 has what, as its superblock says. Chapters "Layout" and "Super Block".

use std::ops::Range;

use zerocopy::FromBytes as _;

use super::checksum::{self, Seed};
use super::format::{
    INODE_BYTES_MIN, MAGIC, SUPERBLOCK_AT, SUPERBLOCK_BYTES, Superblock, compatible, incompatible,
    read_only_compatible,
};

/// More groups than this are not told apart: of the usual 128 MiB, they are 32 TiB.
const GROUPS_MAX: u64 = 1 << 18;
/// The largest block: 64 KiB.
const LOG_BLOCK_SIZE_MAX: u32 = 6;
const DESCRIPTOR_BYTES: u64 = 32;

/// What does not change while a file system has the same size and features.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    pub(super) block_bytes: u64,
    pub(super) blocks: u64,
    pub(super) groups: u64,
    pub(super) inodes: u32,
    pub(super) inodes_per_group: u64,
    pub(super) inode_bytes: usize,
    pub(super) descriptor_bytes: u64,
    /// Blocks that a bit of a block bitmap stands for.
    pub(super) cluster_blocks: u64,
    pub(super) has_extents: bool,
    /// What checksums begin with, if inodes have some.
    pub(super) checksum_seed: Option<Seed>,
    pub(super) journal: Option<JournalInode>,
    /// Inodes whose content is the file system's own: quotas, orphans.
    pub(super) own_inodes: [u32; 4],
    /// Multiple mount protection.
    pub(super) mmp_block: Option<u64>,
    blocks_per_group: u64,
    first_data_block: u64,
    /// Groups from which on descriptors are spread.
    first_meta_group: Option<u64>,
    reserved_descriptor_blocks: u64,
    backups: Backups,
    uuid: [u8; 16],
}

/// The inode that has the journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct JournalInode {
    pub(super) number: u32,
    /// What it has in its `i_block`, if the superblock knows.
    pub(super) blocks: Option<[u8; 60]>,
}

/// Which groups have a copy of the superblock.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Backups {
    All,
    Sparse,
    Two([u64; 2]),
}

/// What a superblock says.
pub(in super::super) struct Found {
    pub(super) layout: Layout,
    /// Whether the journal may hold something: it is mounted for writing, or was.
    pub(super) live: bool,
}

impl Found {
    /// Reads the superblock of a file system that has `size_bytes` to itself.
    pub(in super::super) fn parse(bytes: &[u8; SUPERBLOCK_BYTES], size_bytes: u64) -> Option<Self> {
        let fields = Superblock::ref_from_bytes(bytes).ok()?;
        let incompatible = fields.feature_incompat.get();
        let is_journal = incompatible & incompatible::JOURNAL_DEV != 0;
        if fields.magic.get() != MAGIC || fields.block_group_nr.get() != 0 || is_journal {
            return None;
        }
        let csum = fields.feature_ro_compat.get() & read_only_compatible::METADATA_CSUM != 0;
        let covered = bytes.get(..SUPERBLOCK_BYTES - 4)?;
        if csum && checksum::raw(Seed::ALL_ONES, covered).value() != fields.checksum.get() {
            return None;
        }
        let layout = Layout::parse(fields, size_bytes)?;
        let live = incompatible & incompatible::RECOVER != 0 && layout.journal.is_some();
        Some(Self { layout, live })
    }
}

impl Layout {
    fn parse(fields: &Superblock, size_bytes: u64) -> Option<Self> {
        let log = fields.log_block_size.get();
        let block_bytes = (log <= LOG_BLOCK_SIZE_MAX).then(|| 1024_u64 << log)?;
        let incompatible = fields.feature_incompat.get();
        let has = |flag| incompatible & flag != 0;
        let high = if has(incompatible::BITS_64) {
            u64::from(fields.blocks_count_hi.get()) << 32
        } else {
            0
        };
        let blocks = u64::from(fields.blocks_count_lo.get()) | high;
        let blocks = blocks.min(size_bytes / block_bytes);
        let blocks_per_group = u64::from(fields.blocks_per_group.get());
        let first_data_block = u64::from(fields.first_data_block.get());
        let in_groups = blocks.checked_sub(first_data_block)?;
        let groups = in_groups.checked_add(blocks_per_group)?.checked_sub(1)?;
        let groups = groups.checked_div(blocks_per_group)?;
        let descriptor_bytes = descriptor_bytes(fields, block_bytes)?;
        let reserved = u64::from(fields.reserved_gdt_blocks.get());
        let inodes_per_group = u64::from(fields.inodes_per_group.get());
        let is_sane = (1..=GROUPS_MAX).contains(&groups)
            && first_data_block <= 1
            && (256..=block_bytes << 19).contains(&blocks_per_group)
            && (1..=block_bytes * 8).contains(&inodes_per_group)
            && reserved <= block_bytes / 4;
        let first_meta_group = u64::from(fields.first_meta_bg.get());
        is_sane.then_some(Self {
            block_bytes,
            blocks,
            groups,
            inodes: fields.inodes_count.get(),
            inodes_per_group,
            inode_bytes: inode_bytes(fields, block_bytes)?,
            descriptor_bytes,
            cluster_blocks: cluster_blocks(fields)?,
            has_extents: has(incompatible::EXTENTS),
            checksum_seed: checksum_seed(fields),
            journal: journal(fields),
            own_inodes: [
                fields.usr_quota_inum.get(),
                fields.grp_quota_inum.get(),
                fields.prj_quota_inum.get(),
                fields.orphan_file_inum.get(),
            ],
            mmp_block: has(incompatible::MMP).then(|| fields.mmp_block.get()),
            blocks_per_group,
            first_data_block,
            first_meta_group: has(incompatible::META_BG).then_some(first_meta_group),
            reserved_descriptor_blocks: reserved,
            backups: backups(fields),
            uuid: fields.uuid,
        })
    }

    /// Where a group begins.
    pub(super) fn group_start(&self, group: u64) -> u64 {
        group
            .saturating_mul(self.blocks_per_group)
            .saturating_add(self.first_data_block)
    }

    /// The blocks of a group.
    pub(super) fn group_blocks(&self, group: u64) -> Range<u64> {
        let start = self.group_start(group).min(self.blocks);
        let end = self.group_start(group.saturating_add(1)).min(self.blocks);
        start..end.max(start)
    }

    /// The blocks of the table of inodes of a group.
    pub(super) fn inode_table_blocks(&self) -> u64 {
        (self.inodes_per_group * self.inode_bytes as u64).div_ceil(self.block_bytes)
    }

    pub(super) fn descriptors_per_block(&self) -> u64 {
        self.block_bytes / self.descriptor_bytes
    }

    /// The blocks that descriptors take.
    pub(super) fn descriptor_blocks(&self) -> u64 {
        self.groups.div_ceil(self.descriptors_per_block())
    }

    /// Where the first copy of a block of descriptors is.
    pub(super) fn descriptor_block(&self, number: u64) -> u64 {
        if self.is_spread(number) {
            let group = number * self.descriptors_per_block();
            return self.group_start(group) + u64::from(self.has_superblock(group));
        }
        SUPERBLOCK_AT / self.block_bytes + 1 + number
    }

    /// Whether a block of descriptors is among the groups that it describes.
    fn is_spread(&self, number: u64) -> bool {
        self.first_meta_group.is_some_and(|first| number >= first)
    }

    /// The blocks at the start of a group that have copies of the superblock and of descriptors, or
    /// are kept free for more of them.
    pub(super) fn head(&self, group: u64) -> Range<u64> {
        let start = self.group_start(group);
        let copy = self.has_superblock(group);
        let place = group % self.descriptors_per_block();
        let number = group / self.descriptors_per_block();
        let after = if self.is_spread(number) {
            let has_descriptors = [0, 1, self.descriptors_per_block() - 1].contains(&place);
            u64::from(copy) + u64::from(has_descriptors)
        } else if copy {
            let all = self.descriptor_blocks();
            let together = self.first_meta_group.map_or(all, |first| first.min(all));
            1 + together + self.reserved_descriptor_blocks
        } else {
            0
        };
        let end = self.group_blocks(group).end;
        start.min(end)..start.saturating_add(after).min(end)
    }

    fn has_superblock(&self, group: u64) -> bool {
        let is_power = |of: u64| {
            let mut rest = group;
            while rest > 1 && rest.is_multiple_of(of) {
                rest /= of;
            }
            rest == 1
        };
        match self.backups {
            _ if group == 0 => true,
            Backups::All => true,
            Backups::Sparse => [3, 5, 7].into_iter().any(is_power),
            Backups::Two(groups) => groups.contains(&group),
        }
    }
}

fn descriptor_bytes(fields: &Superblock, block_bytes: u64) -> Option<u64> {
    if fields.feature_incompat.get() & incompatible::BITS_64 == 0 {
        return Some(DESCRIPTOR_BYTES);
    }
    let bytes = u64::from(fields.desc_size.get());
    let is_sane = bytes.is_power_of_two() && (2 * DESCRIPTOR_BYTES..=block_bytes).contains(&bytes);
    is_sane.then_some(bytes)
}

fn inode_bytes(fields: &Superblock, block_bytes: u64) -> Option<usize> {
    if fields.rev_level.get() == 0 {
        return Some(INODE_BYTES_MIN);
    }
    let bytes = usize::from(fields.inode_size.get());
    let is_sane =
        bytes.is_power_of_two() && bytes >= INODE_BYTES_MIN && bytes as u64 <= block_bytes;
    is_sane.then_some(bytes)
}

/// From the sizes of groups: without bigalloc, a cluster is a block.
fn cluster_blocks(fields: &Superblock) -> Option<u64> {
    let clusters = u64::from(fields.clusters_per_group.get());
    let blocks = u64::from(fields.blocks_per_group.get());
    if clusters == 0 || clusters > blocks {
        return Some(1);
    }
    let ratio = blocks / clusters;
    (ratio.is_power_of_two() && ratio * clusters == blocks).then_some(ratio)
}

fn checksum_seed(fields: &Superblock) -> Option<Seed> {
    let has_csum = fields.feature_ro_compat.get() & read_only_compatible::METADATA_CSUM != 0;
    let has_seed = fields.feature_incompat.get() & incompatible::CSUM_SEED != 0;
    has_csum.then(|| {
        if has_seed {
            Seed::from_value(fields.checksum_seed.get())
        } else {
            checksum::raw(Seed::ALL_ONES, &fields.uuid)
        }
    })
}

fn journal(fields: &Superblock) -> Option<JournalInode> {
    let has_journal = fields.feature_compat.get() & compatible::HAS_JOURNAL != 0;
    // Where there is none, the journal is on another disk.
    let number = Some(fields.journal_inum.get()).filter(|number| *number != 0 && has_journal)?;
    let blocks = (fields.jnl_backup_type == 1).then_some(fields.jnl_blocks);
    Some(JournalInode { number, blocks })
}

fn backups(fields: &Superblock) -> Backups {
    if fields.feature_compat.get() & compatible::SPARSE_SUPER2 != 0 {
        Backups::Two(fields.backup_bgs.each_ref().map(|group| group.get().into()))
    } else if fields.feature_ro_compat.get() & read_only_compatible::SPARSE_SUPER != 0 {
        Backups::Sparse
    } else {
        Backups::All
    }
}

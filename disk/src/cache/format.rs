//! The cache file: each byte is in docs/cache-format.md.

use crate::{CLASS_BLOCK_BYTES, Class};

/// The header and each part of the table are written at once, and never torn.
pub(super) const SECTOR_BYTES: usize = 512;
/// Where the table begins.
pub(super) const TABLE_OFFSET: u64 = 4096;
/// How many slots a sector of the table tells of.
pub(super) const ENTRIES_PER_SECTOR: u32 = 20;

/// What the header begins with: the last two bytes are the version.
const MAGIC: [u8; 8] = *b"mvcach\0\x01";
/// What a sector of the table begins with.
const TABLE_MAGIC: [u8; 4] = *b"MVCT";
const ENTRY_BYTES: usize = 24;
const ENTRIES_OFFSET: usize = 32;
const PATH_OFFSET: usize = 112;
const PATH_BYTES_MAX: usize = SECTOR_BYTES - PATH_OFFSET;

/// What tells that the file of a disk was changed by somebody else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// The number of the file in its file system.
    pub inode: u64,
    /// Its size in bytes.
    pub size_bytes: u64,
    /// When it was changed last, in nanoseconds since 1970.
    pub changed_ns: u64,
}

/// The first sector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Header {
    /// Whether a disk was closed in order, and nobody opened it since.
    pub(super) is_clean: bool,
    /// Whether the table is there.
    pub(super) is_made: bool,
    pub(super) slots: u32,
    /// The size of the disk that it is of.
    pub(super) disk_bytes: u64,
    /// What every sector of the table has too: one of an older cache in the same file does not count.
    pub(super) identity: [u8; 16],
    /// What the disk's file was like; absent if nobody can know.
    pub(super) stamp: Option<Stamp>,
    /// What the disk is called, for messages; the end of a long name.
    pub(super) path: Vec<u8>,
}

/// What a slot has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) block: u64,
    pub(super) sequence: u64,
    pub(super) crc: u32,
    pub(super) class: Class,
    pub(super) state: EntryState,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum EntryState {
    /// Nothing.
    Empty,
    /// What the disk has too.
    Clean,
    /// What the disk has not.
    Dirty,
    /// What is of no use, nor any older version of the block.
    Void,
}

/// How many sectors a table has.
pub(super) fn table_sectors(slots: u32) -> u32 {
    slots.div_ceil(ENTRIES_PER_SECTOR)
}

/// Where the slots begin.
pub(super) fn data_offset(slots: u32) -> u64 {
    let table = u64::from(table_sectors(slots)) * SECTOR_BYTES as u64;
    TABLE_OFFSET + table.next_multiple_of(CLASS_BLOCK_BYTES)
}

/// How large the file is.
pub(super) fn file_bytes(slots: u32) -> u64 {
    data_offset(slots) + u64::from(slots) * CLASS_BLOCK_BYTES
}

fn put(sector: &mut [u8], at: usize, bytes: &[u8]) {
    sector[at..at + bytes.len()].copy_from_slice(bytes);
}

fn get<const N: usize>(sector: &[u8], at: usize) -> [u8; N] {
    let mut bytes = [0; N];
    bytes.copy_from_slice(&sector[at..at + N]);
    bytes
}

fn get_u64(sector: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(get(sector, at))
}

fn get_u32(sector: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(get(sector, at))
}

/// The checksum of a sector, with its own field as zeros.
fn checksum(sector: &[u8], field: usize) -> u32 {
    let crc = crc32c::crc32c(&sector[..field]);
    let crc = crc32c::crc32c_append(crc, &[0; 4]);
    crc32c::crc32c_append(crc, &sector[field + 4..])
}

impl Header {
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let mut sector = vec![0; SECTOR_BYTES];
        let stamp = self.stamp.unwrap_or(Stamp {
            inode: 0,
            size_bytes: 0,
            changed_ns: 0,
        });
        put(&mut sector, 0, &MAGIC);
        let state: u32 = match (self.is_made, self.is_clean) {
            (false, _) => 0,
            (true, false) => 1,
            (true, true) => 2,
        };
        put(&mut sector, 12, &state.to_le_bytes());
        put(&mut sector, 16, &self.slots.to_le_bytes());
        put(&mut sector, 24, &self.disk_bytes.to_le_bytes());
        put(&mut sector, 32, &self.identity);
        put(
            &mut sector,
            48,
            &u64::from(self.stamp.is_some()).to_le_bytes(),
        );
        put(&mut sector, 56, &stamp.inode.to_le_bytes());
        put(&mut sector, 64, &stamp.size_bytes.to_le_bytes());
        put(&mut sector, 72, &stamp.changed_ns.to_le_bytes());
        let path = &self.path[self.path.len().saturating_sub(PATH_BYTES_MAX)..];
        let len = u32::try_from(path.len()).unwrap_or(0);
        put(&mut sector, 80, &len.to_le_bytes());
        put(&mut sector, PATH_OFFSET, path);
        let crc = checksum(&sector, 8);
        put(&mut sector, 8, &crc.to_le_bytes());
        sector
    }

    /// Reads the first sector of a file; what is wrong with it otherwise.
    pub(super) fn parse(sector: &[u8]) -> Result<Self, &'static str> {
        if sector.len() < SECTOR_BYTES || sector[..6] != MAGIC[..6] {
            return Err("is not a cache file, and is not written over; name another file");
        }
        if sector[..8] != MAGIC {
            return Err("is a cache file of another version of microvm; use that one");
        }
        let state = get_u32(sector, 12);
        let path_len = get_u32(sector, 80) as usize;
        let slots = get_u32(sector, 16);
        let is_right = checksum(sector, 8) == get_u32(sector, 8);
        if !is_right || state > 2 || path_len > PATH_BYTES_MAX || slots == 0 {
            return Err("is damaged: its header's checksum is wrong");
        }
        let stamp = Stamp {
            inode: get_u64(sector, 56),
            size_bytes: get_u64(sector, 64),
            changed_ns: get_u64(sector, 72),
        };
        Ok(Self {
            is_clean: state == 2,
            is_made: state > 0,
            slots,
            disk_bytes: get_u64(sector, 24),
            identity: get(sector, 32),
            stamp: (get_u64(sector, 48) == 1).then_some(stamp),
            path: sector[PATH_OFFSET..PATH_OFFSET + path_len].to_vec(),
        })
    }
}

/// A sector of the table. `durable_sequence` is durable before it is written.
pub(super) fn table_sector(
    identity: &[u8; 16],
    number: u32,
    durable_sequence: u64,
    entries: &[Entry],
) -> Vec<u8> {
    let mut sector = vec![0; SECTOR_BYTES];
    put(&mut sector, 0, &TABLE_MAGIC);
    put(&mut sector, 8, &number.to_le_bytes());
    // The first half tells caches apart well enough beside the checksum.
    put(&mut sector, 16, &identity[..8]);
    put(&mut sector, 24, &durable_sequence.to_le_bytes());
    for (n, entry) in entries.iter().enumerate() {
        let state = match entry.state {
            EntryState::Empty => continue,
            EntryState::Clean => 1,
            EntryState::Dirty => 2,
            EntryState::Void => 3,
        };
        let at = ENTRIES_OFFSET + n * ENTRY_BYTES;
        put(&mut sector, at, &entry.block.to_le_bytes());
        put(&mut sector, at + 8, &entry.sequence.to_le_bytes());
        put(&mut sector, at + 16, &entry.crc.to_le_bytes());
        put(&mut sector, at + 20, &[entry.class as u8, state]);
    }
    let crc = checksum(&sector, 4);
    put(&mut sector, 4, &crc.to_le_bytes());
    sector
}

/// The entries of a sector of the table, and what was durable before; absent if it is not one.
pub(super) fn parse_table_sector(
    identity: &[u8; 16],
    number: u32,
    sector: &[u8],
) -> Option<(u64, Vec<Entry>)> {
    let is_right = sector.len() == SECTOR_BYTES
        && sector[..4] == TABLE_MAGIC
        && checksum(sector, 4) == get_u32(sector, 4)
        && get_u32(sector, 8) == number
        && sector[16..24] == identity[..8];
    if !is_right {
        return None;
    }
    let entry = |bytes: &[u8]| {
        let state = match bytes[21] {
            0 => EntryState::Empty,
            1 => EntryState::Clean,
            2 => EntryState::Dirty,
            3 => EntryState::Void,
            _ => return None,
        };
        Some(Entry {
            block: get_u64(bytes, 0),
            sequence: get_u64(bytes, 8),
            crc: get_u32(bytes, 16),
            class: *Class::ALL.get(usize::from(bytes[20]))?,
            state,
        })
    };
    let entries = sector[ENTRIES_OFFSET..]
        .chunks_exact(ENTRY_BYTES)
        .map(entry);
    Some((get_u64(sector, 24), entries.collect::<Option<Vec<_>>>()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> Header {
        Header {
            is_clean: true,
            is_made: true,
            slots: 1000,
            disk_bytes: 1 << 30,
            identity: *b"0123456789abcdef",
            stamp: Some(Stamp {
                inode: 7,
                size_bytes: 8,
                changed_ns: 9,
            }),
            path: b"/some/disk".to_vec(),
        }
    }

    #[test]
    fn headers_come_back_and_damage_is_seen() {
        for header in [
            header(),
            Header {
                stamp: None,
                is_clean: false,
                ..header()
            },
        ] {
            let bytes = header.to_bytes();
            assert_eq!(Header::parse(&bytes), Ok(header));
            for at in 8..SECTOR_BYTES {
                let mut bytes = bytes.clone();
                bytes[at] ^= 1;
                assert!(
                    Header::parse(&bytes).unwrap_err().contains("damaged"),
                    "{at}"
                );
            }
        }
        let long = Header {
            path: vec![b'x'; 1000],
            ..header()
        };
        let found = Header::parse(&long.to_bytes()).unwrap();
        assert_eq!(found.path.len(), PATH_BYTES_MAX);
        let mut other = header().to_bytes();
        other[7] = 2;
        assert!(
            Header::parse(&other)
                .unwrap_err()
                .contains("another version")
        );
        assert!(
            Header::parse(&[0; 512])
                .unwrap_err()
                .contains("not a cache")
        );
        assert!(Header::parse(b"").unwrap_err().contains("not a cache"));
    }

    #[test]
    fn table_sectors_come_back_and_damage_is_seen() {
        let identity = header().identity;
        let entry = |n: u64, state| Entry {
            block: n,
            sequence: n + 100,
            crc: 5,
            class: Class::Below2Mib,
            state,
        };
        let entries = vec![
            entry(1, EntryState::Dirty),
            entry(2, EntryState::Clean),
            entry(3, EntryState::Void),
        ];
        let bytes = table_sector(&identity, 4, 77, &entries);
        let (durable, found) = parse_table_sector(&identity, 4, &bytes).unwrap();
        assert_eq!((durable, &found[..3]), (77, &entries[..]));
        assert!(
            found[3..]
                .iter()
                .all(|entry| entry.state == EntryState::Empty)
        );
        assert_eq!(found.len(), ENTRIES_PER_SECTOR as usize);
        assert!(parse_table_sector(&identity, 5, &bytes).is_none());
        assert!(parse_table_sector(&[0; 16], 4, &bytes).is_none());
        for at in 0..SECTOR_BYTES {
            let mut bytes = bytes.clone();
            bytes[at] ^= 1;
            assert!(parse_table_sector(&identity, 4, &bytes).is_none(), "{at}");
        }
    }
}

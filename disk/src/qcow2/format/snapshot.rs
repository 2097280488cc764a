//! The snapshot table. Part "Snapshots" of the specification.

use zerocopy::byteorder::big_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::FormatError;

/// QEMU's limit, and ours.
pub const SNAPSHOTS_MAX: u32 = 65536;
/// QEMU's limit on what we do not know of a snapshot, and ours.
const EXTRA_DATA_BYTES_MAX: usize = 1024;
/// The two fields of the extra data that are defined.
const KNOWN_EXTRA_BYTES: usize = 16;

/// The fixed fields as they are on the disk.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
struct Fields {
    l1_table_offset: U64,
    l1_size: U32,
    id_str_size: U16,
    name_size: U16,
    date_sec: U32,
    date_nsec: U32,
    vm_clock_nsec: U64,
    vm_state_size: U32,
    extra_data_size: U32,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
struct KnownExtra {
    vm_state_size: U64,
    disk_size: U64,
}

/// An internal snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotEntry {
    /// Where its L1 table is.
    pub l1_offset: u64,
    /// Entries of its L1 table.
    pub l1_entries: u32,
    /// A number, by convention, that no other has.
    pub id: String,
    /// What the user called it.
    pub name: String,
    /// When it was taken, in seconds since 1970.
    pub date_seconds: u32,
    /// The nanoseconds of that.
    pub date_ns: u32,
    /// How long the guest had run, in nanoseconds.
    pub vm_clock_ns: u64,
    /// Bytes of the VM's state; 0 if none was saved.
    pub vm_state_bytes: u64,
    /// The disk's size then; absent in old images, where it is the disk's size now.
    pub disk_bytes: Option<u64>,
    /// Extra data that we do not know.
    pub unknown_extra: Vec<u8>,
    /// ID and name as they are, where they are not UTF-8: then `id` and `name` only resemble them.
    pub raw_names: Option<(Vec<u8>, Vec<u8>)>,
}

impl SnapshotEntry {
    /// The most bytes that a snapshot table of `count` entries may have.
    pub fn table_bytes_max(count: u32) -> u64 {
        let entry = size_of::<Fields>() + EXTRA_DATA_BYTES_MAX + 2 * usize::from(u16::MAX) + 8;
        u64::from(count) * entry as u64
    }

    /// The least bytes that a snapshot table of `count` entries has.
    pub fn table_bytes_min(count: u32) -> u64 {
        u64::from(count) * size_of::<Fields>() as u64
    }

    /// Parses the entry at the start of `bytes`, which is at `offset` in the file; also its length.
    pub fn parse(offset: u64, bytes: &[u8]) -> Result<(Self, usize), FormatError> {
        let cut_off = || FormatError::damaged(offset, "the snapshot table is cut off");
        let (fields, rest) = Fields::ref_from_prefix(bytes).map_err(|_| cut_off())?;
        let extra_bytes = fields.extra_data_size.get() as usize;
        if extra_bytes > EXTRA_DATA_BYTES_MAX {
            let problem = format!("a snapshot has more than {EXTRA_DATA_BYTES_MAX} extra bytes");
            return Err(FormatError::unsupported(offset, problem));
        }
        let id_bytes = usize::from(fields.id_str_size.get());
        let name_bytes = usize::from(fields.name_size.get());
        let part = |start: usize, len: usize| rest.get(start..start + len).ok_or_else(cut_off);
        let extra = part(0, extra_bytes)?;
        let (vm_state_bytes, disk_bytes) = match KnownExtra::ref_from_prefix(extra) {
            Ok((known, _)) => (known.vm_state_size.get(), Some(known.disk_size.get())),
            Err(_) => match U64::ref_from_prefix(extra) {
                Ok((size, _)) => (size.get(), None),
                Err(_) => (fields.vm_state_size.get().into(), None),
            },
        };
        let id = part(extra_bytes, id_bytes)?;
        let name = part(extra_bytes + id_bytes, name_bytes)?;
        let is_text = str::from_utf8(id).is_ok() && str::from_utf8(name).is_ok();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let entry = Self {
            l1_offset: fields.l1_table_offset.get(),
            l1_entries: fields.l1_size.get(),
            id: text(id),
            name: text(name),
            date_seconds: fields.date_sec.get(),
            date_ns: fields.date_nsec.get(),
            vm_clock_ns: fields.vm_clock_nsec.get(),
            vm_state_bytes,
            disk_bytes,
            unknown_extra: extra.get(KNOWN_EXTRA_BYTES..).unwrap_or_default().to_vec(),
            raw_names: (!is_text).then(|| (id.to_vec(), name.to_vec())),
        };
        let len = size_of::<Fields>() + extra_bytes + id_bytes + name_bytes;
        Ok((entry, len.next_multiple_of(8)))
    }

    /// Its bytes in the table, with the extra data that version 3 requires. `disk_bytes_now` is
    /// for a snapshot that does not say.
    pub fn encode(&self, disk_bytes_now: u64) -> Vec<u8> {
        let (id, name) = match &self.raw_names {
            Some((id, name)) => (&id[..], &name[..]),
            None => (self.id.as_bytes(), self.name.as_bytes()),
        };
        let short = |len: usize| U16::from(u16::try_from(len).unwrap_or(u16::MAX));
        let extra_bytes = KNOWN_EXTRA_BYTES + self.unknown_extra.len();
        let fields = Fields {
            l1_table_offset: self.l1_offset.into(),
            l1_size: self.l1_entries.into(),
            id_str_size: short(id.len()),
            name_size: short(name.len()),
            date_sec: self.date_seconds.into(),
            date_nsec: self.date_ns.into(),
            vm_clock_nsec: self.vm_clock_ns.into(),
            vm_state_size: u32::try_from(self.vm_state_bytes)
                .unwrap_or(u32::MAX)
                .into(),
            extra_data_size: u32::try_from(extra_bytes).unwrap_or(u32::MAX).into(),
        };
        let known = KnownExtra {
            vm_state_size: self.vm_state_bytes.into(),
            disk_size: self.disk_bytes.unwrap_or(disk_bytes_now).into(),
        };
        let mut bytes = [fields.as_bytes(), known.as_bytes(), &self.unknown_extra].concat();
        bytes.extend_from_slice(id);
        bytes.extend_from_slice(name);
        bytes.resize(bytes.len().next_multiple_of(8), 0);
        bytes
    }

    /// Bytes of its L1 table.
    pub fn l1_bytes(&self) -> u64 {
        u64::from(self.l1_entries) * 8
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Names are bytes: who rewrites the table must not change those of others.
    #[test]
    fn names_that_are_not_text_stay_as_they_are() {
        let entry = SnapshotEntry {
            l1_offset: 0x50000,
            l1_entries: 3,
            id: "1".into(),
            name: String::new(),
            date_seconds: 1,
            date_ns: 2,
            vm_clock_ns: 3,
            vm_state_bytes: 4,
            disk_bytes: Some(5),
            unknown_extra: vec![6; 8],
            raw_names: Some((b"1".to_vec(), b"fr\xfch".to_vec())),
        };
        let bytes = entry.encode(0);
        let (parsed, len) = SnapshotEntry::parse(0, &bytes).unwrap();
        assert_eq!((parsed.name.as_str(), len), ("fr\u{fffd}h", bytes.len()));
        assert_eq!(parsed.encode(0), bytes);
    }
}

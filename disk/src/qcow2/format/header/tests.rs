use super::*;

fn header() -> Header {
    Header {
        version: 3,
        layout: Layout {
            cluster_bits: 16,
            extended_l2: false,
            refcount_width: RefcountWidth::from_order(4).unwrap(),
        },
        size_bytes: 1 << 30,
        l1_entries: 2,
        l1_offset: 0x30000,
        refcount_table_offset: 0x10000,
        refcount_table_clusters: 1,
        snapshots: 0,
        snapshots_offset: 0,
        incompatible: IncompatibleFeatures(0),
        compatible: CompatibleFeatures(CompatibleFeatures::LAZY_REFCOUNTS),
        autoclear: AutoclearFeatures(0),
        compression: Compression::Zlib,
        backing_file: Some("base.raw".into()),
        backing_format: Some("raw".into()),
        data_file: None,
        bitmaps: None,
        journal: None,
        unknown_extensions: vec![UnknownExtension {
            kind: 0x1234_5678,
            data: vec![1, 2, 3],
        }],
        unknown_fields: vec![7; 8],
    }
}

const FILE_BYTES: u64 = 0x40000;

fn encode(header: &Header) -> Vec<u8> {
    let mut bytes = header.encode().unwrap();
    bytes.resize(65536, 0);
    bytes
}

fn problem(change: impl FnOnce(&mut Vec<u8>)) -> FormatError {
    let mut bytes = encode(&header());
    change(&mut bytes);
    Header::parse(&bytes, FILE_BYTES).unwrap_err()
}

#[test]
fn round_trips_with_what_it_does_not_know() {
    let header = header();
    assert_eq!(Header::parse(&encode(&header), FILE_BYTES).unwrap(), header);
    let old = Header {
        version: 2,
        unknown_fields: Vec::new(),
        compatible: CompatibleFeatures(0),
        ..header
    };
    assert_eq!(Header::parse(&encode(&old), FILE_BYTES).unwrap(), old);
}

#[test]
fn refuses_encryption_by_name() {
    let luks = problem(|bytes| bytes[35] = 2);
    assert!(
        luks.unsupported && luks.problem.contains("LUKS"),
        "{luks:?}"
    );
    assert!(problem(|bytes| bytes[35] = 1).problem.contains("AES"));
}

/// An engine that does not look at the incompatible bits destroys what it does not know.
#[test]
fn refuses_unknown_incompatible_features_by_the_name_in_the_image() {
    let unnamed = problem(|bytes| bytes[73] = 1);
    assert!(
        unnamed.unsupported && unnamed.problem.contains("48"),
        "{unnamed:?}"
    );
    let named = problem(|bytes| {
        bytes[73] = 1;
        let table = bytes.windows(9).position(|w| w == b"dirty bit").unwrap();
        bytes[table - 1] = 48;
        bytes[table..table + 9].copy_from_slice(b"some\x1bthing".get(..9).unwrap());
    });
    assert!(named.problem.ends_with("somethin"), "{named:?}");
}

#[test]
fn refuses_tables_outside_the_file_or_off_their_clusters() {
    assert_eq!(problem(|bytes| bytes[45] = 0x50).offset, 40);
    assert_eq!(problem(|bytes| bytes[47] = 1).offset, 40);
    assert_eq!(problem(|bytes| bytes[48] = 0xFF).offset, 48);
    assert_eq!(problem(|bytes| bytes[59] = 200).offset, 56);
    assert_eq!(problem(|bytes| bytes[60] = 1).offset, 60);
    assert_eq!(problem(|bytes| bytes[39] = 1).offset, 36);
    assert_eq!(problem(|bytes| bytes[24] = 1).offset, 36);
}

#[test]
fn refuses_sizes_that_no_image_has() {
    assert_eq!(problem(|bytes| bytes[23] = 8).offset, 20);
    assert_eq!(problem(|bytes| bytes[23] = 22).offset, 20);
    assert_eq!(problem(|bytes| bytes[99] = 7).offset, 96);
    assert_eq!(problem(|bytes| bytes[103] = 3).offset, 100);
    assert_eq!(problem(|bytes| bytes[7] = 4).offset, 4);
    assert!(Header::parse(b"QFI\xfb", FILE_BYTES).is_err());
    assert_eq!(problem(|bytes| bytes[0] = 0).problem, "not a qcow2 image");
}

#[test]
fn refuses_extensions_that_reach_out() {
    // The first extension is the backing format, 120 bytes in.
    assert!(
        problem(|bytes| bytes[124] = 0xFF)
            .problem
            .contains("reaches past")
    );
    assert!(problem(|bytes| bytes[16] = 0xFF).problem.contains("1023"));
    assert_eq!(problem(|bytes| bytes[8] = 1).offset, 8);
}

#[test]
fn compression_type_and_feature_bit_go_together() {
    assert_eq!(problem(|bytes| bytes[104] = 1).offset, 104);
    assert_eq!(problem(|bytes| bytes[79] = 8).offset, 104);
    let mut bytes = encode(&header());
    (bytes[79], bytes[104]) = (8, 1);
    let zstd = Header::parse(&bytes, FILE_BYTES).unwrap();
    assert_eq!(zstd.compression, Compression::Zstd);
}

#[test]
fn too_long_a_name_does_not_fit() {
    let mut header = header();
    header.layout.cluster_bits = 9;
    assert!(header.encode().is_ok());
    header.backing_file = Some("x".repeat(400));
    assert!(header.encode().is_err());
}

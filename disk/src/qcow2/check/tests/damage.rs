//! One damage at a time.

use super::*;
use crate::Recording;
use crate::qcow2::format::{IncompatibleFeatures, L1Entry};
use crate::qcow2::samples::content;

const MARKS: u64 = IncompatibleFeatures::CORRUPT | IncompatibleFeatures::DIRTY;
const COPIED: u64 = 1 << 63;
/// Farther than any file of ours reaches.
const FAR: u64 = 64 << 20;

/// An image, and where things are in it.
struct Anatomy {
    header: Header,
    bytes: Vec<u8>,
}

impl Anatomy {
    fn word(&self, offset: u64) -> u64 {
        let at = file::len(offset);
        u64::from_be_bytes(self.bytes[at..at + 8].try_into().unwrap())
    }

    /// Changes a word.
    fn change(&mut self, offset: u64, change: impl FnOnce(u64) -> u64) {
        let word = change(self.word(offset));
        let at = file::len(offset);
        self.bytes[at..at + 8].copy_from_slice(&word.to_be_bytes());
    }

    fn l1(&self) -> u64 {
        self.header.l1_offset
    }

    fn table(&self) -> u64 {
        self.header.refcount_table_offset
    }

    /// The first L2 table.
    fn l2(&self) -> u64 {
        L1Entry(self.word(self.l1())).table_offset().unwrap()
    }

    /// The first entry of an L2 table of the disk for which this is true.
    fn entry(&self, wanted: impl Fn(u64) -> bool) -> Option<u64> {
        let layout = self.header.layout;
        (0..u64::from(self.header.l1_entries))
            .filter_map(|n| L1Entry(self.word(self.l1() + n * 8)).table_offset())
            .flat_map(|l2| (0..layout.l2_entries()).map(move |n| l2 + n * layout.l2_entry_bytes()))
            .find(|at| wanted(self.word(*at)))
    }

    /// The entry of the first data cluster that may be written in place.
    fn data(&self) -> u64 {
        self.entry(|word| word >> 62 == 2 && word & 1 == 0).unwrap()
    }

    /// The entry of the first compressed cluster, which needs refcounts that can count.
    fn compressed(&self) -> Option<u64> {
        self.entry(|word| word >> 62 == 1)
    }

    fn cluster_of(&self, offset: u64) -> u64 {
        self.header.layout.cluster_index(offset)
    }

    fn data_cluster(&self) -> u64 {
        self.cluster_of(L1Entry(self.word(self.data())).table_offset().unwrap())
    }

    /// Changes a refcount, if the first block has it.
    fn refcount(&mut self, cluster: u64, change: impl FnOnce(u64) -> u64) {
        let layout = self.header.layout;
        let block = file::len(self.word(self.table()));
        let block = &mut self.bytes[block..block + file::len(layout.cluster_bytes())];
        if cluster < layout.refcount_block_entries() {
            let refcount = layout.refcount_width.get(block, file::len(cluster));
            let refcount = change(refcount).min(layout.refcount_width.max());
            layout
                .refcount_width
                .set(block, file::len(cluster), refcount);
        }
    }

    /// Adds an unused cluster to the file, and says which.
    fn add_cluster(&mut self) -> u64 {
        let end = (self.bytes.len() as u64).next_multiple_of(self.header.layout.cluster_bytes());
        let bytes = end + self.header.layout.cluster_bytes();
        self.bytes.resize(file::len(bytes), 0);
        self.cluster_of(end)
    }

    /// 512, where that is not a whole cluster.
    fn misalignment(&self) -> u64 {
        512 % self.header.layout.cluster_bytes()
    }
}

type Damage = (&'static str, fn(&mut Anatomy));

const DAMAGES: &[Damage] = &[
    ("data refcount too low", |image| {
        image.refcount(image.data_cluster(), |_| 0);
    }),
    ("data refcount too high", |image| {
        image.refcount(image.data_cluster(), |count| count + 1);
    }),
    ("refcount of a free cluster", |image| {
        let cluster = image.add_cluster();
        image.refcount(cluster, |_| 1);
    }),
    ("header refcount too low", |image| image.refcount(0, |_| 0)),
    ("L2 table refcount too low", |image| {
        image.refcount(image.cluster_of(image.l2()), |_| 0);
    }),
    ("refcount block refcount too low", |image| {
        image.refcount(image.cluster_of(image.word(image.table())), |_| 0);
    }),
    ("all refcounts gone", |image| {
        for cluster in 0..image.header.layout.refcount_block_entries() {
            image.refcount(cluster, |_| 0);
        }
    }),
    ("L1 entry with a wrong COPIED", |image| {
        image.change(image.l1(), |entry| entry ^ COPIED);
    }),
    ("L2 entry without COPIED", |image| {
        image.change(image.data(), |entry| entry & !COPIED);
    }),
    ("compressed with COPIED", |image| {
        if let Some(at) = image.compressed() {
            image.change(at, |entry| entry | COPIED);
        }
    }),
    ("compressed out of the file", |image| {
        let far = FAR + image.bytes.len() as u64;
        if let Some(at) = image.compressed() {
            image.change(at, |_| 1 << 62 | far);
        }
    }),
    ("L1 entry with reserved bits", |image| {
        image.change(image.l1(), |entry| entry | 1 << 60);
    }),
    ("L2 entry with reserved bits", |image| {
        image.change(image.data(), |entry| entry | 1 << 60);
    }),
    ("L2 table out of the file", |image| {
        image.change(image.l1(), |entry| entry + FAR);
    }),
    ("L2 table not aligned", |image| {
        let misalignment = image.misalignment();
        image.change(image.l1(), |entry| entry + misalignment);
    }),
    ("data out of the file", |image| {
        image.change(image.data(), |entry| entry + FAR);
    }),
    ("data not aligned", |image| {
        let misalignment = image.misalignment();
        image.change(image.data(), |entry| entry + misalignment);
    }),
    ("data over an L2 table", |image| {
        let l2 = image.l2();
        image.change(image.data(), |_| COPIED | l2);
    }),
    ("data over the header", |image| {
        // A data cluster that was given to somebody else: QEMU sees it by the refcounts.
        let (at, table) = (image.data(), image.table());
        image.change(at, |_| COPIED | table);
    }),
    ("data twice", |image| {
        let (at, step) = (image.data(), image.header.layout.l2_entry_bytes());
        let entry = image.word(at);
        image.change(at + step, |_| entry);
    }),
    ("refcount block out of the file", |image| {
        image.change(image.table(), |entry| entry + FAR);
    }),
    ("refcount block not aligned", |image| {
        let misalignment = image.misalignment();
        image.change(image.table(), |entry| entry + misalignment);
    }),
    ("refcount table entry with reserved bits", |image| {
        image.change(image.table(), |entry| entry + 1);
    }),
    ("no refcount block", |image| {
        image.change(image.table(), |_| 0);
    }),
    ("refcount block twice", |image| {
        let entry = image.word(image.table());
        let last = image.header.refcount_table_bytes() - 8;
        image.change(image.table() + last, |_| entry);
    }),
    ("marked corrupt and dirty", |image| {
        if image.header.version >= 3 {
            image.change(72, |features| features | MARKS);
        }
    }),
];

fn damaged(sound: &[u8], damage: fn(&mut Anatomy)) -> Vec<u8> {
    let mut anatomy = Anatomy {
        header: header_of(sound),
        bytes: sound.to_vec(),
    };
    damage(&mut anatomy);
    anatomy.bytes
}

/// Calls `test` with images in each damage: those of all kinds that differ in what can be damaged.
fn for_each_damage(workshop: &Workshop, mut test: impl FnMut(&str, &[u8], &[u8])) {
    let different = ["compat", "size=512", "refcount_bits=1", "extended_l2"];
    let is_different = |options: &&str| different.iter().any(|part| options.contains(part));
    for options in OPTIONS.into_iter().filter(is_different) {
        let sound = sound_image(workshop, options);
        for (name, damage) in DAMAGES {
            let name = format!("{options}: {name}");
            test(&name, &sound, &damaged(&sound, *damage));
        }
    }
}

#[test]
fn finds_what_qemu_finds() {
    let workshop = Workshop::new();
    for_each_damage(&workshop, |name, _, bytes| {
        workshop.store("image", bytes);
        let theirs = workshop.check("image");
        let (ours, _) = check_bytes(bytes, Repair::None);
        let agreed = i32::from(ours.exit_status()) == theirs.status;
        // Of some damages QEMU only says that it cannot check.
        let better = (ours.exit_status(), theirs.status) == (2, 1);
        assert!(agreed || better, "{name}: {ours:?} {theirs:?}");
    });
}

#[test]
fn repairs_everything_so_that_qemu_finds_nothing() {
    let workshop = Workshop::new();
    for_each_damage(&workshop, |name, _, bytes| {
        let (report, after) = check_bytes(bytes, Repair::All);
        if name.ends_with("data twice") && name.contains("refcount_bits=1:") {
            assert_eq!(report.exit_status(), 2, "one bit cannot count to two");
            return;
        }
        assert_eq!(report.exit_status(), 0, "{name}: {report:?}");
        workshop.store("image", &after);
        let theirs = workshop.check("image");
        assert_eq!(theirs.status, 0, "{name}: {report:?} {theirs:?}");
        let features = header_of(&after).incompatible;
        assert_eq!(features.0 & MARKS, 0, "{name}");
    });
}

/// Whether a damage is one of refcounts and flags alone.
fn is_harmless(name: &str) -> bool {
    let (_, kind) = name.rsplit_once(": ").unwrap();
    ["refcount", "COPIED", "reserved", "marked"]
        .iter()
        .any(|part| kind.contains(part))
}

#[test]
fn repair_keeps_the_data() {
    let workshop = Workshop::new();
    for_each_damage(&workshop, |name, sound, bytes| {
        if !is_harmless(name) {
            return;
        }
        workshop.store("image", sound);
        let expected = workshop.content("-f qcow2 image");
        let (_, after) = check_bytes(bytes, Repair::All);
        workshop.store("image", &after);
        assert!(workshop.content("-f qcow2 image") == expected, "{name}");
    });
}

/// Whoever cuts a repair short can repair what is left, and has lost nothing.
#[test]
fn a_power_cut_in_a_repair_costs_no_data() {
    let workshop = Workshop::new();
    let sound = sound_image(&workshop, "cluster_size=65536");
    let expected = executor().run(content(&SimulatedStorage::from_bytes(&sound, 1)));
    for (name, damage) in DAMAGES {
        let storage = SimulatedStorage::from_bytes(&damaged(&sound, *damage), 1);
        let mut recording = Recording::start(&[&storage]);
        executor().run(check(&storage, Repair::All)).unwrap();
        for step in 0..=recording.steps() {
            let left = recording.power_cut(step, 1).remove(0);
            executor().run(async {
                let report = check(&left, Repair::All).await.unwrap();
                assert_eq!(report.exit_status(), 0, "{name}, step {step}: {report:?}");
                if is_harmless(&format!(": {name}")) {
                    assert!(content(&left).await == expected, "{name}, step {step}");
                }
            });
        }
    }
}

#[test]
fn repairs_leaks_and_nothing_else() {
    let workshop = Workshop::new();
    for_each_damage(&workshop, |name, _, bytes| {
        let (before, _) = check_bytes(bytes, Repair::None);
        let (report, after) = check_bytes(bytes, Repair::Leaks);
        match before.exit_status() {
            0 => {}
            3 => {
                assert_eq!(report.exit_status(), 0, "{name}: {report:?}");
                assert_eq!(report.leaks_fixed, before.leaks);
                workshop.store("image", &after);
                assert_eq!(workshop.check("image").status, 0, "{name}");
            }
            _ if before.leaks == 0 => assert_eq!(report.exit_status(), 2, "{name}"),
            // A flag may have been wrong just because of the leak.
            _ => assert!(report.corruptions <= before.corruptions, "{name}"),
        }
    });
}

/// What the damage hides is still there for who can undo it.
#[test]
fn repairing_leaks_frees_nothing_that_damage_hides() {
    let workshop = Workshop::new();
    let hides = ["out of the file", "not aligned", "over an L2 table"];
    for_each_damage(&workshop, |name, sound, bytes| {
        if hides.iter().any(|part| name.ends_with(part)) && sound != bytes {
            let (_, after) = check_bytes(bytes, Repair::Leaks);
            assert!(after == bytes || name.contains("refcount block"), "{name}");
        }
    });
}

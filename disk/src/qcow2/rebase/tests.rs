//! Names of backing files, short and long, at power cuts, and as QEMU sees them.

use super::*;
use crate::SimulatedStorage;
use crate::qcow2::CreateOptions;
use crate::qcow2::qemu::Workshop;
use crate::qcow2::samples::{cut_at_every_step, executor, image};

type Backing = Option<(String, String)>;

fn named(name: &str, format: &str) -> (String, String) {
    (name.into(), format.into())
}

async fn header(storage: &SimulatedStorage) -> Header {
    file::read_header(storage).await.unwrap()
}

async fn rebase_to(storage: &SimulatedStorage, to: Backing) -> Result<(), Error> {
    let header = header(storage).await;
    rebase(storage, &header, to).await.map(drop)
}

async fn names(storage: &SimulatedStorage) -> (Option<String>, Option<String>) {
    let header = header(storage).await;
    (header.backing_file, header.backing_format)
}

/// From each name to each other: at every moment it is one or the other.
#[test]
fn a_power_cut_leaves_one_name_or_the_other() {
    let long = "x".repeat(1023);
    let all = [
        None,
        Some(named("base.raw", "raw")),
        Some(named("a/somewhat/longer/name.qcow2", "qcow2")),
        Some(named(&"y".repeat(400), "qcow2")),
        Some(named(&long, "qcow2")),
    ];
    for (cluster_bits, known) in [(9, 3), (12, 5), (16, 5)] {
        executor().run(async {
            let options = CreateOptions {
                cluster_bits,
                ..CreateOptions::new(1 << 20)
            };
            let storage = image(&options).await;
            for (from, to) in (0..known).flat_map(|from| (0..known).map(move |to| (from, to))) {
                rebase_to(&storage, all[from].clone()).await.unwrap();
                let old = names(&storage).await;
                let to = &all[to];
                let new = to.clone().unzip();
                let one_or_other = async |left: &SimulatedStorage, cut: &str| {
                    let found = names(left).await;
                    assert!(found == old || found == new, "{cut}: {found:?}");
                };
                let change = async |storage: &SimulatedStorage| {
                    rebase_to(storage, to.clone()).await.unwrap();
                };
                cut_at_every_step(&storage, change, one_or_other).await;
                assert_eq!(names(&storage).await, new);
            }
        });
    }
}

#[test]
fn a_name_without_room_is_refused_and_changes_nothing() {
    executor().run(async {
        let options = CreateOptions {
            cluster_bits: 10,
            backing: Some(named(&"x".repeat(400), "raw")),
            ..CreateOptions::new(1 << 20)
        };
        let storage = image(&options).await;
        let before = storage.to_bytes();
        let error = rebase_to(&storage, Some(named(&"y".repeat(500), "raw")))
            .await
            .unwrap_err();
        assert!(error.to_string().contains("shorter name"), "{error}");
        for wrong in [String::new(), "z".repeat(1024)] {
            let error = rebase_to(&storage, Some(named(&wrong, "raw"))).await;
            let error = error.unwrap_err().to_string();
            assert!(error.contains("1 to 1023 bytes"), "{error}");
        }
        assert!(storage.to_bytes() == before);
    });
}

#[test]
fn qemu_reads_the_names_and_the_rest_stays() {
    let workshop = Workshop::new();
    workshop.run("qemu-img create -f raw base.raw 4M");
    for options in ["compat=0.10", "lazy_refcounts=on", "cluster_size=512"] {
        workshop.run(&format!(
            "qemu-img create -f qcow2 -o {options} -b base.raw -F raw image 4M"
        ));
        workshop.io("image", &["write -P 1 1M 2M"]);
        let storage = SimulatedStorage::from_bytes(&workshop.load("image"), 1);
        let before = executor().run(header(&storage));
        executor()
            .run(rebase_to(&storage, Some(named("other.raw", "raw"))))
            .unwrap();
        let after = executor().run(header(&storage));
        let renamed = Header {
            backing_file: Some("other.raw".into()),
            ..before
        };
        assert_eq!(after, renamed, "{options}");
        workshop.run("cp base.raw other.raw");
        workshop.store("image", &storage.to_bytes());
        let info = workshop.run("qemu-img info --output=json image");
        assert!(
            info.contains("\"backing-filename\": \"other.raw\""),
            "{info}"
        );
        assert_eq!(workshop.check("image").status, 0, "{options}");
        executor().run(rebase_to(&storage, None)).unwrap();
        workshop.store("image", &storage.to_bytes());
        let info = workshop.run("qemu-img info --output=json image");
        assert!(!info.contains("backing"), "{info}");
    }
}

//! `image create` and `image info` of flat images.

use std::fs;
use std::os::unix::fs::MetadataExt as _;

use serde_json::{Value, json};

use crate::flat::{BASES, assert_expected, base, info, overlay, specific, write};
use crate::shop::{Shop, without};

#[test]
fn an_image_tells_what_it_is() {
    let shop = Shop::new();
    shop.must("create -f flat -o block_size=4K alone 1M");
    // It needs no other file, so it is recognised.
    let text = shop.must("info alone");
    assert!(text.contains("file format: flat\n"), "{text}");
    assert!(text.contains("    block size: 4096\n"), "{text}");
    assert!(text.contains("    stands alone: yes\n"), "{text}");
    assert_eq!(
        shop.must("info --journal alone").lines().last().unwrap(),
        "no journal: the image was closed"
    );
    for format in BASES {
        overlay(&shop, format, "-o scan=off", "5M");
        let found = info(&shop, "disk");
        assert_eq!(found["virtual-size"], 5 << 20);
        assert_eq!(found["backing-filename"], "base");
        assert_eq!(found["backing-filename-format"], format);
        assert_eq!(found["dirty-flag"], false);
        let data = without(found["format-specific"]["data"].clone(), &["data-offset"]);
        let expected = json!({
            "block-size": 65536,
            "stands-alone": false,
            "base-size": 4 << 20,
            "covered-blocks": 64,
            // One of 1K, three of zeros, two of 100K, one of 512 bytes.
            "blocks-from-base": 64 - 7,
            "compact": false,
        });
        assert_eq!(data, expected);
        let text = shop.must("info -f flat disk");
        for line in [
            "backing file: base".to_owned(),
            format!("backing file format: {format}"),
            "    base size: 4194304".to_owned(),
            "    blocks from the base: 57 of 64".to_owned(),
        ] {
            assert!(text.lines().any(|other| other == line), "{line}: {text}");
        }
        let chain = shop.must("info -f flat --backing-chain --output json disk");
        let chain: Vec<Value> = serde_json::from_str(&chain).unwrap();
        let formats: Vec<_> = chain.iter().map(|image| image["format"].clone()).collect();
        assert_eq!(formats, ["flat", format]);
        shop.refused("info --backing-chain disk", &["disk", "format"]);
    }
}

/// What the base has as zeros needs no copy.
#[test]
fn a_base_is_looked_at_for_zeros() {
    let shop = Shop::new();
    let mut content = vec![0; 4 << 20];
    content[..1 << 20].fill(1);
    content[3 << 20] = 2;
    fs::write(shop.path("base"), &content[..3 << 20 | 1 << 16]).unwrap();
    let file = fs::File::options().write(true).open(shop.path("base"));
    file.unwrap().set_len(4 << 20).unwrap();
    fs::write(shop.path("expected"), content).unwrap();
    // 16 blocks of ones, 32 of zeros that were written, one of data, 15 that are a hole.
    for (scan, missing) in [("full", 17), ("holes", 49), ("off", 64)] {
        shop.must(&format!(
            "create -f flat -o scan={scan} -b base -F raw disk"
        ));
        assert_eq!(
            specific(&shop, "disk")["blocks-from-base"],
            missing,
            "{scan}"
        );
        assert_expected(&shop, "flat", "disk");
    }
    shop.must("create -f flat -b base -F raw disk");
    assert_eq!(
        specific(&shop, "disk")["blocks-from-base"],
        17,
        "the default"
    );
    // Less than a block, at the end of the base and of the disk.
    shop.must("create -f flat -o block_size=1M -b base -F raw disk 3100k");
    assert_eq!(specific(&shop, "disk")["blocks-from-base"], 2);
}

#[test]
fn sizes_are_those_asked_for_or_the_base_s() {
    for format in BASES {
        let shop = Shop::new();
        base(&shop, format);
        let create = format!("create -f flat -b base -F {format} disk");
        for size in ["", "1500k", "4M", "7000k"] {
            shop.must(&format!("{create} {size}"));
            shop.must("convert -f raw -O raw expected whole");
            if !size.is_empty() {
                shop.must(&format!("resize -f raw --shrink expected {size}"));
            }
            assert_expected(&shop, "flat", "disk");
            fs::rename(shop.path("whole"), shop.path("expected")).unwrap();
        }
    }
}

#[test]
fn images_have_the_space_asked_for() {
    let shop = Shop::new();
    let blocks = |name: &str| fs::metadata(shop.path(name)).unwrap().blocks() * 512;
    shop.must("create -f flat sparse 16M");
    assert!(blocks("sparse") < 1 << 20);
    for options in ["-o preallocation=falloc", "-o preallocation=full"] {
        shop.must(&format!("create -f flat {options} taken 4M"));
        assert!(blocks("taken") >= 4 << 20, "{options}");
        shop.must("check taken");
        shop.must("create expected 4M");
        assert_expected(&shop, "flat", "taken");
    }
    base(&shop, "raw");
    shop.must("create -f flat -o preallocation=falloc -b base -F raw taken");
    assert!(blocks("taken") >= 4 << 20);
    assert_expected(&shop, "flat", "taken");
    write(&shop, "flat", "taken", &["write -P 9 64k 100k"]);
    write(&shop, "raw", "expected", &["write -P 9 64k 100k"]);
    assert_expected(&shop, "flat", "taken");
}

#[test]
fn what_cannot_be_is_refused_by_name() {
    let shop = Shop::new();
    base(&shop, "raw");
    let files = shop.files();
    for (line, parts) in [
        ("create -f flat x", &["size"][..]),
        ("create -f flat x 0", &["x", "512 bytes to 4 EiB"]),
        (
            "create -f flat -o block_size=3000 x 1M",
            &["block_size=3000", "4K to 1M"],
        ),
        ("create -f flat -o block_size=2K x 1M", &["4K to 1M"]),
        ("create -f flat -o block_size=2M x 1M", &["4K to 1M"]),
        (
            "create -f flat -o scan=some -b base -F raw x",
            &["scan=some"],
        ),
        (
            "create -f flat -o cluster_size=64k x 1M",
            &["cluster_size", "block_size, scan, compact"],
        ),
        (
            "create -f flat -o data_file=y x 1M",
            &["data_file", "flat images have"],
        ),
        (
            "create -f flat -o preallocation=metadata x 1M",
            &["flat image", "falloc"],
        ),
        (
            "create -f flat -o preallocation=full -b base -F raw x",
            &["hide", "falloc"],
        ),
        ("create -f raw -o block_size=64K x 1M", &["raw images have"]),
        ("create -f qcow2 -o scan=off x 1M", &["qcow2 images have"]),
        ("create -f raw -b base -F raw x", &["raw image", "-f flat"]),
        ("create -f flat -b base x", &["-F raw", "flat"]),
        ("create -f flat -b nowhere -F raw x 1M", &["nowhere"]),
        (
            "create -f flat -b base -F flat x",
            &["base", "not a flat image"],
        ),
        (
            "create -f flat -u -b base -F raw x 4M",
            &["-u", "base", "leave out -u"],
        ),
        (
            "convert -c -O flat -f raw base x",
            &["flat image", "compress"],
        ),
        ("snapshot -c s -f flat x", &["x"]),
        ("create -f flat -o block_size=4K x 4E", &["larger blocks"]),
    ] {
        shop.refused(line, parts);
        assert_eq!(shop.files(), files, "{line}");
    }
}

#[test]
fn what_only_other_formats_have_is_refused_by_name() {
    let shop = Shop::new();
    shop.must("create base 1M");
    shop.must("create -f flat disk 1M");
    shop.refused(
        "serve --nbd unix:nbd disk,format=flat,snapshot=s",
        &["disk", "no snapshot 's'"],
    );
    shop.refused(
        "serve --nbd unix:nbd disk,format=flat,data-file=base",
        &["disk", "no data file"],
    );
    // What a guest may have written is not believed.
    shop.refused("serve --nbd unix:nbd disk", &["disk", "flat image"]);
}

#[test]
fn what_was_there_is_replaced_whole() {
    let shop = Shop::new();
    fs::write(shop.path("disk"), vec![7; 8 << 20]).unwrap();
    shop.must("create -f flat disk 2M");
    shop.must("create expected 2M");
    assert_expected(&shop, "flat", "disk");
    assert_eq!(shop.files(), ["disk", "expected", "seen"]);
}

#[test]
fn a_map_tells_what_comes_from_where() {
    let shop = Shop::new();
    overlay(&shop, "raw", "", "5M");
    let offset = specific(&shop, "disk")["data-offset"].as_u64().unwrap();
    let map = shop.must("map -f flat --output json disk");
    let map: Vec<Value> = serde_json::from_str(&map).unwrap();
    let at = |start: u64| {
        let entry = map.iter().find(|entry| {
            let begin = entry["start"].as_u64().unwrap();
            (begin..begin + entry["length"].as_u64().unwrap()).contains(&start)
        });
        let entry = entry.unwrap();
        let host = entry["offset"].as_u64();
        let host = host.map(|host| host + start - entry["start"].as_u64().unwrap());
        (entry["depth"].clone(), entry["data"].clone(), host)
    };
    assert_eq!(at(0), (json!(1), json!(true), Some(0)));
    // The block of a write of 1 KiB.
    assert_eq!(at(65536), (json!(0), json!(true), Some(offset + 65536)));
    assert_eq!(at(300 << 10).0, json!(0));
    assert_eq!(
        at(4200 << 10),
        (json!(0), json!(true), Some(offset + (4200 << 10)))
    );
    assert_eq!(at(5000 << 10).1, json!(false));
}

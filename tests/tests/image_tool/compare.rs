//! `image compare`.

use crate::shop::Shop;

#[test]
fn the_status_tells_and_the_first_difference_is_named() {
    let shop = Shop::new();
    shop.qemu_img("create -q -f raw one 8M");
    shop.write("raw", "one", &["write -P 1 1M 3M", "write -P 0 5M 64k"]);
    shop.qemu_img("convert -f raw -O qcow2 -o cluster_size=4k one two");
    shop.qemu_img("create -q -f raw three 10M");
    shop.write("raw", "three", &["write -P 1 1M 3M"]);
    shop.qemu_img("convert -f raw -O qcow2 three four");
    let differ = ["write -P 2 1234432 1k", "write -P 2 3M 1M"];
    shop.write("qcow2", "four", &differ);
    shop.qemu_img("create -q -f raw five 10M");
    shop.write("raw", "five", &["write -P 1 1M 3M", "write -P 9 9M 1k"]);
    for line in [
        "compare -f raw -F qcow2 one two",
        "compare -f raw -F raw one three",
        "compare -f raw -F qcow2 one four",
        "compare -f qcow2 -F raw four one",
        "compare -f raw -F raw one five",
        "compare -f raw -F raw five three",
        "compare -s -f raw -F raw one three",
        "compare -s -f raw -F raw one one",
        "compare -q -f raw -F qcow2 one four",
    ] {
        let (ours, theirs) = (shop.image(line), shop.try_qemu_img(line));
        assert_eq!(ours.status, theirs.status, "{line}: {ours:?} {theirs:?}");
        assert_eq!(ours.stdout, theirs.stdout, "{line}");
        assert_eq!(ours.stderr, "", "{line}");
    }
    assert_eq!(shop.image("compare one four").status, Some(1));
}

#[test]
fn strictly_data_in_other_places_differs() {
    let shop = Shop::new();
    shop.qemu_img("create -q -f raw hole 1M");
    shop.qemu_img("create -q -f raw zeros 1M");
    shop.write("raw", "zeros", &["write -P 0 512k 64k"]);
    assert_eq!(
        shop.image("compare -f raw -F raw hole zeros").status,
        Some(0)
    );
    let strict = shop.image("compare -s -f raw -F raw hole zeros");
    assert_eq!(strict.status, Some(1));
    assert!(strict.stdout.contains("524288"), "{strict:?}");
}

#[test]
fn an_error_is_no_difference() {
    let shop = Shop::new();
    shop.must("create one 1M");
    let missing = shop.image("compare one nowhere");
    assert_eq!(missing.status, Some(2), "{missing:?}");
    assert!(missing.stderr.contains("nowhere"), "{missing:?}");
    shop.must("create -f qcow2 two 1M");
    shop.patch("two", 40, &[0xFF; 8]);
    assert_eq!(shop.image("compare one two").status, Some(2));
    assert_eq!(shop.image("compare --frobnicate one two").status, Some(2));
}

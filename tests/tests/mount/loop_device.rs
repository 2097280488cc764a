//! A file system on a loop device on the raw file.

use std::fs;

use images::packages::{Tool, require};

use crate::inside::run_on_loop_device;
use crate::setting::{FORMATS, Setting, can_mount, has_loop_devices, is_root, run};

/// Makes a file system and uses it as people do.
const SCRIPT: &str = r#"
mke2fs -q -t ext4 "$device"
mount -o discard "$device" "$work/inside"
cd "$work/inside"

mkdir -p tree/a/b
i=0; while [ $i -lt 300 ]; do echo "line $i" > tree/a/b/$i; i=$((i+1)); done
head -c 20000000 /dev/urandom > large
sync large
cp large copy; rm large; mv copy large

export HOME=$work GIT_CONFIG_NOSYSTEM=1
git init -q repository
git -C repository config user.email a@b; git -C repository config user.name c
cp -r tree repository/
git -C repository add .; git -C repository commit -q -m first
git -C repository fsck --strict

sqlite3 base 'PRAGMA journal_mode=WAL; CREATE TABLE t(n INTEGER PRIMARY KEY, x TEXT);
WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n+1 FROM c WHERE n<2000)
INSERT INTO t SELECT n, hex(n) FROM c; DELETE FROM t WHERE n%3=0;' > /dev/null
sqlite3 base .dump > before
sqlite3 base 'PRAGMA integrity_check' | grep -qx ok

find . -type f ! -name sums -exec sha256sum {} + | sort > "$work/sums"
fstrim "$work/inside"
cd /
umount "$work/inside"

# Nothing of it is in a cache any more.
e2fsck -f -n "$device" > /dev/null 2>&1
mount "$device" "$work/inside"
cd "$work/inside"
find . -type f ! -name sums -exec sha256sum {} + | sort | cmp - "$work/sums"
git -C repository fsck --strict
sqlite3 base .dump | cmp - before
cd /
"#;

#[test]
fn a_file_system_lives_on_a_loop_device_on_it() {
    const TEST: &str = "a_file_system_lives_on_a_loop_device_on_it";
    if !can_mount(TEST) || !is_root(TEST) || !has_loop_devices(TEST) {
        return;
    }
    require(&[Tool::Mke2fs, Tool::Git, Tool::Sqlite]).unwrap();
    for format in FORMATS {
        let setting = Setting::new();
        let image = setting.image(format, 256);
        let mounted = setting.mount_with(&["--stats", "stats", &image, "point"]);
        run_on_loop_device(SCRIPT, mounted.path(), &setting.path(""));
        let seen = setting.path("seen");
        fs::copy(mounted.path(), &seen).unwrap();
        mounted.stop();
        setting.check(format.0);
        let (seen, image) = (seen.to_str().unwrap(), setting.path("image"));
        // QEMU does not know flat.
        let words = [
            "compare",
            "-f",
            "raw",
            "-F",
            format.0,
            seen,
            image.to_str().unwrap(),
        ];
        if format.0 == "flat" {
            setting.image_command(&words);
        } else {
            run(Tool::QemuImg, &words);
        }
        let counts = setting.statistics();
        assert!(counts["flushes"].as_u64() > Some(10), "{counts}");
        // What the file system discards becomes holes, and those are zeros.
        assert!(counts["write_zeroes"].as_u64() > Some(0), "{counts}");
        assert_eq!(counts["errors"], 0, "{counts}");
    }
}

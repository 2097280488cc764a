//! A Debian package that is built on a file system inside the raw file.

use images::packages::{Tool, require};

use crate::inside::run_on_loop_device;
use crate::setting::{FORMATS, Setting, can_mount, has_loop_devices, is_root};

/// Writes the sources of a program of many files, has `dpkg-buildpackage` pack them, compile and
/// try the program, and pack that; and notes what all files are.
const BUILD: &str = r#"
mke2fs -q -t ext4 "$device"
mount "$device" "$work/inside"
mkdir "$work/inside/hello"
cd "$work/inside/hello"

i=0; while [ $i -lt 60 ]; do
    echo "unsigned long part$i(unsigned long n) { return n * 31 + $i; }" > part$i.c
    i=$((i+1))
done
{
    for part in part*.c; do echo "unsigned long ${part%.c}(unsigned long);"; done
    echo '#include <stdio.h>'
    echo 'int main(void) { unsigned long n = 0;'
    for part in part*.c; do echo "n = ${part%.c}(n);"; done
    echo 'printf("%lu", n); puts(""); return 0; }'
} > main.c
cat > Makefile <<'END'
objects := $(patsubst %.c,%.o,$(wildcard part*.c))
hello: main.o libparts.a
	$(CC) $(LDFLAGS) -o $@ main.o -L. -lparts
libparts.a: $(objects)
	$(AR) rcs $@ $(objects)
check: hello
	./hello | grep -qx '[0-9][0-9]*'
clean:
	rm -f *.o *.a hello
.PHONY: check clean
END
mkdir -p debian/source
echo '3.0 (native)' > debian/source/format
cat > debian/changelog <<'END'
hello (1.0) unstable; urgency=low

  * First.

 -- A <a@example.org>  Thu, 01 Jan 2026 00:00:00 +0000
END
cat > debian/control <<'END'
Source: hello
Maintainer: A <a@example.org>
Standards-Version: 4.7.0

Package: hello
Architecture: any
Description: prints a number
END
cat > debian/rules <<'END'
#!/usr/bin/make -f
build build-arch build-indep:
	$(MAKE) check
clean:
	$(MAKE) clean
	rm -rf debian/hello debian/files
binary binary-arch: build
	install -D hello debian/hello/usr/bin/hello
	mkdir -p debian/hello/DEBIAN
	dpkg-gencontrol -Pdebian/hello
	dpkg-deb --root-owner-group --build debian/hello ..
binary-indep:
END
chmod +x debian/rules
# Its compiler is whichever is here, and not a package that it could ask for.
dpkg-buildpackage -us -uc -d -j4 >&2
ls ../hello_1.0.dsc ../hello_1.0.tar.* ../hello_1.0_*.deb >&2
cd "$work/inside"
find . -type f -exec sha256sum {} + | sort > "$work/sums"
./hello/hello
cd /
umount "$work/inside"
"#;

/// Looks at all that again. Nothing of it is in a cache any more.
const LOOK: &str = r#"
e2fsck -f -n "$device" >&2
mount "$device" "$work/inside"
cd "$work/inside"
find . -type f -exec sha256sum {} + | sort | cmp - "$work/sums"
# Times and sizes are as they were too: there is nothing to build.
make -q -C hello hello
dpkg-deb --extract hello_1.0_*.deb unpacked
cmp unpacked/usr/bin/hello hello/hello
dpkg-source --extract hello_1.0.dsc again >&2
make -C again -j4 >&2
again/hello
unpacked/usr/bin/hello
cd /
umount "$work/inside"
e2fsck -f -n "$device" >&2
"#;

#[test]
fn a_package_is_built_inside() {
    const TEST: &str = "a_package_is_built_inside";
    let can_run = can_mount(TEST) && is_root(TEST) && has_loop_devices(TEST);
    if !can_run {
        return;
    }
    require(&[Tool::Cc, Tool::DpkgBuildpackage, Tool::Make, Tool::Mke2fs]).unwrap();
    // A raw file would show no more of the mount.
    for format in FORMATS.into_iter().filter(|format| format.0 != "raw") {
        let setting = Setting::new();
        let image = setting.image(format, 128);
        let mounted = setting.mount(&image);
        let printed = run_on_loop_device(BUILD, mounted.path(), &setting.path(""));
        mounted.stop();
        setting.check(format.0);
        let mounted = setting.mount(&image);
        let again = run_on_loop_device(LOOK, mounted.path(), &setting.path(""));
        mounted.stop();
        setting.check(format.0);
        assert_eq!(again, printed.repeat(2), "{format:?}");
    }
}

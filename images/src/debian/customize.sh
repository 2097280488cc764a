#!/bin/sh
# Finishes a root file system and turns it into an image. Run by mmdebstrap.
#   $1      the root file system
#   OUTPUT  the directory that takes disk.img, vmlinuz and initrd.img
#   SIZE    the size of the image in bytes
#   MKE2FS  the program that makes the image
set -eu
root=$1

echo guest >"$root/etc/hostname"
echo '/dev/vda / ext4 errors=remount-ro 0 0' >"$root/etc/fstab"
chroot "$root" passwd --quiet --delete root

# The serial console gives a shell at once. With guest.terminal=dumb on the kernel's command line
# it neither echoes nor edits lines, for a program at the other end.
mkdir -p "$root/etc/systemd/system/serial-getty@.service.d"
cat >"$root/etc/systemd/system/serial-getty@.service.d/autologin.conf" <<'END'
[Service]
ExecStart=
ExecStart=-/sbin/agetty --autologin root --noissue --keep-baud 115200 %I dumb
END
cat >"$root/root/.bash_profile" <<'END'
PS1='guest# '
bind 'set enable-bracketed-paste off'
case " $(cat /proc/cmdline) " in
*' guest.terminal=dumb '*)
    set +o emacs
    stty -echo -onlcr
    ;;
esac
END
touch "$root/root/.hushlogin"

cp "$root"/boot/vmlinuz-* "$OUTPUT/vmlinuz"
cp "$root"/boot/initrd.img-* "$OUTPUT/initrd.img"
truncate -s "$SIZE" "$OUTPUT/disk.img"
# Bound alone, the tree comes without the /proc and /sys that are mounted in it now.
mkdir "$OUTPUT/tree"
mount --bind "$root" "$OUTPUT/tree"
"$MKE2FS" -q -F -t ext4 -E lazy_itable_init=0 -d "$OUTPUT/tree" "$OUTPUT/disk.img"
umount "$OUTPUT/tree"
rmdir "$OUTPUT/tree"
chmod a+r "$OUTPUT"/*

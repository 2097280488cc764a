#!/bin/busybox sh
# The first program of the guest. Words on the kernel's command line that it obeys:
#   guest.script=FILE     run FILE in place of the shell, /disk/run.sh for example
#   guest.terminal=dumb   neither echo nor line editing, for a program at the other end

# Benchmarks wait for this line, so nothing may come before it.
echo "microvm-guest: init"

export PATH=/bin HOME=/root PS1='guest# '
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sys /sys
/bin/busybox mount -t devtmpfs dev /dev
/bin/busybox --install -s /bin
mkdir -p /dev/pts /dev/shm
mount -t devpts pts /dev/pts
mount -t tmpfs shm /dev/shm
mount -t tmpfs tmp /tmp
# Only what ends the guest may still write between the lines of a test.
dmesg -n 1

while read -r module; do
    insmod "/modules/$module.ko" || echo "microvm-guest: cannot load $module"
done </modules/order

is_ext4() {
    # The magic number of the superblock, at byte 1080.
    [ -b "$1" ] && [ "$(dd if="$1" bs=2 skip=540 count=1 2>/dev/null | xxd -p)" = 53ef ]
}

power_off() {
    cd /
    sync
    umount -r /disk 2>/dev/null
    poweroff -f
}

# The power button is the guest's only input device; a press is the first thing it says.
for button in /dev/input/event*; do
    [ -e "$button" ] || continue
    {
        dd if="$button" of=/dev/null bs=24 count=1 2>/dev/null
        echo "microvm-guest: power button"
        power_off
    } &
done

if is_ext4 /dev/vda; then
    if mount -t ext4 /dev/vda /disk 2>/dev/null; then
        echo "microvm-guest: /dev/vda is mounted on /disk"
    else
        echo "microvm-guest: cannot mount /dev/vda"
    fi
fi

script=
terminal=
for word in $(cat /proc/cmdline); do
    case $word in
    guest.script=*) script=${word#*=} ;;
    guest.terminal=*) terminal=${word#*=} ;;
    esac
done
[ -z "$script" ] && [ -e /script ] && script=/script
[ "$terminal" = dumb ] && stty -echo -onlcr </dev/console

cd /root
if [ -n "$script" ]; then
    setsid cttyhack sh "$script"
else
    setsid cttyhack sh
fi
echo "microvm-guest: exit $?"
power_off

//! Makes guest parts: kernels out of Debian packages, initramfs, disks, the bare-metal test guest.

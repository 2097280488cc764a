//! Turns a kernel, an initrd and a command line into guest memory and an entry state.

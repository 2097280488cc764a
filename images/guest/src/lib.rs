//! A guest without an operating system: it drives the serial port and virtio devices itself.
//!
//! It needs a few hundred thousand instructions, so it runs in a moment even where KVM interprets
//! the code of a guest's kernel, and it can do to a device what no kernel's driver does. What it
//! does is chosen by the kernel's command line ([`run`]). Everything it says goes to COM1; its last
//! line is `ok`, or `FAIL: ` and the reason.
//!
//! The whole of memory is the guest's own, so buffers simply have fixed addresses ([`memory`]).
//! An interpreting KVM knows no SSE arithmetic. The compiler uses it to clear arrays, so there are
//! none here, nor any of `core`'s formatting.

#![cfg_attr(not(test), no_std)]

pub mod block;
mod clock;
pub mod command_line;
pub mod console;
pub mod device;
mod echo;
mod entropy;
mod hostile;
pub mod memory;
pub mod mmio;
pub mod pattern;
pub mod pci;
pub mod port;
pub mod power;
pub mod transport;
pub mod virtqueue;

use command_line::CommandLine;

/// What a test found: nothing wrong, or the reason for its failure.
pub type Outcome<T = ()> = Result<T, &'static str>;

/// Runs the test that the command line names, and stops the machine.
///
/// | word | meaning |
/// |---|---|
/// | `test=off` | power off; the default |
/// | `test=echo` | send back what comes in on the serial port, up to a Ctrl-D |
/// | `test=string` | read a register of the clock by a string instruction |
/// | `test=blk` | write, flush and read back the first block device |
/// | `test=rng` | draw random bytes from the first entropy device |
/// | `test=hostile` | break the rules of virtio in every way, with the first block device |
/// | `test=button` | wait for the power button |
/// | `test=reset`, `acpi-reset`, `triple` | reset by the keyboard controller, ACPI or a fault |
/// | `test=panic` | report a panic through pvpanic |
/// | `test=halt`, `spin` | never end, waiting or working |
/// | `ecam=BASE` | find devices on the PCI bus whose configuration space is there |
/// | `mmio=ADDRESS` | drive the virtio-mmio device there |
/// | `kib=N` | how much `test=blk` writes and reads, 64 KiB unless given |
/// | `seed=N` | the seed of the random part of `test=hostile` |
///
/// Numbers are decimal, or hexadecimal after `0x`.
pub fn run(command_line: &CommandLine) -> ! {
    let test = command_line.word("test").unwrap_or(b"off");
    console::print("microvm-guest: ");
    console::print_bytes(test);
    console::print("\n");
    let outcome = match test {
        b"off" => Ok(()),
        b"string" => clock::read_by_string_instruction(),
        b"echo" => echo::run(),
        b"blk" => block::run(command_line),
        b"rng" => entropy::run(command_line),
        b"hostile" => hostile::run(command_line),
        b"button" => {
            power::wait_for_button();
            Ok(())
        }
        b"reset" => power::reset_by_keyboard_controller(),
        b"acpi-reset" => power::reset_by_acpi(),
        b"triple" => power::triple_fault(),
        b"panic" => power::report_panic(),
        b"halt" => power::halt(),
        b"spin" => power::spin(),
        _ => Err("unknown test"),
    };
    match outcome {
        Ok(()) => console::print("ok\n"),
        Err(reason) => fail(reason),
    }
    power::off()
}

/// Says that the test has failed.
pub fn fail(reason: &str) {
    console::print("FAIL: ");
    console::print(reason);
    console::print("\n");
}

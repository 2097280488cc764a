//! The ways to end, and to refuse to.

use crate::{Outcome, port};

/// Sleep control and status, reset and event register of the machine's ACPI tables.
const SLEEP_CONTROL: u16 = 0x600;
const RESET: u16 = 0x602;
const EVENTS: u16 = 0x603;

/// `SLP_TYPx` 5, the type of S5, and `SLP_EN` (ACPI 6.5 section 4.8.3.7).
const ENTER_S5: u8 = 5 << 2 | 1 << 5;
const RESET_VALUE: u8 = 0x42;
const EVENT_POWER_BUTTON: u8 = 1;

const KEYBOARD_COMMAND: u16 = 0x64;
const PULSE_RESET_LINE: u8 = 0xfe;

const PVPANIC: u16 = 0x505;
const PANICKED: u8 = 1;

/// What a test says that should have stopped the machine.
const STILL_RUNNING: Outcome = Err("the machine still runs");

/// Powers the machine off.
pub fn off() -> ! {
    port::write(SLEEP_CONTROL, ENTER_S5);
    spin_forever()
}

pub(crate) fn reset_by_keyboard_controller() -> Outcome {
    port::write(KEYBOARD_COMMAND, PULSE_RESET_LINE);
    STILL_RUNNING
}

pub(crate) fn reset_by_acpi() -> Outcome {
    port::write(RESET, RESET_VALUE);
    STILL_RUNNING
}

/// Tells of a panic (QEMU docs/specs/pvpanic). The machine may stop or go on.
pub(crate) fn report_panic() -> Outcome {
    if port::read(PVPANIC) & PANICKED == 0 {
        return Err("there is no pvpanic device");
    }
    port::write(PVPANIC, PANICKED);
    STILL_RUNNING
}

/// Waits until the power button is pressed.
pub(crate) fn wait_for_button() {
    while port::read(EVENTS) & EVENT_POWER_BUTTON == 0 {}
}

/// Never ends, and leaves the processor to others meanwhile.
pub(crate) fn halt() -> Outcome {
    loop {
        instructions::halt();
    }
}

/// Never ends, and never leaves the guest.
pub(crate) fn spin() -> Outcome {
    spin_forever()
}

/// Faults where no handler can run.
pub(crate) fn triple_fault() -> Outcome {
    instructions::triple_fault()
}

fn spin_forever() -> ! {
    loop {
        core::hint::spin_loop();
    }
}

mod instructions {
    #![expect(unsafe_code, reason = "privileged instructions have no safe form")]

    use core::arch::asm;

    /// Waits for an interrupt that cannot come.
    pub(super) fn halt() {
        // SAFETY: without interrupts the processor merely stops.
        unsafe { asm!("cli", "hlt", options(nomem, nostack)) };
    }

    /// Loads an empty interrupt table and faults: the fault has no handler, nor has the fault
    /// that comes of it, nor the third.
    pub(super) fn triple_fault() -> ! {
        let empty = [0_u16; 5];
        // SAFETY: the machine is meant to stop here; nothing runs after it.
        unsafe { asm!("lidt [{}]", "ud2", in(reg) &raw const empty, options(noreturn)) };
    }
}

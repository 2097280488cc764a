//! The code at the legacy reset vector.
//!
//! On a machine with hardware-reduced ACPI Linux expects EFI to reset it, and where there is none
//! it goes back to real mode and jumps to where a PC has its BIOS (`machine_real_restart`). It must
//! find something there: this asks for the reset that the ACPI tables describe.

use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use crate::layout::RESET_VECTOR;
use crate::{Error, PowerRegisters};

/// Writes the code.
pub(crate) fn load(memory: &GuestMemoryMmap, power: PowerRegisters) -> Result<(), Error> {
    memory
        .write_slice(&code(power), GuestAddress(RESET_VECTOR))
        .map_err(|source| Error::GuestMemory {
            what: "reset vector",
            source,
        })
}

/// 16-bit code: `mov dx, port`; `mov al, value`; `out dx, al`; and should that return,
/// `cli`; `hlt` without end.
fn code(power: PowerRegisters) -> [u8; 10] {
    let [low, high] = power.reset_port.to_le_bytes();
    [
        0xba,
        low,
        high,
        0xb0,
        power.reset_value,
        0xee,
        0xfa,
        0xf4,
        0xeb,
        0xfd,
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout;

    #[test]
    fn the_code_lies_at_the_vector_and_writes_the_reset_register() {
        let memory = GuestMemoryMmap::from_ranges(&layout::ram_ranges(2 << 20)).unwrap();
        let power = PowerRegisters {
            sleep_control_port: 0x600,
            sleep_status_port: 0x601,
            reset_port: 0x602,
            reset_value: 0x42,
        };
        load(&memory, power).unwrap();
        // F000:FFF0 and FFFF:0000 are both here.
        let mut bytes = [0; 6];
        memory
            .read_slice(&mut bytes, GuestAddress(0xf_fff0))
            .unwrap();
        assert_eq!(bytes, [0xba, 0x02, 0x06, 0xb0, 0x42, 0xee]);
        assert!(RESET_VECTOR + code(power).len() as u64 <= layout::KERNEL_MIN);
    }
}

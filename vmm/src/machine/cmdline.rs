//! The kernel command line: what this machine needs, then what the user adds, so that the user has
//! the last word.

/// What decides the words that are ours.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Facts {
    /// The guest has a serial console.
    pub(crate) console: bool,
    /// The guest has a PCI bus.
    pub(crate) pci: bool,
    /// Whether the first disk may be written, where there is a disk.
    pub(crate) first_disk_writable: Option<bool>,
}

/// Composes the command line; `added` comes last.
pub(crate) fn compose(facts: Facts, added: &str) -> String {
    let mut words = Vec::new();
    if facts.console {
        words.push("console=ttyS0");
        // There is one serial port: not to look for three more saves a few hundred exits.
        words.push("8250.nr_uarts=1");
    }
    words.push(if facts.pci {
        // The bus is found through ACPI: not to poke at ports for it saves a hundred exits.
        "pci=noearly"
    } else {
        // Or Linux complains that it finds no PCI bus.
        "pci=off"
    });
    // Reboot at once after a panic, which ends the program: without it the guest would spin.
    words.push("panic=-1");
    if let Some(writable) = facts.first_disk_writable {
        words.extend(["root=/dev/vda", if writable { "rw" } else { "ro" }]);
    }
    if !added.is_empty() {
        words.push(added);
    }
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_user_has_the_last_word() {
        let facts = Facts {
            console: true,
            pci: true,
            first_disk_writable: Some(true),
        };
        let line = compose(facts, "panic=0 root=/dev/vdb");
        assert!(line.ends_with(" panic=0 root=/dev/vdb"));
        assert!(line.find("panic=-1") < line.find("panic=0"));
    }

    #[test]
    fn a_read_only_disk_is_mounted_read_only() {
        let facts = Facts {
            console: false,
            pci: false,
            first_disk_writable: Some(false),
        };
        assert_eq!(compose(facts, ""), "pci=off panic=-1 root=/dev/vda ro");
    }
}

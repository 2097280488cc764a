//! Power-off, reset and the power button of a hardware-reduced ACPI machine.
//!
//! The registers lie side by side from [`AcpiPower::BASE_PORT`]:
//!
//! | port | register | ACPI 6.5 |
//! |---|---|---|
//! | +0 | sleep control | section 4.8.3.7 |
//! | +1 | sleep status | section 4.8.3.7 |
//! | +2 | reset | section 4.8.3.6 |
//! | +3 | events: read and cleared by the `_EVT` method | section 5.6.9 |

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use acpi_tables::{Aml, AmlSink, aml};
use vmm_sys_util::eventfd::EventFd;

use crate::{Device, Error, InterruptLine, Platform, PowerEvent, Space, Window};

const SLEEP_CONTROL: u64 = 0;
const RESET: u64 = 2;
const EVENTS: u64 = 3;
const REGISTER_COUNT: u8 = 4;

/// The bit of the sleep control register that enters the sleep state.
const SLEEP_ENABLE: u8 = 1 << 5;

const EVENT_POWER_BUTTON: u8 = 1 << 0;

/// Value of a `Notify` that says that a button was pressed (ACPI 6.5 table 5.168).
const NOTIFY_PRESSED: u8 = 0x80;

/// The power registers, with the event device that carries the power button.
pub struct AcpiPower {
    platform: Arc<dyn Platform>,
    line: InterruptLine,
    events: Arc<AtomicU8>,
}

/// Presses the guest's power button.
pub struct PowerButton {
    events: Arc<AtomicU8>,
    interrupt: EventFd,
}

impl AcpiPower {
    /// The first of the ports.
    pub const BASE_PORT: u16 = 0x600;
    /// The sleep control register, for the FADT.
    pub const SLEEP_CONTROL_PORT: u16 = Self::BASE_PORT;
    /// The sleep status register, for the FADT.
    pub const SLEEP_STATUS_PORT: u16 = Self::BASE_PORT + 1;
    /// The reset register, for the FADT.
    pub const RESET_PORT: u16 = Self::BASE_PORT + 2;
    /// What a guest writes to the reset register, for the FADT.
    pub const RESET_VALUE: u8 = 0x42;

    /// The registers, which stop `platform` and announce the power button over `line`.
    pub fn new(line: InterruptLine, platform: Arc<dyn Platform>) -> Self {
        Self {
            platform,
            line,
            events: Arc::default(),
        }
    }

    /// The power button.
    pub fn power_button(&self) -> Result<PowerButton, Error> {
        let interrupt = self.line.event.try_clone().map_err(|source| Error::Host {
            device: self.name().to_owned(),
            operation: "share its interrupt",
            source,
        })?;
        Ok(PowerButton {
            events: Arc::clone(&self.events),
            interrupt,
        })
    }

    /// The generic event device: its interrupt runs `_EVT`, which reads and so clears the events
    /// (ACPI 6.5 section 5.6.9).
    fn append_event_device(&self, sink: &mut dyn AmlSink) {
        let port = Self::BASE_PORT + 3;
        aml::Device::new(
            "GED_".into(),
            vec![
                &aml::Name::new("_HID".into(), &"ACPI0013"),
                &aml::Name::new("_UID".into(), &aml::ZERO),
                &aml::Name::new(
                    "_CRS".into(),
                    &aml::ResourceTemplate::new(vec![&aml::Interrupt::new(
                        true,
                        true,
                        false,
                        false,
                        self.line.gsi,
                    )]),
                ),
                &aml::OpRegion::new(
                    "EREG".into(),
                    aml::OpRegionSpace::SystemIO,
                    &port,
                    &aml::ONE,
                ),
                &aml::Field::new(
                    "EREG".into(),
                    aml::FieldAccessType::Byte,
                    aml::FieldLockRule::NoLock,
                    aml::FieldUpdateRule::WriteAsZeroes,
                    vec![aml::FieldEntry::Named(*b"EVNT", 8)],
                ),
                &aml::Method::new(
                    "_EVT".into(),
                    1,
                    true,
                    vec![
                        &aml::Store::new(&aml::Local(0), &aml::Path::new("EVNT")),
                        &aml::And::new(&aml::Local(1), &aml::Local(0), &EVENT_POWER_BUTTON),
                        &aml::If::new(
                            &aml::Local(1),
                            vec![&aml::Notify::new(&aml::Path::new("PWRB"), &NOTIFY_PRESSED)],
                        ),
                    ],
                ),
            ],
        )
        .to_aml_bytes(sink);
    }
}

impl PowerButton {
    /// Presses the button: asks the guest to switch itself off.
    pub fn press(&self) -> io::Result<()> {
        self.events.fetch_or(EVENT_POWER_BUTTON, Ordering::AcqRel);
        self.interrupt.write(1)
    }
}

impl Device for AcpiPower {
    fn name(&self) -> &'static str {
        "power"
    }

    fn windows(&self) -> Vec<Window> {
        vec![Window {
            space: Space::Port,
            base: Self::BASE_PORT.into(),
            len_bytes: REGISTER_COUNT.into(),
        }]
    }

    fn interrupt(&self) -> Option<&InterruptLine> {
        Some(&self.line)
    }

    fn append_aml(&self, sink: &mut dyn AmlSink) {
        aml::Device::new(
            "PWRB".into(),
            vec![
                &aml::Name::new("_HID".into(), &aml::EISAName::new("PNP0C0C")),
                &aml::Name::new("_UID".into(), &aml::ZERO),
            ],
        )
        .to_aml_bytes(sink);
        self.append_event_device(sink);
    }

    /// The machine never sleeps and wakes, so the control and status registers read as zero.
    fn read(&mut self, _window: usize, offset: u64, data: &mut [u8]) {
        data.fill(match offset {
            EVENTS => self.events.swap(0, Ordering::AcqRel),
            _ => 0,
        });
    }

    /// Any sleep type is power-off: `\_S5` is the only state that the tables offer.
    fn write(&mut self, _window: usize, offset: u64, data: &[u8]) {
        let [value] = data else { return };
        match offset {
            SLEEP_CONTROL if value & SLEEP_ENABLE != 0 => self.platform.power(PowerEvent::Off),
            RESET if *value == Self::RESET_VALUE => self.platform.power(PowerEvent::Reset),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::platform_fake::FakePlatform;

    fn fixture() -> (Arc<FakePlatform>, AcpiPower) {
        let platform = Arc::new(FakePlatform::default());
        let line = InterruptLine {
            gsi: 9,
            event: EventFd::new(libc::EFD_NONBLOCK).unwrap(),
        };
        (platform.clone(), AcpiPower::new(line, platform))
    }

    #[test]
    fn sleep_enable_switches_off_and_the_type_alone_does_not() {
        let (platform, mut power) = fixture();
        power.write(0, SLEEP_CONTROL, &[5 << 2]);
        power.write(0, 1, &[0xff]);
        assert_eq!(platform.power_events(), []);
        power.write(0, SLEEP_CONTROL, &[5 << 2 | SLEEP_ENABLE]);
        assert_eq!(platform.power_events(), [PowerEvent::Off]);
    }

    #[test]
    fn only_the_reset_value_resets() {
        let (platform, mut power) = fixture();
        power.write(0, RESET, &[0]);
        assert_eq!(platform.power_events(), []);
        power.write(0, RESET, &[AcpiPower::RESET_VALUE]);
        assert_eq!(platform.power_events(), [PowerEvent::Reset]);
    }

    #[test]
    fn the_button_raises_the_line_and_is_read_once() {
        let (_platform, mut power) = fixture();
        power.power_button().unwrap().press().unwrap();
        assert_eq!(power.line.event.read().unwrap(), 1);
        let mut events = [0xff];
        power.read(0, EVENTS, &mut events);
        assert_eq!(events, [EVENT_POWER_BUTTON]);
        power.read(0, EVENTS, &mut events);
        assert_eq!(events, [0]);
    }
}

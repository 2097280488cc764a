//! The device on which a guest kernel says that it panicked (QEMU's `docs/specs/pvpanic`).

use std::sync::Arc;

use acpi_tables::{Aml, AmlSink, aml};

use crate::{Device, Platform, PowerEvent, Space, Window};

const PORT: u16 = 0x505;

/// The guest panicked, and does not handle that itself.
const EVENT_PANICKED: u8 = 0x01;

/// A pvpanic device on the port the field agreed on.
pub struct Pvpanic {
    platform: Arc<dyn Platform>,
}

impl Pvpanic {
    /// The device, which tells `platform` of a panic.
    pub fn new(platform: Arc<dyn Platform>) -> Self {
        Self { platform }
    }
}

impl Device for Pvpanic {
    fn name(&self) -> &'static str {
        "pvpanic"
    }

    fn windows(&self) -> Vec<Window> {
        vec![Window {
            space: Space::Port,
            base: PORT.into(),
            len_bytes: 1,
        }]
    }

    fn append_aml(&self, sink: &mut dyn AmlSink) {
        aml::Device::new(
            "PEVT".into(),
            vec![
                &aml::Name::new("_HID".into(), &"QEMU0001"),
                &aml::Name::new(
                    "_CRS".into(),
                    &aml::ResourceTemplate::new(vec![&aml::IO::new(PORT, PORT, 1, 1)]),
                ),
            ],
        )
        .to_aml_bytes(sink);
    }

    /// The events that a guest may report.
    fn read(&mut self, _window: usize, _offset: u64, data: &mut [u8]) {
        data.fill(EVENT_PANICKED);
    }

    fn write(&mut self, _window: usize, _offset: u64, data: &[u8]) {
        if data.iter().any(|byte| byte & EVENT_PANICKED != 0) {
            self.platform.power(PowerEvent::Panic);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::platform_fake::FakePlatform;

    #[test]
    fn only_the_announced_event_is_a_panic() {
        let platform = Arc::new(FakePlatform::default());
        let mut device = Pvpanic::new(platform.clone());
        let mut supported = [0];
        device.read(0, 0, &mut supported);
        assert_eq!(supported, [EVENT_PANICKED]);
        device.write(0, 0, &[0xfe]);
        assert_eq!(platform.power_events(), []);
        device.write(0, 0, &[EVENT_PANICKED]);
        assert_eq!(platform.power_events(), [PowerEvent::Panic]);
    }
}

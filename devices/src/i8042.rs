//! The keyboard controller, of which a machine without a keyboard keeps the reset command.

use std::sync::Arc;

use crate::{Device, Platform, PowerEvent, Space, Window};

const DATA_PORT: u64 = 0x60;
const COMMAND_PORT: u64 = 0x64;

/// "Pulse output line 0", which is wired to the CPU's reset pin.
const PULSE_RESET: u8 = 0xfe;

/// An i8042 that resets the machine and has nothing connected.
pub struct I8042 {
    platform: Arc<dyn Platform>,
}

impl I8042 {
    /// The controller, which resets `platform`.
    pub fn new(platform: Arc<dyn Platform>) -> Self {
        Self { platform }
    }
}

impl Device for I8042 {
    fn name(&self) -> &'static str {
        "i8042"
    }

    fn windows(&self) -> Vec<Window> {
        [DATA_PORT, COMMAND_PORT]
            .map(|base| Window {
                space: Space::Port,
                base,
                len_bytes: 1,
            })
            .to_vec()
    }

    /// Both buffers are always empty, so a driver waits neither to write nor for a byte to read.
    fn read(&mut self, _window: usize, _offset: u64, data: &mut [u8]) {
        data.fill(0);
    }

    fn write(&mut self, window: usize, _offset: u64, data: &[u8]) {
        if window == 1 && data == [PULSE_RESET] {
            self.platform.power(PowerEvent::Reset);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::platform_fake::FakePlatform;

    #[test]
    fn only_the_reset_command_resets() {
        let platform = Arc::new(FakePlatform::default());
        let mut device = I8042::new(platform.clone());
        let mut status = [0xff];
        device.read(1, 0, &mut status);
        assert_eq!(status[0] & 3, 0, "a driver would wait for the buffers");
        device.write(0, 0, &[PULSE_RESET]);
        device.write(1, 0, &[0xd1]);
        assert_eq!(platform.power_events(), []);
        device.write(1, 0, &[PULSE_RESET]);
        assert_eq!(platform.power_events(), [PowerEvent::Reset]);
    }
}

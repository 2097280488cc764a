//! The CMOS clock (Motorola MC146818A), which tells the guest the host's time.
//!
//! What there is: the time, day and century in UTC, in BCD or binary and in 12 or 24 hours as register
//! B says, the update-in-progress bit for the last 244 microseconds of each second, and the battery
//! backed memory, blank at start. What there is not: alarm, periodic and update interrupts. The ACPI
//! node names no interrupt, so a guest does without them instead of waiting for them. The host
//! keeps the time, so a guest's writes to it are ignored.

mod calendar;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use acpi_tables::{Aml, AmlSink, aml};

use crate::{Device, Space, Window};
use calendar::DateTime;

const INDEX_PORT: u16 = 0x70;
const PORT_COUNT: u8 = 2;

/// Bit 7 of the index port masks NMIs, which this machine has none of.
const INDEX_MASK: u8 = 0x7f;

// Addresses in the clock's memory (MC146818A datasheet, figure 9; the century as on a PC/AT).
const SECONDS: u8 = 0x00;
const MINUTES: u8 = 0x02;
const HOURS: u8 = 0x04;
const DAY_OF_WEEK: u8 = 0x06;
const DAY_OF_MONTH: u8 = 0x07;
const MONTH: u8 = 0x08;
const YEAR: u8 = 0x09;
const REGISTER_A: u8 = 0x0a;
const REGISTER_B: u8 = 0x0b;
const REGISTER_C: u8 = 0x0c;
const REGISTER_D: u8 = 0x0d;
const CENTURY: u8 = 0x32;

const A_UPDATE_IN_PROGRESS: u8 = 0x80;
/// A 32.768 kHz time base.
const A_DEFAULT: u8 = 0x20;
const B_24_HOURS: u8 = 0x02;
const B_BINARY: u8 = 0x04;
/// The interrupt enables and the square wave, which nothing is connected to.
const B_UNCONNECTED: u8 = 0x78;
const D_VALID: u8 = 0x80;
const HOURS_PM: u8 = 0x80;

/// From here to the end of a second the update bit warns: the time is stable for 244 microseconds
/// after the bit was seen clear (datasheet, table 4).
const UPDATE_NOTICE_NANOS: u32 = 1_000_000_000 - 244_000;

/// A CMOS clock.
pub struct Rtc {
    /// The time since the Unix epoch.
    now: Box<dyn Fn() -> Duration + Send>,
    index: u8,
    memory: [u8; 128],
}

impl Rtc {
    /// A clock with the host's time.
    pub fn new() -> Self {
        Self::with_clock(|| {
            SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .unwrap_or(Duration::ZERO)
        })
    }

    /// A clock with the time since the Unix epoch that `now` tells.
    pub fn with_clock(now: impl Fn() -> Duration + Send + 'static) -> Self {
        let mut memory = [0; 128];
        memory[usize::from(REGISTER_A)] = A_DEFAULT;
        memory[usize::from(REGISTER_B)] = B_24_HOURS;
        Self {
            now: Box::new(now),
            index: 0,
            memory,
        }
    }

    fn register_b(&self) -> u8 {
        self.memory[usize::from(REGISTER_B)]
    }

    fn read_register(&self) -> u8 {
        let now = (self.now)();
        let date = DateTime::from_unix_time(now.as_secs());
        match self.index {
            SECONDS => self.encode(date.second),
            MINUTES => self.encode(date.minute),
            HOURS => self.encode_hour(date.hour),
            // Sunday is 1.
            DAY_OF_WEEK => self.encode(date.day_of_week + 1),
            DAY_OF_MONTH => self.encode(date.day),
            MONTH => self.encode(date.month),
            YEAR => self.encode(date.year_of_century),
            CENTURY => self.encode(date.century),
            REGISTER_A => {
                let updating = now.subsec_nanos() >= UPDATE_NOTICE_NANOS;
                let updating = if updating { A_UPDATE_IN_PROGRESS } else { 0 };
                self.memory[usize::from(REGISTER_A)] | updating
            }
            REGISTER_C => 0,
            REGISTER_D => D_VALID,
            index => self.memory[usize::from(index)],
        }
    }

    fn write_register(&mut self, value: u8) {
        let kept = match self.index {
            SECONDS | MINUTES | HOURS | DAY_OF_WEEK..=YEAR | CENTURY | REGISTER_C | REGISTER_D => {
                return;
            }
            REGISTER_A => value & !A_UPDATE_IN_PROGRESS,
            REGISTER_B => value & !B_UNCONNECTED,
            _ => value,
        };
        self.memory[usize::from(self.index)] = kept;
    }

    fn encode(&self, value: u8) -> u8 {
        if self.register_b() & B_BINARY != 0 {
            value
        } else {
            value / 10 * 16 + value % 10
        }
    }

    fn encode_hour(&self, hour: u8) -> u8 {
        if self.register_b() & B_24_HOURS != 0 {
            return self.encode(hour);
        }
        let afternoon = if hour >= 12 { HOURS_PM } else { 0 };
        self.encode((hour + 11) % 12 + 1) | afternoon
    }
}

impl Default for Rtc {
    fn default() -> Self {
        Self::new()
    }
}

impl Device for Rtc {
    fn name(&self) -> &'static str {
        "rtc"
    }

    fn windows(&self) -> Vec<Window> {
        vec![Window {
            space: Space::Port,
            base: INDEX_PORT.into(),
            len_bytes: PORT_COUNT.into(),
        }]
    }

    fn append_aml(&self, sink: &mut dyn AmlSink) {
        aml::Device::new(
            "RTC_".into(),
            vec![
                &aml::Name::new("_HID".into(), &aml::EISAName::new("PNP0B00")),
                &aml::Name::new(
                    "_CRS".into(),
                    &aml::ResourceTemplate::new(vec![&aml::IO::new(
                        INDEX_PORT, INDEX_PORT, 0, PORT_COUNT,
                    )]),
                ),
            ],
        )
        .to_aml_bytes(sink);
    }

    fn read(&mut self, _window: usize, offset: u64, data: &mut [u8]) {
        if offset == 1 {
            data.fill(self.read_register());
        }
    }

    fn write(&mut self, _window: usize, offset: u64, data: &[u8]) {
        match (offset, data) {
            (0, [index]) => self.index = index & INDEX_MASK,
            (1, [value]) => self.write_register(*value),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2024-02-29 13:37:42 UTC, a Thursday.
    const LEAP_DAY: Duration = Duration::from_secs(1_709_213_862);

    fn get(rtc: &mut Rtc, index: u8) -> u8 {
        let mut data = [0xff];
        rtc.write(0, 0, &[index]);
        rtc.read(0, 1, &mut data);
        data[0]
    }

    fn set(rtc: &mut Rtc, index: u8, value: u8) {
        rtc.write(0, 0, &[index]);
        rtc.write(0, 1, &[value]);
    }

    fn date_and_time(rtc: &mut Rtc) -> [u8; 8] {
        [
            CENTURY,
            YEAR,
            MONTH,
            DAY_OF_MONTH,
            DAY_OF_WEEK,
            HOURS,
            MINUTES,
            SECONDS,
        ]
        .map(|index| get(rtc, index))
    }

    #[test]
    fn time_reads_in_the_format_of_register_b() {
        let mut rtc = Rtc::with_clock(|| LEAP_DAY);
        assert_eq!(
            date_and_time(&mut rtc),
            [0x20, 0x24, 0x02, 0x29, 5, 0x13, 0x37, 0x42]
        );
        set(&mut rtc, REGISTER_B, B_BINARY | B_24_HOURS);
        assert_eq!(date_and_time(&mut rtc), [20, 24, 2, 29, 5, 13, 37, 42]);
        set(&mut rtc, REGISTER_B, 0);
        assert_eq!(get(&mut rtc, HOURS), 0x01 | HOURS_PM);
    }

    #[test]
    fn twelve_hour_clock_has_no_hour_zero() {
        for (hour, expected) in [
            (0, 12),
            (1, 1),
            (11, 11),
            (12, 0x0c | HOURS_PM),
            (13, 0x01 | HOURS_PM),
            (23, 0x0b | HOURS_PM),
        ] {
            let mut rtc = Rtc::with_clock(move || Duration::from_secs(hour * 3600));
            set(&mut rtc, REGISTER_B, B_BINARY);
            assert_eq!(get(&mut rtc, HOURS), expected, "hour {hour}");
        }
    }

    #[test]
    fn update_in_progress_warns_of_the_next_second_only() {
        for (nanos, updating) in [
            (0, 0),
            (999_755_999, 0),
            (999_756_000, 0x80),
            (999_999_999, 0x80),
        ] {
            let mut rtc = Rtc::with_clock(move || Duration::new(7, nanos));
            assert_eq!(
                get(&mut rtc, REGISTER_A) & A_UPDATE_IN_PROGRESS,
                updating,
                "{nanos}"
            );
        }
    }

    #[test]
    fn memory_is_kept_and_the_time_is_not_the_guests_to_set() {
        let mut rtc = Rtc::with_clock(|| LEAP_DAY);
        set(&mut rtc, 0x7f, 0xa5);
        // The NMI mask does not select another register.
        assert_eq!(get(&mut rtc, 0xff), 0xa5);
        for index in [SECONDS, YEAR, CENTURY] {
            set(&mut rtc, index, 0x11);
        }
        assert_eq!(
            date_and_time(&mut rtc),
            [0x20, 0x24, 0x02, 0x29, 5, 0x13, 0x37, 0x42]
        );
        set(&mut rtc, REGISTER_A, 0xff);
        assert_eq!(get(&mut rtc, REGISTER_A), 0x7f, "an update would never end");
        assert_eq!(get(&mut rtc, REGISTER_D), D_VALID);
    }
}

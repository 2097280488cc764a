//! COM1, a 16550A UART (registers by `vm_superio`).
//!
//! The receiver takes input only while the guest has received-data interrupts enabled. A driver that
//! opens or closes the port reads the receive buffer "to clear it" (Linux does, in
//! `serial8250_do_startup` and `_do_shutdown`), and a console driver masks interrupts while it
//! prints: input that waits outside meanwhile is never lost, however early it was typed or piped.

use std::io::{self, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use acpi_tables::{Aml, AmlSink, aml};
use libc::{EFD_CLOEXEC, EFD_NONBLOCK};
use vm_superio::serial::NoEvents;
use vmm_sys_util::eventfd::EventFd;

use crate::{Device, Error, InterruptLine, Space, Window};

/// The first port of COM1.
const COM1_PORT: u16 = 0x3f8;
const REGISTER_COUNT: u8 = 8;

// Register offsets (PC16550D datasheet, table 1).
const DATA: u8 = 0;
const INTERRUPT_ENABLE: u8 = 1;
const INTERRUPT_IDENTIFICATION: u8 = 2;
const LINE_CONTROL: u8 = 3;
const MODEM_CONTROL: u8 = 4;
const LINE_STATUS: u8 = 5;

const INTERRUPT_ENABLE_RECEIVED: u8 = 0x01;
const IDENTIFICATION_MASK: u8 = 0x0f;
const IDENTIFICATION_RECEIVED: u8 = 0x04;
const LINE_CONTROL_DIVISOR_LATCH: u8 = 0x80;
const MODEM_CONTROL_LOOPBACK: u8 = 0x10;
const LINE_STATUS_DATA_READY: u8 = 0x01;

const FIFO_BYTES: usize = 64;

/// The guest's first serial port.
pub struct Serial {
    uart: Arc<Mutex<Uart>>,
    room: Arc<EventFd>,
    line: InterruptLine,
}

/// The host's end of a serial port's receive line.
#[derive(Clone)]
pub struct SerialInput {
    uart: Arc<Mutex<Uart>>,
    room: Arc<EventFd>,
}

struct Uart {
    registers: vm_superio::Serial<Trigger, NoEvents, Box<dyn Write + Send>>,
    interrupt_enable: u8,
    line_control: u8,
    modem_control: u8,
    /// Input was refused since `room` was last signalled.
    starved: bool,
    output_failed: bool,
}

struct Trigger(EventFd);

impl vm_superio::Trigger for Trigger {
    type E = io::Error;

    fn trigger(&self) -> io::Result<()> {
        self.0.write(1)
    }
}

impl Serial {
    /// COM1, which interrupts over `line` and prints to `output`, each byte as the guest sends it.
    pub fn new(line: InterruptLine, output: Box<dyn Write + Send>) -> Result<Self, Error> {
        let host_error = |operation| {
            move |source| Error::Host {
                device: "com1".to_owned(),
                operation,
                source,
            }
        };
        let event = line
            .event
            .try_clone()
            .map_err(host_error("share its interrupt"))?;
        let room = EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC).map_err(host_error("make an event"))?;
        let uart = Uart {
            registers: vm_superio::Serial::new(Trigger(event), output),
            interrupt_enable: 0,
            line_control: 0,
            modem_control: 0,
            starved: false,
            output_failed: false,
        };
        Ok(Self {
            uart: Arc::new(Mutex::new(uart)),
            room: Arc::new(room),
            line,
        })
    }

    /// The end on which the guest receives.
    pub fn input(&self) -> SerialInput {
        SerialInput {
            uart: Arc::clone(&self.uart),
            room: Arc::clone(&self.room),
        }
    }
}

impl SerialInput {
    /// Sends `bytes` to the guest and returns how many of them it took, from the front.
    ///
    /// When that is fewer than given, [`SerialInput::room`] is signalled as soon as the guest may
    /// take more.
    pub fn send(&self, bytes: &[u8]) -> usize {
        lock(&self.uart).receive(bytes)
    }

    /// Signalled when the guest may take more input after it took less than was sent. Nonblocking.
    pub fn room(&self) -> &EventFd {
        &self.room
    }
}

impl Uart {
    fn receiving(&self) -> bool {
        self.interrupt_enable & INTERRUPT_ENABLE_RECEIVED != 0 && !self.loopback()
    }

    fn loopback(&self) -> bool {
        self.modem_control & MODEM_CONTROL_LOOPBACK != 0
    }

    fn divisor_latched(&self) -> bool {
        self.line_control & LINE_CONTROL_DIVISOR_LATCH != 0
    }

    fn receive(&mut self, bytes: &[u8]) -> usize {
        let taken = if self.receiving() {
            // An error is a full FIFO; it took nothing then.
            self.registers.enqueue_raw_bytes(bytes).unwrap_or(0)
        } else {
            0
        };
        self.starved |= taken < bytes.len();
        taken
    }

    /// Whether the sender should be told that there is room: it waits, and the FIFO is empty, so
    /// that a long input moves a FIFO at a time.
    fn take_room(&mut self) -> bool {
        let room = self.starved && self.receiving() && self.received_len() == 0;
        self.starved &= !room;
        room
    }

    fn received_len(&self) -> usize {
        FIFO_BYTES.saturating_sub(self.registers.fifo_capacity())
    }

    fn read(&mut self, register: u8) -> u8 {
        let held = !self.receiving() && !self.loopback();
        match register {
            DATA if held && !self.divisor_latched() => 0,
            LINE_STATUS if held => self.registers.read(LINE_STATUS) & !LINE_STATUS_DATA_READY,
            // `vm_superio` clears the identification when it is read; the condition lasts while
            // there are data (PC16550D section 8.6.1), and edge-triggered drivers loop on it.
            INTERRUPT_IDENTIFICATION if self.receiving() && self.received_len() > 0 => {
                let value = self.registers.read(INTERRUPT_IDENTIFICATION);
                (value & !IDENTIFICATION_MASK) | IDENTIFICATION_RECEIVED
            }
            _ => self.registers.read(register),
        }
    }

    fn write(&mut self, register: u8, value: u8) {
        match register {
            INTERRUPT_ENABLE if !self.divisor_latched() => self.interrupt_enable = value,
            LINE_CONTROL => self.line_control = value,
            MODEM_CONTROL => self.modem_control = value,
            _ => {}
        }
        if let Err(error) = self.registers.write(register, value)
            && !self.output_failed
        {
            self.output_failed = true;
            tracing::warn!(
                ?error,
                "the console takes no output: what the guest prints is lost"
            );
        }
    }
}

impl Serial {
    fn signal_room(&self, room: bool) {
        if room && let Err(error) = self.room.write(1) {
            tracing::debug!(%error, "cannot signal that the serial port has room");
        }
    }
}

impl Device for Serial {
    fn name(&self) -> &'static str {
        "com1"
    }

    fn windows(&self) -> Vec<Window> {
        vec![Window {
            space: Space::Port,
            base: COM1_PORT.into(),
            len_bytes: REGISTER_COUNT.into(),
        }]
    }

    fn interrupt(&self) -> Option<&InterruptLine> {
        Some(&self.line)
    }

    fn append_aml(&self, sink: &mut dyn AmlSink) {
        aml::Device::new(
            "COM1".into(),
            vec![
                &aml::Name::new("_HID".into(), &aml::EISAName::new("PNP0501")),
                &aml::Name::new("_UID".into(), &aml::ZERO),
                &aml::Name::new(
                    "_CRS".into(),
                    &aml::ResourceTemplate::new(vec![
                        &aml::IO::new(COM1_PORT, COM1_PORT, 0, REGISTER_COUNT),
                        &aml::Interrupt::new(true, true, false, false, self.line.gsi),
                    ]),
                ),
            ],
        )
        .to_aml_bytes(sink);
    }

    fn read(&mut self, _window: usize, offset: u64, data: &mut [u8]) {
        let (Ok(register), [byte]) = (u8::try_from(offset), data) else {
            return;
        };
        let mut uart = lock(&self.uart);
        *byte = uart.read(register);
        let room = uart.take_room();
        drop(uart);
        self.signal_room(room);
    }

    fn write(&mut self, _window: usize, offset: u64, data: &[u8]) {
        let (Ok(register), [value]) = (u8::try_from(offset), data) else {
            return;
        };
        let mut uart = lock(&self.uart);
        uart.write(register, *value);
        let room = uart.take_room();
        drop(uart);
        self.signal_room(room);
    }
}

fn lock(uart: &Mutex<Uart>) -> MutexGuard<'_, Uart> {
    uart.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Default)]
    struct Output(Arc<Mutex<Vec<u8>>>);

    impl Write for Output {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    struct Fixture {
        serial: Serial,
        input: SerialInput,
        output: Output,
    }

    impl Fixture {
        fn new() -> Self {
            let output = Output::default();
            let event = EventFd::new(EFD_NONBLOCK).unwrap();
            let line = InterruptLine { gsi: 4, event };
            let serial = Serial::new(line, Box::new(output.clone())).unwrap();
            let input = serial.input();
            Self {
                serial,
                input,
                output,
            }
        }

        fn read(&mut self, register: u8) -> u8 {
            let mut data = [0xff];
            self.serial.read(0, register.into(), &mut data);
            data[0]
        }

        fn write(&mut self, register: u8, value: u8) {
            self.serial.write(0, register.into(), &[value]);
        }

        fn interrupted(&self) -> bool {
            self.serial.line.event.read().is_ok()
        }

        /// What an interrupt handler does: reads while there are data.
        fn drain(&mut self) -> Vec<u8> {
            let mut bytes = Vec::new();
            while self.read(LINE_STATUS) & LINE_STATUS_DATA_READY != 0 {
                bytes.push(self.read(DATA));
            }
            bytes
        }
    }

    #[test]
    fn output_reaches_the_writer() {
        let mut port = Fixture::new();
        for byte in b"hello" {
            port.write(DATA, *byte);
        }
        assert_eq!(*port.output.0.lock().unwrap(), b"hello");
    }

    #[test]
    fn input_waits_until_the_guest_listens() {
        let mut port = Fixture::new();
        assert_eq!(port.input.send(b"ls\n"), 0);
        assert!(port.input.room().read().is_err());
        // What a driver does when it opens the port.
        assert_eq!(port.read(DATA), 0);
        port.write(INTERRUPT_ENABLE, INTERRUPT_ENABLE_RECEIVED);
        assert!(port.input.room().read().is_ok());
        assert_eq!(port.input.send(b"ls\n"), 3);
        assert!(port.interrupted());
        assert_eq!(port.drain(), b"ls\n");
    }

    #[test]
    fn closing_the_port_loses_nothing() {
        let mut port = Fixture::new();
        port.write(INTERRUPT_ENABLE, INTERRUPT_ENABLE_RECEIVED);
        assert_eq!(port.input.send(b"ab"), 2);
        assert_eq!(port.read(DATA), b'a');
        port.write(INTERRUPT_ENABLE, 0);
        assert_eq!(port.drain(), b"");
        assert_eq!(port.read(DATA), 0);
        while port.interrupted() {}
        port.write(INTERRUPT_ENABLE, INTERRUPT_ENABLE_RECEIVED);
        assert!(port.interrupted());
        assert_eq!(port.drain(), b"b");
    }

    #[test]
    fn a_long_input_moves_a_fifo_at_a_time() {
        let mut port = Fixture::new();
        port.write(INTERRUPT_ENABLE, INTERRUPT_ENABLE_RECEIVED);
        let text: Vec<u8> = (0..1000_u32)
            .map(|n| u8::try_from(n % 251).unwrap())
            .collect();
        let (mut sent, mut received, mut waits) = (0, Vec::new(), 0);
        while sent < text.len() {
            sent += port.input.send(&text[sent..]);
            received.extend(port.drain());
            if sent < text.len() {
                port.input.room().read().unwrap();
                waits += 1;
            }
        }
        assert_eq!(received, text);
        assert_eq!(waits, text.len() / FIFO_BYTES);
    }

    #[test]
    fn identification_shows_data_until_they_are_read() {
        let mut port = Fixture::new();
        port.write(INTERRUPT_ENABLE, INTERRUPT_ENABLE_RECEIVED);
        port.input.send(b"ab");
        for _ in 0..2 {
            assert_eq!(
                port.read(INTERRUPT_IDENTIFICATION) & IDENTIFICATION_MASK,
                IDENTIFICATION_RECEIVED
            );
            port.read(DATA);
        }
        assert_eq!(port.read(INTERRUPT_IDENTIFICATION) & IDENTIFICATION_MASK, 1);
    }

    #[test]
    fn the_divisor_latch_hides_data_and_interrupt_enable() {
        let mut port = Fixture::new();
        port.write(LINE_CONTROL, LINE_CONTROL_DIVISOR_LATCH);
        port.write(INTERRUPT_ENABLE, 1);
        port.write(DATA, 12);
        assert_eq!((port.read(DATA), port.read(INTERRUPT_ENABLE)), (12, 1));
        assert!(port.output.0.lock().unwrap().is_empty());
        port.write(LINE_CONTROL, 3);
        assert_eq!(
            port.input.send(b"x"),
            0,
            "the divisor is not the interrupt enable register"
        );
    }

    #[test]
    fn loopback_returns_what_is_sent() {
        let mut port = Fixture::new();
        port.write(MODEM_CONTROL, MODEM_CONTROL_LOOPBACK);
        port.write(DATA, b'z');
        assert_eq!(
            port.read(LINE_STATUS) & LINE_STATUS_DATA_READY,
            LINE_STATUS_DATA_READY
        );
        assert_eq!(port.read(DATA), b'z');
        assert!(port.output.0.lock().unwrap().is_empty());
        port.write(INTERRUPT_ENABLE, INTERRUPT_ENABLE_RECEIVED);
        assert_eq!(port.input.send(b"x"), 0, "the line is disconnected");
    }
}

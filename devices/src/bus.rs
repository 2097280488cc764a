//! Routes guest accesses to the devices that answer them.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::{Device, Error, Space, Window};

/// The devices of a machine, by the windows they answer.
///
/// Built once, then shared by all vCPU threads: each device has its own lock, so that accesses to
/// different devices do not wait for each other.
#[derive(Default)]
pub struct Bus {
    devices: Vec<Slot>,
    ports: Routes,
    memory: Routes,
}

/// A device and how often the guest came to it.
struct Slot {
    device: Mutex<Box<dyn Device>>,
    accesses: AtomicU64,
}

/// The windows of one address space, sorted by address, without overlaps.
#[derive(Default)]
struct Routes(Vec<Route>);

struct Route {
    window: Window,
    device: usize,
    window_index: usize,
}

impl Routes {
    /// The route whose window holds all of `len` bytes at `address`.
    fn find(&self, address: u64, len: usize) -> Option<&Route> {
        let after = self.0.partition_point(|route| route.window.base <= address);
        let route = &self.0[after.checked_sub(1)?];
        let offset = address - route.window.base;
        let end = offset.checked_add(u64::try_from(len).ok()?)?;
        (end <= route.window.len_bytes).then_some(route)
    }

    fn insert(&mut self, route: Route) {
        let at = self
            .0
            .partition_point(|other| other.window.base < route.window.base);
        self.0.insert(at, route);
    }
}

impl Bus {
    /// An empty bus.
    pub fn new() -> Self {
        Self::default()
    }

    /// Puts a device on the bus. A device with an empty window, one that ends beyond its address
    /// space, or one that another device answers already, is refused whole.
    pub fn insert(&mut self, device: Box<dyn Device>) -> Result<(), Error> {
        let windows = device.windows();
        for (index, window) in windows.iter().enumerate() {
            self.check(device.name(), *window, &windows[..index])?;
        }
        let number = self.devices.len();
        for (window_index, window) in windows.into_iter().enumerate() {
            let route = Route {
                window,
                device: number,
                window_index,
            };
            match window.space {
                Space::Port => self.ports.insert(route),
                Space::Memory => self.memory.insert(route),
            }
        }
        self.devices.push(Slot {
            device: Mutex::new(device),
            accesses: AtomicU64::new(0),
        });
        Ok(())
    }

    fn check(&self, name: &str, window: Window, own: &[Window]) -> Result<(), Error> {
        let limit = match window.space {
            Space::Port => 0x1_0000,
            Space::Memory => u64::MAX,
        };
        let end = window.base.checked_add(window.len_bytes);
        if window.len_bytes == 0 || end.is_none_or(|end| end > limit) {
            return Err(Error::BadWindow {
                device: name.to_owned(),
                window,
            });
        }
        let overlap = |other: String| {
            Err(Error::WindowOverlap {
                device: name.to_owned(),
                window,
                other,
            })
        };
        if own.iter().any(|other| other.overlaps(window)) {
            return overlap(name.to_owned());
        }
        match self
            .routes(window.space)
            .0
            .iter()
            .find(|route| route.window.overlaps(window))
        {
            Some(route) => overlap(self.lock(route.device).name().to_owned()),
            None => Ok(()),
        }
    }

    /// The devices in the order of their insertion, each locked while it is looked at.
    pub fn devices(&self) -> impl Iterator<Item = MutexGuard<'_, Box<dyn Device>>> {
        (0..self.devices.len()).map(|index| self.lock(index))
    }

    /// How often the guest came to each device: its name, and the number of its accesses that
    /// were exits to the program.
    pub fn accesses(&self) -> Vec<(String, u64)> {
        let count = |slot: &Slot| slot.accesses.load(Ordering::Relaxed);
        let names = self.devices().map(|device| device.name().to_owned());
        names.zip(self.devices.iter().map(count)).collect()
    }

    /// Answers a guest read of `data.len()` bytes. What no device answers reads as `0xff`.
    ///
    /// The devices on the port side are 8 bits wide: as on an ISA bus, a wider access reaches them
    /// as one access for each byte. A memory access must lie in one window as a whole.
    pub fn read(&self, space: Space, address: u64, data: &mut [u8]) {
        data.fill(0xff);
        match space {
            Space::Memory => self.read_routed(&self.memory, address, data),
            Space::Port => {
                for (port, byte) in (address..).zip(data.chunks_exact_mut(1)) {
                    self.read_routed(&self.ports, port, byte);
                }
            }
        }
    }

    /// Takes a guest write. What no device answers is dropped; widths are as in [`Bus::read`].
    pub fn write(&self, space: Space, address: u64, data: &[u8]) {
        match space {
            Space::Memory => self.write_routed(&self.memory, address, data),
            Space::Port => {
                for (port, byte) in (address..).zip(data.chunks_exact(1)) {
                    self.write_routed(&self.ports, port, byte);
                }
            }
        }
    }

    fn read_routed(&self, routes: &Routes, address: u64, data: &mut [u8]) {
        if let Some(route) = routes.find(address, data.len()) {
            let offset = address - route.window.base;
            self.count(route.device);
            self.lock(route.device)
                .read(route.window_index, offset, data);
        }
    }

    fn write_routed(&self, routes: &Routes, address: u64, data: &[u8]) {
        if let Some(route) = routes.find(address, data.len()) {
            let offset = address - route.window.base;
            self.count(route.device);
            self.lock(route.device)
                .write(route.window_index, offset, data);
        }
    }

    fn count(&self, device: usize) {
        self.devices[device]
            .accesses
            .fetch_add(1, Ordering::Relaxed);
    }

    fn routes(&self, space: Space) -> &Routes {
        match space {
            Space::Port => &self.ports,
            Space::Memory => &self.memory,
        }
    }

    /// A vCPU thread that panicked inside a device leaves its state as it was; the others may
    /// still stop the machine in order.
    fn lock(&self, device: usize) -> MutexGuard<'_, Box<dyn Device>> {
        self.devices[device]
            .device
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    /// The window number, the offset and the data of a write.
    type Write = (usize, u64, Vec<u8>);

    /// Records what reaches it, and answers reads with the window number and the offset.
    struct Probe {
        windows: Vec<Window>,
        writes: Arc<Mutex<Vec<Write>>>,
    }

    impl Device for Probe {
        fn name(&self) -> &'static str {
            "probe"
        }

        fn windows(&self) -> Vec<Window> {
            self.windows.clone()
        }

        fn read(&mut self, window: usize, offset: u64, data: &mut [u8]) {
            data.fill(u8::try_from(window * 16).unwrap() + u8::try_from(offset).unwrap());
        }

        fn write(&mut self, window: usize, offset: u64, data: &[u8]) {
            self.writes
                .lock()
                .unwrap()
                .push((window, offset, data.to_vec()));
        }
    }

    fn window(space: Space, base: u64, len_bytes: u64) -> Window {
        Window {
            space,
            base,
            len_bytes,
        }
    }

    fn probe(windows: &[Window]) -> Probe {
        Probe {
            windows: windows.to_vec(),
            writes: Arc::default(),
        }
    }

    #[test]
    fn accesses_reach_the_window_that_holds_them() {
        let mut bus = Bus::new();
        let device = probe(&[
            window(Space::Memory, 0x1000, 8),
            window(Space::Memory, 0x1008, 8),
            window(Space::Port, 0x1000, 2),
        ]);
        let writes = Arc::clone(&device.writes);
        bus.insert(Box::new(device)).unwrap();

        let mut data = [0; 4];
        bus.read(Space::Memory, 0x100c, &mut data);
        assert_eq!(data, [0x14; 4]);
        bus.write(Space::Memory, 0x1004, &[1, 2, 3, 4]);
        assert_eq!(*writes.lock().unwrap(), [(0, 4, vec![1, 2, 3, 4])]);
        assert_eq!(bus.accesses(), [("probe".to_owned(), 2)]);
    }

    #[test]
    fn memory_accesses_across_a_border_and_unclaimed_ones_read_as_ones() {
        let mut bus = Bus::new();
        let device = probe(&[
            window(Space::Memory, 0x1000, 8),
            window(Space::Memory, 0x1008, 8),
        ]);
        let writes = Arc::clone(&device.writes);
        bus.insert(Box::new(device)).unwrap();
        for (address, len) in [(0x1006, 4), (0x100e, 4), (0xfff, 2), (0, 8), (u64::MAX, 8)] {
            let mut data = vec![0; len];
            bus.read(Space::Memory, address, &mut data);
            assert!(
                data.iter().all(|byte| *byte == 0xff),
                "read of {len} at {address:#x}"
            );
            bus.write(Space::Memory, address, &data);
        }
        assert!(writes.lock().unwrap().is_empty());
    }

    #[test]
    fn wide_port_accesses_are_split_into_bytes() {
        let mut bus = Bus::new();
        let device = probe(&[window(Space::Port, 0x70, 2)]);
        let writes = Arc::clone(&device.writes);
        bus.insert(Box::new(device)).unwrap();
        let mut data = [0; 4];
        bus.read(Space::Port, 0x70, &mut data);
        assert_eq!(data, [0, 1, 0xff, 0xff]);
        assert_eq!(bus.accesses(), [("probe".to_owned(), 2)]);
        bus.write(Space::Port, 0x6f, &[7, 8]);
        assert_eq!(*writes.lock().unwrap(), [(0, 0, vec![8])]);
        bus.read(Space::Port, 0xffff, &mut data);
        assert_eq!(data, [0xff; 4]);
    }

    #[test]
    fn overlapping_and_impossible_windows_are_refused() {
        let mut bus = Bus::new();
        bus.insert(Box::new(probe(&[window(Space::Port, 0x3f8, 8)])))
            .unwrap();
        for windows in [
            vec![window(Space::Port, 0x3ff, 1)],
            vec![window(Space::Port, 0x3f0, 9)],
            vec![window(Space::Port, 0x100, 2), window(Space::Port, 0x101, 1)],
        ] {
            assert!(matches!(
                bus.insert(Box::new(probe(&windows))),
                Err(Error::WindowOverlap { .. })
            ));
        }
        for bad in [
            window(Space::Port, 0x200, 0),
            window(Space::Port, 0xffff, 2),
            window(Space::Memory, u64::MAX, 2),
        ] {
            assert!(matches!(
                bus.insert(Box::new(probe(&[bad]))),
                Err(Error::BadWindow { .. })
            ));
        }
        // Nothing of a refused device stays behind, and the spaces do not overlap.
        bus.insert(Box::new(probe(&[window(Space::Port, 0x100, 2)])))
            .unwrap();
        bus.insert(Box::new(probe(&[window(Space::Memory, 0x3f8, 8)])))
            .unwrap();
        assert_eq!(bus.devices().count(), 3);
    }
}

//! Images on simulated disks.

use std::rc::Rc;

use super::geometry::{Geometry, Layer};
use crate::qcow2::{CreateOptions, DedupOptions, Parts, Qcow2, check, create};
use crate::test_support::content::bytes_of;
use crate::{Buffers, Disk, Error, Order, Raw, Request, SimulatedStorage, Storage as _};
use crate::{CheckReport, Repair};

/// The engine under test.
pub(super) type Image = Qcow2<SimulatedStorage>;

/// An image with all that belongs to it. Not open.
#[derive(Clone)]
pub(super) struct Rig {
    pub(super) geometry: Rc<Geometry>,
    pub(super) image: SimulatedStorage,
    pub(super) data: Option<SimulatedStorage>,
    layers: Rc<[SimulatedStorage]>,
}

impl Rig {
    pub(super) async fn create(geometry: Geometry, seed: u64) -> Self {
        let image = SimulatedStorage::new(0, seed).named("image");
        create(&image, &geometry.options).await.unwrap();
        let has_data = geometry.options.data_file.is_some();
        let data = has_data
            .then(|| SimulatedStorage::new(geometry.options.size_bytes, seed).named("data"));
        let mut layers: Vec<SimulatedStorage> = Vec::new();
        for number in (0..geometry.layers.len()).rev() {
            layers.insert(0, layer_storage(number, &geometry.layers, &layers).await);
        }
        Self {
            geometry: Rc::new(geometry),
            image,
            data,
            layers: layers.into(),
        }
    }

    /// The disks that are written.
    pub(super) fn disks(&self) -> Vec<&SimulatedStorage> {
        [&self.image].into_iter().chain(&self.data).collect()
    }

    /// The same with what a power cut left of [`Rig::disks`].
    pub(super) fn after_cut(&self, left: Vec<SimulatedStorage>) -> Self {
        let mut left = left.into_iter();
        let image = left.next().expect("there is an image");
        Self {
            image,
            data: left.next(),
            ..self.clone()
        }
    }

    pub(super) async fn open(&self) -> Result<Image, Error> {
        let parts = Parts {
            backing: chain(&self.geometry.layers, &self.layers).await?,
            data_file: self.data.clone(),
            l2_cache_bytes: self.geometry.l2_cache_bytes,
            // Version 2 cannot have a journal if one is asked for.
            order: (self.geometry.order != Order::Journal).then_some(self.geometry.order),
            journal_bytes: self.geometry.journal_bytes,
            dedup: self.geometry.dedup_bytes.map(|index_bytes| DedupOptions {
                index_bytes,
                key: [7; 32],
            }),
            ..Parts::default()
        };
        Qcow2::open(self.image.clone(), parts).await
    }

    /// All the files, by the names by which the images know each other.
    pub(super) fn files(&self) -> Vec<(String, SimulatedStorage)> {
        let mut files = vec![("image".to_owned(), self.image.clone())];
        files.extend(
            self.data
                .iter()
                .map(|data| ("data".to_owned(), data.clone())),
        );
        for (n, layer) in self.layers.iter().enumerate() {
            files.push((self.geometry.layers[n].reference(n).0, layer.clone()));
        }
        files
    }

    /// Writes to the backing file, made at least `size_bytes` long, which nobody has open.
    pub(super) async fn write_backing(&self, size_bytes: u64, pieces: Vec<(u64, Buffers)>) {
        let (layers, storages) = (&self.geometry.layers, &self.layers);
        if !layers[0].qcow2 && storages[0].size_bytes() < size_bytes {
            storages[0].set_len(size_bytes).await.unwrap();
        }
        let base: Rc<dyn Disk> = if layers[0].qcow2 {
            let parts = Parts {
                backing: chain(&layers[1..], &storages[1..]).await.unwrap(),
                ..Parts::default()
            };
            let base = Qcow2::open(storages[0].clone(), parts).await.unwrap();
            if base.properties().size_bytes < size_bytes {
                base.resize(size_bytes).await.unwrap();
            }
            Rc::new(base)
        } else {
            Rc::new(Raw::new(storages[0].clone()).unwrap())
        };
        for (offset, buffers) in pieces {
            base.submit(Request::write(offset, buffers)).await.unwrap();
        }
        base.close().await.unwrap();
    }

    pub(super) async fn check(&self) -> Result<CheckReport, Error> {
        check(&self.image, Repair::None).await
    }
}

/// Opens a backing chain.
async fn chain(
    layers: &[Layer],
    storages: &[SimulatedStorage],
) -> Result<Option<Rc<dyn Disk>>, Error> {
    let mut backing: Option<Rc<dyn Disk>> = None;
    for (layer, storage) in layers.iter().zip(storages).rev() {
        backing = Some(if layer.qcow2 {
            let parts = Parts {
                backing,
                ..Parts::default()
            };
            Rc::new(Qcow2::open(storage.clone(), parts).await?)
        } else {
            Rc::new(Raw::new(storage.clone())?)
        });
    }
    Ok(backing)
}

/// Makes the layer `number` on `below`, which are those after it.
async fn layer_storage(
    number: usize,
    layers: &[Layer],
    below: &[SimulatedStorage],
) -> SimulatedStorage {
    let layer = &layers[number];
    let seed = number as u64;
    let name = format!("layer {number}");
    if !layer.qcow2 {
        let stamps: Vec<_> = layer
            .stamps
            .iter()
            .map(|stamp| stamp.unwrap_or(0))
            .collect();
        return SimulatedStorage::from_bytes(&bytes_of(&stamps), seed).named(name);
    }
    let storage = SimulatedStorage::new(0, seed).named(name);
    let mut options = CreateOptions::new(layer.stamps.len() as u64 * 512);
    options.cluster_bits = layer.cluster_bits;
    let next = number + 1;
    options.backing = layers.get(next).map(|layer| layer.reference(next));
    create(&storage, &options).await.unwrap();
    let backing = chain(&layers[next..], below).await.unwrap();
    let disk = Qcow2::open(
        storage.clone(),
        Parts {
            backing,
            ..Parts::default()
        },
    )
    .await
    .unwrap();
    for (sector, stamp) in layer.stamps.iter().enumerate() {
        if let Some(stamp) = stamp {
            let data = Buffers::from_vec(bytes_of(&[*stamp]));
            disk.submit(Request::write(sector as u64 * 512, data))
                .await
                .unwrap();
        }
    }
    disk.close().await.unwrap();
    storage
}

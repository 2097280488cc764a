//! An object of an HTTP server or an object store: S3, Google Cloud Storage, Azure Blob Storage.
//!
//! Each read is a request of its own, for a range of the object in the version that it had when it was
//! opened. The crate `object_store` makes and signs the requests; trying again is our own.

mod client;
mod digest;
mod fetch;
mod runtime;
#[cfg(test)]
mod tests;
mod version;

use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use object_store::aws::AmazonS3Builder;
use object_store::azure::MicrosoftAzureBuilder;
use object_store::client::{ClientConfigKey, ClientOptions};
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::http::HttpBuilder;
use object_store::{ObjectStore, RetryConfig};

use super::address::{ObjectAddress, Store};
use super::source::{Failure, Source};
use crate::storage::StorageExtent;
use crate::wait_queue::WaitQueue;
use crate::{BoxFuture, Buffers};
use client::Connector;
use fetch::{Place, cause};
use version::Version;

/// The most that is asked for at once; an answer is in memory as a whole.
const PART_MAX_BYTES: usize = 4 << 20;
/// How many parts of one read are on their way at once,
const PARTS_AT_ONCE: usize = 4;
/// and of all reads of an object: so many answers may be in memory.
const PARTS_MAX: usize = 16;

/// An object, in the version that it had when it was opened.
pub(super) struct Object {
    place: Place,
    version: Version,
    /// Parts that are on their way.
    parts: Cell<usize>,
    part_done: WaitQueue,
}

/// A part on its way, until it is dropped.
struct Part<'a>(&'a Object);

impl Drop for Part<'_> {
    fn drop(&mut self) {
        self.0.parts.set(self.0.parts.get() - 1);
        self.0.part_done.wake_all();
    }
}

impl Object {
    /// Asks for the first byte, which tells the size and the version, and whether the server sends
    /// parts.
    pub(super) async fn open(address: ObjectAddress, silence: Duration) -> Result<Self, String> {
        let place = Place {
            store: store(&address, silence).map_err(|error| cause(&error))?,
            path: address.key,
            silence,
        };
        match runtime::run(place.clone().fetch(0..1, None)).await? {
            Ok(first) => Ok(Self {
                place,
                version: first.version,
                parts: Cell::default(),
                part_done: WaitQueue::default(),
            }),
            Err(Failure::Passing(why) | Failure::Changed(why)) => Err(why),
        }
    }

    pub(super) fn size_bytes(&self) -> u64 {
        self.version.size_bytes()
    }

    /// What the server calls this version, if it does.
    pub(super) fn version(&self) -> Option<String> {
        self.version.name()
    }

    async fn begin_part(&self) -> Part<'_> {
        while self.parts.get() >= PARTS_MAX {
            self.part_done.wait().await;
        }
        self.parts.set(self.parts.get() + 1);
        Part(self)
    }

    async fn read_part(&self, offset: u64, buffers: Buffers) -> Result<(), Failure> {
        let _part = self.begin_part().await;
        let range = offset..offset + buffers.len() as u64;
        let fetched = self.place.clone().fetch(range, Some(self.version.clone()));
        let part = runtime::run(fetched).await.map_err(Failure::Passing)??;
        buffers.copy_from(&part.bytes);
        Ok(())
    }
}

impl Source for Object {
    fn read(&self, offset: u64, buffers: Buffers) -> BoxFuture<'_, Result<(), Failure>> {
        Box::pin(async move {
            let len = buffers.len();
            let starts = (0..len).step_by(PART_MAX_BYTES);
            let parts = starts.map(|start| start..len.min(start + PART_MAX_BYTES));
            stream::iter(parts)
                .map(|part| self.read_part(offset + part.start as u64, buffers.slice(part)))
                .buffer_unordered(PARTS_AT_ONCE)
                .try_collect::<()>()
                .await
        })
    }

    /// HTTP has no word for holes.
    fn extent(&self, _: u64, len: u64) -> BoxFuture<'_, Result<StorageExtent, Failure>> {
        Box::pin(async move { Ok(StorageExtent { len, data: true }) })
    }

    fn close(&self) {}
}

/// The store that has an object, with what the environment says of credentials.
fn store(address: &ObjectAddress, silence: Duration) -> object_store::Result<Arc<dyn ObjectStore>> {
    let connector = Connector { limit: silence };
    let once = RetryConfig {
        max_retries: 0,
        ..RetryConfig::default()
    };
    Ok(match &address.store {
        Store::Http(root) => {
            // Whoever writes http:// wants it so.
            let options = ClientOptions::new().with_config(ClientConfigKey::AllowHttp, "true");
            let builder = HttpBuilder::new().with_url(root.as_str());
            let builder = builder.with_client_options(options).with_retry(once);
            Arc::new(builder.with_http_connector(connector).build()?)
        }
        Store::S3(bucket) => {
            let builder = AmazonS3Builder::from_env().with_bucket_name(bucket);
            let builder = builder.with_retry(once).with_http_connector(connector);
            Arc::new(builder.build()?)
        }
        Store::Gcs(bucket) => {
            let builder = GoogleCloudStorageBuilder::from_env().with_bucket_name(bucket);
            let builder = builder.with_retry(once).with_http_connector(connector);
            Arc::new(builder.build()?)
        }
        Store::Azure(container) => {
            let builder = MicrosoftAzureBuilder::from_env().with_container_name(container);
            let builder = builder.with_retry(once).with_http_connector(connector);
            Arc::new(builder.build()?)
        }
    })
}

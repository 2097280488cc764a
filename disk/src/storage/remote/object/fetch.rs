//! One request for a part of an object, and the check that it is answered.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use object_store::path::Path;
use object_store::{Error, GetOptions, GetRange, GetResult, ObjectStore};
use tokio::time::timeout;

use super::version::Version;
use crate::storage::remote::source::{Failure, printable};

/// An object in its store.
#[derive(Clone)]
pub(super) struct Place {
    pub(super) store: Arc<dyn ObjectStore>,
    pub(super) path: Path,
    /// A server that is silent for so long is away.
    pub(super) silence: Duration,
}

/// What was asked for.
pub(super) struct Part {
    pub(super) version: Version,
    pub(super) bytes: Vec<u8>,
}

impl Place {
    /// Gets `range`, of the object of this `version` if that is known.
    pub(super) async fn fetch(
        self,
        range: Range<u64>,
        version: Option<Version>,
    ) -> Result<Part, Failure> {
        let mut options = GetOptions {
            range: Some(GetRange::Bounded(range.clone())),
            ..GetOptions::default()
        };
        if let Some(version) = &version {
            version.ask_for(&mut options);
        }
        let answer = timeout(self.silence, self.store.get_opts(&self.path, options)).await;
        let answer = answer.map_err(|_| self.silent())?.map_err(failure)?;
        let found = Version::of(&answer.meta);
        if let Some(version) = &version {
            version.check(&found)?;
        }
        if answer.range != range {
            return Err(Failure::Passing(
                "the server has sent another range".to_owned(),
            ));
        }
        let bytes = self.receive(answer).await?;
        Ok(Part {
            version: found,
            bytes,
        })
    }

    async fn receive(&self, answer: GetResult) -> Result<Vec<u8>, Failure> {
        let len = usize::try_from(answer.range.end - answer.range.start).unwrap_or(usize::MAX);
        let mut stream = answer.into_stream();
        let mut bytes = Vec::with_capacity(len);
        loop {
            let next = timeout(self.silence, stream.next()).await;
            match next.map_err(|_| self.silent())? {
                Some(piece) => bytes.extend_from_slice(&piece.map_err(failure)?),
                None if bytes.len() == len => return Ok(bytes),
                None => {
                    return Err(Failure::Passing(
                        "the server has sent too little".to_owned(),
                    ));
                }
            }
            if bytes.len() > len {
                return Err(Failure::Passing("the server has sent too much".to_owned()));
            }
        }
    }

    fn silent(&self) -> Failure {
        let silence_s = self.silence.as_secs_f64();
        Failure::Passing(format!("the server was silent for {silence_s} s"))
    }
}

fn failure(error: Error) -> Failure {
    match error {
        Error::Precondition { .. } | Error::NotModified { .. } => {
            Failure::Changed("it has another version".to_owned())
        }
        Error::NotSupported { .. } => {
            Failure::Passing("the server sends only all of it, and no parts".to_owned())
        }
        error => Failure::Passing(cause(&error)),
    }
}

/// What is at the bottom of an error: what is above it only says where it was found.
pub(super) fn cause(error: &Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    printable(cause.to_string().as_bytes())
}

//! What tells one state of an object from another.

use object_store::{GetOptions, ObjectMeta};

use crate::mutant::mutant;
use crate::storage::remote::source::{Failure, printable};

/// A state of an object, as the server describes it.
#[derive(Clone, Debug)]
pub(super) struct Version(ObjectMeta);

impl Version {
    pub(super) fn of(meta: &ObjectMeta) -> Self {
        Self(meta.clone())
    }

    pub(super) fn size_bytes(&self) -> u64 {
        self.0.size
    }

    /// Has the server refuse to answer with another one. Only a strong `ETag` can be asked for (RFC
    /// 9110 section 13.1.1).
    pub(super) fn ask_for(&self, options: &mut GetOptions) {
        match &self.0.e_tag {
            Some(e_tag) if !e_tag.starts_with("W/") => options.if_match = Some(e_tag.clone()),
            _ if self.is_dated() => options.if_unmodified_since = Some(self.0.last_modified),
            _ => {}
        }
    }

    /// Refuses another one, whatever the server was asked for.
    pub(super) fn check(&self, found: &Self) -> Result<(), Failure> {
        let (had, has) = (self.size_bytes(), found.size_bytes());
        if had != has {
            return Err(Failure::Changed(format!(
                "it had {had} bytes, and has {has}"
            )));
        }
        if mutant("another version of an object is believed") {
            return Ok(());
        }
        match (self.name(), found.name()) {
            (had, has) if had == has => Ok(()),
            (had, has) => {
                let say = |name: Option<String>| name.unwrap_or_else(|| "nothing".to_owned());
                let (had, has) = (say(had), say(has));
                Err(Failure::Changed(format!(
                    "the server said {had} of it, and says {has}"
                )))
            }
        }
    }

    /// What the server calls it, if it has a name for it.
    pub(super) fn name(&self) -> Option<String> {
        if let Some(e_tag) = &self.0.e_tag {
            return Some(format!("ETag {}", printable(e_tag.as_bytes())));
        }
        let date = self.0.last_modified.to_rfc2822();
        self.is_dated().then(|| format!("Last-Modified {date}"))
    }

    /// Whether the server says when it was changed last: `object_store` takes the start of 1970 for
    /// one that does not.
    fn is_dated(&self) -> bool {
        self.0.last_modified.timestamp() != 0
    }
}

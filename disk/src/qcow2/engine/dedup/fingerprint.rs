//! What tells content from other content.

use ring::digest::{Context, SHA256};

/// Fingerprints of different content are different, as far as anybody will ever see: 128 bits of a
/// SHA-256 whose key nobody outside knows.
pub(super) type Fingerprint = [u8; 16];

/// Takes fingerprints.
pub(super) struct Fingerprinter {
    /// What has the key, and nothing else yet.
    keyed: Context,
}

impl Fingerprinter {
    pub(super) fn new(key: &[u8]) -> Self {
        let mut keyed = Context::new(&SHA256);
        keyed.update(key);
        Self { keyed }
    }

    /// That of a cluster.
    pub(super) fn of(&self, content: &[u8]) -> Fingerprint {
        let mut hash = self.keyed.clone();
        hash.update(content);
        let digest = hash.finish();
        let mut fingerprint = Fingerprint::default();
        let len = fingerprint.len();
        fingerprint.copy_from_slice(&digest.as_ref()[..len]);
        fingerprint
    }
}

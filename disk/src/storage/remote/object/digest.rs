//! Digests by which a server vouches for what it sends: `Content-Digest` (RFC 9530), and the older
//! `Content-MD5` (RFC 1864). Both are of the bytes of one response, unlike `Repr-Digest`, which is of
//! the whole object and so says nothing of a part.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use md5::{Digest as _, Md5};
use object_store::client::HttpResponse;
use ring::digest::{Algorithm, Context, SHA256, SHA512};

/// A digest that is being computed, and what it is to be.
pub(super) struct Expected {
    digest: Running,
    expected: Vec<u8>,
}

enum Running {
    Sha(Context),
    Md5(Md5),
}

impl Expected {
    /// The best digest that a response has, if it has one that is known here.
    pub(super) fn of(response: &HttpResponse) -> Option<Self> {
        let header = |name| response.headers().get(name)?.to_str().ok();
        let sha = header("content-digest").and_then(content_digest);
        sha.or_else(|| {
            let expected = BASE64_STANDARD.decode(header("content-md5")?.trim()).ok()?;
            let digest = Running::Md5(Md5::new());
            Some(Self { digest, expected })
        })
    }

    pub(super) fn update(&mut self, bytes: &[u8]) {
        match &mut self.digest {
            Running::Sha(context) => context.update(bytes),
            Running::Md5(md5) => md5.update(bytes),
        }
    }

    /// Ends it, and tells whether it is what the server says.
    pub(super) fn finish(self) -> bool {
        match self.digest {
            Running::Sha(context) => context.finish().as_ref() == self.expected,
            Running::Md5(md5) => md5.finalize()[..] == self.expected,
        }
    }
}

/// The strongest digest of a dictionary like `sha-256=:...:, sha-512=:...:` (RFC 8941).
fn content_digest(header: &str) -> Option<Expected> {
    let find = |wanted: &str, algorithm: &'static Algorithm| {
        let mut items = header.split(',').filter_map(|item| item.split_once('='));
        let (_, value) = items.find(|(name, _)| name.trim() == wanted)?;
        let value = value.trim().strip_prefix(':')?.split(':').next()?;
        let digest = Running::Sha(Context::new(algorithm));
        let expected = BASE64_STANDARD.decode(value).ok()?;
        Some(Expected { digest, expected })
    };
    find("sha-512", &SHA512).or_else(|| find("sha-256", &SHA256))
}

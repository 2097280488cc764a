//! The certificates by which the server and its clients know each other.
//!
//! They are in a directory, under the names that QEMU, libnbd and nbdkit give them:
//!
//! | file | what it is |
//! | --- | --- |
//! | `server-cert.pem` | the server's certificate, and those between it and the authority's |
//! | `server-key.pem` | its private key |
//! | `ca-cert.pem` | whoever signs the certificates of clients, where they must have one |
//! | `ca-crl.pem` | those of them that were revoked, if there is such a file |

use std::fs;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{RootCertStore, ServerConfig};

/// What an encrypted private key has in it, in PKCS #8 and before.
const ENCRYPTED: [&str; 2] = ["BEGIN ENCRYPTED PRIVATE KEY", "Proc-Type: 4,ENCRYPTED"];

/// How sessions are made.
#[derive(Clone)]
pub(crate) struct Certificates(Arc<ServerConfig>);

impl Certificates {
    /// Reads the server's certificate and key from `directory`. With `verify_peer`, clients must
    /// have certificates too.
    pub(crate) fn load(directory: &Path, verify_peer: bool) -> Result<Self> {
        let provider = Arc::new(ring::default_provider());
        let chain: Vec<CertificateDer<'_>> = read_all(directory, "server-cert.pem")?;
        let key = read_key(&directory.join("server-key.pem"))?;
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()?;
        let builder = if verify_peer {
            builder.with_client_cert_verifier(verifier(directory, provider)?)
        } else {
            builder.with_no_client_auth()
        };
        let mut config = builder.with_single_cert(chain, key).with_context(|| {
            let directory = directory.display();
            format!("{directory}: server-cert.pem and server-key.pem are of no use")
        })?;
        // A connection lasts as long as its client: nobody comes back to a session.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Self(Arc::new(config)))
    }

    pub(super) fn config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.0)
    }
}

/// Lets in whom the authority has signed, and not revoked.
fn verifier(
    directory: &Path,
    provider: Arc<CryptoProvider>,
) -> Result<Arc<dyn ClientCertVerifier>> {
    let mut roots = RootCertStore::empty();
    for certificate in read_all(directory, "ca-cert.pem")? {
        let added = roots.add(certificate);
        added.with_context(|| format!("{}: ca-cert.pem is of no use", directory.display()))?;
    }
    let list = directory.join("ca-crl.pem");
    let is_there = list.try_exists();
    let revoked = if is_there.with_context(|| list.display().to_string())? {
        read_all(directory, "ca-crl.pem")?
    } else {
        Vec::new()
    };
    // As GnuTLS has it: who is on no list is not revoked.
    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
        .with_crls(revoked)
        .allow_unknown_revocation_status()
        .build()
        .with_context(|| format!("{}: clients cannot be verified", directory.display()))
}

/// The private key in a file.
fn read_key(path: &Path) -> Result<PrivateKeyDer<'static>> {
    let shown = path.display();
    let text = fs::read(path).with_context(|| format!("{shown}: no private key"))?;
    let has = |part: &str| {
        text.windows(part.len())
            .any(|found| found == part.as_bytes())
    };
    if ENCRYPTED.into_iter().any(has) {
        bail!("{shown}: has a password; take it away: openssl pkey -in {shown} -out NEW");
    }
    match PrivateKeyDer::from_pem_slice(&text) {
        Err(pem::Error::MissingSectionEnd { .. }) => {
            bail!("{shown}: is cut short: its last line is missing; copy it again")
        }
        key => key.with_context(|| format!("{shown}: no private key")),
    }
}

/// What a file holds of one kind, which is not nothing.
fn read_all<T: PemObject>(directory: &Path, name: &str) -> Result<Vec<T>> {
    let path = directory.join(name);
    let shown = || path.display().to_string();
    let items = T::pem_file_iter(&path).with_context(shown)?;
    let items: Vec<T> = items.collect::<Result<_, _>>().with_context(shown)?;
    if items.is_empty() {
        bail!("{}: holds nothing in PEM that is wanted there", shown());
    }
    Ok(items)
}

#[cfg(test)]
mod tests;

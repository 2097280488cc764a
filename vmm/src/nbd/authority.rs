//! Who signs the certificates of tests.

use std::fs;
use std::path::Path;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose,
};
use tempfile::TempDir;

/// A certificate authority, and the directory of a server that it knows.
pub(super) struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    directory: TempDir,
}

/// A certificate and its key, as PEM.
pub(super) struct Identity {
    pub(super) certificate: String,
    pub(super) key: String,
}

impl Authority {
    pub(super) fn new() -> Self {
        let mut params = named("authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().unwrap();
        let authority = Self {
            issuer: CertifiedIssuer::self_signed(params, key).unwrap(),
            directory: tempfile::tempdir().unwrap(),
        };
        let server = authority.sign("server");
        authority.put("server-cert.pem", &server.certificate);
        authority.put("server-key.pem", &server.key);
        authority.put("ca-cert.pem", &authority.issuer.pem());
        authority
    }

    /// Somebody whom it vouches for.
    pub(super) fn sign(&self, name: &str) -> Identity {
        let key = KeyPair::generate().unwrap();
        let certificate = named(name).signed_by(&key, &self.issuer).unwrap();
        Identity {
            certificate: certificate.pem(),
            key: key.serialize_pem(),
        }
    }

    /// Its own certificate.
    pub(super) fn pem(&self) -> String {
        self.issuer.pem()
    }

    /// Where the server's files are.
    pub(super) fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Puts a file there.
    pub(super) fn put(&self, name: &str, text: &str) {
        fs::write(self.directory().join(name), text).unwrap();
    }
}

fn named(name: &str) -> CertificateParams {
    let mut params = CertificateParams::new(["localhost".to_owned()]).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    params
}

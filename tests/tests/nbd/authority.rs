//! A certificate authority, and those it vouches for.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DnType,
    IsCa, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SerialNumber, date_time_ymd,
};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use tempfile::TempDir;

use crate::raw_client::Transport;

/// The name of the server that its certificate vouches for.
const SERVER: &str = "localhost";

pub(crate) struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    directory: TempDir,
}

impl Authority {
    /// A new one, with a directory for a server.
    pub(crate) fn new() -> Self {
        let mut params = named("authority", &[]);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().unwrap();
        let authority = Self {
            issuer: CertifiedIssuer::self_signed(params, key).unwrap(),
            directory: tempfile::tempdir().unwrap(),
        };
        let params = named("server", &[SERVER, "127.0.0.1", "::1"]);
        authority.issue("server", "server", &params);
        authority
    }

    /// The directory of the server.
    pub(crate) fn server(&self) -> String {
        self.path("server")
    }

    /// A new directory of a client that knows the authority, and is not known to it.
    pub(crate) fn stranger(&self) -> String {
        self.directory("stranger");
        self.path("stranger")
    }

    /// A new directory of a client with a certificate.
    pub(crate) fn client(&self, name: &str) -> String {
        self.client_numbered(name, 1)
    }

    /// As [`Self::client`], with the serial number by which a certificate is revoked.
    pub(crate) fn client_numbered(&self, name: &str, number: u64) -> String {
        let mut params = named(name, &[]);
        params.serial_number = Some(number.into());
        self.issue(name, "client", &params);
        self.path(name)
    }

    /// Tells the server that the certificate with this number is void.
    pub(crate) fn revoke(&self, number: u64) {
        let params = CertificateRevocationListParams {
            this_update: date_time_ymd(2020, 1, 1),
            next_update: date_time_ymd(4000, 1, 1),
            crl_number: SerialNumber::from(1_u64),
            issuing_distribution_point: None,
            revoked_certs: vec![RevokedCertParams {
                serial_number: number.into(),
                revocation_time: date_time_ymd(2020, 1, 1),
                reason_code: None,
                invalidity_date: None,
            }],
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let list = params.signed_by(&self.issuer).unwrap().pem().unwrap();
        fs::write(self.directory("server").join("ca-crl.pem"), list).unwrap();
    }

    fn path(&self, name: &str) -> String {
        let path = self.directory.path().join(name);
        path.into_os_string().into_string().unwrap()
    }

    /// Makes a directory with the authority's certificate, if it is not there.
    fn directory(&self, name: &str) -> PathBuf {
        let path = self.directory.path().join(name);
        fs::create_dir_all(&path).unwrap();
        fs::write(path.join("ca-cert.pem"), self.issuer.pem()).unwrap();
        path
    }

    fn issue(&self, name: &str, role: &str, params: &CertificateParams) {
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let path = self.directory(name);
        fs::write(path.join(format!("{role}-cert.pem")), certificate.pem()).unwrap();
        fs::write(path.join(format!("{role}-key.pem")), key.serialize_pem()).unwrap();
    }
}

fn named(name: &str, alternatives: &[&str]) -> CertificateParams {
    let alternatives: Vec<_> = alternatives.iter().map(ToString::to_string).collect();
    let mut params = CertificateParams::new(alternatives).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    params
}

/// A session over `transport` with the certificates in a client's directory.
pub(crate) fn session(
    directory: &str,
    transport: Box<dyn Transport>,
) -> StreamOwned<ClientConnection, Box<dyn Transport>> {
    let config = Arc::new(config(directory));
    let name = ServerName::try_from(SERVER).unwrap();
    StreamOwned::new(ClientConnection::new(config, name).unwrap(), transport)
}

fn config(directory: &str) -> ClientConfig {
    let path = |name: &str| PathBuf::from(directory).join(name);
    let mut roots = RootCertStore::empty();
    let authority = CertificateDer::from_pem_file(path("ca-cert.pem")).unwrap();
    roots.add(authority).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    match CertificateDer::from_pem_file(path("client-cert.pem")) {
        Err(_) => builder.with_no_client_auth(),
        Ok(certificate) => {
            let key = PrivateKeyDer::from_pem_file(path("client-key.pem")).unwrap();
            builder
                .with_client_auth_cert(vec![certificate], key)
                .unwrap()
        }
    }
}

//! Directories with and without what is needed.

use std::fs;

use super::Certificates;
use crate::nbd::authority::Authority;

fn refusal(authority: &Authority, verify_peer: bool) -> String {
    let loaded = Certificates::load(authority.directory(), verify_peer);
    format!("{:#}", loaded.err().expect("it is loaded"))
}

#[test]
fn what_is_needed_is_loaded() {
    let authority = Authority::new();
    for verify_peer in [false, true] {
        Certificates::load(authority.directory(), verify_peer).unwrap();
    }
    fs::remove_file(authority.directory().join("ca-cert.pem")).unwrap();
    Certificates::load(authority.directory(), false).unwrap();
    let error = refusal(&authority, true);
    assert!(error.contains("ca-cert.pem"), "{error}");
}

#[test]
fn files_that_are_of_no_use_are_refused_by_name() {
    let other = Authority::new().sign("other");
    let cut = &other.key[..other.key.len() / 2];
    let encrypted = other.key.replace("PRIVATE", "ENCRYPTED PRIVATE");
    let rsa = "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n";
    for (name, text, parts) in [
        ("server-cert.pem", "", ["server-cert.pem", "nothing in PEM"]),
        (
            "server-cert.pem",
            &other.key,
            ["server-cert.pem", "nothing"],
        ),
        ("server-key.pem", "", ["server-key.pem", "no private key"]),
        ("server-key.pem", &other.key, ["server-key.pem", "no use"]),
        ("server-key.pem", cut, ["server-key.pem", "cut short"]),
        ("server-key.pem", &encrypted, ["server-key.pem", "password"]),
        ("server-key.pem", rsa, ["server-key.pem", "password"]),
        ("ca-cert.pem", "garbage", ["ca-cert.pem", "nothing in PEM"]),
        ("ca-crl.pem", "", ["ca-crl.pem", "nothing in PEM"]),
    ] {
        let authority = Authority::new();
        authority.put(name, text);
        let error = refusal(&authority, true);
        assert!(parts.iter().all(|part| error.contains(part)), "{error}");
    }
}

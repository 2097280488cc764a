//! How clients call an export, as in `doc/uri.md` of the NBD project.

use std::fmt::Write as _;
use std::os::unix::ffi::OsStrExt as _;

use super::address::Address;

/// The URI of the export `name` at `address`; with `tls`, one that insists on TLS.
pub(super) fn uri(address: &Address, name: &str, tls: bool) -> String {
    let scheme = if tls { "nbds" } else { "nbd" };
    let name = percent_encoded(name.as_bytes());
    match address {
        Address::Tcp(address) => format!("{scheme}://{address}/{name}"),
        Address::Unix(path) => {
            let path = std::path::absolute(path).unwrap_or_else(|_| path.clone());
            let path = percent_encoded(path.as_os_str().as_bytes());
            format!("{scheme}+unix:///{name}?socket={path}")
        }
    }
}

/// Leaves what means itself everywhere in a URI (RFC 3986 section 2.3), and slashes.
fn percent_encoded(bytes: &[u8]) -> String {
    let mut text = String::new();
    for &byte in bytes {
        if byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte) {
            text.push(char::from(byte));
        } else {
            // Writing to a string cannot fail.
            let _ = write!(text, "%{byte:02X}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uris_hold_any_name() {
        assert_eq!(percent_encoded(b"a b/c?%\xff"), "a%20b/c%3F%25%FF");
    }

    #[test]
    fn schemes_say_how_to_connect() {
        for (address, tls, expected) in [
            ("unix:/s", false, "nbd+unix:///a?socket=/s"),
            ("unix:/s", true, "nbds+unix:///a?socket=/s"),
            ("tcp:10809", false, "nbd://127.0.0.1:10809/a"),
            ("tcp:[::1]:10809", true, "nbds://[::1]:10809/a"),
        ] {
            assert_eq!(uri(&address.parse().unwrap(), "a", tls), expected);
        }
    }
}

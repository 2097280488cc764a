//! URLs of storage that is far away.

use std::path::{Path, PathBuf};

use object_store::path::Path as Key;
use percent_encoding::percent_decode_str;
use url::{Host, Url};

use crate::nbd::STRING_MAX_BYTES;

/// The port of NBD that IANA has assigned.
const NBD_PORT: u16 = 10809;

/// Where storage is that is no file of this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Address {
    /// An export of an NBD server.
    Nbd(NbdAddress),
    /// An object of an HTTP server or an object store.
    Object(ObjectAddress),
}

/// An export of an NBD server, as `doc/uri.md` of the NBD project has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NbdAddress {
    pub(super) endpoint: Endpoint,
    pub(super) export: String,
}

/// Where an NBD server listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Endpoint {
    Tcp { host: String, port: u16 },
    Unix(PathBuf),
}

/// An object, and the store that has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ObjectAddress {
    pub(super) store: Store,
    pub(super) key: Key,
}

/// What has objects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Store {
    /// An HTTP server, with the query that each request has.
    Http(Url),
    /// A bucket of S3.
    S3(String),
    /// A bucket of Google Cloud Storage.
    Gcs(String),
    /// A container of Azure Blob Storage.
    Azure(String),
}

/// How names begin that are URLs.
const SCHEMES: [&str; 9] = [
    "nbd",
    "nbds",
    "nbd+unix",
    "nbds+unix",
    "http",
    "https",
    "s3",
    "gs",
    "az",
];

/// Whether a path is a URL of remote storage, which is opened by a protocol.
pub fn is_remote(path: &Path) -> bool {
    let name = path.to_str().and_then(|path| path.split_once("://"));
    let is_known = |scheme: &str| {
        SCHEMES
            .iter()
            .any(|known| known.eq_ignore_ascii_case(scheme))
    };
    name.is_some_and(|(scheme, _)| is_known(scheme))
}

impl Address {
    /// Understands a URL. What is wrong with it ends a sentence that begins with it.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        if text.contains(|c: char| c.is_ascii_control() || c == ' ') {
            return Err("has spaces or control characters, which a URL writes as %20".into());
        }
        let url = Url::parse(text).map_err(|error| format!("is not a URL: {error}"))?;
        if !url.username().is_empty() || url.password().is_some() {
            return Err("has a user or a password, which images and messages would show".into());
        }
        if url.fragment().is_some() {
            return Err("has a fragment (#), which means nothing here; write %23".into());
        }
        match url.scheme() {
            "nbd" => NbdAddress::tcp(&url).map(Self::Nbd),
            "nbd+unix" => NbdAddress::unix(&url).map(Self::Nbd),
            "nbds" | "nbds+unix" => Err(
                "is NBD by way of TLS, which only the server here speaks; have a tunnel do it"
                    .into(),
            ),
            "http" | "https" | "s3" | "gs" | "az" => ObjectAddress::new(&url).map(Self::Object),
            scheme => Err(format!("has the unknown scheme '{scheme}'")),
        }
    }

    /// Whether the same server has it, so that what one leads to is no secret to the other.
    pub(crate) fn is_beside(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Nbd(one), Self::Nbd(other)) => one.endpoint == other.endpoint,
            (Self::Object(one), Self::Object(other)) => match (&one.store, &other.store) {
                (Store::Http(one), Store::Http(other)) => one.origin() == other.origin(),
                (one, other) => one == other,
            },
            _ => false,
        }
    }
}

impl NbdAddress {
    fn tcp(url: &Url) -> Result<Self, String> {
        let host = match url.host() {
            Some(Host::Domain(name)) => decoded(name)?,
            Some(Host::Ipv4(address)) => address.to_string(),
            Some(Host::Ipv6(address)) => address.to_string(),
            None => return Err("names no host".into()),
        };
        if let Some((name, _)) = url.query_pairs().next() {
            return Err(format!("has the unknown parameter '{name}'"));
        }
        let port = url.port().unwrap_or(NBD_PORT);
        Self::new(Endpoint::Tcp { host, port }, url)
    }

    fn unix(url: &Url) -> Result<Self, String> {
        if url.has_host() && url.host_str() != Some("") {
            return Err("names a host, and a socket: write nbd+unix:///EXPORT?socket=PATH".into());
        }
        let mut socket = None;
        for (name, value) in url.query_pairs() {
            if name != "socket" || socket.is_some() {
                return Err(format!("has the unknown parameter '{name}'"));
            }
            socket = Some(PathBuf::from(value.into_owned()));
        }
        let socket = socket.ok_or("names no socket: write nbd+unix:///EXPORT?socket=PATH")?;
        if !socket.is_absolute() {
            return Err("names a socket that is not a path from the root".into());
        }
        Self::new(Endpoint::Unix(socket), url)
    }

    fn new(endpoint: Endpoint, url: &Url) -> Result<Self, String> {
        let path = url.path();
        let export = decoded(path.strip_prefix('/').unwrap_or(path))?;
        if export.len() > STRING_MAX_BYTES || export.contains('\0') {
            return Err("names no export that there can be".into());
        }
        Ok(Self { endpoint, export })
    }
}

impl ObjectAddress {
    fn new(url: &Url) -> Result<Self, String> {
        let host = url.host_str().filter(|host| !host.is_empty());
        let host = host.ok_or("names no host, bucket or container")?.to_owned();
        let is_http = ["http", "https"].contains(&url.scheme());
        if !is_http && (url.query().is_some() || url.port().is_some()) {
            return Err("is a bucket and a key, and nothing else: a ? is written %3F".into());
        }
        let store = match url.scheme() {
            "s3" => Store::S3(host),
            "gs" => Store::Gcs(host),
            "az" => Store::Azure(host),
            _ => {
                let mut root = url.clone();
                root.set_path("/");
                Store::Http(root)
            }
        };
        let key = Key::from_url_path(url.path());
        let key = key.map_err(|error| format!("is no name of an object: {error}"))?;
        if key.as_ref().is_empty() {
            return Err("names no object".into());
        }
        Ok(Self { store, key })
    }
}

fn decoded(text: &str) -> Result<String, String> {
    let decoded = percent_decode_str(text).decode_utf8();
    decoded
        .map(std::borrow::Cow::into_owned)
        .map_err(|_| "is not UTF-8".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(host: &str, port: u16, export: &str) -> Address {
        let host = host.to_owned();
        Address::Nbd(NbdAddress {
            endpoint: Endpoint::Tcp { host, port },
            export: export.to_owned(),
        })
    }

    fn unix(path: &str, export: &str) -> Address {
        Address::Nbd(NbdAddress {
            endpoint: Endpoint::Unix(path.into()),
            export: export.to_owned(),
        })
    }

    #[test]
    fn exports_are_named_as_the_specification_says() {
        for (text, expected) in [
            ("nbd://example.com/disk", tcp("example.com", 10809, "disk")),
            ("nbd://example.com/", tcp("example.com", 10809, "")),
            ("nbd://example.com", tcp("example.com", 10809, "")),
            (
                "nbd://example.com//disk",
                tcp("example.com", 10809, "/disk"),
            ),
            ("nbd://[::1]:10810/a%20b", tcp("::1", 10810, "a b")),
            ("nbd://192.0.2.1:1/x?", tcp("192.0.2.1", 1, "x")),
            ("nbd+unix:///disk?socket=/sock", unix("/sock", "disk")),
            ("nbd+unix:///?socket=/a%20b/c", unix("/a b/c", "")),
        ] {
            assert_eq!(Address::parse(text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn objects_have_a_store_and_a_key() {
        let object = |text| match Address::parse(text) {
            Ok(Address::Object(object)) => (object.store, object.key.to_string()),
            other => panic!("{text}: {other:?}"),
        };
        let root = |text| Store::Http(Url::parse(text).unwrap());
        for (text, store, key) in [
            ("http://host/a%20b/c", root("http://host/"), "a b/c"),
            ("https://h:1/a?sig=1", root("https://h:1/?sig=1"), "a"),
            ("s3://bucket/a/b", Store::S3("bucket".to_owned()), "a/b"),
            ("gs://bucket/a", Store::Gcs("bucket".to_owned()), "a"),
            (
                "az://container/a",
                Store::Azure("container".to_owned()),
                "a",
            ),
        ] {
            assert_eq!(object(text), (store, key.to_owned()), "{text}");
        }
    }

    #[test]
    fn schemes_are_known_in_capitals_too() {
        assert!(is_remote(Path::new("HTTP://host/disk")));
        assert_eq!(
            Address::parse("HTTP://host/disk"),
            Address::parse("http://host/disk")
        );
        assert!(!is_remote(Path::new("C://host/disk")));
    }

    #[test]
    fn what_leads_nowhere_is_refused_in_words() {
        for (text, part) in [
            ("nbd:///disk", "no host"),
            ("nbd://host:99999/", "not a URL"),
            ("nbd://user:secret@host/disk", "password"),
            ("nbd://host/disk#part", "%23"),
            ("nbd://host/a b", "%20"),
            ("nbd://host/a\nb", "%20"),
            ("nbd://host/disk?tls-type=anon", "'tls-type'"),
            ("nbd://host/%ff", "UTF-8"),
            ("nbd://host/%00", "export"),
            ("nbds://host/disk", "TLS"),
            ("nbds+unix:///disk?socket=/s", "TLS"),
            ("nbd+unix:///disk", "no socket"),
            ("nbd+unix:///disk?socket=s", "from the root"),
            ("nbd+unix:///disk?socket=%00/s", "from the root"),
            ("nbd+unix:///disk?socket=/s&socket=/t", "'socket'"),
            ("nbd+unix://host/disk?socket=/s", "a host"),
            ("http://host", "no object"),
            ("https://host/", "no object"),
            ("https://user:secret@host/disk", "password"),
            ("s3:///key", "no host, bucket"),
            ("s3://bucket", "no object"),
            ("s3://bucket/key?versionId=1", "%3F"),
            ("az://container:1/key", "a bucket and a key"),
            ("http://host/a//b", "no name of an object"),
        ] {
            let problem = Address::parse(text).unwrap_err();
            assert!(problem.contains(part), "{text}: {problem}");
        }
    }

    #[test]
    fn files_are_no_urls() {
        for (path, remote) in [
            ("nbd://host/x", true),
            ("nbds://host/x", true),
            ("nbd+unix:///?socket=/s", true),
            ("./nbd://host/x", false),
            ("nbd:host", false),
            ("https://host/x", true),
            ("s3://bucket/x", true),
            ("ftp://host/x", false),
            ("vm.img", false),
        ] {
            assert_eq!(is_remote(Path::new(path)), remote, "{path}");
        }
    }

    #[test]
    fn only_exports_of_one_server_are_beside_each_other() {
        let address = |text| Address::parse(text).unwrap();
        let one = address("nbd://host/a");
        assert!(one.is_beside(&address("nbd://host:10809/b")));
        for other in ["nbd://other/a", "nbd://host:1/a", "nbd+unix:///a?socket=/s"] {
            assert!(!one.is_beside(&address(other)), "{other}");
        }
        assert!(!one.is_beside(&address("http://host/a")));
        let one = address("http://host/a");
        assert!(one.is_beside(&address("http://HOST:80/b/c")));
        for other in ["https://host/a", "http://host:8080/a", "s3://host/a"] {
            assert!(!one.is_beside(&address(other)), "{other}");
        }
        let one = address("s3://one/a");
        assert!(one.is_beside(&address("s3://one/b")));
        assert!(!one.is_beside(&address("s3://two/a")));
        assert!(!one.is_beside(&address("gs://one/a")));
    }
}

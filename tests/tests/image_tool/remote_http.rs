//! Images that stand on what an HTTP server or an object store has.

use std::io::{BufRead as _, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use rcgen::CertifiedKey;
use rustls::pki_types::PrivateKeyDer;
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use crate::far::copy_all;
use crate::flat::{BASES, assert_expected, base, info, specific, write};
use crate::shop::Shop;

/// Lends the files of a directory, in parts, until the test ends.
struct Http {
    address: String,
    e_tag: Arc<Mutex<String>>,
    sent_bytes: Arc<AtomicU64>,
}

impl Http {
    fn lend(directory: PathBuf) -> Self {
        Self::lend_by(directory, Ok)
    }

    /// As [`Self::lend`], by what `wrap` makes of each connection.
    fn lend_by<S: Read + Write>(
        directory: PathBuf,
        wrap: impl Fn(TcpStream) -> std::io::Result<S> + Clone + Send + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let e_tag = Arc::new(Mutex::new("\"one\"".to_owned()));
        let sent_bytes = Arc::new(AtomicU64::new(0));
        let (says, counts) = (Arc::clone(&e_tag), Arc::clone(&sent_bytes));
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (directory, says, counts) =
                    (directory.clone(), Arc::clone(&says), Arc::clone(&counts));
                let wrap = wrap.clone();
                thread::spawn(move || {
                    let mut stream = wrap(stream.unwrap()).unwrap();
                    // Whoever goes away does not wait for an answer.
                    while let Some(sent) = answer(&mut stream, &directory, &says) {
                        counts.fetch_add(sent, Ordering::SeqCst);
                    }
                });
            }
        });
        Self {
            address,
            e_tag,
            sent_bytes,
        }
    }

    fn url(&self, file: &str) -> String {
        format!("http://{}/{file}", self.address)
    }
}

/// Answers one request, and returns how many bytes that took.
fn answer(stream: &mut (impl Read + Write), directory: &Path, says: &Mutex<String>) -> Option<u64> {
    let mut lines = BufReader::new(&mut *stream).lines();
    let line = lines.next()?.ok()?;
    let (mut start, mut end, mut wanted) = (0, 0, None);
    for line in lines {
        let line = line.ok()?;
        let Some((name, value)) = line.split_once(": ") else {
            break;
        };
        match name.to_lowercase().as_str() {
            "range" => {
                let (first, last) = value.strip_prefix("bytes=")?.split_once('-')?;
                (start, end) = (
                    first.parse::<usize>().ok()?,
                    last.parse::<usize>().ok()? + 1,
                );
            }
            "if-match" => wanted = Some(value.to_owned()),
            _ => {}
        }
    }
    let e_tag = says.lock().unwrap().clone();
    if wanted.is_some_and(|wanted| wanted != e_tag) {
        let head = "HTTP/1.1 412 Precondition Failed\r\ncontent-length: 0\r\n\r\n";
        return stream.write_all(head.as_bytes()).ok().map(|()| 0);
    }
    let name = line.split(' ').nth(1)?.rsplit('/').next()?;
    let Ok(content) = std::fs::read(directory.join(name)) else {
        let head = "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n";
        return stream.write_all(head.as_bytes()).ok().map(|()| 0);
    };
    let part = content.get(start..end)?;
    let head = format!(
        "HTTP/1.1 206 Partial Content\r\ncontent-length: {}\r\netag: {e_tag}\r\n\
         content-range: bytes {start}-{}/{}\r\nlast-modified: Tue, 15 Nov 1994 12:45:26 GMT\r\n\r\n",
        part.len(),
        end - 1,
        content.len()
    );
    stream.write_all(head.as_bytes()).ok()?;
    stream.write_all(part).ok()?;
    Some(part.len() as u64)
}

#[test]
fn images_stand_on_files_of_an_http_server() {
    for base_format in BASES {
        for format in ["flat", "qcow2"] {
            let shop = Shop::new();
            let http = Http::lend(shop.path(""));
            base(&shop, base_format);
            let url = http.url("base");
            assert_expected(&shop, base_format, &url);
            shop.must(&format!(
                "create -f {format} -b {url} -F {base_format} disk 5M"
            ));
            shop.must("resize -f raw expected 5M");
            let writes = [
                "write -P 3 100k 1k",
                "write -P 4 1500k 100k",
                "write -P 5 3M 512",
            ];
            write(&shop, format, "disk", &writes);
            shop.write("raw", "expected", &writes);
            assert_expected(&shop, format, "disk");
            shop.must(&format!("compare -f {format} -F raw disk expected"));
            shop.refused(
                &format!("commit -f {format} disk"),
                &["disk", &url, "far away"],
            );
            let text = shop.must(&format!("info --backing-chain -f {format} disk"));
            assert!(text.contains(&format!("image: {url}")), "{text}");
            shop.must(&format!("rebase -f {format} -b '' disk"));
            fs_remove(&shop, "base");
            assert_expected(&shop, format, "disk");
            shop.refused(&format!("info {url}"), &[&url, "404"]);
        }
    }
}

fn fs_remove(shop: &Shop, name: &str) {
    std::fs::remove_file(shop.path(name)).unwrap();
}

#[test]
fn objects_of_a_bucket_are_read() {
    let shop = Shop::new();
    let http = Http::lend(shop.path(""));
    base(&shop, "raw");
    let mut command = shop.image_command("convert -f raw s3://bucket/folder/base copy");
    let command = command
        .env("AWS_ENDPOINT", format!("http://{}", http.address))
        .envs([
            ("AWS_ALLOW_HTTP", "true"),
            ("AWS_ACCESS_KEY_ID", "me"),
            ("AWS_SECRET_ACCESS_KEY", "secret"),
        ]);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert!(shop.bytes("copy") == shop.bytes("expected"));
}

#[test]
fn certificates_are_verified() {
    let shop = Shop::new();
    let names = vec!["127.0.0.1".to_owned()];
    let CertifiedKey { cert, signing_key } = rcgen::generate_simple_self_signed(names).unwrap();
    let key = PrivateKeyDer::try_from(signing_key.serialize_der()).unwrap();
    let config = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key);
    let config = Arc::new(config.unwrap());
    std::fs::write(shop.path("certificate"), cert.pem()).unwrap();
    let http = Http::lend_by(shop.path(""), move |stream| {
        let connection = ServerConnection::new(Arc::clone(&config));
        let connection = connection.map_err(std::io::Error::other)?;
        Ok(StreamOwned::new(connection, stream))
    });
    base(&shop, "raw");
    let url = http.url("base").replace("http:", "https:");
    let convert = || shop.image_command(&format!("convert -f raw {url} copy"));
    let output = convert().output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(
        !output.status.success() && stderr.contains("certificate"),
        "{stderr}"
    );
    let mut command = convert();
    command.env("SSL_CERT_FILE", shop.path("certificate"));
    let output = command.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert!(shop.bytes("copy") == shop.bytes("expected"));
}

#[test]
fn a_flat_image_knows_the_version_of_its_base() {
    let shop = Shop::new();
    let http = Http::lend(shop.path(""));
    base(&shop, "raw");
    let url = http.url("base");
    shop.must(&format!("create -f flat -b {url} -F raw disk"));
    assert_eq!(specific(&shop, "disk")["base-version"], "ETag \"one\"");
    assert_expected(&shop, "flat", "disk");
    *http.e_tag.lock().unwrap() = "\"two\"".to_owned();
    let changed = [
        "disk: its base",
        &url,
        "ETag \"two\"",
        "said ETag \"one\"",
        "rebase -u",
    ];
    for line in [
        "map -f flat disk",
        "rebase -f flat -b '' disk",
        "resize -f flat disk 6M",
        "serve --nbd unix:nbd disk,format=flat",
    ] {
        shop.refused(line, &changed);
    }
    shop.must(&format!("rebase -u -f flat -b {url} -F raw disk"));
    assert_eq!(specific(&shop, "disk")["base-version"], "ETag \"two\"");
    assert_expected(&shop, "flat", "disk");
    // A file has no version.
    shop.must("rebase -u -f flat -b base -F raw disk");
    assert_eq!(specific(&shop, "disk").get("base-version"), None);
    assert_eq!(info(&shop, "disk")["backing-filename"], "base");
    assert_expected(&shop, "flat", "disk");
    shop.must(&format!("rebase -f flat -b {url} -F raw disk"));
    assert_eq!(specific(&shop, "disk")["base-version"], "ETag \"two\"");
}

#[test]
fn what_was_fetched_is_not_fetched_again() {
    let shop = Shop::new();
    let http = Http::lend(shop.path(""));
    base(&shop, "raw");
    shop.must(&format!(
        "create -f flat -b {} -F raw disk",
        http.url("base")
    ));
    copy_all(&shop);
    // And the first byte, each time that it was opened.
    let sent = http.sent_bytes.load(Ordering::SeqCst);
    assert!(sent <= (4 << 20) + 8, "{sent} bytes");
    assert_eq!(specific(&shop, "disk")["stands-alone"], true);
    fs_remove(&shop, "base");
    assert_expected(&shop, "flat", "disk");
}

//! The server's side of the NBD protocol (`doc/proto.md` of the NBD project), as far as QEMU's client
//! needs it: the newstyle handshake for the default export, requests, and simple replies.

use std::io::{self, BufRead, Read, Write};

use anyhow::{Result, bail, ensure};

const GREETING: &[u8; 16] = b"NBDMAGICIHAVEOPT";
const OPTION_MAGIC: &[u8; 8] = b"IHAVEOPT";
/// Fixed newstyle, and no zeros after the reply to [`EXPORT_NAME`].
const HANDSHAKE_FLAGS: u16 = 3;
const NO_ZEROES: u32 = 2;
const EXPORT_NAME: u32 = 1;
const ABORT: u32 = 2;
const INFO: u32 = 6;
const GO: u32 = 7;
/// The longest name is 4096 bytes; beside it there are numbers of what is asked for.
const OPTION_BYTES_MAX: u32 = 8192;
const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
const ACK: u32 = 1;
const REPLY_INFO: u32 = 3;
const UNSUPPORTED: u32 = 0x8000_0001;
const INFO_EXPORT: u16 = 0;
/// It has flags, and can flush. A disk with heads neither discards nor makes zeros by itself.
const EXPORT_FLAGS: u16 = 1 | 1 << 2;

const REQUEST_MAGIC: u32 = 0x2560_9513;
const REPLY_MAGIC: u32 = 0x6744_6698;
/// The longest transfer, which is the longest that clients begin without asking.
const TRANSFER_BYTES_MAX: u32 = 32 << 20;

/// An error in a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum Errno {
    Io = 5,
    Invalid = 22,
}

/// What a client wants.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Wish {
    Read {
        offset: u64,
        len: usize,
    },
    Write {
        offset: u64,
        data: Vec<u8>,
    },
    Flush,
    /// What was not offered, or is too long.
    Other,
    End,
}

/// Agrees with a client on the default export, of `size_bytes`; whether the client stays.
pub(super) fn shake_hands(stream: &mut (impl Read + Write), size_bytes: u64) -> Result<bool> {
    stream.write_all(GREETING)?;
    stream.write_all(&HANDSHAKE_FLAGS.to_be_bytes())?;
    let flags = number(stream)?;
    let mut export = Vec::from(size_bytes.to_be_bytes());
    export.extend(EXPORT_FLAGS.to_be_bytes());
    loop {
        ensure!(bytes::<8>(stream)? == *OPTION_MAGIC, "not an option");
        let (option, len) = (number(stream)?, number(stream)?);
        ensure!(len <= OPTION_BYTES_MAX, "an option of {len} bytes");
        io::copy(&mut stream.take(len.into()), &mut io::sink())?;
        match option {
            EXPORT_NAME => {
                if flags & NO_ZEROES == 0 {
                    export.extend([0; 124]);
                }
                stream.write_all(&export)?;
                return Ok(true);
            }
            ABORT => {
                reply_to_option(stream, option, ACK, &[])?;
                return Ok(false);
            }
            INFO | GO => {
                let info = [&INFO_EXPORT.to_be_bytes(), export.as_slice()].concat();
                reply_to_option(stream, option, REPLY_INFO, &info)?;
                reply_to_option(stream, option, ACK, &[])?;
                if option == GO {
                    return Ok(true);
                }
            }
            _ => reply_to_option(stream, option, UNSUPPORTED, &[])?,
        }
    }
}

fn reply_to_option(stream: &mut impl Write, option: u32, kind: u32, data: &[u8]) -> Result<()> {
    let mut reply = Vec::from(OPTION_REPLY_MAGIC.to_be_bytes());
    reply.extend(option.to_be_bytes());
    reply.extend(kind.to_be_bytes());
    reply.extend(u32::try_from(data.len())?.to_be_bytes());
    reply.extend(data);
    Ok(stream.write_all(&reply)?)
}

/// The next request, with the cookie that its reply has. A client that is killed does not say so.
pub(super) fn next_wish(stream: &mut impl BufRead) -> Result<(u64, Wish)> {
    if stream.fill_buf()?.is_empty() {
        return Ok((0, Wish::End));
    }
    ensure!(number(stream)? == REQUEST_MAGIC, "not a request");
    // Flags, none of which were offered.
    bytes::<2>(stream)?;
    let command = u16::from_be_bytes(bytes(stream)?);
    let cookie = u64::from_be_bytes(bytes(stream)?);
    let offset = u64::from_be_bytes(bytes(stream)?);
    let len = number(stream)?;
    let is_long = len > TRANSFER_BYTES_MAX;
    let wish = match command {
        0 if is_long => Wish::Other,
        1 if is_long => bail!("a write of {len} bytes"),
        0 => Wish::Read {
            offset,
            len: usize::try_from(len)?,
        },
        1 => {
            let mut data = vec![0; usize::try_from(len)?];
            stream.read_exact(&mut data)?;
            Wish::Write { offset, data }
        }
        2 => Wish::End,
        3 => Wish::Flush,
        _ => Wish::Other,
    };
    Ok((cookie, wish))
}

/// Answers a request: with the data that was read, nothing, or an error.
pub(super) fn reply(
    stream: &mut impl Write,
    cookie: u64,
    outcome: &Result<Vec<u8>, Errno>,
) -> Result<()> {
    let (errno, data) = match outcome {
        Ok(data) => (0, data.as_slice()),
        Err(errno) => (*errno as u32, [].as_slice()),
    };
    let mut reply = Vec::with_capacity(16 + data.len());
    reply.extend(REPLY_MAGIC.to_be_bytes());
    reply.extend(errno.to_be_bytes());
    reply.extend(cookie.to_be_bytes());
    reply.extend(data);
    Ok(stream.write_all(&reply)?)
}

fn number(stream: &mut impl Read) -> Result<u32> {
    Ok(u32::from_be_bytes(bytes(stream)?))
}

fn bytes<const N: usize>(stream: &mut impl Read) -> Result<[u8; N]> {
    let mut bytes = [0; N];
    stream.read_exact(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::io::{BufReader, Write as _};
    use std::os::unix::net::UnixStream;
    use std::thread;

    use super::*;

    fn option(number: u32, data: &[u8]) -> Vec<u8> {
        let len = u32::try_from(data.len()).unwrap();
        let numbers = [number.to_be_bytes(), len.to_be_bytes()].concat();
        [OPTION_MAGIC.as_slice(), &numbers, data].concat()
    }

    /// What a server says to a client that says all this, and whether the client stays.
    fn said_to(options: &[Vec<u8>]) -> (Vec<u8>, Result<bool>) {
        let (mut client, mut server) = UnixStream::pair().unwrap();
        let serving = thread::spawn(move || shake_hands(&mut server, 1 << 20));
        client.write_all(&3_u32.to_be_bytes()).unwrap();
        client.write_all(&options.concat()).unwrap();
        let stays = serving.join().unwrap();
        let mut said = Vec::new();
        // A server that has had enough does not read the rest.
        let _ = client.read_to_end(&mut said);
        (said, stays)
    }

    #[test]
    fn an_option_that_is_not_known_is_refused_and_the_next_one_heard() {
        const STRUCTURED_REPLY: u32 = 8;
        let (said, stays) = said_to(&[option(STRUCTURED_REPLY, &[]), option(GO, &[0; 6])]);
        assert!(stays.unwrap());
        let refusal = [8, UNSUPPORTED, 0].map(u32::to_be_bytes).concat();
        assert_eq!(said[26..38], refusal);
        // Then the size and the flags, and that it is all.
        assert_eq!(said[58..68], [0, 0, 0, 0, 0, 0, 0, 16, 0, 0]);
        assert_eq!(
            said[70..90],
            [
                &OPTION_REPLY_MAGIC.to_be_bytes()[..],
                &[7, ACK, 0].map(u32::to_be_bytes).concat()
            ]
            .concat()
        );
        let (_, stays) = said_to(&[option(ABORT, &[])]);
        assert!(!stays.unwrap());
        let (_, stays) = said_to(&[option(GO, &[0; 8193])]);
        assert!(stays.is_err());
    }

    #[test]
    fn a_client_that_is_gone_wants_nothing_more() {
        let wish = next_wish(&mut BufReader::new([].as_slice())).unwrap();
        assert_eq!(wish, (0, Wish::End));
        assert!(next_wish(&mut BufReader::new([0; 28].as_slice())).is_err());
    }
}

//! A server that does what a test wants, on a loopback port.

use std::io::{self, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};

use zerocopy::byteorder::network_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::nbd::{
    ALLOCATION_CONTEXT, BlockSizeInfo, CHUNK_MAGIC, ChunkHeader, Descriptor, ExportInfo, Greeting,
    MAGIC, OPTION_MAGIC, OPTION_REPLY_MAGIC, OptionHeader, OptionReply, RequestHeader,
    SIMPLE_REPLY_MAGIC, SimpleReply, chunk, command, handshake_flag, info, option, option_reply,
    state, transmission_flag,
};

/// The number by which the server tells of holes and zeros.
pub(super) const CONTEXT: u32 = 77;

/// What a server offers.
#[derive(Clone, Debug)]
pub(super) struct Offer {
    pub(super) content: Vec<u8>,
    pub(super) structured: bool,
    pub(super) allocation: bool,
    /// The smallest, the best and the largest request.
    pub(super) block_sizes: Option<(u32, u32, u32)>,
}

impl Offer {
    /// Everything there is.
    pub(super) fn all(content: Vec<u8>) -> Self {
        Self {
            content,
            structured: true,
            allocation: true,
            block_sizes: None,
        }
    }
}

/// Accepts one client after the other, until it is dropped.
pub(super) struct Server {
    pub(super) url: String,
    clients: Arc<AtomicUsize>,
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Has `behave` talk to each client, which come with a number.
    pub(super) fn start(
        behave: impl Fn(usize, &mut Client) -> io::Result<()> + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("nbd://{}/disk", listener.local_addr().unwrap());
        let (clients, is_over) = (Arc::new(AtomicUsize::new(0)), Arc::default());
        let (counted, ends) = (Arc::clone(&clients), Arc::clone(&is_over));
        let behave = Arc::new(behave);
        let thread = thread::spawn(move || {
            for stream in listener.incoming() {
                if AtomicBool::load(&ends, Ordering::SeqCst) {
                    return;
                }
                let number = counted.fetch_add(1, Ordering::SeqCst);
                let mut client = Client(stream.unwrap());
                let behave = Arc::clone(&behave);
                // What goes wrong is the client's end of the connection.
                thread::spawn(move || behave(number, &mut client));
            }
        });
        Self {
            url,
            clients,
            is_over,
            thread: Some(thread),
        }
    }

    /// One that lends what it offers, as it should.
    pub(super) fn honest(offer: Offer) -> Self {
        Self::start(move |_, client| client.lend(&offer))
    }

    /// How many clients there were.
    pub(super) fn clients(&self) -> usize {
        self.clients.load(Ordering::SeqCst)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::SeqCst);
        let address = self.url["nbd://".len()..].trim_end_matches("/disk");
        let _ = TcpStream::connect(address);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The server's end of a connection.
pub(super) struct Client(pub(super) TcpStream);

impl Client {
    pub(super) fn send(&mut self, value: &(impl IntoBytes + Immutable + ?Sized)) -> io::Result<()> {
        self.0.write_all(value.as_bytes())
    }

    pub(super) fn receive<T: FromBytes>(&mut self) -> io::Result<T> {
        let mut bytes = vec![0; size_of::<T>()];
        self.0.read_exact(&mut bytes)?;
        Ok(T::read_from_bytes(&bytes).ok().unwrap())
    }

    /// Waits until the client has gone.
    pub(super) fn wait(&mut self) -> io::Result<()> {
        self.0.read_to_end(&mut Vec::new()).map(drop)
    }

    pub(super) fn greet(&mut self, option_magic: u64, flags: u16) -> io::Result<()> {
        self.send(&Greeting {
            magic: MAGIC.into(),
            option_magic: option_magic.into(),
            flags: flags.into(),
        })?;
        self.receive::<U32>().map(drop)
    }

    /// The next option and its data.
    pub(super) fn option(&mut self) -> io::Result<(u32, Vec<u8>)> {
        let header: OptionHeader = self.receive()?;
        assert_eq!(header.magic.get(), OPTION_MAGIC);
        let mut data = vec![0; header.len.get() as usize];
        self.0.read_exact(&mut data)?;
        Ok((header.option.get(), data))
    }

    pub(super) fn reply(&mut self, option: u32, kind: u32, data: &[u8]) -> io::Result<()> {
        self.send(&OptionReply {
            magic: OPTION_REPLY_MAGIC.into(),
            option: option.into(),
            kind: kind.into(),
            len: u32::try_from(data.len()).unwrap().into(),
        })?;
        self.send(data)
    }

    pub(super) fn export_info(&mut self, size_bytes: u64) -> io::Result<()> {
        let export = ExportInfo {
            kind: info::EXPORT.into(),
            size: size_bytes.into(),
            flags: transmission_flag::HAS_FLAGS.into(),
        };
        self.reply(option::GO, option_reply::INFO, export.as_bytes())
    }

    /// The handshake, up to the first request.
    pub(super) fn shake(&mut self, offer: &Offer) -> io::Result<()> {
        let flags = handshake_flag::FIXED_NEWSTYLE | handshake_flag::NO_ZEROES;
        self.greet(OPTION_MAGIC, flags)?;
        loop {
            let (option, data) = self.option()?;
            match option {
                option::STRUCTURED_REPLY if offer.structured => {
                    self.reply(option, option_reply::ACK, &[])?;
                }
                option::SET_META_CONTEXT if offer.allocation => {
                    let (id, name) = (U32::new(CONTEXT), ALLOCATION_CONTEXT.as_bytes());
                    assert!(data.ends_with(name));
                    let context = [id.as_bytes(), name].concat();
                    self.reply(option, option_reply::META_CONTEXT, &context)?;
                    self.reply(option, option_reply::ACK, &[])?;
                }
                option::GO => {
                    assert_eq!(data[..8], *b"\0\0\0\x04disk");
                    if let Some((minimum, preferred, maximum)) = offer.block_sizes {
                        let sizes = BlockSizeInfo {
                            kind: info::BLOCK_SIZE.into(),
                            minimum: minimum.into(),
                            preferred: preferred.into(),
                            maximum: maximum.into(),
                        };
                        self.reply(option, option_reply::INFO, sizes.as_bytes())?;
                    }
                    self.export_info(offer.content.len() as u64)?;
                    return self.reply(option, option_reply::ACK, &[]);
                }
                _ => self.reply(option, option_reply::ERR_UNSUPPORTED, &[])?,
            }
        }
    }

    pub(super) fn request(&mut self) -> io::Result<Request> {
        let header: RequestHeader = self.receive()?;
        Ok(Request {
            command: header.command.get(),
            cookie: header.cookie.get(),
            offset: header.offset.get(),
            len: header.len.get(),
        })
    }

    pub(super) fn simple(&mut self, cookie: u64, error: u32, data: &[u8]) -> io::Result<()> {
        self.send(&SimpleReply {
            magic: SIMPLE_REPLY_MAGIC.into(),
            error: error.into(),
            cookie: cookie.into(),
        })?;
        self.send(data)
    }

    pub(super) fn chunk(
        &mut self,
        cookie: u64,
        (flags, kind): (u16, u16),
        parts: &[&[u8]],
    ) -> io::Result<()> {
        let data = parts.concat();
        self.send(&ChunkHeader {
            magic: CHUNK_MAGIC.into(),
            flags: flags.into(),
            kind: kind.into(),
            cookie: cookie.into(),
            len: u32::try_from(data.len()).unwrap().into(),
        })?;
        self.send(&data[..])
    }

    /// A part of the answer to a read.
    pub(super) fn data(
        &mut self,
        cookie: u64,
        flags: u16,
        offset: u64,
        data: &[u8],
    ) -> io::Result<()> {
        let offset = U64::new(offset);
        let kind = (flags, chunk::OFFSET_DATA);
        self.chunk(cookie, kind, &[offset.as_bytes(), data])
    }

    /// The whole answer to a request.
    pub(super) fn answer(&mut self, offer: &Offer, request: &Request) -> io::Result<()> {
        let (cookie, offset) = (request.cookie, request.offset);
        match request.command {
            command::READ if offer.structured => {
                let data = request.of(&offer.content);
                self.data(cookie, chunk::FLAG_DONE, offset, data)
            }
            command::READ => self.simple(cookie, 0, request.of(&offer.content)),
            command::BLOCK_STATUS if offer.allocation => {
                let (id, descriptors) = (U32::new(CONTEXT), status(request.of(&offer.content)));
                let kind = (chunk::FLAG_DONE, chunk::BLOCK_STATUS);
                self.chunk(cookie, kind, &[id.as_bytes(), descriptors.as_bytes()])
            }
            _ => Err(io::ErrorKind::ConnectionAborted.into()),
        }
    }

    /// Answers as it should until the client has gone.
    pub(super) fn lend(&mut self, offer: &Offer) -> io::Result<()> {
        self.shake(offer)?;
        loop {
            let request = self.request()?;
            self.answer(offer, &request)?;
        }
    }
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Request {
    pub(super) command: u16,
    pub(super) cookie: u64,
    pub(super) offset: u64,
    pub(super) len: u32,
}

impl Request {
    pub(super) fn of(self, content: &[u8]) -> &[u8] {
        let start = usize::try_from(self.offset).unwrap();
        &content[start..start + self.len as usize]
    }
}

/// What a stretch is made of, by blocks of 512 bytes.
fn status(content: &[u8]) -> Vec<Descriptor> {
    let states = content.chunks(512).map(|block| {
        let is_zero = block.iter().all(|byte| *byte == 0);
        let zero = state::ZERO | state::HOLE;
        Descriptor {
            len: u32::try_from(block.len()).unwrap().into(),
            state: if is_zero { zero } else { 0 }.into(),
        }
    });
    states.collect()
}

/// A number as it goes over the wire.
pub(super) fn u16_bytes(number: u16) -> [u8; 2] {
    U16::new(number).to_bytes()
}

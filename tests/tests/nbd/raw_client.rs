//! A client that says what the test wants it to say, right or wrong.

use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;

use tests::nbd::Server;

pub(crate) const OPTION_MAGIC: &[u8] = b"IHAVEOPT";
pub(crate) const OPT_EXPORT_NAME: u32 = 1;
pub(crate) const OPT_ABORT: u32 = 2;
pub(crate) const OPT_LIST: u32 = 3;
pub(crate) const OPT_STARTTLS: u32 = 5;
pub(crate) const OPT_INFO: u32 = 6;
pub(crate) const OPT_GO: u32 = 7;
pub(crate) const OPT_STRUCTURED_REPLY: u32 = 8;
pub(crate) const OPT_SET_META_CONTEXT: u32 = 10;
pub(crate) const REP_ACK: u32 = 1;
pub(crate) const REP_SERVER: u32 = 2;
pub(crate) const REP_INFO: u32 = 3;
pub(crate) const REP_META_CONTEXT: u32 = 4;
pub(crate) const REP_ERR_UNSUP: u32 = 0x8000_0001;
pub(crate) const REP_ERR_INVALID: u32 = 0x8000_0003;
pub(crate) const REP_ERR_TLS_REQD: u32 = 0x8000_0005;
pub(crate) const REP_ERR_UNKNOWN: u32 = 0x8000_0006;
pub(crate) const REP_ERR_TOO_BIG: u32 = 0x8000_0009;
pub(crate) const CMD_READ: u16 = 0;
pub(crate) const CMD_WRITE: u16 = 1;
pub(crate) const CMD_DISC: u16 = 2;
pub(crate) const CMD_FLUSH: u16 = 3;
pub(crate) const CMD_TRIM: u16 = 4;
pub(crate) const CMD_CACHE: u16 = 5;
pub(crate) const CMD_WRITE_ZEROES: u16 = 6;
pub(crate) const CMD_BLOCK_STATUS: u16 = 7;
pub(crate) const FLAG_FUA: u16 = 1;
pub(crate) const REQUEST_MAGIC: u32 = 0x2560_9513;
const SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;
const CHUNK_MAGIC: u32 = 0x668e_33ef;

/// What a client travels on.
pub(crate) trait Transport: Read + Write + Send {}

impl<T: Read + Write + Send> Transport for T {}

pub(crate) struct Client(Box<dyn Transport>);

/// A chunk of a structured reply.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Chunk {
    pub(crate) done: bool,
    pub(crate) kind: u16,
    pub(crate) cookie: u64,
    pub(crate) data: Vec<u8>,
}

impl Client {
    /// Connects and greets.
    pub(crate) fn connect(server: &Server) -> Self {
        let mut client = Self::connect_silently(server);
        client.greet();
        client
    }

    /// Says what every client of today says first.
    pub(crate) fn greet(&mut self) {
        self.send(&3_u32.to_be_bytes());
    }

    /// Connects and listens to the greeting.
    pub(crate) fn connect_silently(server: &Server) -> Self {
        Self::over(UnixStream::connect(server.socket()).unwrap())
    }

    /// Listens to the greeting that comes over `transport`.
    pub(crate) fn over(transport: impl Transport + 'static) -> Self {
        let mut client = Self(Box::new(transport));
        assert_eq!(client.receive(18), b"NBDMAGICIHAVEOPT\0\x03");
        client
    }

    /// Goes on over what `wrap` makes of the transport.
    pub(crate) fn wrapped<T: Transport + 'static>(
        self,
        wrap: impl FnOnce(Box<dyn Transport>) -> T,
    ) -> Self {
        Self(Box::new(wrap(self.0)))
    }

    /// Sends bytes; the server may have had enough.
    pub(crate) fn try_send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all(bytes)
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).unwrap();
    }

    pub(crate) fn receive(&mut self, len: usize) -> Vec<u8> {
        self.try_receive(len).unwrap()
    }

    /// Receives so many bytes, unless the server is gone.
    fn try_receive(&mut self, len: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; len];
        self.0.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    fn receive_u16(&mut self) -> u16 {
        u16::from_be_bytes(self.receive(2).try_into().unwrap())
    }

    fn receive_u32(&mut self) -> u32 {
        u32::from_be_bytes(self.receive(4).try_into().unwrap())
    }

    fn receive_u64(&mut self) -> u64 {
        u64::from_be_bytes(self.receive(8).try_into().unwrap())
    }

    /// Whether the server ends the connection, whatever it says before that.
    pub(crate) fn is_at_end(&mut self) -> bool {
        match self.0.read_to_end(&mut Vec::new()) {
            Ok(_) => true,
            // What the server has not read, or the end of TLS, is lost on the way.
            Err(error) => matches!(
                error.kind(),
                ErrorKind::ConnectionReset | ErrorKind::UnexpectedEof
            ),
        }
    }

    /// What the server says until it ends the connection in order.
    pub(crate) fn rest(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.0.read_to_end(&mut bytes).unwrap();
        bytes
    }

    pub(crate) fn option(&mut self, option: u32, data: &[u8]) {
        let len = u32::try_from(data.len()).unwrap();
        self.send(
            &[
                OPTION_MAGIC,
                &option.to_be_bytes(),
                &len.to_be_bytes(),
                data,
            ]
            .concat(),
        );
    }

    /// The next reply to `option`: its kind and its data.
    pub(crate) fn option_reply(&mut self, option: u32) -> (u32, Vec<u8>) {
        assert_eq!(self.receive_u64(), 0x0003_e889_0455_65a9);
        assert_eq!(self.receive_u32(), option);
        let kind = self.receive_u32();
        let len = usize::try_from(self.receive_u32()).unwrap();
        (kind, self.receive(len))
    }

    /// Chooses an export and begins.
    pub(crate) fn go(&mut self, name: &str) {
        self.option(OPT_GO, &named(name, &[0, 0]));
        loop {
            match self.option_reply(OPT_GO) {
                (REP_ACK, _) => return,
                (REP_INFO, _) => {}
                reply => panic!("{reply:?}"),
            }
        }
    }

    /// Has replies structured and block status told.
    pub(crate) fn negotiate_all(&mut self, name: &str) {
        self.option(OPT_STRUCTURED_REPLY, &[]);
        assert_eq!(self.option_reply(OPT_STRUCTURED_REPLY).0, REP_ACK);
        let query = [&[0, 0, 0, 1, 0, 0, 0, 15], b"base:allocation".as_slice()].concat();
        self.option(OPT_SET_META_CONTEXT, &named(name, &query));
        assert_eq!(self.option_reply(OPT_SET_META_CONTEXT).0, REP_META_CONTEXT);
        assert_eq!(self.option_reply(OPT_SET_META_CONTEXT).0, REP_ACK);
        self.go(name);
    }

    pub(crate) fn request(&mut self, command: u16, flags: u16, offset: u64, len: u32) {
        self.send(&request(command, flags, offset, len));
    }

    /// The error number of the next reply, which is simple.
    pub(crate) fn simple_reply(&mut self) -> u32 {
        self.try_simple_reply().unwrap()
    }

    /// The same, unless the server is gone.
    pub(crate) fn try_simple_reply(&mut self) -> io::Result<u32> {
        let reply = self.try_receive(16)?;
        assert_eq!(reply[..4], SIMPLE_REPLY_MAGIC.to_be_bytes());
        assert_eq!(reply[8..], COOKIE.to_be_bytes());
        Ok(u32::from_be_bytes(reply[4..8].try_into().unwrap()))
    }

    pub(crate) fn chunk(&mut self) -> Chunk {
        assert_eq!(self.receive_u32(), CHUNK_MAGIC);
        let done = self.receive_u16() == 1;
        let kind = self.receive_u16();
        let cookie = self.receive_u64();
        let len = usize::try_from(self.receive_u32()).unwrap();
        let data = self.receive(len);
        Chunk {
            done,
            kind,
            cookie,
            data,
        }
    }

    pub(crate) fn read(&mut self, offset: u64, len: u32) -> Vec<u8> {
        self.request(CMD_READ, 0, offset, len);
        assert_eq!(self.simple_reply(), 0);
        self.receive(usize::try_from(len).unwrap())
    }

    pub(crate) fn write(&mut self, offset: u64, data: &[u8]) {
        let len = u32::try_from(data.len()).unwrap();
        self.request(CMD_WRITE, 0, offset, len);
        self.send(data);
        assert_eq!(self.simple_reply(), 0);
    }

    pub(crate) fn flush(&mut self) {
        self.request(CMD_FLUSH, 0, 0, 0);
        assert_eq!(self.simple_reply(), 0);
    }
}

/// What every request of this client is called.
pub(crate) const COOKIE: u64 = 0x0123_4567_89ab_cdef;

pub(crate) fn request(command: u16, flags: u16, offset: u64, len: u32) -> Vec<u8> {
    [
        &REQUEST_MAGIC.to_be_bytes()[..],
        &flags.to_be_bytes(),
        &command.to_be_bytes(),
        &COOKIE.to_be_bytes(),
        &offset.to_be_bytes(),
        &len.to_be_bytes(),
    ]
    .concat()
}

/// The data of an option that begins with the name of an export.
pub(crate) fn named(name: &str, rest: &[u8]) -> Vec<u8> {
    let len = u32::try_from(name.len()).unwrap();
    [&len.to_be_bytes(), name.as_bytes(), rest].concat()
}

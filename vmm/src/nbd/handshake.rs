//! The handshake: what a client and the server agree on before the first request.

use std::rc::Rc;

use disk::{Buffers, Stream};
use zerocopy::{Immutable, IntoBytes};

use super::end::End;
use super::export::{ALLOCATION_CONTEXT, ALLOCATION_CONTEXT_ID, Export};
use super::inbox::Inbox;
use super::options::{ContextRequest, InfoRequest};
use super::wire::{
    BlockSizeInfo, ExportInfo, ExportSummary, Greeting, MAGIC, OPTION_MAGIC, OPTION_REPLY_MAGIC,
    OptionHeader, OptionReply, PAYLOAD_MAX_BYTES, handshake_flag, info, option, option_reply,
};
use zerocopy::byteorder::network_endian::U32;

/// The longest data of an option that is looked at: room for a dozen of the longest strings.
const OPTION_MAX_BYTES: u32 = 64 << 10;
/// What requests need not be smaller than to be done without reading more than they ask for.
const PREFERRED_BLOCK_BYTES: u32 = 4096;

/// What was agreed on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Terms {
    /// Replies to reads are structured.
    pub(super) structured: bool,
    /// Block status tells of `base:allocation`.
    pub(super) allocation: bool,
}

/// How the handshake goes on after an option.
enum Next {
    Haggle,
    Transmit,
    Leave,
}

/// Talks to a client until it wants to begin; `None` if it wanted something else.
pub(super) async fn handshake(
    inbox: &mut Inbox,
    stream: &Rc<Stream>,
    export: &Export,
) -> Result<Option<Terms>, End> {
    let flags = handshake_flag::FIXED_NEWSTYLE | handshake_flag::NO_ZEROES;
    let greeting = Greeting {
        magic: MAGIC.into(),
        option_magic: OPTION_MAGIC.into(),
        flags: flags.into(),
    };
    stream.send(Buffers::from_vec(greeting.as_bytes())).await?;
    let client_flags: U32 = inbox.take().await?;
    if client_flags.get() & !u32::from(flags) != 0 {
        return Err(End::Violation("unknown client flags"));
    }
    let mut haggling = Haggling {
        export,
        no_zeroes: client_flags.get() & u32::from(handshake_flag::NO_ZEROES) != 0,
        terms: Terms::default(),
        replies: Vec::new(),
    };
    loop {
        let next = haggling.option(inbox).await?;
        let replies = std::mem::take(&mut haggling.replies);
        let sent = stream.send(Buffers::from_vec(replies)).await;
        match next {
            Next::Haggle => sent?,
            Next::Transmit => {
                sent?;
                return Ok(Some(haggling.terms));
            }
            // It may not have waited for the reply.
            Next::Leave => return Ok(None),
        }
    }
}

struct Haggling<'a> {
    export: &'a Export,
    /// The client does without the zeros after the reply to `NBD_OPT_EXPORT_NAME`.
    no_zeroes: bool,
    terms: Terms,
    /// What is to be sent.
    replies: Vec<u8>,
}

impl Haggling<'_> {
    /// Receives an option and answers it.
    async fn option(&mut self, inbox: &mut Inbox) -> Result<Next, End> {
        let header: OptionHeader = inbox.take().await?;
        if header.magic.get() != OPTION_MAGIC {
            return Err(End::Violation("an option without its magic number"));
        }
        let (option, len) = (header.option.get(), header.len.get());
        if len > OPTION_MAX_BYTES {
            if len > PAYLOAD_MAX_BYTES || option == option::EXPORT_NAME {
                return Err(End::Violation("an option that is far too long"));
            }
            inbox.skip(len.into()).await?;
            self.reply(option, option_reply::ERR_TOO_BIG, &[]);
            return Ok(Next::Haggle);
        }
        let len = usize::try_from(len).expect("at most 64 KiB");
        let data = inbox.take_bytes(len).await?;
        self.answer(option, &data)
    }

    fn answer(&mut self, option: u32, data: &[u8]) -> Result<Next, End> {
        match option {
            option::EXPORT_NAME => return self.export_name(data),
            option::ABORT => {
                self.reply(option, option_reply::ACK, &[]);
                return Ok(Next::Leave);
            }
            option::LIST if data.is_empty() => self.list(),
            option::STRUCTURED_REPLY if data.is_empty() => {
                self.terms.structured = true;
                self.reply(option, option_reply::ACK, &[]);
            }
            option::LIST | option::STRUCTURED_REPLY => self.invalid(option),
            option::INFO | option::GO => return Ok(self.info(option, data)),
            option::LIST_META_CONTEXT | option::SET_META_CONTEXT => {
                self.meta_context(option, data);
            }
            _ => self.reply(option, option_reply::ERR_UNSUPPORTED, &[]),
        }
        Ok(Next::Haggle)
    }

    /// `NBD_OPT_EXPORT_NAME`, which leaves no way to tell of an error.
    fn export_name(&mut self, name: &[u8]) -> Result<Next, End> {
        if !self.export.is_called(name) {
            return Err(End::Violation("no such export"));
        }
        let summary = ExportSummary {
            size: self.export.properties.size_bytes.into(),
            flags: self.export.flags(self.terms.structured).into(),
        };
        self.replies.extend(summary.as_bytes());
        if !self.no_zeroes {
            self.replies.extend([0; 124]);
        }
        Ok(Next::Transmit)
    }

    fn list(&mut self) {
        let name = self.export.name().as_bytes();
        let len = U32::new(u32::try_from(name.len()).unwrap_or(0));
        let server = [len.as_bytes(), name].concat();
        self.reply(option::LIST, option_reply::SERVER, &server);
        self.reply(option::LIST, option_reply::ACK, &[]);
    }

    /// `NBD_OPT_INFO` and `NBD_OPT_GO`, which differ in what follows.
    fn info(&mut self, option: u32, data: &[u8]) -> Next {
        let Some(request) = InfoRequest::parse(data) else {
            self.invalid(option);
            return Next::Haggle;
        };
        if !self.export.is_called(request.name) {
            self.reply(option, option_reply::ERR_UNKNOWN, b"no such export");
            return Next::Haggle;
        }
        let properties = self.export.properties;
        if request.wanted.contains(&info::NAME) {
            let mut name = info::NAME.to_be_bytes().to_vec();
            name.extend(self.export.name().bytes());
            self.reply(option, option_reply::INFO, &name);
        }
        let preferred = PREFERRED_BLOCK_BYTES.max(properties.block_size_bytes);
        let block_size = BlockSizeInfo {
            kind: info::BLOCK_SIZE.into(),
            minimum: 1.into(),
            preferred: preferred.into(),
            maximum: PAYLOAD_MAX_BYTES.into(),
        };
        self.reply_info(option, &block_size);
        let export = ExportInfo {
            kind: info::EXPORT.into(),
            size: properties.size_bytes.into(),
            flags: self.export.flags(self.terms.structured).into(),
        };
        self.reply_info(option, &export);
        self.reply(option, option_reply::ACK, &[]);
        if option == option::GO {
            Next::Transmit
        } else {
            Next::Haggle
        }
    }

    /// `NBD_OPT_LIST_META_CONTEXT` and `NBD_OPT_SET_META_CONTEXT`.
    fn meta_context(&mut self, option: u32, data: &[u8]) {
        let sets = option == option::SET_META_CONTEXT;
        if sets {
            // Whatever comes of it, what was chosen before is chosen no more.
            self.terms.allocation = false;
        }
        let request = ContextRequest::parse(data).filter(|_| self.terms.structured);
        let Some(request) = request else {
            return self.invalid(option);
        };
        if !self.export.is_called(request.name) {
            return self.reply(option, option_reply::ERR_UNKNOWN, b"no such export");
        }
        let found = if sets {
            self.terms.allocation = request.chooses_allocation();
            self.terms.allocation
        } else {
            request.lists_allocation()
        };
        if found {
            let id = U32::new(if sets { ALLOCATION_CONTEXT_ID } else { 0 });
            let context = [id.as_bytes(), ALLOCATION_CONTEXT.as_bytes()].concat();
            self.reply(option, option_reply::META_CONTEXT, &context);
        }
        self.reply(option, option_reply::ACK, &[]);
    }

    fn invalid(&mut self, option: u32) {
        self.reply(option, option_reply::ERR_INVALID, b"malformed option");
    }

    fn reply_info(&mut self, option: u32, info: &(impl IntoBytes + Immutable)) {
        self.reply(option, option_reply::INFO, info.as_bytes());
    }

    fn reply(&mut self, option: u32, kind: u32, data: &[u8]) {
        let header = OptionReply {
            magic: OPTION_REPLY_MAGIC.into(),
            option: option.into(),
            kind: kind.into(),
            len: u32::try_from(data.len()).unwrap_or(0).into(),
        };
        self.replies.extend(header.as_bytes());
        self.replies.extend(data);
    }
}

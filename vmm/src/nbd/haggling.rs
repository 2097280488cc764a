//! What a client may ask for before it begins, and what it is told.

use std::rc::Rc;

use disk::nbd::{
    ALLOCATION_CONTEXT, BlockSizeInfo, ExportInfo, ExportSummary, OPTION_REPLY_MAGIC, OptionReply,
    PAYLOAD_MAX_BYTES, info, option, option_reply,
};
use zerocopy::byteorder::network_endian::U32;
use zerocopy::{Immutable, IntoBytes};

use super::certificates::Certificates;
use super::end::End;
use super::export::{ALLOCATION_CONTEXT_ID, Export};
use super::exports::Exports;
use super::options::{ContextRequest, InfoRequest};

/// What requests need not be smaller than to be done without reading more than they ask for.
const PREFERRED_BLOCK_BYTES: u32 = 4096;

/// What was agreed on.
#[derive(Clone)]
pub(super) struct Terms {
    pub(super) export: Rc<Export>,
    /// Replies to reads are structured.
    pub(super) structured: bool,
    /// Block status tells of `base:allocation`.
    pub(super) allocation: bool,
}

/// How the handshake goes on after an option.
pub(super) enum Next<'a> {
    Haggle,
    /// TLS begins.
    Secure(&'a Certificates),
    Transmit(Terms),
    Leave,
}

/// Whether TLS protects the connection.
#[derive(Clone, Copy)]
enum Security<'a> {
    /// There are no certificates.
    None,
    /// It has to, and does not yet.
    Required(&'a Certificates),
    On,
}

/// Answers the options of one client.
pub(super) struct Haggling<'a> {
    exports: &'a Exports,
    /// The client does without the zeros after the reply to `NBD_OPT_EXPORT_NAME`.
    no_zeroes: bool,
    security: Security<'a>,
    structured: bool,
    /// The export whose `base:allocation` was chosen. What was chosen of one says nothing of others.
    allocation: Option<Rc<Export>>,
    /// What is to be sent.
    replies: Vec<u8>,
}

impl<'a> Haggling<'a> {
    /// With `certificates`, nothing is told before TLS.
    pub(super) fn new(
        exports: &'a Exports,
        no_zeroes: bool,
        certificates: Option<&'a Certificates>,
    ) -> Self {
        Self {
            exports,
            no_zeroes,
            security: certificates.map_or(Security::None, Security::Required),
            structured: false,
            allocation: None,
            replies: Vec::new(),
        }
    }

    /// TLS protects the connection from now on. Nothing that was said before counts.
    pub(super) fn secured(&mut self) {
        self.security = Security::On;
        self.structured = false;
        self.allocation = None;
    }

    /// What is to be sent.
    pub(super) fn take_replies(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.replies)
    }

    /// Answers an option.
    pub(super) fn answer(&mut self, option: u32, data: &[u8]) -> Result<Next<'a>, End> {
        if self.has_to_wait(option) {
            return self.require_tls(option);
        }
        match option {
            option::EXPORT_NAME => return self.export_name(data),
            option::ABORT => {
                self.reply(option, option_reply::ACK, &[]);
                return Ok(Next::Leave);
            }
            option::STARTTLS => return Ok(self.start_tls(data)),
            option::LIST if data.is_empty() => self.list(),
            option::STRUCTURED_REPLY if data.is_empty() => {
                self.structured = true;
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

    /// Answers an option whose data nobody looks at.
    pub(super) fn refuse_too_long(&mut self, option: u32) -> Next<'a> {
        let kind = if self.has_to_wait(option) {
            option_reply::ERR_TLS_REQUIRED
        } else {
            option_reply::ERR_TOO_BIG
        };
        self.reply(option, kind, &[]);
        Next::Haggle
    }

    fn start_tls(&mut self, data: &[u8]) -> Next<'a> {
        let (kind, next) = match self.security {
            Security::None => (option_reply::ERR_UNSUPPORTED, Next::Haggle),
            Security::Required(certificates) if data.is_empty() => {
                (option_reply::ACK, Next::Secure(certificates))
            }
            Security::Required(_) | Security::On => (option_reply::ERR_INVALID, Next::Haggle),
        };
        self.reply(option::STARTTLS, kind, &[]);
        next
    }

    /// Whether an option is for later, when TLS protects it.
    fn has_to_wait(&self, option: u32) -> bool {
        let is_for_now = matches!(option, option::STARTTLS | option::ABORT);
        matches!(self.security, Security::Required(_)) && !is_for_now
    }

    fn require_tls(&mut self, option: u32) -> Result<Next<'a>, End> {
        if option == option::EXPORT_NAME {
            // Which leaves no way to tell of an error.
            return Err(End::Violation("an export was chosen without TLS"));
        }
        self.reply(option, option_reply::ERR_TLS_REQUIRED, b"TLS is required");
        Ok(Next::Haggle)
    }

    /// `NBD_OPT_EXPORT_NAME`, which leaves no way to tell of an error.
    fn export_name(&mut self, name: &[u8]) -> Result<Next<'a>, End> {
        let Some(export) = self.exports.find(name) else {
            return Err(End::Violation("no such export"));
        };
        let summary = ExportSummary {
            size: export.bytes.properties().size_bytes.into(),
            flags: export.flags(self.structured).into(),
        };
        self.replies.extend(summary.as_bytes());
        if !self.no_zeroes {
            self.replies.extend([0; 124]);
        }
        Ok(Next::Transmit(self.terms(export)))
    }

    fn list(&mut self) {
        for export in self.exports.iter() {
            let name = export.name().as_bytes();
            let len = U32::new(u32::try_from(name.len()).unwrap_or(0));
            let server = [len.as_bytes(), name].concat();
            self.reply(option::LIST, option_reply::SERVER, &server);
        }
        self.reply(option::LIST, option_reply::ACK, &[]);
    }

    /// `NBD_OPT_INFO` and `NBD_OPT_GO`, which differ in what follows.
    fn info(&mut self, option: u32, data: &[u8]) -> Next<'a> {
        let Some(request) = InfoRequest::parse(data) else {
            self.invalid(option);
            return Next::Haggle;
        };
        let Some(export) = self.exports.find(request.name) else {
            self.unknown(option);
            return Next::Haggle;
        };
        let properties = export.bytes.properties();
        if request.wanted.contains(&info::NAME) {
            let mut name = info::NAME.to_be_bytes().to_vec();
            name.extend(export.name().bytes());
            self.reply(option, option_reply::INFO, &name);
        }
        let preferred = PREFERRED_BLOCK_BYTES.max(properties.block_size_bytes);
        self.reply_info(
            option,
            &BlockSizeInfo {
                kind: info::BLOCK_SIZE.into(),
                minimum: 1.into(),
                preferred: preferred.into(),
                maximum: PAYLOAD_MAX_BYTES.into(),
            },
        );
        self.reply_info(
            option,
            &ExportInfo {
                kind: info::EXPORT.into(),
                size: properties.size_bytes.into(),
                flags: export.flags(self.structured).into(),
            },
        );
        self.reply(option, option_reply::ACK, &[]);
        match option {
            option::GO => Next::Transmit(self.terms(export)),
            _ => Next::Haggle,
        }
    }

    /// What holds for a client that begins with `export`.
    fn terms(&self, export: &Rc<Export>) -> Terms {
        let chosen = self.allocation.as_ref();
        Terms {
            export: Rc::clone(export),
            structured: self.structured,
            allocation: chosen.is_some_and(|chosen| Rc::ptr_eq(chosen, export)),
        }
    }

    /// `NBD_OPT_LIST_META_CONTEXT` and `NBD_OPT_SET_META_CONTEXT`.
    fn meta_context(&mut self, option: u32, data: &[u8]) {
        let sets = option == option::SET_META_CONTEXT;
        if sets {
            // Whatever comes of it, what was chosen before is chosen no more.
            self.allocation = None;
        }
        let request = ContextRequest::parse(data).filter(|_| self.structured);
        let Some(request) = request else {
            return self.invalid(option);
        };
        let Some(export) = self.exports.find(request.name) else {
            return self.unknown(option);
        };
        let found = if sets {
            request.chooses_allocation()
        } else {
            request.lists_allocation()
        };
        if sets && found {
            self.allocation = Some(Rc::clone(export));
        }
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

    fn unknown(&mut self, option: u32) {
        self.reply(option, option_reply::ERR_UNKNOWN, b"no such export");
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

//! The handshake: from the greeting to the first request, and on the way to TLS where that is wanted.

use std::rc::Rc;

use disk::Buffers;
use disk::nbd::{
    Greeting, MAGIC, OPTION_MAGIC, OptionHeader, PAYLOAD_MAX_BYTES, handshake_flag, option,
};
use zerocopy::IntoBytes as _;
use zerocopy::byteorder::network_endian::U32;

use super::certificates::Certificates;
use super::end::End;
use super::exports::Exports;
use super::haggling::{Haggling, Next, Terms};
use super::inbox::Inbox;
use super::link::Link;
use super::tls::Tls;

/// The longest data of an option that is looked at: room for a dozen of the longest strings.
const OPTION_MAX_BYTES: u32 = 64 << 10;

/// Talks to a client until it wants to begin; `None` if it wanted something else. With
/// `certificates` it must ask for TLS first ("FORCEDTLS" of the protocol's section "TLS support").
pub(super) async fn handshake(
    inbox: &mut Inbox,
    exports: &Exports,
    certificates: Option<&Certificates>,
) -> Result<Option<Terms>, End> {
    let flags = greet(inbox).await?;
    let is_set = |flag: u16| flags & u32::from(flag) != 0;
    if certificates.is_some() && !is_set(handshake_flag::FIXED_NEWSTYLE) {
        return Err(End::Violation("a client of old that cannot ask for TLS"));
    }
    let no_zeroes = is_set(handshake_flag::NO_ZEROES);
    let mut haggling = Haggling::new(exports, no_zeroes, certificates);
    loop {
        let next = take_option(inbox, &mut haggling).await?;
        if matches!(next, Next::Secure(_)) && inbox.has(1) {
            // Whoever sits between could have put it there, to be taken for a part of the session.
            return Err(End::Violation("data behind NBD_OPT_STARTTLS"));
        }
        let replies = Buffers::from_vec(haggling.take_replies());
        let sent = inbox.link().send(replies).await;
        match next {
            Next::Haggle => sent?,
            Next::Secure(certificates) => {
                sent?;
                secure(inbox, certificates).await?;
                haggling.secured();
            }
            Next::Transmit(terms) => {
                sent?;
                return Ok(Some(terms));
            }
            // It may not have waited for the reply.
            Next::Leave => return Ok(None),
        }
    }
}

/// Greets, and returns the flags of the client.
async fn greet(inbox: &mut Inbox) -> Result<u32, End> {
    let flags = handshake_flag::FIXED_NEWSTYLE | handshake_flag::NO_ZEROES;
    let greeting = Greeting {
        magic: MAGIC.into(),
        option_magic: OPTION_MAGIC.into(),
        flags: flags.into(),
    };
    let greeting = Buffers::from_vec(greeting.as_bytes());
    inbox.link().send(greeting).await?;
    let client_flags: U32 = inbox.take().await?;
    if client_flags.get() & !u32::from(flags) != 0 {
        return Err(End::Violation("unknown client flags"));
    }
    Ok(client_flags.get())
}

/// Receives an option and answers it.
async fn take_option<'a>(inbox: &mut Inbox, haggling: &mut Haggling<'a>) -> Result<Next<'a>, End> {
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
        return Ok(haggling.refuse_too_long(option));
    }
    let len = usize::try_from(len).expect("at most 64 KiB");
    let data = inbox.take_bytes(len).await?;
    haggling.answer(option, &data)
}

/// Goes on within TLS.
async fn secure(inbox: &mut Inbox, certificates: &Certificates) -> Result<(), End> {
    let stream = Rc::clone(inbox.link().stream());
    let tls = Tls::accept(stream, certificates.config()).await?;
    inbox.change_link(Rc::new(Link::Tls(Box::new(tls))));
    Ok(())
}

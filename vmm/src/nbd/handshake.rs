//! The handshake: from the greeting to the first request.

use std::rc::Rc;

use disk::{Buffers, Stream};
use zerocopy::IntoBytes as _;
use zerocopy::byteorder::network_endian::U32;

use super::end::End;
use super::exports::Exports;
use super::haggling::{Haggling, Next, Terms};
use super::inbox::Inbox;
use super::wire::{
    Greeting, MAGIC, OPTION_MAGIC, OptionHeader, PAYLOAD_MAX_BYTES, handshake_flag, option,
};

/// The longest data of an option that is looked at: room for a dozen of the longest strings.
const OPTION_MAX_BYTES: u32 = 64 << 10;

/// Talks to a client until it wants to begin; `None` if it wanted something else.
pub(super) async fn handshake(
    inbox: &mut Inbox,
    stream: &Rc<Stream>,
    exports: &Exports,
) -> Result<Option<Terms>, End> {
    let flags = greet(inbox, stream).await?;
    let no_zeroes = flags & u32::from(handshake_flag::NO_ZEROES) != 0;
    let mut haggling = Haggling::new(exports, no_zeroes);
    loop {
        let next = take_option(inbox, &mut haggling).await?;
        let replies = Buffers::from_vec(haggling.take_replies());
        let sent = stream.send(replies).await;
        match next {
            Next::Haggle => sent?,
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
async fn greet(inbox: &mut Inbox, stream: &Rc<Stream>) -> Result<u32, End> {
    let flags = handshake_flag::FIXED_NEWSTYLE | handshake_flag::NO_ZEROES;
    let greeting = Greeting {
        magic: MAGIC.into(),
        option_magic: OPTION_MAGIC.into(),
        flags: flags.into(),
    };
    let greeting = Buffers::from_vec(greeting.as_bytes());
    stream.send(greeting).await?;
    let client_flags: U32 = inbox.take().await?;
    if client_flags.get() & !u32::from(flags) != 0 {
        return Err(End::Violation("unknown client flags"));
    }
    Ok(client_flags.get())
}

/// Receives an option and answers it.
async fn take_option(inbox: &mut Inbox, haggling: &mut Haggling<'_>) -> Result<Next, End> {
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

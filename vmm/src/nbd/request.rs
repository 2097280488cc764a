//! A client's requests, understood and checked.

use disk::nbd::{Errno, PAYLOAD_MAX_BYTES, RequestHeader, command, command_flag as flag};

use super::execute::CACHE_STEP_BYTES;

/// What a client wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Command {
    Read,
    Write,
    Flush,
    Trim,
    Cache,
    WriteZeroes {
        /// Whether the range keeps its space on the host.
        keep: bool,
    },
    BlockStatus {
        /// Whether one stretch is all that is wanted.
        one: bool,
    },
}

/// A request that can be done, unless the disk fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Request {
    pub(super) command: Command,
    pub(super) cookie: u64,
    pub(super) offset: u64,
    pub(super) len: u32,
    /// Whether what it changes must be durable before it is answered.
    pub(super) durable: bool,
}

/// Why a request is not done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) errno: Errno,
    pub(super) reason: &'static str,
}

/// What a request must keep to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) size_bytes: u64,
    pub(super) read_only: bool,
    /// Whether replies are structured.
    pub(super) structured: bool,
    /// Whether the client has chosen the context of block status.
    pub(super) allocation: bool,
}

impl Request {
    /// Understands a request and checks it.
    pub(super) fn parse(header: &RequestHeader, limits: &Limits) -> Result<Self, Refusal> {
        let flags = header.flags.get();
        let (command, known_flags) = Self::command(header.command.get(), flags, limits)?;
        let request = Self {
            command,
            cookie: header.cookie.get(),
            offset: header.offset.get(),
            len: header.len.get(),
            durable: flags & flag::FUA != 0,
        };
        // Clients are known to send FUA with everything.
        if flags & !(known_flags | flag::FUA) != 0 {
            return Err(invalid("a flag that the request cannot have"));
        }
        request.check(limits)?;
        Ok(request)
    }

    /// The command, and the flags it may have.
    fn command(number: u16, flags: u16, limits: &Limits) -> Result<(Command, u16), Refusal> {
        let is_set = |flag| flags & flag != 0;
        Ok(match number {
            command::READ if limits.structured => (Command::Read, flag::DF),
            command::READ => (Command::Read, 0),
            command::WRITE => (Command::Write, 0),
            command::FLUSH => (Command::Flush, 0),
            command::TRIM => (Command::Trim, 0),
            command::CACHE => (Command::Cache, 0),
            command::WRITE_ZEROES => {
                let keep = is_set(flag::NO_HOLE);
                (Command::WriteZeroes { keep }, flag::NO_HOLE)
            }
            command::BLOCK_STATUS if limits.allocation => {
                let one = is_set(flag::REQ_ONE);
                (Command::BlockStatus { one }, flag::REQ_ONE)
            }
            command::BLOCK_STATUS => return Err(invalid("no metadata context was chosen")),
            _ => return Err(invalid("an unknown command")),
        })
    }

    fn check(&self, limits: &Limits) -> Result<(), Refusal> {
        let end = self.offset.checked_add(self.len.into());
        let is_inside = end.is_some_and(|end| end <= limits.size_bytes);
        match self.command {
            Command::Flush => Ok(()),
            Command::Write | Command::Trim | Command::WriteZeroes { .. } if limits.read_only => {
                Err(Refusal {
                    errno: Errno::NotPermitted,
                    reason: "the export is read-only",
                })
            }
            Command::Write | Command::WriteZeroes { .. } if !is_inside => Err(Refusal {
                errno: Errno::NoSpace,
                reason: "past the end of the export",
            }),
            _ if !is_inside => Err(invalid("past the end of the export")),
            Command::Read if self.len > PAYLOAD_MAX_BYTES => Err(invalid("more than 32 MiB")),
            Command::BlockStatus { .. } if self.len == 0 => Err(invalid("no bytes")),
            _ => Ok(()),
        }
    }

    /// The memory it takes while it is done.
    pub(super) fn memory_bytes(&self) -> usize {
        match self.command {
            Command::Cache => usize::try_from(self.len)
                .unwrap_or(usize::MAX)
                .min(CACHE_STEP_BYTES),
            _ => self.data_bytes(),
        }
    }

    /// The data that comes with it, or with its reply.
    pub(super) fn data_bytes(&self) -> usize {
        match self.command {
            Command::Read | Command::Write => usize::try_from(self.len).unwrap_or(usize::MAX),
            _ => 0,
        }
    }
}

fn invalid(reason: &'static str) -> Refusal {
    Refusal {
        errno: Errno::Invalid,
        reason,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use disk::nbd::REQUEST_MAGIC;

    const LIMITS: Limits = Limits {
        size_bytes: 1 << 20,
        read_only: false,
        structured: true,
        allocation: true,
    };

    fn parse(
        command: u16,
        flags: u16,
        offset: u64,
        len: u32,
        limits: &Limits,
    ) -> Result<Request, Errno> {
        let header = RequestHeader {
            magic: REQUEST_MAGIC.into(),
            flags: flags.into(),
            command: command.into(),
            cookie: 7.into(),
            offset: offset.into(),
            len: len.into(),
        };
        Request::parse(&header, limits).map_err(|refusal| refusal.errno)
    }

    /// `NBD_CMD_FLAG_FAST_ZERO`, which is not offered: whether the host has to write the zeros
    /// shows only when it does.
    const FAST_ZERO: u16 = 1 << 4;

    #[test]
    fn flags_are_those_of_the_command() {
        let zeroes = flag::FUA | flag::NO_HOLE;
        let request = parse(command::WRITE_ZEROES, zeroes, 0, 512, &LIMITS).unwrap();
        assert!(request.durable);
        assert_eq!(request.command, Command::WriteZeroes { keep: true });
        for (command, flags) in [
            (command::READ, flag::NO_HOLE),
            (command::WRITE, flag::DF),
            (command::TRIM, flag::NO_HOLE),
            (command::WRITE_ZEROES, FAST_ZERO),
            (command::BLOCK_STATUS, flag::DF),
            (command::FLUSH, 1 << 15),
        ] {
            assert_eq!(parse(command, flags, 0, 512, &LIMITS), Err(Errno::Invalid));
        }
    }

    #[test]
    fn what_was_not_negotiated_is_refused() {
        let simple = Limits {
            structured: false,
            allocation: false,
            ..LIMITS
        };
        for (command, flags) in [
            (command::BLOCK_STATUS, 0),
            (command::READ, flag::DF),
            (8, 0),
            (u16::MAX, 0),
        ] {
            assert_eq!(parse(command, flags, 0, 512, &simple), Err(Errno::Invalid));
        }
    }

    #[test]
    fn ranges_end_with_the_export() {
        let last = LIMITS.size_bytes - 512;
        assert!(parse(command::WRITE, 0, last, 512, &LIMITS).is_ok());
        assert!(parse(command::READ, 0, LIMITS.size_bytes, 0, &LIMITS).is_ok());
        for (command, errno) in [
            (command::READ, Errno::Invalid),
            (command::WRITE, Errno::NoSpace),
            (command::WRITE_ZEROES, Errno::NoSpace),
            (command::TRIM, Errno::Invalid),
            (command::CACHE, Errno::Invalid),
            (command::BLOCK_STATUS, Errno::Invalid),
        ] {
            assert_eq!(parse(command, 0, last, 513, &LIMITS), Err(errno));
            assert_eq!(parse(command, 0, u64::MAX, 2, &LIMITS), Err(errno));
        }
        assert!(parse(command::FLUSH, 0, u64::MAX, 2, &LIMITS).is_ok());
    }

    #[test]
    fn only_what_carries_data_has_a_limit() {
        let large = Limits {
            size_bytes: 1 << 40,
            ..LIMITS
        };
        let len = PAYLOAD_MAX_BYTES + 1;
        let read = parse(command::READ, 0, 0, len, &large);
        assert_eq!(read, Err(Errno::Invalid));
        assert!(parse(command::READ, 0, 0, PAYLOAD_MAX_BYTES, &large).is_ok());
        for command in [
            command::TRIM,
            command::WRITE_ZEROES,
            command::CACHE,
            command::BLOCK_STATUS,
        ] {
            assert!(parse(command, 0, 0, u32::MAX, &large).is_ok());
        }
    }

    #[test]
    fn a_read_only_export_cannot_be_changed() {
        let read_only = Limits {
            read_only: true,
            ..LIMITS
        };
        for command in [command::WRITE, command::TRIM, command::WRITE_ZEROES] {
            let refused = parse(command, 0, 0, 512, &read_only);
            assert_eq!(refused, Err(Errno::NotPermitted));
        }
        assert!(parse(command::FLUSH, 0, 0, 0, &read_only).is_ok());
    }
}

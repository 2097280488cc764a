//! The data of a client's options.

use disk::nbd::{ALLOCATION_CONTEXT, STRING_MAX_BYTES};
use zerocopy::FromBytes as _;
use zerocopy::byteorder::network_endian::{U16, U32};

/// What has not been read of an option's data.
pub(super) struct Fields<'a>(pub(super) &'a [u8]);

impl<'a> Fields<'a> {
    fn number16(&mut self) -> Option<u16> {
        let (number, rest) = U16::read_from_prefix(self.0).ok()?;
        self.0 = rest;
        Some(number.get())
    }

    fn number32(&mut self) -> Option<u32> {
        let (number, rest) = U32::read_from_prefix(self.0).ok()?;
        self.0 = rest;
        Some(number.get())
    }

    /// A length and as many bytes.
    fn string(&mut self) -> Option<&'a [u8]> {
        let len = usize::try_from(self.number32()?).ok()?;
        if len > STRING_MAX_BYTES {
            return None;
        }
        let (string, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(string)
    }

    fn end(&self) -> Option<()> {
        self.0.is_empty().then_some(())
    }
}

/// The data of `NBD_OPT_INFO` and `NBD_OPT_GO`.
pub(super) struct InfoRequest<'a> {
    pub(super) name: &'a [u8],
    /// The pieces of information that the client asks for.
    pub(super) wanted: Vec<u16>,
}

impl<'a> InfoRequest<'a> {
    /// Understands it, if it is well-formed.
    pub(super) fn parse(data: &'a [u8]) -> Option<Self> {
        let mut fields = Fields(data);
        let name = fields.string()?;
        let count = fields.number16()?;
        let wanted = (0..count)
            .map(|_| fields.number16())
            .collect::<Option<_>>()?;
        fields.end()?;
        Some(Self { name, wanted })
    }
}

/// The data of `NBD_OPT_LIST_META_CONTEXT` and `NBD_OPT_SET_META_CONTEXT`.
pub(super) struct ContextRequest<'a> {
    pub(super) name: &'a [u8],
    queries: Vec<&'a [u8]>,
}

impl<'a> ContextRequest<'a> {
    /// Understands it, if it is well-formed.
    pub(super) fn parse(data: &'a [u8]) -> Option<Self> {
        let mut fields = Fields(data);
        let name = fields.string()?;
        let count = fields.number32()?;
        let mut queries = Vec::new();
        // Each takes at least its length, so this ends with the data.
        for _ in 0..count {
            queries.push(fields.string()?);
        }
        fields.end()?;
        Some(Self { name, queries })
    }

    /// Whether `base:allocation` is among what is to be chosen.
    pub(super) fn chooses_allocation(&self) -> bool {
        self.queries.contains(&ALLOCATION_CONTEXT.as_bytes())
    }

    /// Whether `base:allocation` is among what is to be listed: everything, a namespace, or it.
    pub(super) fn lists_allocation(&self) -> bool {
        let all = self.queries.is_empty();
        all || self.queries.contains(&b"base:".as_slice()) || self.chooses_allocation()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contexts(queries: &[&str]) -> Vec<u8> {
        let mut data = vec![0, 0, 0, 1, b'x'];
        data.extend(u32::try_from(queries.len()).unwrap().to_be_bytes());
        for query in queries {
            data.extend(u32::try_from(query.len()).unwrap().to_be_bytes());
            data.extend(query.bytes());
        }
        data
    }

    #[test]
    fn lengths_that_do_not_fit_the_data_are_refused() {
        let good = [0, 0, 0, 2, b'a', b'b', 0, 1, 0, 3];
        let request = InfoRequest::parse(&good).unwrap();
        assert_eq!((request.name, request.wanted), (b"ab".as_slice(), vec![3]));
        for len in 0..good.len() {
            assert!(InfoRequest::parse(&good[..len]).is_none(), "{len}");
        }
        assert!(InfoRequest::parse(&[good.as_slice(), &[0]].concat()).is_none());
        assert!(InfoRequest::parse(&[0xff; 10]).is_none());
        let good = contexts(&["base:allocation", "x"]);
        for len in 0..good.len() {
            assert!(ContextRequest::parse(&good[..len]).is_none(), "{len}");
        }
        assert!(ContextRequest::parse(&[0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff]).is_none());
    }

    #[test]
    fn listing_takes_patterns_and_choosing_does_not() {
        for (queries, lists, chooses) in [
            (&[][..], true, false),
            (&["base:"], true, false),
            (&["qemu:dirty-bitmap:x", "base:allocation"], true, true),
            (&["base"], false, false),
            (&["base:other", ""], false, false),
        ] {
            let data = contexts(queries);
            let request = ContextRequest::parse(&data).unwrap();
            assert_eq!(request.lists_allocation(), lists, "{queries:?}");
            assert_eq!(request.chooses_allocation(), chooses, "{queries:?}");
        }
    }
}

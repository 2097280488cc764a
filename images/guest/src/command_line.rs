//! The kernel's command line.

/// The words of a command line, each `NAME=VALUE`.
#[derive(Clone, Copy, Debug)]
pub struct CommandLine<'a>(&'a [u8]);

impl<'a> CommandLine<'a> {
    /// Wraps the text of a command line.
    pub fn new(text: &'a [u8]) -> Self {
        Self(text)
    }

    /// The value of the first word called `name`.
    pub fn word(&self, name: &str) -> Option<&'a [u8]> {
        let mut words = self.0.split(|&byte| byte == b' ');
        words.find_map(|word| {
            let end = word.iter().position(|&byte| byte == b'=')?;
            let (own, value) = word.split_at(end);
            same(own, name.as_bytes()).then_some(&value[1..])
        })
    }

    /// The number that the word called `name` gives, or `None` where there is no such word or it
    /// is not a number.
    pub fn number(&self, name: &str) -> Option<u64> {
        let text = self.word(name)?;
        let (digits, radix) = match text {
            [b'0', b'x', digits @ ..] => (digits, 16),
            digits => (digits, 10),
        };
        let append = |number: u64, &digit: &u8| {
            let digit = char::from(digit).to_digit(radix)?;
            number
                .checked_mul(u64::from(radix))?
                .checked_add(u64::from(digit))
        };
        digits
            .iter()
            .try_fold(0, append)
            .filter(|_| !digits.is_empty())
    }
}

/// Compares byte by byte: the compiler's own comparison uses SSE.
fn same(left: &[u8], right: &[u8]) -> bool {
    left.len() == right.len() && left.iter().zip(right).all(|(left, right)| left == right)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_found_by_their_whole_name() {
        let line = CommandLine::new(b"quiet test=blk  mytest=1 test=second empty=");
        assert_eq!(line.word("test"), Some(&b"blk"[..]));
        assert_eq!(line.word("tes"), None);
        assert_eq!(line.word("quiet"), None);
        assert_eq!(line.word("empty"), Some(&b""[..]));
    }

    #[test]
    fn numbers_are_decimal_or_hexadecimal() {
        let line = CommandLine::new(b"a=12 b=0xE8000000 c=0x d=12k e= f=18446744073709551616");
        assert_eq!(line.number("a"), Some(12));
        assert_eq!(line.number("b"), Some(0xe800_0000));
        for name in ["c", "d", "e", "f", "g"] {
            assert_eq!(line.number(name), None, "{name}");
        }
    }
}

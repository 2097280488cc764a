//! Patterns for names of executables.

/// A pattern as the shell has it, with `*` and `?`. One with a `/` is for whole paths, one without
/// for the last part of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Glob(Vec<u8>);

impl Glob {
    pub(crate) fn new(pattern: &str) -> Self {
        Self(pattern.as_bytes().to_vec())
    }

    /// Whether the executable at `path` is meant.
    pub(crate) fn matches(&self, path: &[u8]) -> bool {
        let whole = self.0.contains(&b'/');
        let last = path.rsplit(|&byte| byte == b'/').next().unwrap_or(path);
        matches(&self.0, if whole { path } else { last })
    }
}

/// Goes back to the last `*` where the rest does not match, so that the time is at most that of
/// the lengths multiplied, whatever the pattern.
fn matches(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    let mut star = None;
    while t < text.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(&c) if c == b'?' || c == text[t] => {
                p += 1;
                t += 1;
            }
            _ => match star {
                Some((at, from)) => {
                    star = Some((at, from + 1));
                    p = at + 1;
                    t = from + 1;
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|&c| c == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_paths_match_as_in_a_shell() {
        for (pattern, path, expected) in [
            ("gpg", "/usr/bin/gpg", true),
            ("gpg", "gpg", true),
            ("gpg", "/usr/bin/gpg2", false),
            ("gpg?", "/usr/bin/gpg2", true),
            ("*sql*", "/usr/sbin/mysqld", true),
            ("/usr/*/gpg", "/usr/bin/gpg", true),
            ("/usr/*/gpg", "/bin/gpg", false),
            ("*a*b*c", "/x/aabbcbc", true),
            ("*", "", true),
            ("?", "", false),
        ] {
            assert_eq!(
                Glob::new(pattern).matches(path.as_bytes()),
                expected,
                "{pattern} {path}"
            );
        }
    }

    #[test]
    fn a_nasty_pattern_takes_no_longer_than_its_length_by_the_texts() {
        let pattern = "*a".repeat(200);
        assert!(!Glob::new(&pattern).matches(&[b'b'; 4096]));
    }
}

//! What processes did, by what they execute.

use std::collections::HashMap;

use foldhash::fast::RandomState;

use super::Caller;
use super::summary::ProcessRow;
use super::usage::Usage;

/// Executables that are told apart; what others do is counted in one.
const EXECUTABLES_MAX: usize = 1024;
/// What those are called, and those whose executable is not known.
const OTHERS: &str = "(others)";
const UNKNOWN: &str = "(unknown)";

/// An executable, by all its processes.
#[derive(Debug, Default)]
pub(super) struct Executable {
    calls: u64,
    pub(super) usage: Usage,
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Executables {
    by_path: HashMap<Vec<u8>, Executable, RandomState>,
    others: Executable,
}

impl Executables {
    /// Notes a call of a process, of whatever kind.
    pub(super) fn called(&mut self, caller: Caller<'_>) {
        let executable = self.of(caller);
        executable.calls += 1;
        executable.usage.by(caller.pid);
    }

    /// What is known of a process's executable.
    pub(super) fn of(&mut self, caller: Caller<'_>) -> &mut Executable {
        if !self.by_path.contains_key(caller.executable) {
            if self.by_path.len() >= EXECUTABLES_MAX {
                return &mut self.others;
            }
            let path = caller.executable.to_vec();
            self.by_path.insert(path, Executable::default());
        }
        let known = self.by_path.get_mut(caller.executable);
        known.unwrap_or(&mut self.others)
    }

    /// Those with the most bytes come first.
    pub(super) fn rows(&self) -> Vec<ProcessRow> {
        let others = (self.others.calls > 0).then_some((OTHERS.to_owned(), &self.others));
        let known = self.by_path.iter().map(|(path, executable)| {
            let name = match &path[..] {
                [] => UNKNOWN.into(),
                path => String::from_utf8_lossy(path),
            };
            (name.into_owned(), executable)
        });
        let mut rows: Vec<_> = known
            .chain(others)
            .map(|(executable, counted)| ProcessRow {
                executable,
                processes: counted.usage.processes(),
                calls: counted.calls,
                traffic: counted.usage.traffic,
            })
            .collect();
        rows.sort_by(|a, b| {
            let order = b.traffic.bytes().cmp(&a.traffic.bytes());
            order
                .then(b.calls.cmp(&a.calls))
                .then(a.executable.cmp(&b.executable))
        });
        rows
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_executables_than_there_is_room_for_are_one() {
        let mut executables = Executables::default();
        for number in 0..3000_u32 {
            let path = format!("/bin/{number:04}");
            executables.called(Caller {
                executable: path.as_bytes(),
                pid: number,
            });
        }
        let rows = executables.rows();
        assert_eq!(rows.len(), EXECUTABLES_MAX + 1);
        assert_eq!(rows[0].executable, OTHERS);
        assert_eq!(rows[0].calls, 3000 - EXECUTABLES_MAX as u64);
        assert_eq!(rows[1].executable, "/bin/0000");
    }
}

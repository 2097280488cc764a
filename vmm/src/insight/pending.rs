//! Questions that are out: asked of a process, and not answered yet.

use std::collections::HashMap;

use disk::mutant;
use kvm_bindings::kvm_regs;

use super::question::Question;
use super::scratch::Scratch;

/// More at a time are not asked. A process that is killed never answers.
const PENDING_MAX: usize = 4096;

/// A question, and the call that waits for it.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) question: Question,
    /// The process, by its page tables.
    pub(super) cr3: u64,
    /// Its number, if it had said that before.
    pub(super) pid: Option<u32>,
    /// The registers of the call.
    pub(super) call: kvm_regs,
    pub(super) scratch: Option<Scratch>,
    /// How many questions the call has led to.
    pub(super) asked: u32,
    /// How often the answer was overwritten.
    pub(super) tries: u32,
}

/// All of them, by serial number.
#[derive(Debug, Default)]
pub(super) struct PendingQuestions {
    questions: HashMap<u64, Pending>,
    serial: u64,
}

impl PendingQuestions {
    /// The number of the next question.
    pub(super) fn next_serial(&mut self) -> u64 {
        self.serial += 1;
        self.serial
    }

    /// Whether one more may be asked.
    pub(super) fn has_room(&self) -> bool {
        self.questions.len() < PENDING_MAX
    }

    pub(super) fn insert(&mut self, serial: u64, pending: Pending) {
        self.questions.insert(serial, pending);
    }

    /// The question that comes back with these registers, if it was asked of this process, at this
    /// place. A signal handler begins with the registers of what it interrupts: its own calls are
    /// elsewhere.
    pub(super) fn remove(&mut self, cr3: u64, regs: &kvm_regs) -> Option<Pending> {
        let Pending {
            cr3: process, call, ..
        } = self.questions.get(&regs.r9)?;
        let asked = *process == cr3 || mutant("an answer of another process counts");
        if !asked || call.rcx != regs.rcx || call.rsp != regs.rsp {
            return None;
        }
        self.questions.remove(&regs.r9)
    }

    /// Whether there is a question of this number.
    pub(super) fn contains(&self, serial: u64) -> bool {
        self.questions.contains_key(&serial)
    }

    /// A process is gone, and will not answer; returns how many questions that leaves open.
    pub(super) fn forget(&mut self, cr3: u64) -> usize {
        let before = self.questions.len();
        self.questions.retain(|_, pending| pending.cr3 != cr3);
        before - self.questions.len()
    }

    /// Who has these page tables is process `pid` now: others that had them are gone. Returns how many
    /// questions that leaves open.
    pub(super) fn forget_others(&mut self, cr3: u64, pid: u32) -> usize {
        let before = self.questions.len();
        let is_gone =
            |pending: &Pending| pending.cr3 == cr3 && pending.pid.is_some_and(|asked| asked != pid);
        self.questions.retain(|_, pending| !is_gone(pending));
        before - self.questions.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.questions.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pending(cr3: u64) -> Pending {
        Pending {
            question: Question::Pid,
            cr3,
            pid: None,
            call: kvm_regs::default(),
            scratch: None,
            asked: 1,
            tries: 0,
        }
    }

    #[test]
    fn an_answer_counts_once_and_from_whom_was_asked() {
        let mut questions = PendingQuestions::default();
        let serial = questions.next_serial();
        questions.insert(serial, pending(0x1000));
        let regs = kvm_regs {
            r9: serial,
            ..Default::default()
        };
        let other = |change: fn(&mut kvm_regs)| {
            let mut regs = regs;
            change(&mut regs);
            regs
        };
        assert!(questions.remove(0x2000, &regs).is_none());
        for elsewhere in [
            other(|regs| regs.r9 += 1),
            other(|regs| regs.rcx += 2),
            other(|regs| regs.rsp += 8),
        ] {
            assert!(questions.remove(0x1000, &elsewhere).is_none());
        }
        assert!(questions.remove(0x1000, &regs).is_some());
        assert!(questions.remove(0x1000, &regs).is_none());
    }

    #[test]
    fn who_had_the_page_tables_before_answers_no_more() {
        let mut questions = PendingQuestions::default();
        for (cr3, pid) in [
            (0x1000, Some(10)),
            (0x1000, Some(11)),
            (0x1000, None),
            (0x2000, Some(10)),
        ] {
            let serial = questions.next_serial();
            let pending = Pending {
                pid,
                ..pending(cr3)
            };
            questions.insert(serial, pending);
        }
        assert_eq!(questions.forget_others(0x1000, 11), 1);
        assert!(!questions.contains(1));
        assert!([2, 3, 4].iter().all(|&serial| questions.contains(serial)));
    }

    #[test]
    fn there_are_never_more_than_there_is_room_for() {
        let mut questions = PendingQuestions::default();
        while questions.has_room() {
            let serial = questions.next_serial();
            questions.insert(serial, pending(serial % 2));
        }
        assert_eq!(questions.questions.len(), PENDING_MAX);
        assert_eq!(questions.forget(1), PENDING_MAX / 2);
        assert!(questions.has_room());
    }
}

//! The code, decoded, and run by an interpreter of the few instructions that it has.

use std::collections::{BTreeMap, BTreeSet};

use iced_x86::{
    Code, Decoder, DecoderOptions, FlowControl, Instruction, Mnemonic, OpKind, Register,
};

use super::*;

const WINDOW: u64 = 0xffff_ffff_bfc0_0000;
const CPU: u8 = 3;
const ENTRY: u64 = 0xffff_ffff_81a0_0080;
const PROCESS: u64 = 0x1234_5000;
const NONCE: u64 = 0x7777;
const MAGIC: u64 = 0x8888;
const FD: u64 = 5;
/// What the instructions of interest say, in the order of the bits of RFLAGS.
const CARRY: u64 = 1;
const ZERO: u64 = 1 << 6;

fn decode() -> Vec<Instruction> {
    let code = assemble(WINDOW, CPU, ENTRY).unwrap();
    let decoder = Decoder::with_ip(64, &code, address(WINDOW, CPU), DecoderOptions::NONE);
    decoder.into_iter().collect()
}

/// Where its data is, and what it shares.
fn own(at: usize) -> u64 {
    address(WINDOW, CPU) + DATA_DISTANCE + at as u64
}

fn common(at: usize) -> u64 {
    WINDOW + DATA_DISTANCE + SHARED + at as u64
}

/// The word of the process's descriptors that are quiet when they are read, or written.
fn quiet(writes: bool) -> u64 {
    let process = process_bit(PROCESS) * QUIET_BYTES as u64;
    common(shared::QUIET) + process + 8 * u64::from(writes)
}

/// A vCPU at the stub.
struct Cpu {
    code: Vec<Instruction>,
    registers: BTreeMap<Register, u64>,
    flags: u64,
    /// Words of memory, by address.
    memory: BTreeMap<u64, u64>,
    exits: u32,
}

impl Cpu {
    /// A process that is watched makes a call.
    fn new(number: u64, arguments: [u64; 4]) -> Self {
        let mut cpu = Self {
            code: decode(),
            registers: BTreeMap::new(),
            flags: 0,
            memory: BTreeMap::new(),
            exits: 0,
        };
        let [rdi, rsi, rdx, r10] = arguments;
        for (register, value) in [
            (Register::RAX, number),
            (Register::RBX, 0xb),
            (Register::RCX, 0xc),
            (Register::RDX, rdx),
            (Register::RDI, rdi),
            (Register::RSI, rsi),
            (Register::R8, 8),
            (Register::R9, 9),
            (Register::R10, r10),
            (Register::CR3, PROCESS),
        ] {
            cpu.registers.insert(register, value);
        }
        cpu.memory.insert(own(data::NONCE), NONCE);
        cpu.memory.insert(own(data::MAGIC), MAGIC);
        let process = usize::try_from(process_bit(PROCESS)).unwrap();
        cpu.set(common(shared::PROCESSES), process);
        for (calls, at) in [
            (&[59][..], data::ALWAYS),
            (&[0, 1, 3, 8], data::WATCHED_CALLS),
            (&[0], data::READS),
            (&[1], data::WRITES),
            (&[3], data::CLOSES),
        ] {
            for &call in calls {
                cpu.set(own(at), call);
            }
        }
        cpu
    }

    fn set(&mut self, at: u64, bit: usize) {
        *self.memory.entry(at + bit as u64 / 64 * 8).or_default() |= 1 << (bit % 64);
    }

    fn word(&self, at: u64) -> u64 {
        assert_eq!(at % 4, 0);
        let word = self.memory.get(&(at & !7)).copied().unwrap_or_default();
        word >> (at % 8 * 8)
    }

    fn note(&self, number: usize) -> [u64; 7] {
        let at = own(data::NOTES + number * note::BYTES);
        std::array::from_fn(|word| self.word(at + 8 * word as u64))
    }

    fn noted(&self) -> u64 {
        self.word(own(data::NOTED)) & 0xffff_ffff
    }

    /// Runs the stub to its end, which leaves all registers as they were. How often it exits.
    fn run(&mut self) -> u32 {
        let before = self.registers.clone();
        self.exits = 0;
        let mut ip = address(WINDOW, CPU);
        for _ in 0..200 {
            if ip == ENTRY {
                assert_eq!(self.registers, before);
                return self.exits;
            }
            let instruction = *self.code.iter().find(|i| i.ip() == ip).unwrap();
            ip = self.step(&instruction);
        }
        panic!("there is no end");
    }

    fn step(&mut self, i: &Instruction) -> u64 {
        let taken = match i.mnemonic() {
            Mnemonic::Je => self.flags & ZERO != 0,
            Mnemonic::Jb => self.flags & CARRY != 0,
            Mnemonic::Jae => self.flags & CARRY == 0,
            Mnemonic::Ja => self.flags & (CARRY | ZERO) == 0,
            Mnemonic::Jmp => true,
            _ => {
                self.execute(i);
                false
            }
        };
        if taken {
            i.near_branch_target()
        } else {
            i.next_ip()
        }
    }

    fn execute(&mut self, i: &Instruction) {
        match i.mnemonic() {
            Mnemonic::Cmp => {
                let (a, b) = (self.read(i, 0), self.read(i, 1));
                self.flags = if a < b { CARRY } else { 0 } | if a == b { ZERO } else { 0 };
            }
            Mnemonic::Endbr64 => {}
            Mnemonic::Bt | Mnemonic::Btr => self.bit(i),
            Mnemonic::Lea => {
                let address = self.address(i);
                self.write(i, 0, address);
            }
            Mnemonic::Xadd => {
                let (old, added) = (self.read(i, 0), self.read(i, 1));
                self.write(i, 0, old.wrapping_add(added));
                self.write(i, 1, old);
            }
            Mnemonic::Out => {
                assert_eq!(self.registers[&Register::RAX], self.word(own(data::RAX)));
                assert_eq!(i.ip(), address(WINDOW, CPU) + out_offset());
                self.exits += 1;
            }
            Mnemonic::Imul => {
                let product = self.read(i, 1).wrapping_mul(self.read(i, 2));
                self.write(i, 0, product);
            }
            other => {
                let (old, by) = (
                    self.read(i, 0),
                    if i.op_count() > 1 { self.read(i, 1) } else { 1 },
                );
                let new = match other {
                    Mnemonic::Mov => by,
                    Mnemonic::And => old & by,
                    Mnemonic::Shr => old >> by,
                    Mnemonic::Shl => old << by,
                    Mnemonic::Add | Mnemonic::Inc => old.wrapping_add(by),
                    Mnemonic::Sub => old.wrapping_sub(by),
                    _ => panic!("{other:?} is no instruction of the stub"),
                };
                self.write(i, 0, new);
            }
        }
    }

    /// Tests a bit, of a register, or of a word in memory or behind it.
    fn bit(&mut self, i: &Instruction) {
        let bit = self.registers[&i.op1_register()];
        if i.op0_kind() == OpKind::Register {
            self.flags = self.registers[&i.op0_register()] >> (bit % 64) & 1;
            return;
        }
        let at = self.address(i) + bit / 64 * 8;
        let (word, mask) = (self.word(at), 1 << (bit % 64));
        self.flags = u64::from(word & mask != 0);
        if i.mnemonic() == Mnemonic::Btr {
            assert!(i.has_lock_prefix());
            self.memory.insert(at, word & !mask);
        }
    }

    fn address(&self, i: &Instruction) -> u64 {
        let register = |register| match register {
            Register::None | Register::RIP => 0,
            register => self.registers[&register],
        };
        let scaled = register(i.memory_index()) * u64::from(i.memory_index_scale());
        let at = i
            .memory_displacement64()
            .wrapping_add(register(i.memory_base()));
        at.wrapping_add(scaled)
    }

    fn read(&self, i: &Instruction, operand: u32) -> u64 {
        match i.op_kind(operand) {
            OpKind::Register => {
                let register = i.op_register(operand);
                let value = self.registers[&register.full_register()];
                if register.size() == 4 {
                    value & 0xffff_ffff
                } else {
                    value
                }
            }
            OpKind::Memory if i.memory_size().size() == 4 => {
                self.word(self.address(i)) & 0xffff_ffff
            }
            OpKind::Memory => self.word(self.address(i)),
            _ => i.immediate(operand),
        }
    }

    fn write(&mut self, i: &Instruction, operand: u32, value: u64) {
        if i.op_kind(operand) == OpKind::Register {
            let register = i.op_register(operand);
            let value = if register.size() == 4 {
                value & 0xffff_ffff
            } else {
                value
            };
            assert!(matches!(
                register.full_register(),
                Register::RAX | Register::RBX
            ));
            self.registers.insert(register.full_register(), value);
            return;
        }
        let at = self.address(i);
        let in_data = (own(0)..own(0) + STRIDE).contains(&at);
        assert!(
            in_data || at == common(shared::SERIAL),
            "{at:#x} is not its own"
        );
        if i.memory_size().size() == 4 {
            let kept = self.word(at & !7) & !(0xffff_ffff << (at % 8 * 8));
            self.memory
                .insert(at & !7, kept | (value & 0xffff_ffff) << (at % 8 * 8));
        } else {
            self.memory.insert(at, value);
        }
    }
}

#[test]
fn what_is_of_no_interest_goes_on() {
    // Another call; and another process.
    assert_eq!(Cpu::new(39, [FD, 0, 0, 0]).run(), 0);
    let mut other = Cpu::new(0, [FD, 0, 0, 0]);
    other.registers.insert(Register::CR3, PROCESS ^ 0x2000);
    assert_eq!(other.run(), 0);
    assert_eq!(other.noted(), 0);
    // Its PCID.
    other.registers.insert(Register::CR3, PROCESS | 3);
    assert_eq!(other.run(), 1);
}

#[test]
fn what_is_of_interest_exits() {
    for (number, r8) in [(59, 8), (0, 8), (1, 8), (8, 8), (39, NONCE), (39, MAGIC)] {
        let mut cpu = Cpu::new(number, [FD, 0, 0, 0]);
        cpu.registers.insert(Register::R8, r8);
        assert_eq!(cpu.run(), 1, "{number} {r8}");
        assert_eq!((cpu.noted(), cpu.word(own(data::CR3))), (0, PROCESS));
    }
}

#[test]
fn what_is_quiet_is_noted() {
    for (number, writes) in [(0, false), (1, true)] {
        let mut cpu = Cpu::new(number, [FD, 1, 2, 3]);
        cpu.memory.insert(common(shared::SERIAL), 70);
        cpu.set(quiet(writes), 5);
        assert_eq!((cpu.run(), cpu.run()), (0, 0));
        assert_eq!(cpu.noted(), 2);
        assert_eq!(cpu.note(0), [number, FD, 1, 2, 3, PROCESS, 70]);
        assert_eq!(cpu.note(1)[6], 71);
        for fd in [4, FD + 64, FD | 1 << 32] {
            cpu.registers.insert(Register::RDI, fd);
            assert_eq!(cpu.run(), 1, "{fd}");
        }
        // The other of the two is not quiet.
        cpu.registers.insert(Register::RDI, FD);
        cpu.registers.insert(Register::RAX, 1 - number);
        assert_eq!((cpu.run(), cpu.noted()), (1, 2));
    }
}

#[test]
fn what_is_closed_is_not_quiet_any_more() {
    let mut cpu = Cpu::new(3, [FD, 1, 2, 3]);
    for writes in [false, true] {
        for fd in [4, 5] {
            cpu.set(quiet(writes), fd);
        }
    }
    assert_eq!(cpu.run(), 0);
    assert_eq!(cpu.note(0)[..2], [3, FD]);
    assert_eq!(
        [false, true].map(|writes| cpu.word(quiet(writes))),
        [1 << 4; 2]
    );
    cpu.registers.insert(Register::RAX, 0);
    assert_eq!(cpu.run(), 1);
}

#[test]
fn there_is_room_for_so_many_notes() {
    // The counters go around.
    let start = 0xffff_fff0_u64;
    let mut cpu = Cpu::new(0, [FD, 0, 0, 0]);
    cpu.memory.insert(own(data::NOTED), start | start << 32);
    cpu.set(quiet(false), 5);
    for _ in 0..NOTES_MAX {
        assert_eq!(cpu.run(), 0);
    }
    assert_eq!(
        cpu.noted(),
        start.wrapping_add(NOTES_MAX.into()) & 0xffff_ffff
    );
    assert_eq!(cpu.run(), 1);
    assert_eq!(cpu.note(16)[6], 0);
    cpu.memory
        .insert(own(data::NOTED), cpu.noted() | cpu.noted() << 32);
    assert_eq!(cpu.run(), 0);
}

#[test]
fn nothing_jumps_out_of_it_but_to_the_entry() {
    let code = decode();
    let mut entries = 0;
    for instruction in &code {
        match instruction.flow_control() {
            FlowControl::Next => {}
            FlowControl::UnconditionalBranch | FlowControl::ConditionalBranch => {
                let target = instruction.near_branch_target();
                entries += u32::from(target == ENTRY);
                assert!(target == ENTRY || code.iter().any(|i| i.ip() == target));
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(entries, 1);
    assert_eq!(code.last().unwrap().code(), Code::Jmp_rel32_64);
}

/// A number of the process's own is compared, and a processor may guess how that ends.
#[test]
fn no_guess_leads_out_of_the_bitmaps() {
    let code = decode();
    let in_memory = |i: &&Instruction| {
        matches!(i.mnemonic(), Mnemonic::Bt | Mnemonic::Btr) && i.op0_kind() == OpKind::Memory
    };
    for bit in code.iter().filter(in_memory) {
        assert_eq!(bit.op1_register(), Register::RAX);
        let before = code.iter().take_while(|i| i.ip() < bit.ip());
        let of_rax = |i: &Instruction| {
            let written = i.op0_kind() == OpKind::Register && i.mnemonic() != Mnemonic::Bt;
            written && i.op0_register().full_register() == Register::RAX
        };
        let last = before.filter(|i| of_rax(i)).last().unwrap();
        let masks = matches!(last.mnemonic(), Mnemonic::And | Mnemonic::Shr);
        assert!(masks, "{:?}", last.mnemonic());
    }
}

#[test]
fn page_tables_next_to_each_other_are_told_apart() {
    for step in [1, 2] {
        let bits = (0..256).map(|number| process_bit(0x1_2345_6000 + ((number * step) << 12)));
        assert_eq!(bits.collect::<BTreeSet<_>>().len(), 256);
    }
    assert_eq!(process_bit(u64::MAX), process_bit(0x0fff_ffff_ffff_f000));
    assert!(process_bit(u64::MAX) < PROCESS_BITS);
}

#[test]
fn it_begins_where_an_indirect_branch_may_lead() {
    assert_eq!(decode()[0].code(), Code::Endbr64);
}

#[test]
fn the_out_is_where_it_is_said_to_be() {
    let code = assemble(WINDOW, CPU, ENTRY).unwrap();
    let at = usize::try_from(out_offset()).unwrap();
    assert_eq!(code[at..at + 2], [0xe6, u8::try_from(PORT).unwrap()]);
}

#[test]
fn an_entry_out_of_reach_is_refused() {
    assert!(assemble(WINDOW, 0, WINDOW - (1 << 31)).is_none());
    assert!(assemble(WINDOW, 0, 0x7fff_0000_1000).is_none());
}

use iced_x86::{Code, Decoder, DecoderOptions, FlowControl, Instruction, Mnemonic, Register};

use super::*;

const ADDRESS: u64 = 0xffff_ffff_bfc0_0000;
const ENTRY: u64 = 0xffff_ffff_81a0_0080;

fn decode(code: &[u8]) -> Vec<Instruction> {
    let decoder = Decoder::with_ip(64, code, ADDRESS, DecoderOptions::NONE);
    decoder.into_iter().collect()
}

/// Where in a copy's data an instruction reads or writes.
fn data_of(instruction: &Instruction) -> Option<u64> {
    instruction
        .is_ip_rel_memory_operand()
        .then(|| instruction.memory_displacement64() - ADDRESS - DATA_DISTANCE)
}

#[test]
fn it_decodes_to_what_was_meant() {
    let code = assemble(ADDRESS, ENTRY).unwrap();
    let seen: Vec<_> = decode(&code)
        .iter()
        .map(|i| (i.code(), data_of(i)))
        .collect();
    let at = |offset: usize| Some(offset as u64);
    assert_eq!(
        seen,
        [
            (Code::Mov_rm64_r64, at(data::SCRATCH)),
            (Code::Cmp_r64_rm64, at(data::NONCE)),
            (Code::Je_rel8_64, None),
            (Code::Cmp_r64_rm64, at(data::MAGIC)),
            (Code::Je_rel8_64, None),
            (Code::And_EAX_imm32, None),
            (Code::Bt_rm64_r64, at(data::ALWAYS)),
            (Code::Jb_rel8_64, None),
            (Code::Bt_rm64_r64, at(data::WATCHED_CALLS)),
            (Code::Jae_rel8_64, None),
            (Code::Mov_r64_cr, None),
            (Code::Shr_rm64_imm8, None),
            (Code::And_EAX_imm32, None),
            (Code::Bt_rm64_r64, at(data::PROCESSES)),
            (Code::Jae_rel8_64, None),
            (Code::Mov_r64_cr, None),
            (Code::Mov_rm64_r64, at(data::CR3)),
            (Code::Mov_r64_rm64, at(data::SCRATCH)),
            (Code::Out_imm8_AL, None),
            (Code::Jmp_rel8_64, None),
            (Code::Mov_r64_rm64, at(data::SCRATCH)),
            (Code::Jmp_rel32_64, None),
        ]
    );
}

/// Follows every path through the code: each ends at the kernel's entry, with RAX as it was, and
/// through the `OUT` or not.
#[test]
fn every_path_ends_at_the_entry_with_rax_restored() {
    let code = assemble(ADDRESS, ENTRY).unwrap();
    let instructions = decode(&code);
    let end = ADDRESS + code.len() as u64;
    let mut paths = vec![(ADDRESS, false)];
    let mut ends = 0;
    while let Some((ip, mut restored)) = paths.pop() {
        if ip == ENTRY {
            assert!(restored, "RAX is not what the program had");
            ends += 1;
            continue;
        }
        assert!((ADDRESS..end).contains(&ip), "{ip:#x} is outside");
        let instruction = instructions.iter().find(|i| i.ip() == ip).unwrap();
        let writes_rax = matches!(
            instruction.mnemonic(),
            Mnemonic::Mov | Mnemonic::And | Mnemonic::Shr
        ) && matches!(instruction.op0_register(), Register::RAX | Register::EAX);
        if writes_rax {
            restored = data_of(instruction) == Some(data::SCRATCH as u64);
        }
        match instruction.flow_control() {
            FlowControl::Next => paths.push((instruction.next_ip(), restored)),
            FlowControl::UnconditionalBranch => {
                paths.push((instruction.near_branch_target(), restored));
            }
            FlowControl::ConditionalBranch => {
                paths.push((instruction.near_branch_target(), restored));
                paths.push((instruction.next_ip(), restored));
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(ends, 6);
}

#[test]
fn it_writes_its_own_data_alone_and_no_register_but_rax() {
    let code = assemble(ADDRESS, ENTRY).unwrap();
    for instruction in decode(&code) {
        let writes = matches!(
            instruction.mnemonic(),
            Mnemonic::Mov | Mnemonic::And | Mnemonic::Shr
        );
        if writes && instruction.op0_register() == Register::None {
            let at = usize::try_from(data_of(&instruction).unwrap()).unwrap();
            assert!([data::SCRATCH, data::CR3].contains(&at));
        } else if writes {
            assert!(matches!(
                instruction.op0_register(),
                Register::RAX | Register::EAX
            ));
        }
    }
}

#[test]
fn the_out_is_where_it_is_said_to_be() {
    let code = assemble(ADDRESS, ENTRY).unwrap();
    let at = usize::try_from(out_offset()).unwrap();
    assert_eq!(code[at..at + 2], [0xe6, u8::try_from(PORT).unwrap()]);
}

#[test]
fn an_entry_out_of_reach_is_refused() {
    assert!(assemble(ADDRESS, ADDRESS - (1 << 31)).is_none());
    assert!(assemble(ADDRESS, 0x7fff_0000_1000).is_none());
}

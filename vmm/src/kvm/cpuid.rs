//! What the guest's CPUID instruction says: what KVM supports, with the topology of this machine,
//! which is one package of single-threaded cores whose APIC IDs are their numbers.
//!
//! Intel SDM volume 2A "CPUID", AMD APM volume 3 appendix E.

use anyhow::{Context, Result, anyhow};
use kvm_bindings::{CpuId, KVM_MAX_CPUID_ENTRIES, kvm_cpuid_entry2};
use kvm_ioctls::{Cap, Kvm};

const FEATURES: u32 = 0x1;
const CACHES_INTEL: u32 = 0x4;
const TOPOLOGY: u32 = 0xb;
const TOPOLOGY_V2: u32 = 0x1f;
const ADDRESS_SIZES: u32 = 0x8000_0008;
const CACHES_AMD: u32 = 0x8000_001d;
const TOPOLOGY_AMD: u32 = 0x8000_001e;

const FEATURES_AMD: u32 = 0x8000_0001;

const ECX_VMX: u32 = 1 << 5;
const ECX_SVM_AMD: u32 = 1 << 2;
const ECX_TSC_DEADLINE: u32 = 1 << 24;
const ECX_HYPERVISOR: u32 = 1 << 31;
const EDX_HTT: u32 = 1 << 28;

/// The host's answer to CPUID, from which each vCPU's is made.
pub(crate) struct Cpuid {
    supported: CpuId,
    tsc_deadline: bool,
    cpus: u8,
    /// Whether the guest may have guests itself.
    nests: bool,
}

impl Cpuid {
    /// Reads what the host supports, for a machine of `cpus` vCPUs that may have guests itself, or not.
    pub(crate) fn new(kvm: &Kvm, cpus: u8, nests: bool) -> Result<Self> {
        let supported = supported(kvm)?;
        let tsc_deadline = kvm.check_extension(Cap::TscDeadlineTimer);
        Ok(Self {
            supported,
            tsc_deadline,
            cpus,
            nests,
        })
    }

    /// The leaves for vCPU number `cpu`.
    pub(crate) fn for_cpu(&self, cpu: u8) -> Result<CpuId> {
        let supported = self.supported.as_slice();
        let is_topology = |function| matches!(function, TOPOLOGY | TOPOLOGY_V2);
        let mut entries: Vec<_> = supported
            .iter()
            .filter(|entry| !is_topology(entry.function))
            .map(|entry| self.adapt(*entry, cpu))
            .collect();
        // KVM since Linux 6.2 gives only the first level of these, empty; the guest needs them all.
        for first in supported
            .iter()
            .filter(|entry| is_topology(entry.function) && entry.index == 0)
        {
            entries.extend((0..=2).map(|level| self.topology_level(*first, level, cpu)));
        }
        CpuId::from_entries(&entries).map_err(|error| anyhow!("too many CPUID leaves: {error:?}"))
    }

    fn adapt(&self, mut entry: kvm_cpuid_entry2, cpu: u8) -> kvm_cpuid_entry2 {
        let cores = u32::from(self.cpus);
        match entry.function {
            FEATURES => self.adapt_features(&mut entry, cpu),
            FEATURES_AMD if !self.nests => entry.ecx &= !ECX_SVM_AMD,
            CACHES_INTEL => {
                // Bits 31:26 number the cores of the package less one; bits 25:14 the threads that
                // share the cache less one: level 3 is shared by all, the others by none.
                let level = (entry.eax >> 5) & 7;
                let sharing = if level >= 3 { cores - 1 } else { 0 };
                entry.eax = (entry.eax & 0x3fff) | (sharing << 14) | ((cores - 1).min(63) << 26);
            }
            ADDRESS_SIZES => {
                entry.ecx = (entry.ecx & !0xf0ff) | (cores - 1) | (self.apic_id_bits() << 12);
            }
            CACHES_AMD => {
                let level = (entry.eax >> 5) & 7;
                let sharing = if level >= 3 { cores - 1 } else { 0 };
                entry.eax = (entry.eax & !(0xfff << 14)) | (sharing << 14);
            }
            TOPOLOGY_AMD => {
                entry.eax = u32::from(cpu);
                entry.ebx = u32::from(cpu);
                entry.ecx = 0;
            }
            _ => {}
        }
        entry
    }

    fn adapt_features(&self, entry: &mut kvm_cpuid_entry2, cpu: u8) {
        // Bits 31:24 are the initial APIC ID, bits 23:16 the number of logical processors.
        entry.ebx = (entry.ebx & 0xffff) | (u32::from(self.cpus) << 16) | (u32::from(cpu) << 24);
        entry.ecx |= ECX_HYPERVISOR;
        if self.tsc_deadline {
            entry.ecx |= ECX_TSC_DEADLINE;
        }
        if !self.nests {
            entry.ecx &= !ECX_VMX;
        }
        entry.edx &= !EDX_HTT;
        if self.cpus > 1 {
            entry.edx |= EDX_HTT;
        }
    }

    /// The extended topology leaves: level 0 is one thread a core, level 1 the cores.
    fn topology_level(&self, first: kvm_cpuid_entry2, index: u32, cpu: u8) -> kvm_cpuid_entry2 {
        let (shift, count, kind) = match index {
            0 => (0, 1, 1),
            1 => (self.apic_id_bits(), u32::from(self.cpus), 2),
            _ => (0, 0, 0),
        };
        kvm_cpuid_entry2 {
            index,
            eax: shift,
            ebx: count,
            ecx: index | (kind << 8),
            edx: u32::from(cpu),
            ..first
        }
    }

    /// How many low bits of an APIC ID tell the package's cores apart.
    fn apic_id_bits(&self) -> u32 {
        u32::from(self.cpus).next_power_of_two().trailing_zeros()
    }
}

/// How many bits a guest physical address has.
pub(crate) fn physical_address_bits(kvm: &Kvm) -> Result<u8> {
    let supported = supported(kvm)?;
    let sizes = supported
        .as_slice()
        .iter()
        .find(|entry| entry.function == ADDRESS_SIZES);
    // 36 is what processors without the leaf have.
    Ok(sizes.map_or(36, |entry| entry.eax.to_le_bytes()[0]))
}

fn supported(kvm: &Kvm) -> Result<CpuId> {
    kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
        .context("KVM_GET_SUPPORTED_CPUID failed")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cpuid(cpus: u8, functions: &[(u32, u32)]) -> Cpuid {
        let entries: Vec<_> = functions
            .iter()
            .map(|&(function, index)| kvm_cpuid_entry2 {
                function,
                index,
                ..Default::default()
            })
            .collect();
        let supported = CpuId::from_entries(&entries).unwrap();
        Cpuid {
            supported,
            tsc_deadline: true,
            cpus,
            nests: true,
        }
    }

    #[test]
    fn each_cpu_names_its_own_apic_id_everywhere() {
        let cpuid = cpuid(4, &[(FEATURES, 0), (TOPOLOGY, 0), (TOPOLOGY_AMD, 0)]);
        for cpu in 0..4 {
            let leaves = cpuid.for_cpu(cpu).unwrap();
            let leaves = leaves.as_slice();
            assert_eq!(leaves[0].ebx >> 24, u32::from(cpu));
            assert_eq!(leaves[1].eax, u32::from(cpu));
            assert!(leaves[2..].iter().all(|leaf| leaf.edx == u32::from(cpu)));
        }
    }

    #[test]
    fn the_topology_is_one_package_of_single_threaded_cores() {
        // What KVM says since Linux 6.2: one level of the topology, and nothing in it.
        let leaves = cpuid(3, &[(TOPOLOGY, 0), (ADDRESS_SIZES, 0)]);
        let leaves = leaves.for_cpu(0).unwrap();
        let [sizes, threads, cores, end] = leaves.as_slice() else {
            panic!("four leaves")
        };
        assert_eq!((cores.index, end.index), (1, 2));
        assert_eq!((end.eax, end.ebx, end.ecx), (0, 0, 2));
        assert_eq!((threads.eax, threads.ebx, threads.ecx), (0, 1, 0x100));
        assert_eq!((cores.eax, cores.ebx, cores.ecx), (2, 3, 0x201));
        assert_eq!(sizes.ecx, 2 | (2 << 12));
    }

    #[test]
    fn a_guest_that_may_have_none_is_offered_no_virtualization() {
        let leaf = |function| kvm_cpuid_entry2 {
            function,
            ecx: u32::MAX,
            ..Default::default()
        };
        let supported = CpuId::from_entries(&[leaf(FEATURES), leaf(FEATURES_AMD)]).unwrap();
        for (nests, expected) in [(true, [u32::MAX; 2]), (false, [!(1 << 5), !(1 << 2)])] {
            let cpuid = Cpuid {
                supported: supported.clone(),
                tsc_deadline: true,
                cpus: 1,
                nests,
            };
            let leaves = cpuid.for_cpu(0).unwrap();
            let leaves = leaves.as_slice();
            assert_eq!([leaves[0].ecx, leaves[1].ecx], expected);
        }
    }

    #[test]
    fn hyper_threading_is_announced_only_with_more_than_one_cpu() {
        for (cpus, expected) in [(1, 0), (2, EDX_HTT)] {
            let leaves = cpuid(cpus, &[(FEATURES, 0)]).for_cpu(0).unwrap();
            assert_eq!(leaves.as_slice()[0].edx & EDX_HTT, expected);
        }
    }
}

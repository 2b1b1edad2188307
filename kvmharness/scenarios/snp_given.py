# SPDX-License-Identifier: MIT
"""What a VMM gives to KVM for an SNP launch, and whether the firmware is given the same.

Each field is one that no other scenario looks at, with a value that stands for nothing else.
Whatever the firmware was given otherwise is in the outcome's `lost`, and fails the scenario.
"""

from __future__ import annotations

import functools
import hashlib
import struct

from kvmharness.kvm.debug import DebugRegs
from kvmharness.kvm.fpu import Xcr, Xcrs
from kvmharness.kvm.mapping import PAGE_SIZE
from kvmharness.kvm.vcpu import Vcpu
from kvmharness.launch.sev import DEFAULT_POLICY, PageType, SnpPolicy, supported_vmsa_features
from kvmharness.machine.machine import Machine
from kvmharness.measure.vmsa import make_vmsa
from kvmharness.scenarios.snp_bench import SnpBench, snp_scenario

_GOSVW = bytes(range(0x10, 0x20))
_HOST_DATA = bytes(range(0x40, 0x60))
_SEV_SNP_ACTIVE = 1 << 0
_SECURE_TSC = 1 << 9
#: KVM_SET_TSC_KHZ of a guest whose TSC the firmware is to scale.
_TSC_KHZ = 1_234_567


@snp_scenario("snp.given.start", "LAUNCH_START with every policy bit and gosvw set", "standin")
def _given_start(bench: SnpBench) -> None:
    policies = (
        DEFAULT_POLICY | 0x0107,
        DEFAULT_POLICY | SnpPolicy.DEBUG | SnpPolicy.SINGLE_SOCKET,
        DEFAULT_POLICY | 0x0100,
    )
    for policy in policies:
        machine = bench.make()
        started = bench.step("LAUNCH_START", machine.try_.snp.launch_start(policy, gosvw=_GOSVW))
        if started.ok:
            bench.begin_digest()
            bench.wants(policy=hex(policy), gosvw=_GOSVW.hex())
            bench.check()
        machine.close()


@snp_scenario("snp.given.pages", "two pages of each type from contents of their own", "standin")
def _given_pages(bench: SnpBench) -> None:
    _ = bench.machine
    for number, type_ in enumerate(PageType):
        cpuid = bytes(2 * PAGE_SIZE) if type_ is PageType.CPUID else None
        bench.populate(8 * number + 1, 2, bench.source("aligned", 2, cpuid), type_)


@snp_scenario("snp.given.finish", "LAUNCH_FINISH with host data and without a VCEK", "standin")
def _given_finish(bench: SnpBench) -> None:
    finish = bench.machine.try_.snp.launch_finish
    bench.step("LAUNCH_FINISH", finish(host_data=_HOST_DATA, vcek_disabled=True))
    bench.wants(**{"finish": "1", "finish.flags": "4", "finish.host_data": _HOST_DATA.hex()})


@snp_scenario("snp.given.finish_bare", "LAUNCH_FINISH without anything", "standin")
def _given_finish_bare(bench: SnpBench) -> None:
    bench.step("LAUNCH_FINISH", bench.machine.try_.snp.launch_finish())
    bench.wants(**{"finish": "1", "finish.flags": "0", "finish.host_data": bytes(32).hex()})


def _id_block(bench: SnpBench, author: bool) -> None:
    # The stand-in looks at digest and policy of an ID block; no signature is made or checked.
    bench.populate(0, 1, bench.source("aligned", 1))
    digest = bytes.fromhex(bench.predicted_digest() or "")
    block = digest + bytes(range(32)) + struct.pack("<IIQ", 1, 7, DEFAULT_POLICY)
    auth = struct.pack("<II", 1, 1) + bytes(index % 251 for index in range(PAGE_SIZE - 8))
    finish = bench.machine.try_.snp.launch_finish
    bench.step("LAUNCH_FINISH", finish(id_block=block, id_auth=auth, auth_key_en=author))
    bench.wants(
        **{
            "finish.flags": "3" if author else "1",
            "finish.id_block": block.hex(),
            "finish.id_auth_sha384": hashlib.sha384(auth).hexdigest(),
        }
    )


@snp_scenario("snp.given.id_block", "LAUNCH_FINISH with an ID block", "standin")
def _given_id_block(bench: SnpBench) -> None:
    _id_block(bench, author=False)


@snp_scenario("snp.given.author_key", "LAUNCH_FINISH with an ID block and author key", "standin")
def _given_author_key(bench: SnpBench) -> None:
    _id_block(bench, author=True)


@snp_scenario(
    "snp.given.id_block_wrong", "LAUNCH_FINISH with the ID block of another digest, policy"
)
def _given_id_block_wrong(bench: SnpBench) -> None:
    for policy in (0, DEFAULT_POLICY):
        machine = bench.make_ready()
        bench.populate(0, 1, bench.source("aligned", 1))
        digest = bytes.fromhex(bench.predicted_digest() or "") if not policy else bytes(48)
        block = digest + bytes(32) + struct.pack("<IIQ", 1, 0, policy)
        auth = struct.pack("<II", 1, 1).ljust(PAGE_SIZE, b"\0")
        finish = machine.try_.snp.launch_finish
        bench.step("LAUNCH_FINISH", finish(id_block=block, id_auth=auth))
        machine.close()
    bench.forget_digest()


@snp_scenario("snp.given.tsc", "INIT2 with a secure TSC, and a frequency of the VM's", "standin")
def _given_tsc(bench: SnpBench) -> None:
    machine = bench.make(initialized=False)
    bench.step("KVM_SEV_INIT2", machine.try_.snp.init2(_SECURE_TSC))
    machine.set_tsc_khz(_TSC_KHZ)
    started = bench.step("LAUNCH_START", machine.try_.snp.launch_start())
    if started.ok:
        bench.begin_digest()
        bench.wants(tsc_khz=str(_TSC_KHZ))


# ------------------------------------------------------------------ VMSAs

_MSRS = {
    "star": 0xC0000081,
    "lstar": 0xC0000082,
    "cstar": 0xC0000083,
    "sfmask": 0xC0000084,
    "kernel_gs_base": 0xC0000102,
    "sysenter_cs": 0x174,
    "sysenter_esp": 0x175,
    "sysenter_eip": 0x176,
    "g_pat": 0x277,
}
_GENERAL = ("rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rsp", "rbp", "rip")
_SEGMENTS = ("es", "cs", "ss", "ds", "fs", "gs", "tr", "ldt")
_EFER_SVME = 1 << 12
_DR6_FIXED = 0xFFFF0FF0
_DR7_FIXED = 0x400
_CR4_OSXSAVE = 1 << 18
_CR4_MCE = 1 << 6
#: Of PAT: uncacheable, write-combining, write-through, write-protected.
_MEMORY_TYPES = (0, 1, 4, 5)


def _fill(vcpu: Vcpu, seed: int, features: int) -> bytes:
    """Give a vCPU registers that are all different; return the VMSA that they make."""
    values: dict[str, int | bytes] = {"sev_features": features | _SEV_SNP_ACTIVE}
    regs = vcpu.get_regs()
    for number, name in enumerate((*_GENERAL, *(f"r{index}" for index in range(8, 16)))):
        values[name] = seed * 0x1000 + 0x0123_4567_0000 + number
        setattr(regs, name, values[name])
    regs.rflags = values["rflags"] = 0x3002  # IOPL 3
    vcpu.set_regs(regs)
    values |= _segments(vcpu, seed)
    msrs = {name: seed * 0x100 + 0x40 + number for number, name in enumerate(_MSRS)}
    msrs["g_pat"] = 0x0007040600070400 + _MEMORY_TYPES[seed % len(_MEMORY_TYPES)]
    vcpu.set_msrs({_MSRS[name]: value for name, value in msrs.items()})
    values |= msrs
    debug = DebugRegs()
    debug.dr6 = values["dr6"] = _DR6_FIXED | seed
    debug.dr7 = values["dr7"] = _DR7_FIXED
    vcpu.set_debugregs(debug)
    values |= _vectors(vcpu, seed)
    return make_vmsa(values)


def _segments(vcpu: Vcpu, seed: int) -> dict[str, int | bytes]:
    sregs = vcpu.get_sregs()
    values: dict[str, int | bytes] = {}
    for number, name in enumerate(_SEGMENTS):
        segment = getattr(sregs, name)
        system = name in ("tr", "ldt")
        segment.base = seed * 0x10000 + 0x100 * (number + 1)
        segment.limit = 0xF000 + 0x10 * seed + number
        segment.selector = 8 * (number + 1)
        segment.type = {"cs": 0xB, "tr": 0xB, "ldt": 0x2}.get(name, 0x3)
        segment.s = int(not system)
        segment.dpl = 0
        segment.present, segment.unusable = 1, 0
        segment.db, segment.l, segment.g = int(not system), 0, 0
        segment.avl = number & 1
        field = {"ldt": "ldtr"}.get(name, name)
        values[f"{field}.selector"] = segment.selector
        values[f"{field}.base"] = segment.base
        values[f"{field}.limit"] = segment.limit
        values[f"{field}.attributes"] = (
            segment.type | segment.s << 4 | 1 << 7 | segment.avl << 8 | segment.db << 10
        )
    for name in ("gdt", "idt"):
        table = getattr(sregs, name)
        table.base = seed * 0x100000 + (0xA000 if name == "gdt" else 0xB000)
        table.limit = 0x7F + seed
        values[f"{name}r.base"], values[f"{name}r.limit"] = table.base, table.limit
    sregs.cr0 = values["cr0"] = 0x11  # PE, ET
    sregs.cr2 = 0x2000 + seed  # KVM keeps it for KVM_RUN, and puts none into a VMSA
    sregs.cr3 = values["cr3"] = 0x3000 + (seed << 12)
    sregs.cr4 = _CR4_OSXSAVE | 0x600
    # KVM has MCE on in hardware where the host has.
    values["cr4"] = sregs.cr4 | _CR4_MCE
    sregs.efer = 0
    values["efer"] = _EFER_SVME
    vcpu.set_sregs(sregs)
    return values


def _vectors(vcpu: Vcpu, seed: int) -> dict[str, int | bytes]:
    xcrs = Xcrs()
    xcrs.nr_xcrs = 1
    xcrs.xcrs[0] = Xcr(xcr=0, value=7)
    vcpu.set_xcrs(xcrs)
    xsave = vcpu.get_xsave2() if vcpu.xsave_size > 4096 else vcpu.get_xsave()
    area = xsave.area
    x87 = bytes((seed + index) & 0xFF for index in range(80))
    struct.pack_into("<HHBxHQQII", area, 0, 0x37E, 0x41, 0xFF, 0x123, 0x777, 0x888, 0x1F00, 0xFFFF)
    for index in range(8):
        area[32 + 16 * index : 42 + 16 * index] = x87[10 * index : 10 * index + 10]
    xmm = bytes((3 * index + seed) & 0xFF for index in range(256))
    ymm = bytes((5 * index + seed) & 0xFF for index in range(256))
    area[160:416] = xmm
    area[576:832] = ymm
    xsave.xstate_bv = 7
    vcpu.set_xsave(xsave)
    low = b"".join(x87[10 * index : 10 * index + 8] for index in range(8))
    high = b"".join(x87[10 * index + 8 : 10 * index + 10] for index in range(8))
    return {
        "xcr0": 7,
        "x87_fcw": 0x37E,
        "x87_fsw": 0x41,
        "x87_ftw": 0xFF,
        "x87_fop": 0x123,
        "x87_rip": 0x777,
        "x87_dp": 0x888,
        "mxcsr": 0x1F00,
        "x87_registers": low + high,
        "xmm": xmm,
        "ymm": ymm,
    }


def _vcpus(bench: SnpBench, machine: Machine, count: int, features: int = 0) -> list[bytes]:
    """Create vCPUs from the highest number down, which is the order FINISH has them in."""
    vmsas = []
    cpuid = bench.kvm.get_supported_cpuid()
    for number in reversed(range(count)):
        vcpu = bench.keep(machine.try_.create_vcpu(number)).unwrap()
        vcpu.set_cpuid2(cpuid)
        vmsas.append(_fill(vcpu, number + 1, features))
    return vmsas


def _given_vmsas(bench: SnpBench, count: int) -> None:
    machine = bench.machine
    bench.populate(0, 1, bench.source("aligned", 1))
    vmsas = _vcpus(bench, machine, count)
    bench.step("LAUNCH_FINISH", machine.try_.snp.launch_finish())
    bench.wants_vmsas(vmsas)


for _name, _count in (("vmsas_0", 0), ("vmsas_1", 1), ("vmsas_2", 2), ("vmsas_4", 4)):
    snp_scenario(
        f"snp.given.{_name}", f"FINISH of a VM with {_count} vCPUs, registers set", "standin"
    )(functools.partial(_given_vmsas, count=_count))


@snp_scenario("snp.given.vmsa_features", "FINISH with each VMSA feature that there is", "standin")
def _given_vmsa_features(bench: SnpBench) -> None:
    offered = supported_vmsa_features(bench.kvm).unwrap()
    features = [1 << bit for bit in range(64) if offered >> bit & 1]
    for wanted in (0, *features, offered):
        machine = bench.make(initialized=False)
        machine.snp.init2(wanted)
        if wanted & _SECURE_TSC:
            machine.set_tsc_khz(_TSC_KHZ)
        machine.snp.launch_start()
        bench.begin_digest()
        vmsas = _vcpus(bench, machine, 1, wanted)
        result = machine.try_.snp.launch_finish()
        bench.wants_vmsas(vmsas)
        bench.wants(tsc_khz=str(_TSC_KHZ if wanted & _SECURE_TSC else 0))
        bench.check()
        machine.close()
    bench.step("LAUNCH_FINISH", result)


@snp_scenario("snp.given.vmsa_reset", "FINISH with a vCPU as it was created", "standin")
def _given_vmsa_reset(bench: SnpBench) -> None:
    machine = bench.machine
    bench.vcpu().unwrap()
    bench.step("LAUNCH_FINISH", machine.try_.snp.launch_finish())
    values: dict[str, int | bytes] = {
        f"{name}.{part}": value
        for name in ("es", "ss", "ds", "fs", "gs")
        for part, value in (("attributes", 0x92), ("limit", 0xFFFF))
    }
    bench.wants_vmsas(
        [
            make_vmsa(
                values
                | {
                    "cs.selector": 0xF000,
                    "cs.attributes": 0x9A,
                    "cs.limit": 0xFFFF,
                    "cs.base": 0xFFFF0000,
                    "gdtr.limit": 0xFFFF,
                    "idtr.limit": 0xFFFF,
                    "ldtr.attributes": 0x82,
                    "ldtr.limit": 0xFFFF,
                    "tr.attributes": 0x83,
                    "tr.limit": 0xFFFF,
                    "efer": _EFER_SVME,
                    "cr4": _CR4_MCE,
                    "cr0": 0x10,
                    "dr7": _DR7_FIXED,
                    "dr6": _DR6_FIXED,
                    "rflags": 2,
                    "rip": 0xFFF0,
                    "g_pat": 0x0007040600070406,
                    "rdx": 0x600,
                    "sev_features": _SEV_SNP_ACTIVE,
                    "xcr0": 1,
                    "mxcsr": 0x1F80,
                    "x87_fcw": 0x37F,
                }
            )
        ]
    )

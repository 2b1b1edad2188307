# SPDX-License-Identifier: MIT
"""What only SNP has: page types, lengths in bytes, CPUID pages, the launch's states, the firmware.

What it populates as TDX does is in populate*.py, ids ``snp.`` and the case there.

What each gives on which kernel is in contract/snp.toml; here is only what is tried.
"""

from __future__ import annotations

import errno
import functools
import os
import struct
import tempfile
import threading
import time

from kvmharness.kvm.ffi import lib
from kvmharness.kvm.mapping import MAP_PRIVATE, PAGE_SIZE, map_memory
from kvmharness.kvm.memory_encrypt import SevCommand
from kvmharness.kvm.result import Result
from kvmharness.kvm.vcpu import Vcpu
from kvmharness.launch.sev import DEFAULT_POLICY, PageType, SnpPolicy
from kvmharness.launch.source import SourceBuffer
from kvmharness.scenarios import soft_dirty
from kvmharness.scenarios.populate import pre_fault
from kvmharness.scenarios.populate_bench import SLOT_PAGES
from kvmharness.scenarios.populate_races import flip_while_populated, populate_at_once
from kvmharness.scenarios.snp_bench import SnpBench, snp_scenario
from kvmharness.scenarios.sources import SOURCE_KINDS
from kvmharness.standins import snp as standin
from kvmharness.standins.snp import Failure, FirmwareCall

_INVALID_PAGE_STATE = 0x1A


#: A CPUID page without functions, which any firmware takes.
_CPUID_EMPTY = bytes(PAGE_SIZE)
#: A CPUID page with one function, leaf 0, that promises more leaves than any processor has: the
#: firmware writes the right number into it (firmware ABI, 8.17.2, and 7.1 for the page's layout).
_CPUID_WRONG = struct.pack("<I12xIIQQI", 1, 0, 0, 0, 0, 0xFFFF).ljust(PAGE_SIZE, b"\0")
#: A CPUID page that claims more functions than it has room for: refused as it is.
_CPUID_MALFORMED = struct.pack("<I", 99).ljust(PAGE_SIZE, b"\0")


def _contents(type_: PageType, pages: int) -> bytes | None:
    return _CPUID_EMPTY * pages if type_ is PageType.CPUID else None


# ------------------------------------------------------------------ sources and page types


def _try_source(bench: SnpBench, kind: str, type_: PageType, pages: int) -> None:
    bench.populate_on(0, pages, bench.source(kind, pages, _contents(type_, pages)), type=type_)


#: For each type but NORMAL, whose sources are populate.py's: where its ids begin, how many pages
#: (one page of SECRETS or CPUID is what a guest has), and the sources that have an id below.
_TYPES: tuple[tuple[str, PageType, int, tuple[str, ...]], ...] = (
    ("snp.type.zero", PageType.ZERO, 4, ("null",)),
    ("snp.type.unmeasured", PageType.UNMEASURED, 4, ()),
    ("snp.type.secrets", PageType.SECRETS, 1, ()),
    ("snp.type.cpuid", PageType.CPUID, 1, ("readonly",)),
)

# The kinds' names, which end the ids, stand in sources.py. A hole takes more than one page.
for _kind in SOURCE_KINDS.values():
    for _beginning, _type, _pages, _below in _TYPES:
        if _kind.name not in _below:
            snp_scenario(
                f"{_beginning}.{_kind.name}", f"{_type.name} from {_kind.summary}", *_kind.needs
            )(
                functools.partial(
                    _try_source,
                    kind=_kind.name,
                    type_=_type,
                    pages=4 if _kind.name == "hole" else _pages,
                )
            )


@snp_scenario("snp.zero.null", "ZERO from NULL")
def _zero_null(bench: SnpBench) -> None:
    _try_source(bench, "null", PageType.ZERO, 4)


@snp_scenario("snp.source.readonly_cpuid", "CPUID from read-only memory")
def _source_readonly_cpuid(bench: SnpBench) -> None:
    _try_source(bench, "readonly", PageType.CPUID, 1)


@snp_scenario(
    "snp.source.guest_memfd",
    "the shared mapping of another guest_memfd",
    "mappable_guest_memfd",
)
def _source_guest_memfd(bench: SnpBench) -> None:
    with bench.kvm.create_vm() as other:
        flags = lib.GUEST_MEMFD_FLAG_MMAP | lib.GUEST_MEMFD_FLAG_INIT_SHARED
        with (
            other.create_guest_memfd(2 * PAGE_SIZE, flags) as guest_memfd,
            SourceBuffer.guest_memfd(guest_memfd, 2) as source,
        ):
            bench.populate(0, 2, source)


@snp_scenario("snp.type.unknown", "page types the uAPI does not have, VMSA (2) among them")
def _type_unknown(bench: SnpBench) -> None:
    source = bench.source("aligned", 1)
    for type_ in (0, 2, 7, 255):
        bench.populate(0, 1, source, type_)


@snp_scenario("snp.flags.unknown", "flags, of which there are none")
def _flags_unknown(bench: SnpBench) -> None:
    source = bench.source("aligned", 1)
    for bit in (0, 7, 15):
        bench.populate(0, 1, source, flags=1 << bit)


# ------------------------------------------------------------------ lengths and ranges


@snp_scenario("snp.len.zero", "a length of 0")
def _len_zero(bench: SnpBench) -> None:
    bench.populate(0, 0, bench.source("aligned", 1))


@snp_scenario("snp.len.unaligned", "lengths that are not whole pages")
def _len_unaligned(bench: SnpBench) -> None:
    source = bench.source("aligned", 2)
    for size in (1, PAGE_SIZE // 2, PAGE_SIZE + 1):
        bench.populate(0, 1, source, size=size)


@snp_scenario("snp.len.huge", "a length of 2^63 bytes: the slot's end cuts it")
def _len_huge(bench: SnpBench) -> None:
    bench.populate(SLOT_PAGES - 2, 0, bench.source("aligned", 2), size=1 << 63)


@snp_scenario("snp.range.populated", "a page that was populated before")
def _range_populated(bench: SnpBench) -> None:
    source = bench.source("aligned", 1)
    bench.populate(0, 1, source)
    bench.populate(0, 1, source)


@snp_scenario("snp.range.gfn_huge", "gfns far beyond any guest address")
def _range_gfn_huge(bench: SnpBench) -> None:
    source = bench.source("aligned", 1)
    for shift in (40, 51, 63):
        bench.populate(1 << shift, 1, source)


# ------------------------------------------------------------------ CPUID pages


@snp_scenario("snp.cpuid.rejected", "a CPUID page with a wrong value; then the corrected page")
def _cpuid_rejected(bench: SnpBench) -> None:
    page = _CPUID_WRONG
    source = bench.source("aligned", 1, page)
    bench.populate(0, 1, source, PageType.CPUID)
    bench.fact("the source page", "corrected" if source.page(0) != page else "unchanged")
    bench.populate(0, 1, source, PageType.CPUID)


@snp_scenario("snp.cpuid.malformed", "a CPUID page that claims more functions than fit")
def _cpuid_malformed(bench: SnpBench) -> None:
    source = bench.source("aligned", 1, _CPUID_MALFORMED)
    bench.populate(0, 1, source, PageType.CPUID)
    bench.fact(
        "the source page", "corrected" if source.page(0) != _CPUID_MALFORMED else "unchanged"
    )


@snp_scenario("snp.cpuid.rejected_in_range", "the second of two CPUID pages is the bad one")
def _cpuid_rejected_in_range(bench: SnpBench) -> None:
    source = bench.source("aligned", 2, _CPUID_EMPTY + _CPUID_WRONG)
    bench.populate(0, 2, source, PageType.CPUID)
    bench.fact("the second page", "corrected" if source.page(1) != _CPUID_WRONG else "unchanged")
    bench.populate(1, 1, source.address + PAGE_SIZE, PageType.CPUID)


@snp_scenario("snp.cpuid.rejected_unaligned", "a bad CPUID page from an unaligned source")
def _cpuid_rejected_unaligned(bench: SnpBench) -> None:
    page = _CPUID_WRONG
    source = bench.source("unaligned", 1, page)
    bench.populate(0, 1, source, PageType.CPUID)
    bench.fact("the source page", "corrected" if source.page(0) != page else "unchanged")


@snp_scenario("snp.cpuid.rejected_readonly", "a bad CPUID page in read-only memory")
def _cpuid_rejected_readonly(bench: SnpBench) -> None:
    page = _CPUID_WRONG
    source = bench.source("readonly", 1, page)
    bench.populate(0, 1, source, PageType.CPUID)
    bench.fact("the source page", "overwritten" if source.page(0) != page else "unchanged")


@snp_scenario(
    "snp.cpuid.rejected_private_file",
    "a bad CPUID page in a file mapped private: is it spared",
)
def _cpuid_rejected_private_file(bench: SnpBench) -> None:
    _ = bench.machine
    with tempfile.NamedTemporaryFile() as file:
        file.write(_CPUID_WRONG)
        file.flush()
        with (
            open(file.name, "rb") as readable,
            map_memory(PAGE_SIZE, flags=MAP_PRIVATE, fd=readable.fileno()) as mapping,
        ):
            # Never touched through the mapping: a write of KVM's has to give it a page of its own.
            bench.populate(0, 1, mapping.address, PageType.CPUID)
            same = mapping.read() == _CPUID_WRONG
            bench.fact("the mapping", "unchanged" if same else "corrected")
            spared = os.pread(file.fileno(), PAGE_SIZE, 0) == _CPUID_WRONG
            bench.fact("the file", "unchanged" if spared else "overwritten")


@snp_scenario(
    "snp.cpuid.rejected_soft_dirty",
    "a bad CPUID page that its process has not written since: is it dirty afterwards",
    "soft_dirty",
)
def _cpuid_rejected_soft_dirty(bench: SnpBench) -> None:
    source = bench.source("aligned", 1, _CPUID_WRONG)
    soft_dirty.clear()
    bench.populate(0, 1, source, PageType.CPUID)
    dirty = soft_dirty.is_set(source.address)
    bench.fact("the source page", "corrected" if source.page(0) != _CPUID_WRONG else "unchanged")
    bench.fact("its page table entry", "dirtied" if dirty else "not dirtied")


# ------------------------------------------------------------------ the launch's states


@snp_scenario("snp.state.before_init2", "every command before KVM_SEV_INIT2")
def _state_before_init2(bench: SnpBench) -> None:
    machine = bench.make(initialized=False)
    machine.set_private(0, PAGE_SIZE)
    bench.step("LAUNCH_START", machine.try_.snp.launch_start())
    bench.populate(0, 1, bench.source("aligned", 1))
    bench.step("LAUNCH_FINISH", machine.try_.snp.launch_finish())


@snp_scenario("snp.state.second_init2", "KVM_SEV_INIT2 twice")
def _state_second_init2(bench: SnpBench) -> None:
    bench.step("KVM_SEV_INIT2", bench.make().try_.snp.init2())


@snp_scenario("snp.state.init2_after_vcpu", "KVM_SEV_INIT2 after a vCPU was created")
def _state_init2_after_vcpu(bench: SnpBench) -> None:
    machine = bench.make(initialized=False)
    bench.step("KVM_CREATE_VCPU", bench.keep(machine.try_.create_vcpu(0)))
    bench.step("KVM_SEV_INIT2", machine.try_.snp.init2())


@snp_scenario("snp.state.init2_arguments", "KVM_SEV_INIT2 with values out of range")
def _state_init2_arguments(bench: SnpBench) -> None:
    machine = bench.make(initialized=False)
    bench.step("flags 1", machine.try_.snp.init2(flags=1))
    bench.step("VMSA feature 63", machine.try_.snp.init2(vmsa_features=1 << 63))
    bench.step("GHCB version 1", machine.try_.snp.init2(ghcb_version=1))
    bench.step("GHCB version 3", machine.try_.snp.init2(ghcb_version=3))
    bench.step("GHCB version 2", machine.try_.snp.init2(ghcb_version=2))


@snp_scenario("snp.state.before_start", "LAUNCH_UPDATE and LAUNCH_FINISH before LAUNCH_START")
def _state_before_start(bench: SnpBench) -> None:
    machine = bench.make()
    machine.set_private(0, PAGE_SIZE)
    bench.populate(0, 1, bench.source("aligned", 1))
    bench.step("LAUNCH_FINISH", machine.try_.snp.launch_finish())


@snp_scenario("snp.state.second_start", "LAUNCH_START twice")
def _state_second_start(bench: SnpBench) -> None:
    bench.step("LAUNCH_START", bench.machine.try_.snp.launch_start())
    bench.populate(0, 1, bench.source("aligned", 1))


@snp_scenario("snp.state.start_arguments", "LAUNCH_START with policies and flags it does not take")
def _state_start_arguments(bench: SnpBench) -> None:
    machine = bench.make()
    start = machine.try_.snp.launch_start
    bench.step("policy 0", start(0))
    bench.step("without the bit that must be one", start(SnpPolicy.SMT))
    bench.step("a bit beyond the policy's", start(DEFAULT_POLICY | 1 << 40))
    bench.step("flags 1", start(flags=1))
    bench.step("a good one after these", start())


@snp_scenario(
    "snp.state.start_without_smt", "a policy that forbids SMT, on a machine that has it on", "smt"
)
def _state_start_without_smt(bench: SnpBench) -> None:
    start = bench.make().try_.snp.launch_start
    bench.step("LAUNCH_START", start(SnpPolicy.RESERVED_MUST_BE_ONE))


@snp_scenario(
    "snp.state.start_without_smt_off", "a policy that forbids SMT, on a machine without", "standin"
)
def _state_start_without_smt_off(bench: SnpBench) -> None:
    start = bench.make().try_.snp.launch_start
    with standin.without_smt():
        bench.step("LAUNCH_START", start(SnpPolicy.RESERVED_MUST_BE_ONE))


@snp_scenario("snp.state.after_finish", "LAUNCH_UPDATE after LAUNCH_FINISH")
def _state_after_finish(bench: SnpBench) -> None:
    source = bench.source("aligned", 1)
    bench.populate(0, 1, source)
    bench.step("LAUNCH_FINISH", bench.machine.try_.snp.launch_finish())
    bench.populate(1, 1, source)
    bench.populate(0, 1, source)


@snp_scenario("snp.state.second_finish", "LAUNCH_FINISH twice, on a VM without vCPUs")
def _state_second_finish(bench: SnpBench) -> None:
    bench.step("LAUNCH_FINISH", bench.machine.try_.snp.launch_finish())
    bench.step("LAUNCH_FINISH", bench.machine.try_.snp.launch_finish())


@snp_scenario(
    "snp.state.second_finish_vcpu",
    "LAUNCH_FINISH twice on a VM with a vCPU: fixed in 7.0.1, an oops in the RMP before",
    destructive=True,
)
def _state_second_finish_vcpu(bench: SnpBench) -> None:
    machine = bench.machine
    bench.vcpu().unwrap()
    bench.step("LAUNCH_FINISH", machine.try_.snp.launch_finish())
    bench.step("LAUNCH_FINISH", machine.try_.snp.launch_finish())


@snp_scenario("snp.state.finish_arguments", "LAUNCH_FINISH with flags, then without")
def _state_finish_arguments(bench: SnpBench) -> None:
    finish = bench.machine.try_.snp.launch_finish
    bench.step("flags 1", finish(flags=1))
    bench.step("none", finish(host_data=b"host data", vcek_disabled=True))


@snp_scenario("snp.state.start_after_finish", "LAUNCH_START after LAUNCH_FINISH")
def _state_start_after_finish(bench: SnpBench) -> None:
    bench.machine.snp.launch_finish()
    bench.step("LAUNCH_START", bench.machine.try_.snp.launch_start())


@snp_scenario("snp.state.vcpu_before_finish", "a vCPU before FINISH: its VMSA is measured")
def _state_vcpu_before_finish(bench: SnpBench) -> None:
    machine = bench.machine
    bench.step("KVM_CREATE_VCPU", bench.vcpu())
    bench.step("LAUNCH_FINISH", machine.try_.snp.launch_finish())


@snp_scenario("snp.state.vcpu_registers_after_finish", "registers of a vCPU after FINISH")
def _state_registers_after_finish(bench: SnpBench) -> None:
    machine = bench.machine
    vcpu = bench.vcpu().unwrap()
    bench.step("KVM_GET_REGS before", vcpu.try_.get_regs())
    machine.snp.launch_finish()
    bench.step("KVM_GET_REGS after", vcpu.try_.get_regs())
    bench.step("KVM_GET_SREGS after", vcpu.try_.get_sregs())


@snp_scenario("snp.state.vcpu_after_finish", "a vCPU created after FINISH")
def _state_vcpu_after_finish(bench: SnpBench) -> None:
    machine = bench.machine
    machine.snp.launch_finish()
    bench.step("KVM_CREATE_VCPU", bench.vcpu())


@snp_scenario("snp.state.foreign_commands", "commands of SEV and SEV-ES on an SNP VM")
def _state_foreign_commands(bench: SnpBench) -> None:
    command = bench.machine.try_.snp.command
    bench.step("KVM_SEV_LAUNCH_START", command(lib.KVM_SEV_LAUNCH_START))
    bench.step("KVM_SEV_GUEST_STATUS", command(lib.KVM_SEV_GUEST_STATUS))
    bench.step("KVM_SEV_INIT", command(lib.KVM_SEV_INIT))


@snp_scenario("snp.state.unknown_command", "sub-command numbers nobody has")
def _state_unknown_command(bench: SnpBench) -> None:
    command = bench.machine.try_.snp.command
    bench.step("99", command(99))
    bench.step("200", command(200))
    bench.step("0xffffffff", command(0xFFFFFFFF))


@snp_scenario("snp.state.bad_pointers", "pointers to parameters that are not there")
def _state_bad_pointers(bench: SnpBench) -> None:
    machine = bench.machine
    for name in ("START", "UPDATE", "FINISH"):
        number = int(getattr(lib, f"KVM_SEV_SNP_LAUNCH_{name}"))
        bench.step(f"LAUNCH_{name}", machine.try_.snp.raw_command(number, 0x10))


@snp_scenario("snp.state.req_certs", "KVM_SEV_SNP_ENABLE_REQ_CERTS (7.0), before and after a vCPU")
def _state_req_certs(bench: SnpBench) -> None:
    machine = bench.make()
    bench.step("before", machine.try_.snp.enable_req_certs())
    bench.vcpu().unwrap()
    bench.step("after", machine.try_.snp.enable_req_certs())


@snp_scenario("snp.state.default_vm", "a launch command on a default VM")
def _state_default_vm(bench: SnpBench) -> None:
    with bench.kvm.create_vm() as plain:
        command = SevCommand(id=lib.KVM_SEV_SNP_LAUNCH_START)
        bench.step("LAUNCH_START", plain.try_.memory_encrypt_op(command))
        command = SevCommand(id=lib.KVM_SEV_SNP_LAUNCH_UPDATE)
        bench.step("LAUNCH_UPDATE", plain.try_.memory_encrypt_op(command))


# ------------------------------------------------------------------ firmware errors


@snp_scenario("snp.firmware.nth_page", "the firmware refuses the third of four pages", "standin")
def _firmware_nth_page(bench: SnpBench) -> None:
    source = bench.source("aligned", 4)
    _ = bench.machine  # made first: its own commands are not what is to fail
    standin.inject(Failure(FirmwareCall.SNP_LAUNCH_UPDATE, _INVALID_PAGE_STATE, after=2))
    bench.populate(0, 4, source)
    bench.populate(2, 2, source.address + 2 * PAGE_SIZE)


@snp_scenario("snp.firmware.first_page", "the firmware refuses the first page", "standin")
def _firmware_first_page(bench: SnpBench) -> None:
    source = bench.source("aligned", 2)
    _ = bench.machine
    standin.inject(Failure(FirmwareCall.SNP_LAUNCH_UPDATE, _INVALID_PAGE_STATE))
    bench.populate(0, 2, source)
    bench.populate(0, 2, source)


# ------------------------------------------------------------------ pre-fault


@snp_scenario("snp.prefault.before_finish", "KVM_PRE_FAULT_MEMORY before FINISH", "pre_fault")
def _prefault_before_finish(bench: SnpBench) -> None:
    pre_fault(bench, finished=False)


@snp_scenario("snp.prefault.after_finish", "KVM_PRE_FAULT_MEMORY after FINISH", "pre_fault")
def _prefault_after_finish(bench: SnpBench) -> None:
    pre_fault(bench, finished=True)


# ------------------------------------------------------------------ races and signals


@snp_scenario("snp.race.two_threads", "two threads populate the same range", "two_cpus")
def _race_two_threads(bench: SnpBench) -> None:
    populate_at_once(bench, [functools.partial(bench.populate, record=False)] * 2)


@snp_scenario("snp.race.four_threads", "four threads populate the same range", "two_cpus")
def _race_four_threads(bench: SnpBench) -> None:
    populate_at_once(bench, [functools.partial(bench.populate, record=False)] * 4)


@snp_scenario(
    "snp.race.attributes", "one thread populates, another flips the range's attributes", "two_cpus"
)
def _race_attributes(bench: SnpBench) -> None:
    # What is populated stays so, whatever becomes of its attributes: one call of all succeeds.
    calls = flip_while_populated(bench, bench.source("aligned", SLOT_PAGES))
    bench.fact("calls that populated", sum(call.ok for call in calls))


@snp_scenario(
    "snp.race.vcpu_create_finish",
    "vCPUs are created while FINISH runs",
    "two_cpus",
    destructive=True,
)
def _race_vcpu_create(bench: SnpBench) -> None:
    """FINISH measures and protects the vCPUs that are there, and none by half."""
    created: list[Result[Vcpu]] = []
    finished: list[Result[int]] = []
    complete = True
    for _ in range(8):
        bench.stack.close()
        made, tries, began = _create_while_finishing(bench)
        vcpus = {result.value: returned for result, returned in made if result.value is not None}
        protected = [vcpu for vcpu in vcpus if not vcpu.try_.get_regs().ok]
        before = [vcpu for vcpu, returned in vcpus.items() if returned < began]
        measured = int(standin.read_state().get("vmsas", len(protected)))
        complete = complete and set(before) <= set(protected) and len(protected) == measured
        created += [result for result, _ in made]
        finished += tries
    bench.tally("KVM_CREATE_VCPU", created)
    bench.tally("LAUNCH_FINISH", finished)
    bench.fact("measured and protected alike", "complete" if complete else "incomplete")


def _create_while_finishing(
    bench: SnpBench,
) -> tuple[list[tuple[Result[Vcpu], float]], list[Result[int]], float]:
    """Create four vCPUs on another thread and FINISH until it is not EBUSY.

    Returns what each creation came to, and when; the tries of FINISH; and when the last began.
    """
    machine = bench.make_ready()
    barrier = threading.Barrier(2)
    made: list[tuple[Result[Vcpu], float]] = []
    tries: list[Result[int]] = []

    def create() -> None:
        barrier.wait(10)
        for number in range(4):
            result = bench.keep(machine.try_.create_vcpu(number))
            made.append((result, time.monotonic()))

    worker = threading.Thread(target=create)
    worker.start()
    barrier.wait(10)
    while not tries or (tries[-1].errno == errno.EBUSY and len(tries) < 100_000):
        began = time.monotonic()
        tries.append(machine.try_.snp.launch_finish())
    worker.join(30)
    return made, tries, began


# ------------------------------------------------------------------ the end


@snp_scenario("snp.end.closed_populated", "the VM closed in the middle of a launch", "standin")
def _end_closed(bench: SnpBench) -> None:
    before = standin.rmp_counts()
    source = bench.source("aligned", SLOT_PAGES)
    bench.populate(0, SLOT_PAGES, source)
    bench.machine.close()
    after = standin.wait_for_counts(before, 2)
    note = f"{before} before, {after} after"
    bench.fact("the RMP", "as before" if after == before else "changed", note)


@snp_scenario("snp.end.asid_reuse", "36 guests in a row: more than an emulated host has ASIDs")
def _end_asid_reuse(bench: SnpBench) -> None:
    # Finished guests: of others the firmware lets an ASID go as it came, without a DF_FLUSH.
    starts, populated, finishes = [], [], []
    for _ in range(int(os.environ.get("KVMHARNESS_ASID_ROUNDS", "36"))):
        machine = bench.make()
        machine.set_private(0, PAGE_SIZE)
        starts.append(machine.try_.snp.launch_start())
        populated.append(bench.populate(0, 1, bench.source("aligned", 1), record=False))
        finishes.append(machine.try_.snp.launch_finish())
        machine.close()
    bench.tally("LAUNCH_START", starts)
    bench.tally("the first page of each", populated)
    bench.tally("LAUNCH_FINISH", finishes)

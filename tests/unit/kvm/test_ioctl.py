# SPDX-License-Identifier: MIT
"""Results, decoding and the trace, on fds that are no KVM's: pipes, and a fake kernel."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kvmharness.errors import UsageError
from kvmharness.kvm import ioctl
from kvmharness.kvm.ffi import ffi, lib
from kvmharness.kvm.ioctl import decode, raising
from kvmharness.kvm.result import KvmError, Result


@pytest.fixture
def pipe() -> Iterator[int]:
    reader, writer = os.pipe()
    yield reader
    os.close(reader)
    os.close(writer)


Kernel = Callable[[int, int, Any], int]


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Callable[[Kernel], None]:
    """A function that puts a Python function in the kernel's place: (fd, request, argument)."""
    return lambda kernel: monkeypatch.setattr(ioctl, "_issue", kernel)


# ------------------------------------------------------------------ results


def test_a_success() -> None:
    result = Result("KVM_X", 3, value="three")
    assert result.ok
    assert result.errno_name == "ok"
    assert result.unwrap() == "three"
    assert str(result) == "KVM_X: ok"


def test_a_failure() -> None:
    result: Result[int] = Result("KVM_X", -1, errno.EEXIST)
    assert not result.ok
    assert result.errno_name == "EEXIST"
    assert str(result) == "KVM_X: EEXIST"
    with pytest.raises(KvmError, match="KVM_X failed: EEXIST"):
        result.unwrap()


def test_a_value_belongs_to_a_success_alone() -> None:
    good: Result[int] = Result("KVM_X", 0, 0, 0, 5, (1, 2), "meaning", "NAME")
    changed = good.with_value("new")
    assert changed.value == "new"
    assert (changed.fw_error, changed.written_back) == (5, (1, 2))
    assert (changed.meaning, changed.fw_error_name) == ("meaning", "NAME")
    bad: Result[int] = Result("KVM_X", -1, errno.EIO, None, 5, (1, 2))
    assert bad.with_value("new").value is None
    assert bad.with_value("new").written_back == (1, 2)


def test_the_firmwares_code_shows_in_a_result() -> None:
    assert str(Result("KVM_X", -1, errno.EIO, fw_error=0x16)).endswith("firmware error 0x16")
    assert str(Result("KVM_X", 0, fw_error=0)) == "KVM_X: ok"


def test_the_raising_form_is_the_returning_one_unwrapped() -> None:
    class Try:
        def double(self, number: int) -> Result[int]:
            """Double it."""
            return Result("X", -1, errno.EDOM) if number < 0 else Result("X", 0, value=2 * number)

    class Thing:
        try_ = Try()
        double = raising(Try.double)

    assert Thing().double(4) == 8
    assert Thing().double(number=4) == 8
    with pytest.raises(KvmError, match="X failed: EDOM"):
        Thing().double(-1)
    assert Thing.double.__doc__ == "Double it."


# ------------------------------------------------------------------ the call


@pytest.mark.parametrize("argument", [None, 0, -1, 2**64 - 1])
def test_a_pipe_knows_no_kvm_ioctl(pipe: int, argument: int | None) -> None:
    result = ioctl.call(pipe, "KVM_CREATE_VM", argument)
    assert (result.name, result.ret, result.errno_name) == ("KVM_CREATE_VM", -1, "ENOTTY")
    assert result.value is None


def test_a_struct_argument_on_a_pipe(pipe: int) -> None:
    arguments = ffi.new("struct kvm_create_guest_memfd *")
    assert ioctl.call(pipe, "KVM_CREATE_GUEST_MEMFD", arguments).errno_name == "ENOTTY"


def test_no_fd_at_all() -> None:
    assert ioctl.call(-1, "KVM_GET_API_VERSION").errno_name == "EBADF"


def test_a_name_that_is_no_ioctl_is_a_mistake(pipe: int) -> None:
    with pytest.raises(AttributeError):
        ioctl.call(pipe, "KVM_NONSENSE")


def test_the_request_and_return_value_pass_through(fake: Callable[[Kernel], None]) -> None:
    seen: list[tuple[int, int, Any]] = []

    def kernel(fd: int, request: int, argument: Any) -> int:
        seen.append((fd, request, argument))
        return 12

    fake(kernel)
    result = ioctl.call(77, "KVM_GET_API_VERSION")
    assert seen == [(77, lib.KVM_GET_API_VERSION, None)]
    assert (result.ret, result.value, result.ok) == (12, 12, True)


@pytest.mark.parametrize("ret", [0, -errno.EIO])
def test_what_the_kernel_writes_back_is_read_after_success_and_failure(
    fake: Callable[[Kernel], None], ret: int
) -> None:
    arguments = ffi.new("struct kvm_pre_fault_memory *")
    arguments.gpa = 0x1000
    arguments.size = 0x3000

    def kernel(fd: int, request: int, argument: Any) -> int:
        argument.gpa += 0x1000
        argument.size -= 0x1000
        argument.flags = 9
        return ret

    fake(kernel)
    result = ioctl.call(
        1,
        "KVM_PRE_FAULT_MEMORY",
        arguments,
        fw_error=lambda: int(arguments.flags),
        written_back=lambda: (int(arguments.gpa), int(arguments.size)),
    )
    assert result.errno == -ret
    assert result.written_back == (0x2000, 0x2000)
    assert result.fw_error == 9


# ------------------------------------------------------------------ decoding


def test_plain_values_stay() -> None:
    assert decode(None) is None
    assert decode(7) == 7
    assert decode("text") == "text"


def test_a_struct_is_a_dict_without_padding() -> None:
    region = ffi.new("struct kvm_userspace_memory_region2 *")
    region.slot = 3
    region.guest_memfd = 9
    decoded = decode(region)
    assert decoded["slot"] == 3
    assert decoded["guest_memfd"] == 9
    assert not [name for name in decoded if name.startswith(("pad", "reserved"))]
    assert decode(region[0]) == decoded


def test_a_struct_inside_a_struct() -> None:
    sregs = ffi.new("struct kvm_sregs *")
    sregs.cs.selector = 8
    sregs.interrupt_bitmap[1] = 5
    decoded = decode(sregs)
    assert decoded["cs"]["selector"] == 8
    assert decoded["interrupt_bitmap"] == [0, 5, 0, 0]


def test_every_member_of_a_union_is_shown() -> None:
    """KVM_SET_MEMORY_ATTRIBUTES2 names its first word twice."""
    attributes = ffi.new("struct kvm_memory_attributes2 *")
    attributes.offset = 0x5000
    decoded = decode(attributes)
    assert decoded["offset"] == decoded["address"] == 0x5000


def test_pointers_are_addresses_and_null_is_none() -> None:
    log = ffi.new("struct kvm_dirty_log *")
    assert decode(log)["dirty_bitmap"] is None
    bitmap = ffi.new("__u64[]", 1)
    log.dirty_bitmap = bitmap
    assert decode(log)["dirty_bitmap"] == hex(int(ffi.cast("uintptr_t", bitmap)))
    assert decode(ffi.NULL) is None


def test_bytes_are_hex_without_the_zeros_behind() -> None:
    state = ffi.new("struct kvm_lapic_state *")
    assert decode(state)["regs"] == ""
    ffi.buffer(state.regs)[0:3] = b"\x01\x00\xff"
    assert decode(state)["regs"] == "0100ff"


def test_long_arrays_are_cut() -> None:
    numbers = ffi.new("__u64[1000]")
    assert len(decode(numbers)) == 64


def test_a_flexible_array_is_left_out() -> None:
    msrs = ffi.new("struct kvm_msrs *", {"entries": 2})
    msrs.nmsrs = 2
    assert decode(msrs) == {"nmsrs": 2}


def test_whatever_is_decoded_is_json() -> None:
    for name in ("kvm_regs", "kvm_sregs", "kvm_irqchip", "kvm_enable_cap", "kvm_msr_filter"):
        made = ffi.new(f"struct {name} *")
        json.dumps(decode(made))
        ffi.buffer(made)[:] = b"\xff" * ffi.sizeof(made[0])
        assert "=0xff" in ioctl.brief(made) or not ioctl.brief(made)


# ------------------------------------------------------------------ the trace


def test_a_recording_has_arguments_before_and_after(fake: Callable[[Kernel], None]) -> None:
    arguments = ffi.new("struct kvm_irq_level *")
    arguments.irq = 5

    def kernel(fd: int, request: int, argument: Any) -> int:
        argument.level = 1
        return -errno.ENXIO

    fake(kernel)
    with ioctl.recording() as entries:
        ioctl.call(7, "KVM_IRQ_LINE", arguments)
    assert len(entries) == 1
    entry = entries[0]
    assert (entry["fd"], entry["ioctl"]) == (7, "KVM_IRQ_LINE")
    assert (entry["before"]["irq"], entry["before"]["level"]) == (5, 0)
    assert (entry["after"]["irq"], entry["after"]["level"]) == (5, 1)
    assert (entry["ret"], entry["errno"]) == (-1, "ENXIO")
    assert entry["tid"] == threading.get_native_id()
    assert entry["us"] >= 0


def test_a_number_has_no_after(pipe: int) -> None:
    with ioctl.recording() as entries:
        ioctl.call(pipe, "KVM_CREATE_VM", 4)
        ioctl.call(pipe, "KVM_GET_API_VERSION")
    assert [(entry["before"], entry["after"]) for entry in entries] == [(4, None), (None, None)]


def test_show_is_decoded_in_the_arguments_place(fake: Callable[[Kernel], None]) -> None:
    fake(lambda *_: 0)
    inner = ffi.new("struct kvm_irq_level *")
    inner.irq = 3
    with ioctl.recording() as entries:
        ioctl.call(1, "KVM_IRQ_LINE", ffi.new("struct kvm_msi *"), show=inner)
    assert entries[0]["before"]["irq"] == 3


def test_recordings_nest_and_end(pipe: int) -> None:
    with ioctl.recording() as outer:
        ioctl.call(pipe, "KVM_GET_API_VERSION")
        with ioctl.recording() as inner:
            ioctl.call(pipe, "KVM_CREATE_VM", 0)
        ioctl.call(pipe, "KVM_CREATE_VM", 1)
    ioctl.call(pipe, "KVM_CREATE_VM", 2)
    assert len(inner) == 1
    assert len(outer) == 3


def test_a_recording_ends_with_its_block_however_that_ends(pipe: int) -> None:
    with pytest.raises(RuntimeError), ioctl.recording() as entries:
        raise RuntimeError
    ioctl.call(pipe, "KVM_GET_API_VERSION")
    assert entries == []


def test_two_recordings_with_equal_contents_are_two(pipe: int) -> None:
    with ioctl.recording() as outer:
        with ioctl.recording():
            pass
        ioctl.call(pipe, "KVM_GET_API_VERSION")
    assert len(outer) == 1


def test_all_threads_are_recorded(pipe: int) -> None:
    with ioctl.recording() as entries:
        threads = [
            threading.Thread(target=lambda: [ioctl.call(pipe, "KVM_RUN") for _ in range(50)])
            for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)
    assert len(entries) == 200
    assert len({entry["tid"] for entry in entries}) == 4


def test_system_calls_are_traced_as_well() -> None:
    with ioctl.recording() as entries:
        result = ioctl.system_call("fallocate", -errno.EINVAL, fd=3, mode=1)
    assert (result.ret, result.errno_name) == (-1, "EINVAL")
    assert entries[0]["ioctl"] == "fallocate"
    assert entries[0]["fd"] == 3
    assert entries[0]["before"] == {"mode": 1}


def test_a_trace_file_has_a_line_per_call_and_is_appended_to(pipe: int, tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    path.write_text('{"ioctl": "earlier"}\n')
    ioctl.open_trace(path)
    try:
        ioctl.call(pipe, "KVM_CREATE_VM", 0)
        assert len(path.read_text().splitlines()) == 2  # written at once, not at the end
        ioctl.call(pipe, "KVM_GET_API_VERSION")
    finally:
        ioctl.close_trace()
    ioctl.call(pipe, "KVM_GET_API_VERSION")
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    names = [line["ioctl"] for line in lines]
    assert names == ["earlier", "KVM_CREATE_VM", "KVM_GET_API_VERSION"]


def test_closing_the_trace_while_threads_write_it(pipe: int, tmp_path: Path) -> None:
    stop = threading.Event()
    failed: list[BaseException] = []

    def work() -> None:
        try:
            while not stop.is_set():
                ioctl.call(pipe, "KVM_GET_API_VERSION")
        except BaseException as error:  # noqa: BLE001 (reported below)
            failed.append(error)

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for turn in range(50):
            ioctl.open_trace(tmp_path / f"{turn}.jsonl")
            ioctl.close_trace()
    finally:
        stop.set()
        for thread in threads:
            thread.join(10)
    assert not failed
    for path in tmp_path.iterdir():
        for line in path.read_text().splitlines():
            json.loads(line)


def test_a_trace_that_can_not_be_written_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"can't write the trace to .*: No such file"):
        ioctl.open_trace(tmp_path / "missing" / "trace")


def test_the_environment_variable_opens_a_trace_at_import(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    program = (
        "import os\n"
        "from kvmharness.kvm import ioctl\n"
        "ioctl.call(os.pipe()[0], 'KVM_CREATE_VM', 0)\n"
        "os._exit(0)\n"  # nothing is buffered, so nothing is lost
    )
    environment = dict(os.environ, KVMHARNESS_TRACE=str(path))
    subprocess.run([sys.executable, "-c", program], env=environment, check=True, timeout=30)
    assert json.loads(path.read_text())["errno"] == "ENOTTY"


# ------------------------------------------------------------------ errors


def test_an_error_says_what_the_call_was_given(fake: Callable[[Kernel], None]) -> None:
    fake(lambda fd, request, argument: -errno.EINVAL)
    region = ffi.new("struct kvm_userspace_memory_region2 *")
    region.slot, region.memory_size, region.flags = 1, 0x3000, 4
    with pytest.raises(KvmError, match=r"\); slot=1, flags=4, memory_size=0x3000$"):
        ioctl.call(5, "KVM_SET_USER_MEMORY_REGION2", region).unwrap()
    with pytest.raises(KvmError, match=r"\); argument=0x20$"):
        ioctl.call(5, "KVM_CREATE_VCPU", 32).unwrap()
    with pytest.raises(KvmError, match=r"this call\)$"):
        ioctl.call(5, "KVM_CREATE_IRQCHIP").unwrap()
    assert ioctl.call(5, "KVM_CREATE_VCPU", 3).with_value(None).arguments == "argument=0x3"


def test_what_a_call_only_fills_is_not_what_it_was_given(fake: Callable[[Kernel], None]) -> None:
    fake(lambda fd, request, argument: -errno.EBADF)
    regs, chip = ffi.new("struct kvm_regs *"), ffi.new("struct kvm_irqchip *")
    assert ioctl.call(5, "KVM_GET_REGS", regs).arguments == ""
    assert ioctl.call(5, "KVM_SET_REGS", regs).arguments == "rax=0"
    assert ioctl.call(5, "KVM_GET_IRQCHIP", chip).arguments == "chip_id=0"  # it says which


def test_the_arguments_are_in_a_line() -> None:
    brief = ioctl.brief
    assert brief(ffi.new("struct kvm_irq_level *")) == "irq=0"
    assert brief(ffi.new("struct kvm_enable_cap *", {"cap": 9, "args": [0, 16]})) == (
        "cap=9, args[1]=0x10"
    )
    regs = ffi.new("struct kvm_regs *")
    for name, _ in ffi.typeof("struct kvm_regs").fields:
        setattr(regs, name, 1)
    assert brief(regs).count("=") == 12
    assert brief(regs).endswith(", ...")
    for nothing in (None, ffi.NULL, ffi.cast("void *", 0x10), ffi.new("char[]", b"text")):
        assert brief(nothing) == ""


def test_success_of_the_firmware_is_not_called_an_error() -> None:
    failed: Result[int] = Result("KVM_X", -1, errno.EIO, fw_error=0, fw_error_name="SUCCESS")
    assert "SUCCESS" not in str(KvmError(failed))
    assert "firmware error" not in str(KvmError(Result("KVM_X", -1, errno.EINVAL, fw_error=0)))

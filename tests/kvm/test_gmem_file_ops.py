# SPDX-License-Identifier: MIT
"""A guest_memfd is a file that can't be read, written, seeked, resized or re-opened.

It has mmap, fallocate and release alone (kvm_gmem_fops), so the errnos are the VFS's: EINVAL from
a file without read or write, ESPIPE from one without FMODE_PREAD, FMODE_PWRITE or FMODE_LSEEK.
"""

from __future__ import annotations

import errno
import fcntl
import os
import select
import tempfile
from collections.abc import Callable

import pytest

from kvmharness import GuestMemfd, Vm
from kvmharness.kvm import ioctl
from kvmharness.kvm.ffi import ffi
from kvmharness.kvm.mapping import PAGE_SIZE

from .system_calls import outcome_of

pytestmark = pytest.mark.requires_cap("KVM_CAP_GUEST_MEMFD")

REFUSED: dict[str, tuple[Callable[[int], object], str]] = {
    "read": (lambda fd: os.read(fd, 64), "EINVAL"),
    "readv": (lambda fd: os.readv(fd, [bytearray(64)]), "EINVAL"),
    "write": (lambda fd: os.write(fd, b"x" * 64), "EINVAL"),
    "writev": (lambda fd: os.writev(fd, [b"x" * 64]), "EINVAL"),
    "pread": (lambda fd: os.pread(fd, 64, 0), "ESPIPE"),
    "pwrite": (lambda fd: os.pwrite(fd, b"x" * 64, 0), "ESPIPE"),
    "lseek_set": (lambda fd: os.lseek(fd, 0, os.SEEK_SET), "ESPIPE"),
    "lseek_end": (lambda fd: os.lseek(fd, 0, os.SEEK_END), "ESPIPE"),
    "lseek_data": (lambda fd: os.lseek(fd, 0, os.SEEK_DATA), "ESPIPE"),
    "lseek_hole": (lambda fd: os.lseek(fd, 0, os.SEEK_HOLE), "ESPIPE"),
    # kvm_gmem_setattr() refuses every attribute: the file can't change under its bindings.
    "ftruncate_shrink": (lambda fd: os.ftruncate(fd, PAGE_SIZE), "EINVAL"),
    "ftruncate_zero": (lambda fd: os.ftruncate(fd, 0), "EINVAL"),
    "ftruncate_grow": (lambda fd: os.ftruncate(fd, 8 * PAGE_SIZE), "EINVAL"),
    "ftruncate_same": (lambda fd: os.ftruncate(fd, 4 * PAGE_SIZE), "EINVAL"),
    "fchmod": (lambda fd: os.fchmod(fd, 0o644), "EINVAL"),
    "futimens": (lambda fd: os.utime(fd), "EINVAL"),
    "fsync": (lambda fd: os.fsync(fd), "EINVAL"),
    "add_seals": (lambda fd: fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_GROW), "EINVAL"),
    "reopen": (lambda fd: os.open(f"/proc/self/fd/{fd}", os.O_RDWR), "ENXIO"),
    "epoll": (lambda fd: _epoll(fd), "EPERM"),
}


def _epoll(fd: int) -> None:
    with select.epoll() as epoll:
        epoll.register(fd)


@pytest.mark.scenario("gmem.file.refused")
@pytest.mark.parametrize("operation", REFUSED)
def test_file_operations_fail_and_change_nothing(memfd: GuestMemfd, operation: str) -> None:
    call, wanted = REFUSED[operation]
    before = os.fstat(memfd.fileno())
    assert outcome_of(call, memfd.fileno()) == wanted
    assert os.fstat(memfd.fileno()) == before


@pytest.mark.scenario("gmem.file.copied_from")
def test_it_is_no_source_or_target_of_a_copy_inside_the_kernel(memfd: GuestMemfd) -> None:
    fd = memfd.fileno()
    with tempfile.TemporaryFile() as file:
        file.write(b"x" * PAGE_SIZE)
        file.flush()
        refused = {
            "copy_file_range from": outcome_of(os.copy_file_range, fd, file.fileno(), PAGE_SIZE),
            "copy_file_range to": outcome_of(
                os.copy_file_range, file.fileno(), fd, PAGE_SIZE, 0, 0
            ),
            "sendfile from": outcome_of(os.sendfile, file.fileno(), fd, 0, PAGE_SIZE),
            "sendfile to": outcome_of(os.sendfile, fd, file.fileno(), 0, PAGE_SIZE),
        }
    # Which errno depends on the file systems met on the way; that none succeeds does not.
    assert "ok" not in refused.values(), refused
    assert set(refused.values()) <= {"EINVAL", "ESPIPE", "EXDEV", "EOPNOTSUPP"}


@pytest.mark.scenario("gmem.file.spliced")
def test_it_can_not_be_spliced(memfd: GuestMemfd) -> None:
    reader, writer = os.pipe()
    try:
        os.write(writer, b"x")
        assert outcome_of(os.splice, memfd.fileno(), writer, PAGE_SIZE) == "EINVAL"
        assert outcome_of(os.splice, reader, memfd.fileno(), 1) == "EINVAL"
    finally:
        os.close(reader)
        os.close(writer)


@pytest.mark.scenario("gmem.file.unknown_ioctl")
def test_ioctls_of_other_fds_are_enotty(memfd: GuestMemfd) -> None:
    fd = memfd.fileno()
    region = ffi.new("struct kvm_userspace_memory_region2 *")
    attributes = ffi.new("struct kvm_memory_attributes *")
    for name, argument in (
        ("KVM_CHECK_EXTENSION", 0),
        ("KVM_SET_USER_MEMORY_REGION2", region),
        ("KVM_SET_MEMORY_ATTRIBUTES", attributes),
        ("KVM_RUN", None),
    ):
        assert ioctl.call(fd, name, argument).errno == errno.ENOTTY, name


@pytest.mark.scenario("gmem.file.dup")
def test_a_duplicate_is_the_same_file(memfd: GuestMemfd) -> None:
    copy = os.dup(memfd.fileno())
    try:
        assert os.path.sameopenfile(copy, memfd.fileno())
        memfd.close()
        assert os.fstat(copy).st_size == 4 * PAGE_SIZE
    finally:
        os.close(copy)


@pytest.mark.scenario("gmem.file.stat_mode")
def test_it_is_a_regular_file_nobody_else_may_use(typed_vm: Vm, memfd: GuestMemfd) -> None:
    assert os.fstat(memfd.fileno()).st_mode == 0o100600
    flags = fcntl.fcntl(memfd.fileno(), fcntl.F_GETFL)
    assert flags & os.O_ACCMODE == os.O_RDWR

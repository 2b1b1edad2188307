# SPDX-License-Identifier: MIT
"""Reading the kernel's log: records, a console, since when, and doing without permission."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from kvmharness.kernel_log.log import (
    KernelLine,
    KernelLog,
    parse,
    parse_console,
    say_begin,
    since_begin,
)


def test_a_record_is_parsed() -> None:
    line = parse(b"6,1034,5140900,-;kvm: disabled by bios\n SUBSYSTEM=pci\n DEVICE=+pci:0\n")
    assert line == KernelLine(6, 5.1409, "kvm: disabled by bios")
    assert str(line) == "[    5.140900] kvm: disabled by bios"


def test_the_facility_is_not_part_of_the_level() -> None:
    # 30 is facility 3 (daemon), level 6: what userspace wrote.
    line = parse(b"30,1,2000000,-;systemd: hello\n")
    assert (line.level, line.facility) == (6, 3)


def test_escaped_bytes_of_a_record_are_read() -> None:
    assert parse(b"3,1,1,-;\\x0a[ BUG: \\xc3\\xa9 \\x5c ]\\x0a\\x0a\n").text == "[ BUG: é \\ ]"


def test_a_console_s_lines_are_those_with_a_time() -> None:
    text = "SeaBIOS\r\n[    1.500000] kvm: x\r\n[   12.250000][  T412] BUG: y\r\ncut o"
    assert parse_console(text) == [
        KernelLine(None, 1.5, "kvm: x", None),
        KernelLine(None, 12.25, "BUG: y", None),
    ]


def test_no_log_where_it_can_not_be_read(tmp_path: Path) -> None:
    assert KernelLog.open(str(tmp_path / "absent")) is None
    directory = os.fspath(tmp_path)
    assert KernelLog.open(directory) is None


def test_a_test_s_beginning_is_found_again(tmp_path: Path) -> None:
    kmsg = tmp_path / "kmsg"
    kmsg.touch()
    say_begin("gmem.a[x\ny]", str(kmsg))
    said = kmsg.read_text()
    assert said == "<6>kvmharness: begin gmem.a[x y]\n"
    texts = ["before", said[3:].strip(), "first run", said[3:].strip(), "one", "two"]
    lines = [KernelLine(6, 1.0, text) for text in texts]
    assert [line.text for line in since_begin(lines, "gmem.a[x\ny]")] == ["one", "two"]
    assert since_begin(lines, "gmem.b") == lines


def test_a_test_begins_also_where_the_log_can_not_be_written(tmp_path: Path) -> None:
    say_begin("gmem.a", str(tmp_path / "absent" / "kmsg"))
    say_begin("gmem.a", str(tmp_path))


def test_new_lines_are_those_since_the_mark() -> None:
    log = KernelLog.open()
    if log is None or not os.access("/dev/kmsg", os.W_OK):
        pytest.skip("the kernel's log can't be read and written by this user")

    def say(text: str) -> None:
        Path("/dev/kmsg").write_text(text)

    say("kvmharness: test: before\n")
    log.mark()
    say("kvmharness: test: one\n")
    say("kvmharness: test: two\n")
    say_begin("long " * 500)
    texts = [line.text for line in log.new_lines() if "kvmharness: test" in line.text]
    assert texts == ["kvmharness: test: one", "kvmharness: test: two"]
    assert not [line for line in log.new_lines() if "kvmharness: test" in line.text]
    log.close()

# SPDX-License-Identifier: MIT
"""The Python half of ci/bench; bench.c beside it does the same work. --json for machines."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from kvmharness import Kvm, MissingCapability
from kvmharness.kvm.exits import IoExit
from kvmharness.kvm.mapping import MAP_ANONYMOUS, MAP_PRIVATE, Mapping, map_memory
from kvmharness.machine.cpu_mode import enter
from kvmharness.machine.payload import Mode

HERE = Path(__file__).resolve().parent
SIZE = 1 << 20
#: out %al, $0x10; jmp back to it: real mode, as many exits as one asks for.
PORT_WRITER = bytes([0xE6, 0x10, 0xEB, 0xFC])

WHAT = {
    "ioctl": "KVM_CHECK_EXTENSION, a call",
    "copy": "guarded copy, a MiB (C: memcpy)",
    "exit": "KVM_RUN to a PIO exit and back, with a deadline (C: without)",
    "vm": "a VM with 1 MiB and a vCPU: made, run to one exit, closed",
}


def main() -> int:
    try:
        kvm = Kvm.open()
    except MissingCapability as error:
        print(f"nothing to measure: {error}")
        return 4
    with kvm, tempfile.TemporaryDirectory() as folder:
        image = Path(folder) / "image.bin"
        image.write_bytes(PORT_WRITER)
        program = Path(folder) / "bench"
        subprocess.run(["cc", "-O2", "-o", program, HERE / "bench.c"], check=True, timeout=60)
        output = subprocess.run(
            [program, image], check=True, timeout=120, capture_output=True, text=True
        ).stdout
        in_c = {name: float(value) for name, value in map(str.split, output.splitlines())}
        in_python = measure(kvm)
    if "--json" in sys.argv:
        rows = {name: {"c_ns": in_c[name], "python_ns": in_python[name]} for name in WHAT}
        print(json.dumps({"kernel": os.uname().release, "figures": rows}))
        return 0
    table = Table(title=f"nanoseconds an operation, Linux {os.uname().release}")
    for title in ("what", "C", "kvmharness", "times C"):
        table.add_column(title, justify="left" if title == "what" else "right")
    for name, text in WHAT.items():
        ratio = in_python[name] / in_c[name]
        table.add_row(text, f"{in_c[name]:,.0f}", f"{in_python[name]:,.0f}", f"{ratio:.2f}")
    Console(width=110).print(table)
    return 0


def measure(kvm: Kvm) -> dict[str, float]:
    figures = {}
    calls, exits, vms, copies, copy = 50_000, 50_000, 200, 8, 64 << 20

    start = time.perf_counter_ns()
    for _ in range(calls):
        kvm.check_extension(0)
    figures["ioctl"] = (time.perf_counter_ns() - start) / calls

    with map_memory(copy, flags=MAP_PRIVATE | MAP_ANONYMOUS) as mapping:
        data = bytearray(b"\1") * copy
        mapping.write(0, data)
        start = time.perf_counter_ns()
        for _ in range(copies):
            mapping.write(0, data)
        figures["copy"] = (time.perf_counter_ns() - start) / copies / (copy >> 20)

    with map_memory(SIZE, flags=MAP_PRIVATE | MAP_ANONYMOUS) as memory:
        memory.write(0x1000, PORT_WRITER)
        figures["exit"] = run_exits(kvm, memory, exits)
        start = time.perf_counter_ns()
        for _ in range(vms):
            run_exits(kvm, memory, 1)
        figures["vm"] = (time.perf_counter_ns() - start) / vms
    return figures


def run_exits(kvm: Kvm, memory: Mapping, exits: int) -> float:
    with kvm.create_vm() as vm:
        vm.set_user_memory_region(0, 0, SIZE, memory.address)
        with vm.create_vcpu(0) as vcpu:
            enter(vcpu, Mode.REAL, 0x1000)
            start = time.perf_counter_ns()
            for _ in range(exits):
                if not isinstance(vcpu.run(5), IoExit):
                    raise RuntimeError("the guest did something other than write to its port")
            return (time.perf_counter_ns() - start) / exits


if __name__ == "__main__":
    sys.exit(main())

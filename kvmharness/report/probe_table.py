# SPDX-License-Identifier: MIT
"""The facts of ``kvmharness probe`` as tables on a terminal."""

from __future__ import annotations

from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

#: Parameters that change what the suite sees; --json has the others.
_TELLING = {
    "kvm": ("tdp_mmu", "mmio_caching", "enable_vmware_backdoor", "gmem_in_place_conversion"),
    "kvm_intel": ("tdx", "ept", "nested", "unrestricted_guest", "pml"),
    "kvm_amd": ("sev", "sev_es", "sev_snp", "npt", "nested", "avic"),
}

#: Capabilities shown as numbers; the others are flags, and read better as names.
_COUNTS = ("KVM_CAP_NR_MEMSLOTS", "KVM_CAP_NR_VCPUS", "KVM_CAP_MAX_VCPUS")


def show(console: Console, facts: dict[str, Any]) -> None:
    """Print the facts, then the paths with their reasons."""
    style = "bold yellow" if facts["host"]["emulated"] else "bold"
    console.print(Text(facts["host"]["words"], style=style))
    console.print()
    console.print(_facts_table(facts))
    console.print()
    console.print(_paths_table(facts))


def _facts_table(facts: dict[str, Any]) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="cyan", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in (
        ("cpu", _cpu(facts["machine"])),
        ("memory", _memory(facts["machine"])),
        ("modules", _modules(facts["modules"])),
        ("/dev/kvm", _kvm(facts["kvm"])),
        *(
            (f"{label} VM", _vm(vm, facts["kvm"]["capabilities"]))
            for label, vm in facts["kvm"].get("vms", {}).items()
        ),
        ("SEV", _sev(facts)),
        ("TDX", _tdx(facts)),
    ):
        # Text, not markup: what the system says may hold square brackets.
        table.add_row(name, Text(value))
    return table


def _cpu(machine: dict[str, Any]) -> str:
    flags = [flag for flag, is_set in machine["cpu_flags"].items() if is_set]
    return (
        f"{machine['cpu_model'] or 'unknown'}, {machine['cpus']} CPUs, "
        f"{'itself a VM' if machine['is_vm'] else 'bare metal'}\n"
        f"flags that matter here: {' '.join(flags) or 'none'}"
    )


def _memory(machine: dict[str, Any]) -> str:
    huge = [
        f"{sizes['free']} of {sizes['total']} {_bytes(int(size))} pages free"
        for size, sizes in machine["hugepages"].items()
        if sizes["total"]
    ]
    nodes = machine["numa_nodes"]
    return (
        f"{_bytes(machine['memory_bytes'])}, "
        f"{_bytes(machine['memory_available_bytes'])} available, "
        f"{len(nodes)} NUMA node{'s' if len(nodes) != 1 else ''}, "
        f"huge pages: {', '.join(huge) or 'none reserved'}"
    )


def _bytes(size: int) -> str:
    for unit, shift in (("GiB", 30), ("MiB", 20), ("KiB", 10)):
        if size >= 1 << shift:
            return f"{size / (1 << shift):.1f} {unit}".replace(".0 ", " ")
    return f"{size} bytes"


def _modules(modules: dict[str, Any]) -> str:
    if not modules["parameters"]:
        return "kvm is not loaded"
    lines = []
    for name, parameters in modules["parameters"].items():
        told = [f"{key}={parameters[key]}" for key in _TELLING.get(name, ()) if key in parameters]
        in_use = " (in use)" if name == modules["vendor"] else ""
        lines.append(f"{name}{in_use} {' '.join(told)}".rstrip())
    return "\n".join(lines)


def _kvm(kvm: dict[str, Any]) -> str:
    if not kvm["accessible"]:
        return str(kvm["reason"])
    counts = kvm["capabilities"]
    return (
        f"API version {kvm['api_version']}, VM types {', '.join(kvm['vm_types'])}\n"
        f"{counts['KVM_CAP_MAX_VCPUS']} vCPUs and {counts['KVM_CAP_NR_MEMSLOTS']} slots at most\n"
        f"{_capabilities(kvm['capabilities'])}"
    )


def _vm(vm: dict[str, Any], system: dict[str, int]) -> str:
    if not vm["created"]:
        return str(vm["reason"])
    memfd = vm["guest_memfd"]
    if memfd["offered"]:
        lines = [f"guest_memfd with flags {' '.join(memfd['flags']) or 'none'}"]
        # Only a whole proof is worth a line; --json tells what became of each combination.
        if memfd["tried"]["MMAP|INIT_SHARED"]["ok"]:
            lines[0] += f": {memfd['tried']['MMAP|INIT_SHARED']['result']}"
    else:
        lines = [f"no guest_memfd: {memfd['tried']['none']['result']}"]
    own = vm["capabilities"]
    differ = [
        f"{name.removeprefix('KVM_CAP_')}={own[name]:#x}"
        for name in own
        if own[name] != system[name]
    ]
    differences = f"capabilities as /dev/kvm has them, but {' '.join(differ)}"
    return "\n".join([*lines, differences if differ else "capabilities as /dev/kvm has them"])


def _capabilities(capabilities: dict[str, int]) -> str:
    """Name what is there with its value, then what is absent."""
    short = {
        name.removeprefix("KVM_CAP_"): value
        for name, value in capabilities.items()
        if name not in _COUNTS
    }
    there = [name if value == 1 else f"{name}={value:#x}" for name, value in short.items() if value]
    absent = [name for name, value in short.items() if not value]
    return f"has {' '.join(there) or 'nothing'}\nlacks {' '.join(absent) or 'nothing'}"


def _sev(facts: dict[str, Any]) -> str:
    parameters = facts["sev"]["module_parameters"]
    device = facts["sev"]["device"]
    said = (
        " ".join(f"{name}={value}" for name, value in parameters.items() if value is not None)
        if parameters
        else "kvm_amd is not loaded"
    )
    return f"{said}; {device['reason'] or '/dev/sev can be opened'}"


def _tdx(facts: dict[str, Any]) -> str:
    parameters = facts["tdx"]["module_parameters"]
    if parameters is None:
        return "kvm_intel is not loaded"
    value = parameters["tdx"]
    return f"tdx={value}" if value is not None else "kvm_intel has no tdx parameter: built without"


def _paths_table(facts: dict[str, Any]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1))
    table.add_column("path", no_wrap=True)
    table.add_column("state", no_wrap=True)
    table.add_column("reason", overflow="fold")
    for path in facts["paths"]:
        style = "green" if path["state"] == "run" else "yellow"
        table.add_row(path["id"], Text(path["state"], style=style), Text(path["reason"]))
    return table

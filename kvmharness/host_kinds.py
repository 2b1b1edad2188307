# SPDX-License-Identifier: MIT
"""The kinds of hosts there are: the one list, which everything that names a kind reads.

An emulated host is a real kernel under QEMU's software emulation with a module of ours that stands
in for the silicon (vm_images/emulated_host). To add a kind, add it here and its module there.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

from kvmharness.record import Record

if TYPE_CHECKING:
    from kvmharness.release import Series

#: This machine and the kernel it runs.
NATIVE = "native"
#: The kernel that emulated hosts boot where no other is asked for.
DEFAULT_KERNEL = "7.3"


class EmulatedKind(Record, frozen=True):
    """A kind of emulated host: its processor, its stand-in, and what it asks of a kernel."""

    name: str
    #: The VM type it is for, by its label, which is the name of the suite's directory too.
    vm_type: str
    #: The labels of the VM types that can be created there; None: all that KVM offers.
    serves: tuple[str, ...] | None
    #: The module that stands in for the silicon; its source is the directory of that name.
    standin: str
    #: QEMU's processor model.
    cpu: str
    #: Modules in load order: what the stand-in needs before it, itself, what it is for.
    modules: tuple[str, ...]
    #: Of them, those that the kernel must have as modules.
    required: tuple[str, ...]
    #: Of them, those that are built here from the kernel's source, configured otherwise ...
    rebuilt: tuple[str, ...]
    #: The first kernel series that has what it is for.
    oldest: Series
    #: What of the suite runs there where nothing is selected, besides the directory of its VM type.
    also: tuple[str, ...] = ()
    #: Options of modules that are always given.
    options: Mapping[str, str] = MappingProxyType({})
    #: ... but for a kernel that is configured with this (without CONFIG_): it has its own.
    own_with: str = ""


_SNP = EmulatedKind(
    name="emulated-snp",
    vm_type="snp",
    serves=None,
    standin="snp_standin",
    # The newest model whose SVM, with nested paging, QEMU's emulation offers.
    cpu="EPYC-v4",
    modules=("kvm", "ccp", "snp_standin", "kvm-amd"),
    required=("kvm", "kvm-amd"),
    rebuilt=(),
    oldest=(6, 11),
    # Of default VMs what the contract promises: guest_memfd by itself, on the kernel in question.
    also=("kvm/test_scenarios.py",),
)

_TDX = EmulatedKind(
    name="emulated-tdx",
    vm_type="tdx",
    # Any other VM would make the kernel execute VMX instructions that nothing answers.
    serves=("tdx",),
    standin="tdx_standin",
    # No model that QEMU knows has TDX. What its emulation can do, as a processor of the first
    # generation that has (Sapphire Rapids), but for what would only slow the kernel down.
    cpu="max,vendor=GenuineIntel,family=6,model=143,la57=off,svm=off",
    modules=("kvm", "tdx_standin", "kvm-intel"),
    required=("kvm",),
    # Packaged kernels have TDX off.
    rebuilt=("kvm-intel",),
    # KVM has TDX since 6.16; the stand-in takes the place of functions as they are since 7.2.
    oldest=(7, 2),
    options={"kvm-intel": "tdx=1 nested=0"},
    own_with="INTEL_TDX_HOST",
)

#: The kinds of emulated hosts, by name.
EMULATED: Mapping[str, EmulatedKind] = {kind.name: kind for kind in (_SNP, _TDX)}
#: The VM types that have scenarios, and a host of their own or one that serves them.
VM_TYPES = ("default", *(kind.vm_type for kind in EMULATED.values()))
#: The names of all kinds.
NAMES = (NATIVE, *EMULATED)


def for_vm_type(label: str) -> EmulatedKind:
    """Return the kind to see VMs of this type on: the one that is for it, else one that serves any.

    `label`: the VM type's, such as ``snp``.
    """
    meant = [kind for kind in EMULATED.values() if kind.vm_type == label]
    serving = [kind for kind in EMULATED.values() if kind.serves is None]
    return (*meant, *serving)[0]

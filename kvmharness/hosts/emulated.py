# SPDX-License-Identifier: MIT
"""Emulated hosts: a distribution kernel under QEMU's software emulation, with a stand-in module.

kvm.ko, kvm-amd.ko and guest_memfd are the kernel's own; the stand-in models the silicon below
them (vm_images/emulated_host). What is seen there is the kernel's doing, never a hardware pass.
For TDX, which packaged kernels have off, kvm-intel.ko is built from their source (tdx_build.py); a
kernel of one's own that has it on brings its own.

The guest's root is the caller's, read-only, with a memory file system above it: every path can be
written inside and nothing reaches the caller, but for the directories given as `writable`. The
guest has no network and no disk.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from kvmharness import host_kinds, progress
from kvmharness.errors import HarnessError, MissingCapability, UsageError
from kvmharness.host_kinds import EmulatedKind
from kvmharness.hosts import again, busybox, orders, qemu, snapshot, suitable, terminal, tsc, vmcore
from kvmharness.hosts.boot_image import boot_image, command_script, load_order
from kvmharness.hosts.host import HostRun, OnOutput, Silence, Verdict, never
from kvmharness.hosts.monitor import Monitor
from kvmharness.hosts.start import start
from kvmharness.hosts.virtual_machine import Share, VirtualMachine
from kvmharness.hosts.watch import Watch
from kvmharness.kernels import (
    module_options,
    modulebuild,
    own_modules,
    packages,
    resolve,
    spec,
    tdx_build,
    tdx_tree,
)
from kvmharness.kernels.kernels import Kernel
from kvmharness.labels import HOST_VARIABLE, KERNEL_VARIABLE, HostLabel

#: Seconds from QEMU's start to the command's; a boot takes 3 on a free core.
BOOT_DEADLINE = 120.0
#: The same where it goes on from a snapshot.
_RESTORE_DEADLINE = 30.0
#: MiB
DEFAULT_MEMORY = 1024
# mitigations, nokaslr: work for an emulated processor, no protection here. tsc, no_timer_check, and
# tsc_early_khz, which goes with them: no calibration against timers that emulation makes jitter.
# rcu_expedited: a grace period, which every VM's end waits for, takes a fraction of the time.
# notests, initcall_blacklist: a second of crypto self-tests and of checking the certificates that
# modules are signed with. panic=-1: a panic ends QEMU at once. init_on_alloc: with it every page
# begins as zeros, and that guest_memfd makes its own so (gmem.punch.zeros) could not be seen.
# hung_task: who waits so long for a lock waits for ever, and can't be ended. A panic says where it
# waits and who holds the lock, is that test's failure, and the tests after it get another boot.
# transparent_hugepage: of a huge page nobody asked for, a part that is unmapped stays charged, and
# looks like a page that somebody forgot to let go of (suite/held.py).
_APPEND = (
    "console=ttyS0 quiet panic=-1 mitigations=off nokaslr tsc=reliable no_timer_check "
    "rcupdate.rcu_expedited=1 random.trust_cpu=on audit=0 log_buf_len=1M cryptomgr.notests=1 "
    "init_on_alloc=0 initcall_blacklist=load_system_certificate_list "
    "hung_task_panic=1 sysctl.kernel.hung_task_timeout_secs=15 transparent_hugepage=madvise"
)
# A kernel that has panicked stays as it is, to be looked at.
_STAYS = "panic=0"
# Carried into the guest from the caller's environment.
_PASSED = re.compile(
    r"PATH|HOME|USER|LOGNAME|VIRTUAL_ENV|LANG|LC_.*|TZ|TERM|NO_COLOR|CI|PYTHON.*|PYTEST_.*|"
    r"KVMHARNESS_(?!CACHE$|HOST$|HOST_KERNEL$).*"
)
#: What builds a module that a kind has rebuilt, of a packaged kernel and of a tree.
_BUILDERS = {"kvm-intel": (tdx_build.build_kvm_intel, tdx_tree.build_kvm_intel)}


@dataclass(frozen=True)
class EmulatedHost:
    """An emulated host that is ready to boot."""

    kind: EmulatedKind
    kernel: Kernel
    qemu: qemu.Qemu
    built: Mapping[str, Path]  # modules that are not the kernel's: the stand-in above all
    busybox: Path
    facts: Mapping[str, object] = field(default_factory=dict)
    #: Beyond the kind's own: module name to its options, and the same as they were given.
    module_options: Mapping[str, str] = field(default_factory=dict)
    varied: tuple[str, ...] = ()

    @classmethod
    def prepare(
        cls, kind: str, kernel: str | Kernel = host_kinds.DEFAULT_KERNEL, *, update: bool = False
    ) -> EmulatedHost:
        """Return the host, fetching and building what is not cached.

        `kind`: its name; `kernel`: see spec.py, or one that is ready. Raises MissingCapability with
        the reason where the machine or the archive can't give it, BuildFailed where the stand-in or
        KVM's modules do not build for the kernel, DoesNotApply where its patches do not fit.
        """
        if kind not in host_kinds.EMULATED:
            known = ", ".join(host_kinds.EMULATED)
            raise UsageError(f"unknown kind of host {kind!r}: one of {known}")
        chosen = host_kinds.EMULATED[kind]
        if os.uname().machine != "x86_64":
            raise MissingCapability(
                kind, f"QEMU is fetched for x86_64, this is {os.uname().machine}"
            )
        ready = _kernel(chosen, kernel, update=update)
        source = modulebuild.standin(chosen)
        with _as_missing(kind):
            machine = qemu.find()
            shell = busybox.find()
            rebuilt = suitable.to_rebuild(chosen, ready)
            built = {name: _builder(name, ready)(source, ready) for name in rebuilt}
            built[chosen.standin] = modulebuild.build(source, ready)
        facts = {
            "kind": kind,
            "emulated": True,
            "kernel": ready.label,
            "kernel_origin": ready.origin,
            "qemu": machine.version,
            "standin": source.digest(),
            # Not as packaged: built from the kernel's source, changed or configured otherwise.
            "rebuilt": sorted({*rebuilt, *ready.replaced} & set(chosen.modules)),
        }
        return cls(chosen, ready, machine, built, shell, facts)

    @property
    def label(self) -> HostLabel:
        """What a result seen here is to be called: the kernel, and what it was loaded with."""
        return HostLabel(self.kind.name, " ".join((self.kernel.label, *self.varied)))

    @property
    def modules(self) -> Mapping[str, Path]:
        """The files of the modules that are loaded, by name in load order."""
        return load_order(self.kind, self.kernel, self.built)

    def with_modules(self, given: Sequence[str]) -> EmulatedHost:
        """Return the host with modules of the user's own loaded, each ``NAME=PATH``.

        Raises UsageError for what is not loaded there, or does not fit its kernel.
        """
        modules = own_modules.parse(given)
        if not modules:
            return self
        kernel = own_modules.put_into(self.kernel, modules, self.modules)
        built = {name: path for name, path in self.built.items() if name not in modules}
        rebuilt = sorted({*built, *kernel.replaced} - {self.kind.standin})
        files = {name: str(path) for name, path in modules.items()}
        facts = {**self.facts, "kernel": kernel.label, "rebuilt": rebuilt, "modules": files}
        return replace(self, kernel=kernel, built=built, facts=facts)

    def with_module_options(self, options: Sequence[str]) -> EmulatedHost:
        """Return the host with its modules loaded with `options`, each ``MODULE.NAME=VALUE``.

        Raises UsageError for a module that is not loaded there, and for an option it has not got.
        """
        if not options:
            return self
        return replace(
            self,
            module_options=module_options.resolve(options, self.modules),
            varied=tuple(options),
            facts={**self.facts, "module_options": list(options)},
        )

    def run(
        self,
        argv: Sequence[str],
        *,
        timeout: float,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        writable: Sequence[Path] = (),
        on_output: OnOutput | None = None,
        silence: Silence = never,
        after: Sequence[str] = (),
        smp: int = 1,
        memory: int = DEFAULT_MEMORY,
        append: str = "",
        boot_timeout: float = BOOT_DEADLINE,
        block_log: int | None = None,
        keep_vmcore: Path | None = None,
        cold: bool = False,
    ) -> HostRun:
        """Boot, run `argv` in the caller's root and directory, and end.

        `timeout`: seconds for the command, from when it starts; `boot_timeout`: for the boot.
        `smp`: processors; `memory`: MiB. `append`: more for the kernel's command line. `env` is
        added to what is carried over from the caller's environment. `block_log`: a file (its fd)
        that takes the code of the modules as it first runs (coverage/block_log.py). `keep_vmcore`:
        the directory for the guest's memory, if it panics or hangs. `cold`: boot, whether there is
        a snapshot to go on from or not. Never raises for what happens inside: the verdict says it.
        """
        if keep_vmcore is not None:
            append = f"{_STAYS} {append}"
        script = command_script(argv, self._environment(env), cwd or Path.cwd(), after)
        machine = self._machine(writable, smp, memory, append)
        archive = self._boot_image()
        told = orders.orders(machine.shares[1:], script, interactive=False)

        def watch() -> Watch:
            return Watch(on_output, time.monotonic(), boot_timeout, timeout, silence, after)

        run = _started(
            *(machine, archive, told, watch),
            interactive=False,
            block_log=block_log,
            keep_vmcore=keep_vmcore,
            # What ran before a snapshot was taken would be in no log.
            cold=cold or block_log is not None,
        )
        return _kept_if_failed(run, machine, archive, told, interactive=False)

    def shell(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        smp: int = 1,
        memory: int = DEFAULT_MEMORY,
        append: str = "",
        writable: Sequence[Path] = (),
    ) -> HostRun:
        """Boot and give `argv` the caller's terminal; ends when it does, without a deadline."""
        extra = {"TERM": os.environ.get("TERM", "linux"), **(env or {})}
        script = command_script(argv, self._environment(extra), Path.cwd())
        machine = self._machine(writable, smp, memory, append)
        archive = self._boot_image()
        script = terminal.size_setting() + script
        told = orders.orders(machine.shares[1:], script, interactive=True)

        def watch() -> Watch:
            return Watch(None, time.monotonic(), BOOT_DEADLINE, float("inf"))

        with terminal.kept():
            run = _started(machine, archive, told, watch, interactive=True)
        return _kept_if_failed(run, machine, archive, told, interactive=True)

    def _environment(self, extra: Mapping[str, str] | None) -> dict[str, str]:
        kept = {k: v for k, v in os.environ.items() if _PASSED.fullmatch(k)}
        kept[HOST_VARIABLE] = self.kind.name
        kept[KERNEL_VARIABLE] = self.label.kernel
        kept["KVMHARNESS_HOST_FACTS"] = json.dumps(dict(self.facts))
        # The root is the caller's: what is not compiled there now would be compiled in every run.
        kept.setdefault("PYTHONDONTWRITEBYTECODE", "1")
        kept.update(extra or {})
        return kept

    def _machine(
        self, writable: Sequence[Path], smp: int, memory: int, append: str
    ) -> VirtualMachine:
        root = Share("root", Path("/"), Path("/"), readonly=True)
        return VirtualMachine(
            qemu=self.qemu,
            kernel=self.kernel.image,
            append=f"{_APPEND} tsc_early_khz={tsc.khz()} {append}".strip(),
            cpu=self.kind.cpu,
            smp=smp,
            memory=memory,
            shares=(root, *_shares(writable)),
        )

    def _boot_image(self) -> bytes:
        return boot_image(
            self.kind,
            self.modules,
            self.busybox,
            module_options=self.module_options,
        )


def _started(
    machine: VirtualMachine,
    archive: bytes,
    told: bytes,
    watch: Callable[[], Watch],
    *,
    interactive: bool,
    block_log: int | None = None,
    keep_vmcore: Path | None = None,
    cold: bool = False,
) -> HostRun:
    """Boot, and once again if the command was not let begin; what came of the last boot.

    It goes on from a snapshot where there is one that can be restored, and makes one else.
    """
    cores: list[Path] = []

    state = snapshot.of(machine, archive)

    def boot(restore: int | None = None) -> Watch:
        watched = watch()
        if restore is not None:
            watched.hurry(_RESTORE_DEADLINE)

        def keep(monitor: Monitor) -> None:
            assert keep_vmcore is not None
            core = vmcore.write(monitor, keep_vmcore, "vmcore", watched.vmcoreinfo)
            cores.extend([core] if core else [])

        kept = keep if keep_vmcore is not None else None
        start(
            *(machine, archive, told, watched),
            interactive=interactive,
            make=None if state.file.exists() else state,
            restore=restore,
            block_log=block_log,
            keep_vmcore=kept,
        )
        return watched

    refused = []
    with state.opened() if not cold else contextlib.nullcontext() as restore:
        watched = boot(restore)
    restored = restore is not None and watched.came_up
    if restore is not None and not restored:
        progress.note("the snapshot of the emulated host can't be restored; it is booted anew")
        state.drop()
        watched = boot()
    if watched.refused:
        refused = [watched.refused]
        progress.note(f"the emulated host was refused, {watched.refused}; it is booted again")
        state.drop()
        watched, restored = boot(), False
    core = cores[-1] if cores else None
    return replace(watched.verdict(), refused=refused, restored=restored, vmcore=core)


def _kept_if_failed(
    run: HostRun, machine: VirtualMachine, archive: bytes, told: bytes, *, interactive: bool
) -> HostRun:
    """Add to a run whose command did not end by itself how to boot the same again."""
    if run.verdict is Verdict.FINISHED:
        return run
    return replace(
        run, again=again.keep(machine, archive, told, run.console, interactive=interactive)
    )


def _builder(name: str, kernel: Kernel) -> Callable[[modulebuild.ModuleSource, Kernel], Path]:
    packaged, of_tree = _BUILDERS[name]
    return packaged if kernel.tree is None else of_tree


def _kernel(kind: EmulatedKind, wanted: str | Kernel, *, update: bool) -> Kernel:
    """Return the kernel, if it can be booted as such a host; one that is too old is not fetched."""
    if isinstance(wanted, Kernel):
        ready = wanted
    else:
        asked = spec.parse(wanted)
        named = asked.base != spec.NEWEST and not asked.is_tree
        if named and (reason := suitable.why_not_release(kind, asked.base)):
            raise MissingCapability(f"{kind.name} on {wanted}", reason)
        ready = resolve.get(asked, update=update)
    if reason := suitable.why_not(kind, ready):
        raise MissingCapability(f"{kind.name} on {ready.release}", reason)
    return ready


@contextlib.contextmanager
def _as_missing(kind: str) -> Iterator[None]:
    """Turn a package that can't be had into the capability that is missing for it."""
    try:
        yield
    except packages.PackageUnavailable as failure:
        raise MissingCapability(kind, str(failure)) from failure


def _shares(writable: Sequence[Path]) -> list[Share]:
    shares = []
    for number, path in enumerate(dict.fromkeys(p.resolve() for p in writable)):
        if not path.is_dir():
            raise HarnessError(f"{path} can't be shared with the guest: it is no directory")
        if re.search(r"\s", str(path)):
            raise HarnessError(f"{path} can't be shared with the guest: its path has a space")
        shares.append(Share(f"share{number}", path, path))
    return shares

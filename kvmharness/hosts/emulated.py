# SPDX-License-Identifier: MIT
"""Emulated hosts: a distribution kernel under QEMU's software emulation, with a stand-in module.

kvm.ko, kvm-amd.ko and guest_memfd are the kernel's own; the stand-in models the silicon below
them (vm_images/emulated_host). What is seen there is the kernel's doing, never a hardware pass.
For TDX, which packaged kernels have off, kvm-intel.ko is built from their source (tdx_build.py).

The guest's root is the caller's, read-only, with a memory file system above it: every path can be
written inside and nothing reaches the caller, but for the folders given as `writable`. The guest
has no network and no disk.

Nothing outlives a run: QEMU is a child that the kernel kills with us, and what it is given is in
memory files (memfd) and pipes, not in files.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import selectors
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from kvmharness import process
from kvmharness.errors import HarnessError, MissingCapability, UsageError
from kvmharness.hosts import host, qemu
from kvmharness.hosts.host import HostRun, OnOutput, Verdict
from kvmharness.hosts.initramfs import Initramfs
from kvmharness.kernels import cache, kernels, modulebuild, packages, tdx_build
from kvmharness.resources import images_dir

#: Seconds from QEMU's start to the command's; a boot takes 3 on a free core.
BOOT_DEADLINE = 120.0
DEFAULT_KERNEL = "7.3"
#: MiB
DEFAULT_MEMORY = 1024
#: After a panic was seen, the seconds the guest gets to reset itself.
_LAST_WORDS = 5.0
_CONSOLE_KEPT = 256 * 1024
# mitigations, nokaslr: work for an emulated processor, no protection here. tsc, no_timer_check:
# no calibration against timers that emulation makes jitter. rcu_expedited: a grace period, which
# every VM's end waits for, takes a fraction of the time. notests, initcall_blacklist: a second of
# crypto self-tests and of checking the certificates that modules are signed with. panic=-1: a
# panic ends QEMU at once.
_APPEND = (
    "console=ttyS0 quiet panic=-1 mitigations=off nokaslr tsc=reliable no_timer_check "
    "rcupdate.rcu_expedited=1 random.trust_cpu=on audit=0 log_buf_len=1M cryptomgr.notests=1 "
    "initcall_blacklist=load_system_certificate_list"
)
# Carried into the guest from the caller's environment.
_PASSED = re.compile(
    r"PATH|HOME|USER|LOGNAME|VIRTUAL_ENV|LANG|LC_.*|TZ|TERM|NO_COLOR|CI|PYTHON.*|PYTEST_.*|"
    r"KVMHARNESS_(?!CACHE$|HOST$).*"
)


@dataclass(frozen=True)
class Kind:
    """A kind of emulated host: the processor, the stand-in, and what is loaded, in that order."""

    name: str
    cpu: str
    standin: str
    modules: tuple[str, ...]  # what the stand-in needs before it, itself, what it is for
    oldest: str  # kernel series that has what it is for
    required: tuple[str, ...]  # of them, those that the kernel must have as modules
    options: Mapping[str, str] = field(default_factory=dict)  # for modules, always given
    #: Modules that are built here besides the stand-in, by its source and the kernel.
    builds: Mapping[str, Callable[[modulebuild.ModuleSource, kernels.Kernel], Path]] = field(
        default_factory=dict
    )


KINDS = {
    "emulated-snp": Kind(
        name="emulated-snp",
        # The newest model whose SVM, with nested paging, QEMU's emulation offers.
        cpu="EPYC-v4",
        standin="snp_standin",
        modules=("kvm", "ccp", "snp_standin", "kvm-amd"),
        oldest="6.11",
        required=("kvm", "kvm-amd"),
    ),
    "emulated-tdx": Kind(
        name="emulated-tdx",
        # No model that QEMU knows has TDX. What its emulation can do, as a processor of the first
        # generation that has (Sapphire Rapids), but for what would only slow the kernel down.
        cpu="max,vendor=GenuineIntel,family=6,model=143,la57=off,svm=off",
        standin="tdx_standin",
        modules=("kvm", "tdx_standin", "kvm-intel"),
        # KVM has TDX since 6.16; the stand-in takes the place of functions as they are since 7.2.
        oldest="7.2",
        required=("kvm",),
        options={"kvm-intel": "tdx=1 nested=0"},
        builds={"kvm-intel": tdx_build.build_kvm_intel},
    ),
}


@dataclass(frozen=True)
class EmulatedHost:
    """An emulated host that is ready to boot."""

    kind: Kind
    kernel: kernels.Kernel
    machine: qemu.Qemu
    built: Mapping[str, Path]  # modules that are not the kernel's: the stand-in above all
    busybox: Path
    facts: Mapping[str, object] = field(default_factory=dict)

    @classmethod
    def prepare(
        cls, kind: str = "emulated-snp", kernel: str = DEFAULT_KERNEL, *, update: bool = False
    ) -> EmulatedHost:
        """Return the host, fetching and building what is not cached.

        `kernel`: see kernels.py. Raises MissingCapability with the reason where the machine or the
        archive can't give it, BuildFailed where the stand-in does not build for the kernel.
        """
        if kind not in KINDS:
            raise UsageError(f"unknown kind of host {kind!r}: one of {', '.join(sorted(KINDS))}")
        chosen = KINDS[kind]
        if os.uname().machine != "x86_64":
            raise MissingCapability(
                kind, f"QEMU is fetched for x86_64, this is {os.uname().machine}"
            )
        with _as_missing(kind):
            machine = qemu.find()
            busybox = _busybox()
        ready = kernels.get(kernel, update=update)
        series = kernels.series_of(ready.release)
        if packages.version_key(series) < packages.version_key(chosen.oldest):
            raise MissingCapability(
                f"{kind} on {ready.release}", f"it takes kernel {chosen.oldest} or newer"
            )
        for needed in (*chosen.required, "9p", "9pnet-virtio", "overlay"):
            if ready.module(needed) is None and (ready.tree is None or needed.startswith("kvm")):
                raise MissingCapability(
                    kind, f"{ready.release} has no {needed}.ko: build it as a module"
                )
        source = modulebuild.ModuleSource(chosen.standin, standin_source(chosen))
        with _as_missing(kind):
            built = {name: build(source, ready) for name, build in chosen.builds.items()}
            built[chosen.standin] = modulebuild.build(source, ready)
        facts = {
            "kind": kind,
            "emulated": True,
            "kernel": ready.release,
            "kernel_origin": ready.origin,
            "qemu": machine.version,
            "standin": source.digest(),
            "rebuilt": sorted(chosen.builds),  # the kernel's own source, another configuration
        }
        return cls(chosen, ready, machine, built, busybox, facts)

    def run(
        self,
        argv: Sequence[str],
        *,
        timeout: float,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        writable: Sequence[Path] = (),
        on_output: OnOutput | None = None,
        smp: int = 1,
        memory: int = DEFAULT_MEMORY,
        module_options: Mapping[str, str] | None = None,
        append: str = "",
        boot_timeout: float = BOOT_DEADLINE,
    ) -> HostRun:
        """Boot, run `argv` in the caller's root and folder, and end.

        `timeout`: seconds for the command, from when it starts; `boot_timeout`: for the boot.
        `smp`: processors; `memory`: MiB. `module_options`: module name to its options, as in
        ``a=1 b=2``. `append`: more for the kernel's command line. `env` is added to what is
        carried over from the caller's environment. Never raises for what happens inside: the
        verdict says it.
        """
        shares = _shares(writable)
        script = _command_script(argv, self._environment(env), cwd or Path.cwd())
        archive = self._initramfs(shares, script, module_options or {}, interactive=False)
        began = time.monotonic()
        watch = _Watch(on_output, began, boot_timeout, timeout)
        with contextlib.ExitStack() as owned:
            initramfs = owned.enter_context(_memory_file("initramfs", archive))
            pipes = {name: owned.enter_context(_pipe()) for name in _STREAMS}
            line = qemu.command_line(
                self.machine,
                kernel=self.kernel.image,
                initramfs=Path(f"/dev/fd/{initramfs}"),
                append=f"{_APPEND} {append}".strip(),
                cpu=self.kind.cpu,
                smp=smp,
                memory=memory,
                shares=[qemu.Share("root", Path("/"), readonly=True), *shares],
                console=f"file,path=/dev/fd/{pipes['console'].write}",
                ports=[f"file,path=/dev/fd/{pipes[name].write}" for name in _STREAMS[1:]],
            )
            machine = owned.enter_context(
                process.child(
                    line,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.PIPE,
                    env={**os.environ, **self.machine.environment},
                    pass_fds=[initramfs, *(p.write for p in pipes.values())],
                )
            )
            for pipe in pipes.values():
                pipe.close_write()
            assert machine.stderr is not None
            sources = {name: pipe.read for name, pipe in pipes.items()}
            sources["qemu"] = machine.stderr.fileno()
            watch.follow(machine, sources)
        return watch.verdict()

    def shell(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        smp: int = 1,
        memory: int = DEFAULT_MEMORY,
        module_options: Mapping[str, str] | None = None,
        append: str = "",
        writable: Sequence[Path] = (),
    ) -> HostRun:
        """Boot and give `argv` the caller's terminal; ends when it does, without a deadline."""
        shares = _shares(writable)
        extra = {"TERM": os.environ.get("TERM", "linux"), **(env or {})}
        script = _terminal_size() + _command_script(argv, self._environment(extra), Path.cwd())
        archive = self._initramfs(shares, script, module_options or {}, interactive=True)
        began = time.monotonic()
        watch = _Watch(None, began, BOOT_DEADLINE, float("inf"))
        with contextlib.ExitStack() as owned:
            owned.enter_context(_terminal_kept())
            initramfs = owned.enter_context(_memory_file("initramfs", archive))
            control = owned.enter_context(_pipe())
            line = qemu.command_line(
                self.machine,
                kernel=self.kernel.image,
                initramfs=Path(f"/dev/fd/{initramfs}"),
                append=f"{_APPEND} {append}".strip(),
                cpu=self.kind.cpu,
                smp=smp,
                memory=memory,
                shares=[qemu.Share("root", Path("/"), readonly=True), *shares],
                console="stdio,signal=off",
                ports=[f"file,path=/dev/fd/{control.write}", "null", "null"],
            )
            machine = owned.enter_context(
                process.child(
                    line,
                    foreground=True,
                    stderr=subprocess.PIPE,
                    env={**os.environ, **self.machine.environment},
                    pass_fds=[initramfs, control.write],
                )
            )
            control.close_write()
            assert machine.stderr is not None
            watch.follow(machine, {"control": control.read, "qemu": machine.stderr.fileno()})
        return watch.verdict()

    def _environment(self, extra: Mapping[str, str] | None) -> dict[str, str]:
        kept = {k: v for k, v in os.environ.items() if _PASSED.fullmatch(k)}
        kept["KVMHARNESS_HOST"] = self.kind.name
        kept["KVMHARNESS_HOST_FACTS"] = json.dumps(dict(self.facts))
        # The root is the caller's: what is not compiled there now would be compiled in every run.
        kept.setdefault("PYTHONDONTWRITEBYTECODE", "1")
        kept.update(extra or {})
        return kept

    def _initramfs(
        self,
        shares: Sequence[qemu.Share],
        script: str,
        module_options: Mapping[str, str],
        *,
        interactive: bool,
    ) -> bytes:
        archive = Initramfs()
        for folder in ("dev", "proc", "sys", "lower", "above", "host", "tmp"):
            archive.folder(folder)
        archive.character_device("dev/console", 5, 1)
        archive.file("bin/busybox", self.busybox.read_bytes(), 0o755)
        for applet in _APPLETS:
            archive.link(f"bin/{applet}", "busybox")
        archive.file("init", (images_dir() / "emulated_host" / "init").read_bytes(), 0o755)
        archive.file("command", script.encode("utf-8", "surrogateescape"))
        order = self._load_order()
        for name in order:
            path = self.built.get(name) or self.kernel.module(name)
            assert path is not None
            archive.file(f"modules/{name}.ko", path.read_bytes())
        options = {name: [self.kind.options.get(name), module_options.get(name)] for name in order}
        listed = "\n".join(
            " ".join([f"{name}.ko", *filter(None, given)]) for name, given in options.items()
        )
        shared = "\n".join(f"{share.tag} {share.path}" for share in shares)
        plan = {
            "MODULES": listed,
            "SHARES": shared,
            "INTERACTIVE": "1" if interactive else "0",
            "NAME": self.kind.name,
        }
        text = "".join(f"{name}={shlex.quote(value)}\n" for name, value in plan.items())
        archive.file("plan", text.encode("utf-8", "surrogateescape"))
        return archive.to_bytes()

    def _load_order(self) -> list[str]:
        order: list[str] = []
        for name in (*self.kind.modules, "9p", "9pnet-virtio", "overlay"):
            new = [name] if name in self.built else self.kernel.load_order([name])
            order += [each for each in new if each not in order]
        return order


#: The guest's output channels: the serial console, then virtio-serial ports 1 to 3.
_STREAMS = ("console", "control", "stdout", "stderr")
_APPLETS = tuple(
    "sh cat chroot cp dd hostname ifconfig insmod kill ln mkdir mkfifo mount poweroff printf "  # noqa: SIM905
    "setsid sleep stty usleep uname".split()
)


@dataclass
class _Pipe:
    read: int
    write: int

    def close_write(self) -> None:
        os.close(self.write)
        self.write = -1


@contextlib.contextmanager
def _pipe() -> Iterator[_Pipe]:
    pipe = _Pipe(*os.pipe2(os.O_CLOEXEC))
    try:
        yield pipe
    finally:
        for fd in (pipe.read, pipe.write):
            if fd >= 0:
                os.close(fd)


@contextlib.contextmanager
def _memory_file(name: str, data: bytes) -> Iterator[int]:
    """A file that is nowhere, and goes with its last user."""
    fd = os.memfd_create(name, os.MFD_CLOEXEC)
    try:
        with open(fd, "wb", closefd=False) as file:
            file.write(data)
        yield fd
    finally:
        os.close(fd)


class _Watch:
    """Follows a guest from its start to its end, and says what it came to."""

    def __init__(
        self, on_output: OnOutput | None, began: float, boot_timeout: float, timeout: float
    ) -> None:
        self._on_output = on_output
        self._began = began
        self._boot_timeout = boot_timeout
        self._timeout = timeout
        self._give_up = began + boot_timeout
        self._text = {name: bytearray() for name in (*_STREAMS, "qemu")}
        self._milestones: dict[str, float] = {}
        self._status: int | None = None
        self._failed: str | None = None
        self._panicked = False
        self._timed_out = False
        self._qemu_status: int | None = None

    def follow(self, machine: subprocess.Popen[bytes], sources: Mapping[str, int]) -> None:
        """Read until QEMU has ended and all is read, or the deadline has come."""
        with selectors.DefaultSelector() as waiting:
            for name, fd in sources.items():
                os.set_blocking(fd, False)
                waiting.register(fd, selectors.EVENT_READ, name)
            while waiting.get_map():
                left = self._give_up - time.monotonic()
                if left <= 0:
                    self._timed_out = not self._panicked and self._status is None
                    break
                for key, _ in waiting.select(None if left == float("inf") else left):
                    try:
                        data = os.read(key.fd, 1 << 16)
                    except BlockingIOError:
                        continue
                    if data:
                        self._take(key.data, data)
                    else:
                        waiting.unregister(key.fd)
        if not self._timed_out:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._qemu_status = machine.wait(_LAST_WORDS)

    def _take(self, name: str, data: bytes) -> None:
        if name in ("stdout", "stderr") and self._on_output is not None:
            self._on_output(name, data)
            return
        text = self._text[name]
        text += data
        if name == "control":
            self._read_control(text)
        elif name == "console":
            if not self._panicked and b"Kernel panic - not syncing" in text:
                self._panicked = True
                self._give_up = min(self._give_up, time.monotonic() + _LAST_WORDS)
            del text[:-_CONSOLE_KEPT]

    def _read_control(self, text: bytearray) -> None:
        while b"\n" in text:
            line, _, rest = bytes(text).partition(b"\n")
            text[:] = rest
            seconds, _, told = line.decode("utf-8", "replace").partition(" ")
            word, _, more = told.partition(" ")
            with contextlib.suppress(ValueError):
                self._milestones[word] = float(seconds)
            if word == "ready":
                self._give_up = time.monotonic() + self._timeout
            elif word == "failed":
                self._failed = more
            elif word == "exit" and more.isdigit():
                self._status = int(more)
                self._give_up = time.monotonic() + _LAST_WORDS

    def verdict(self) -> HostRun:
        """Return the outcome."""
        verdict, detail = self._judge()
        return HostRun(
            verdict=verdict,
            status=self._status if verdict is Verdict.FINISHED else None,
            seconds=time.monotonic() - self._began,
            detail=detail,
            stdout=bytes(self._text["stdout"]),
            stderr=bytes(self._text["stderr"]),
            console_tail="" if verdict is Verdict.FINISHED else self._tail(),
            milestones=self._milestones,
        )

    def _judge(self) -> tuple[Verdict, str]:
        if self._status is not None:
            return Verdict.FINISHED, ""
        started = "ready" in self._milestones
        if self._panicked:
            reason = self._panic_reason()
            if not started:
                return Verdict.BOOT_FAILED, f"the guest's kernel panicked while booting: {reason}"
            return Verdict.PANIC, f"the guest's kernel panicked: {reason}"
        if self._failed is not None:
            return Verdict.BOOT_FAILED, self._failed
        if self._timed_out and started:
            return Verdict.TIMEOUT, f"still running {self._timeout:.0f} s after the command began"
        if self._timed_out:
            where = max(self._milestones, key=lambda m: self._milestones[m], default="nothing")
            return (
                Verdict.BOOT_FAILED,
                f"not booted within {self._boot_timeout:.0f} s; last sign of life: {where}",
            )
        if self._qemu_status is not None and self._qemu_status < 0:
            name = signal.Signals(-self._qemu_status).name
            return Verdict.QEMU_CRASHED, f"QEMU ended by {name}"
        if self._qemu_status not in (None, 0) and not self._milestones:
            told = tail_line(self._text["qemu"])
            return Verdict.QEMU_CRASHED, f"QEMU refused to start: {told}"
        if not started:
            return Verdict.BOOT_FAILED, "the guest ended while booting"
        return Verdict.GUEST_DIED, "the guest reset or powered off before the command ended"

    def _panic_reason(self) -> str:
        match = re.search(rb"Kernel panic - not syncing: ([^\r\n]*)", self._text["console"])
        return match[1].decode("utf-8", "replace") if match else "no reason given"

    def _tail(self) -> str:
        # QEMU says of each run what of the processor model it can't emulate; that is known.
        said = re.sub(rb".*warning: TCG doesn't support.*\n", b"", bytes(self._text["qemu"]))
        parts = (bytes(self._text["console"]), said)
        return "\n".join(text for text in map(host.tail, parts) if text)


def tail_line(text: bytes | bytearray) -> str:
    """Return the last line that is not empty, for a message of one line."""
    lines = [line for line in host.tail(bytes(text)).splitlines() if line.strip()]
    return lines[-1] if lines else "it said nothing"


def standin_source(kind: Kind) -> Path:
    """Return the folder of a kind's stand-in module."""
    return images_dir() / "emulated_host" / kind.standin


def _busybox() -> Path:
    """Return a static busybox: the initramfs' shell, mount and insmod."""
    final = cache.cache_dir() / "roots" / "busybox"
    if not final.exists():
        with cache.locked("busybox"):
            if not final.exists():
                (deb,) = packages.fetch(["busybox-static"], suite=packages.TOOLS_SUITE)
                with cache.staging("busybox") as folder:
                    packages.extract(deb, folder, lambda path: path.endswith("bin/busybox"))
                    cache.publish(next(folder.rglob("busybox")), final)
                packages.forget([deb])
    return final


@contextlib.contextmanager
def _as_missing(kind: str) -> Iterator[None]:
    """Turn a package that can't be had into the capability that is missing for it."""
    try:
        yield
    except packages.PackageUnavailable as failure:
        raise MissingCapability(kind, str(failure)) from failure


def _shares(writable: Sequence[Path]) -> list[qemu.Share]:
    shares = []
    for number, path in enumerate(dict.fromkeys(p.resolve() for p in writable)):
        if not path.is_dir():
            raise HarnessError(f"{path} is to be shared with the guest and is no folder")
        if re.search(r"\s", str(path)):
            raise HarnessError(f"{path} can't be shared with the guest: its path has a space")
        shares.append(qemu.Share(f"share{number}", path, readonly=False))
    return shares


def _command_script(argv: Sequence[str], env: Mapping[str, str], cwd: Path) -> str:
    """Return the shell script that the guest runs: environment, folder, command."""
    lines = [
        f"export {name}={shlex.quote(value)}"
        for name, value in sorted(env.items())
        if re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name)
    ]
    lines.append(f"cd {shlex.quote(str(cwd))} || exit 126")
    lines.append(f"exec {shlex.join(argv)}")
    return "\n".join(lines) + "\n"


def _terminal_size() -> str:
    try:
        size = os.get_terminal_size()
    except OSError:
        return ""
    return f"stty rows {size.lines} cols {size.columns} 2>/dev/null\n"


@contextlib.contextmanager
def _terminal_kept() -> Iterator[None]:
    """Put the caller's terminal back as it was: a QEMU that is killed leaves it raw."""
    if not sys.stdin.isatty():
        yield
        return
    import termios

    before = termios.tcgetattr(sys.stdin)
    try:
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)

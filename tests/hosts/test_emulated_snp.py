# SPDX-License-Identifier: MIT
"""An emulated SNP host, really booted: what comes out of it, and that nothing is left of it."""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from kvmharness import process
from kvmharness.errors import MissingCapability
from kvmharness.hosts.emulated import EmulatedHost
from kvmharness.hosts.host import Verdict
from kvmharness.kernels import cache

#: Seconds for one boot and command on a busy machine; several boots have several of it.
_BOOT = 150.0

pytestmark = pytest.mark.deadline(_BOOT)
needs_make = pytest.mark.skipif(
    shutil.which("make") is None, reason="needs make; on Debian: apt-get install make"
)

# KVM_CHECK_EXTENSION(KVM_CAP_VM_TYPES), asked with nothing but the standard library.
_VM_TYPES = """
import fcntl, os
print(hex(fcntl.ioctl(os.open("/dev/kvm", os.O_RDWR), 0xAE03, 235)))
"""


@pytest.fixture(scope="session")
def host() -> EmulatedHost:
    """The host, prepared once; a machine that can't have it skips with the reason."""
    try:
        return EmulatedHost.prepare("emulated-snp")
    except MissingCapability as missing:
        pytest.skip(str(missing))


def _state(output: bytes) -> dict[str, str]:
    lines = output.decode().splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line)


@pytest.mark.deadline(900)
def test_the_host_can_be_prepared(host: EmulatedHost) -> None:
    assert host.facts["emulated"] is True
    assert str(host.facts["kernel"]).startswith("7.3")


def test_status_and_output_come_out(host: EmulatedHost) -> None:
    script = "echo out; echo err >&2; kill -KILL $$"
    result = host.run(["sh", "-c", script], timeout=60)
    assert result.verdict is Verdict.FINISHED, result.explain()
    assert (result.status, result.stdout, result.stderr) == (137, b"out\n", b"err\n")
    assert list(result.milestones)[-3:] == ["orders", "ready", "exit"]


def test_runs_go_on_from_the_same_boot(host: EmulatedHost, tmp_path: Path) -> None:
    """It knows the time, its own command and share, and no two have the same secrets."""
    script = "cat /sys/module/kvm_amd/parameters/sev; date +%s; head -c 16 /dev/urandom | md5sum"
    cold = host.run(["sh", "-c", script], timeout=60, cold=True)
    assert (cold.ok, cold.restored) == (True, False), cold.explain()
    assert list(cold.milestones) == ["up", "modules", "orders", "ready", "exit"]
    secrets = {cold.stdout.splitlines()[-1]}
    for number in range(2):
        shared = tmp_path / f"shared{number}"
        shared.mkdir()
        own = f"{script}; echo {number} >{shared}/made"
        went_on = host.run(["sh", "-c", own], timeout=60, writable=[shared])
        assert (went_on.ok, went_on.restored) == (True, number == 1 or went_on.restored)
        secrets.add(went_on.stdout.splitlines()[-1])
        assert (shared / "made").read_text() == f"{number}\n"
    assert went_on.restored
    assert list(went_on.milestones) == ["orders", "ready", "exit"]
    assert abs(int(went_on.stdout.splitlines()[1]) - time.time()) < 30
    assert len(secrets) == 3


def test_where_the_snapshot_of_the_same_boot_is_damaged_the_host_boots(
    host: EmulatedHost, capfd: pytest.CaptureFixture[str]
) -> None:
    assert host.run(["true"], timeout=60).ok
    directory = cache.cache_dir() / "snapshots"
    newest = max(directory.iterdir(), key=lambda path: path.stat().st_mtime_ns)
    newest.write_bytes(newest.read_bytes()[: 1 << 20])
    result = host.run(["echo", "all the same"], timeout=60)
    assert (result.stdout, result.restored) == (b"all the same\n", False), result.explain()
    assert "can't be restored" in capfd.readouterr().err
    assert newest.stat().st_size > 10 << 20


def test_inside_is_the_callers_root_on_the_hosts_kernel(host: EmulatedHost, tmp_path: Path) -> None:
    """All is the caller's, Python and the working directory too; only a share takes writes."""
    (tmp_path / "given").write_text("from outside")
    shared = tmp_path / "shared"
    shared.mkdir()
    script = f"""
import json, os, pathlib
pathlib.Path({str(tmp_path / "lost")!r}).write_text("x")
facts = dict(
    cwd=os.getcwd(),
    kernel=os.uname().release,
    host=os.environ["KVMHARNESS_HOST"],
    facts=json.loads(os.environ["KVMHARNESS_HOST_FACTS"]),
    given=pathlib.Path({str(tmp_path / "given")!r}).read_text(),
    cpus=os.cpu_count(),
    log=len(os.popen("dmesg | grep snp_standin").read()),
)
pathlib.Path({str(shared / "facts.json")!r}).write_text(json.dumps(facts))
"""
    result = host.run(
        [sys.executable, "-c", script], timeout=60, cwd=tmp_path, writable=[shared], smp=2
    )
    assert result.ok, result.explain() + result.stderr.decode()
    facts = json.loads((shared / "facts.json").read_text())
    assert facts["cwd"] == str(tmp_path)
    assert facts["kernel"] == host.facts["kernel"] == facts["facts"]["kernel"]
    assert facts["host"] == "emulated-snp"
    assert facts["given"] == "from outside"
    assert facts["cpus"] == 2
    assert facts["log"] > 0
    assert not (tmp_path / "lost").exists()


def test_kvm_offers_sev_sev_es_and_snp(host: EmulatedHost) -> None:
    script = f"cat /proc/kvmharness_snp; exec {sys.executable} -c '{_VM_TYPES}'"
    result = host.run(["sh", "-c", script], timeout=60)
    assert result.ok, result.explain() + result.stderr.decode()
    assert result.stdout.splitlines()[-1] == b"0x1d"
    state = _state(result.stdout)
    pages = {k: v for k, v in state.items() if k.startswith("rmp_")}
    assert set(pages.values()) == {"0"}
    assert {"rmp_firmware", "rmp_context", "rmp_pre_guest", "rmp_guest_valid"} <= set(pages)


def test_a_panic_is_a_verdict(host: EmulatedHost) -> None:
    script = "echo before; sync; echo c > /proc/sysrq-trigger; sleep 60"
    result = host.run(["sh", "-c", script], timeout=60)
    assert result.verdict is Verdict.PANIC, result.explain()
    assert "sysrq" in result.detail
    assert "Kernel panic - not syncing" in result.console_tail
    assert result.stdout == b"before\n"


def test_what_failed_can_be_booted_again(host: EmulatedHost, tmp_path: Path) -> None:
    """The command is run as a person would paste it, with what the run shared gone meanwhile."""
    shared = tmp_path / "shared"
    shared.mkdir()
    (shared / "given").write_text("from outside\n")
    script = f"cat {shared}/given; echo c > /proc/sysrq-trigger; sleep 60"
    result = host.run(["sh", "-c", script], timeout=60, writable=[shared])
    assert result.verdict is Verdict.PANIC, result.explain()
    assert result.again is not None
    assert result.again.command in result.how_again()
    (shared / "given").unlink()
    shared.rmdir()
    pasted = subprocess.run(
        ["sh", "-c", result.again.command],
        capture_output=True,
        text=True,
        timeout=_BOOT / 2,
        stdin=subprocess.DEVNULL,
        check=False,
    )
    assert "from outside" in pasted.stdout, pasted.stderr
    assert "Kernel panic - not syncing: sysrq triggered crash" in pasted.stdout
    assert " ready\n" in pasted.stdout  # what init tells


def test_the_console_is_kept_of_a_run_that_finished(host: EmulatedHost) -> None:
    script = "echo '<2>a marker' > /dev/kmsg; echo '<2>after it' > /dev/kmsg"
    result = host.run(["sh", "-c", script], timeout=60)
    assert result.ok, result.explain()
    _, marker, after = result.console.partition("a marker\n")
    assert marker
    assert "after it" in after
    assert (result.console_tail, result.again) == ("", None)


def test_a_hung_guest_is_a_verdict_within_its_deadline(host: EmulatedHost) -> None:
    result = host.run(["sh", "-c", "echo before; sleep 600"], timeout=2)
    assert result.verdict is Verdict.TIMEOUT, result.explain()
    assert (result.status, result.stdout) == (None, b"before\n")
    assert result.seconds < _BOOT / 2
    assert psutil.Process().children() == []


def test_commands_run_in_the_same_boot_once_the_command_has_ended(host: EmulatedHost) -> None:
    argv = ["sh", "-c", "echo of this boot > /run/here; kill -KILL $$"]
    result = host.run(argv, timeout=60, after=["cat /run/here", "dmesg", "exit 7"])
    assert result.status == 137, result.explain()
    assert [run.status for run in result.after] == [0, 0, 7]
    assert result.after[0].output == "of this boot\n"
    assert str(host.facts["kernel"]) in result.after[1].output
    assert len(result.after[1].output) > 10_000


def test_the_memory_of_a_host_that_panicked_is_kept(host: EmulatedHost, tmp_path: Path) -> None:
    """Whole, and with what a debugger has to know of the kernel."""
    script = "echo c > /proc/sysrq-trigger; sleep 60"
    result = host.run(["sh", "-c", script], timeout=60, keep_vmcore=tmp_path)
    assert result.verdict is Verdict.PANIC, result.explain()
    assert result.vmcore is not None
    assert str(result.vmcore) in result.explain()
    assert result.vmcore.stat().st_size > 1 << 30
    with open(result.vmcore, "rb") as file:
        assert file.read(4) == b"\x7fELF"
    told = Path(f"{result.vmcore}.vmcoreinfo").read_bytes()
    assert f"OSRELEASE={host.facts['kernel']}\n".encode() in told


def test_guest_time_is_ours(host: EmulatedHost) -> None:
    result = host.run(["sleep", "3"], timeout=60)
    assert result.ok, result.explain()
    assert result.clock_rate == pytest.approx(1.0, abs=0.1)
    assert not result.refused


def test_a_host_whose_time_is_wrong_is_booted_again_once_and_refused(
    host: EmulatedHost, capfd: pytest.CaptureFixture[str]
) -> None:
    """Told of a fraction of its counter's frequency, the kernel lives several times as fast."""
    result = host.run(["echo", "began"], timeout=60, append="tsc_early_khz=400000")
    assert (result.verdict, result.stdout) == (Verdict.BOOT_FAILED, b""), result.explain()
    assert "its time is wrong" in result.detail
    assert len(result.refused) == 1
    assert "it is booted again" in capfd.readouterr().err


def test_a_silent_command_is_ended(host: EmulatedHost) -> None:
    script = "for i in 1 2 3; do sleep 1; echo $i; done; sleep 600"
    result = host.run(["sh", "-c", script], timeout=600, silence=lambda: 2.5)
    assert result.verdict is Verdict.SILENT, result.explain()
    assert result.stdout == b"1\n2\n3\n"


def test_a_module_that_does_not_load_is_a_failed_boot(host: EmulatedHost) -> None:
    result = host.with_module_options(["snp_standin.smt=banana"]).run(["true"], timeout=60)
    assert result.verdict is Verdict.BOOT_FAILED, result.explain()
    assert "insmod snp_standin.ko" in result.detail


def test_a_boot_has_a_deadline(host: EmulatedHost) -> None:
    result = host.run(["true"], timeout=60, boot_timeout=0.5, cold=True)
    assert result.verdict is Verdict.BOOT_FAILED
    assert "not booted within" in result.detail


_CALLER = """
import sys
from kvmharness.hosts.emulated import EmulatedHost
host = EmulatedHost.prepare("emulated-snp")
host.run(["sh", "-c", "echo inside; sleep 600"], timeout=500,
         on_output=lambda name, data: print(data.decode(), flush=True))
"""


@pytest.fixture
def caller(host: EmulatedHost, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that runs a guest, up and inside; its temporary files go to tmp_path."""
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    with subprocess.Popen(
        [sys.executable, "-c", _CALLER], stdout=subprocess.PIPE, text=True, env=environment
    ) as started:
        try:
            assert started.stdout is not None
            assert started.stdout.readline() == "inside\n"
            yield started
        finally:
            started.kill()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_nothing_is_left_of_a_caller_that_is_ended(
    caller: subprocess.Popen[str], number: signal.Signals, tmp_path: Path
) -> None:
    machines = psutil.Process(caller.pid).children(recursive=True)
    assert machines
    caller.send_signal(number)
    caller.wait(20)
    gone, alive = psutil.wait_procs(machines, timeout=20)
    assert not alive
    assert len(gone) == len(machines)
    assert list(tmp_path.iterdir()) == []


def _kernel_tree(directory: Path, host: EmulatedHost, makefile: str) -> Path:
    """Return what passes for a user's built kernel tree: the host's kernel, with its own make."""
    for path, data in {
        "include/config/kernel.release": f"{host.facts['kernel']}\n".encode(),
        "Module.symvers": b"",
        "Makefile": makefile.encode(),
        # QEMU takes a vmlinux by this name too.
        "arch/x86/boot/bzImage": host.kernel.image.read_bytes(),
    }.items():
        (directory / path).parent.mkdir(parents=True, exist_ok=True)
        (directory / path).write_bytes(data)
    for module in host.kernel.modules.iterdir():
        (directory / "arch/x86/kvm" / module.name).parent.mkdir(exist_ok=True)
        (directory / "arch/x86/kvm" / module.name).write_bytes(module.read_bytes())
    return directory


@pytest.fixture
def scratch_cache(host: EmulatedHost, tmp_path: Path) -> dict[str, str]:
    """An environment whose cache holds the tools of the real one, and will go with the test."""
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "roots").symlink_to(cache.cache_dir() / "roots")
    return {**os.environ, "KVMHARNESS_CACHE": str(tmp_path / "cache")}


def _host_run(
    tree: Path, environment: dict[str, str], *options: str
) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "kvmharness", "host", "run", "--kernel", str(tree), *options]
    argv += ["--", "uname", "-r"]
    return subprocess.run(
        argv, env=environment, capture_output=True, text=True, timeout=_BOOT, check=False
    )


@needs_make
def test_a_kernel_tree_of_the_users_own_is_booted(
    host: EmulatedHost, tmp_path: Path, scratch_cache: dict[str, str]
) -> None:
    makefile = f"modules:\n\tcp {host.built['snp_standin']} $(M)/snp_standin.ko\n"
    tree = _kernel_tree(tmp_path / "linux", host, makefile)
    done = _host_run(tree, scratch_cache)
    assert (done.returncode, done.stdout) == (0, f"{host.facts['kernel']}\n"), done.stderr


@needs_make
@pytest.mark.parametrize(
    ("makefile", "told"),
    [
        pytest.param(
            "modules:\n\t@echo sev.c:1: error: no such thing >&2; false\n",
            "does not build",
            id="does-not-build",
        ),
        pytest.param("modules:\n\ttouch $(M)/snp_standin.ko\n", "insmod", id="does-not-boot"),
    ],
)
def test_bisecting_passes_over_what_cant_be_tested(
    host: EmulatedHost, tmp_path: Path, scratch_cache: dict[str, str], makefile: str, told: str
) -> None:
    built = _kernel_tree(tmp_path / "built", host, makefile)
    (tmp_path / "linux").mkdir()
    build = f"cp -r {built}/. ."
    done = _host_run(tmp_path / "linux", scratch_cache, "--bisect", "--build", build)
    assert done.returncode == 125, done.stderr
    assert told in done.stderr


def test_a_shell_gets_the_callers_terminal(host: EmulatedHost) -> None:
    """Typed input reaches the guest, its output the terminal, and the shell's status the caller."""
    ours, theirs = os.openpty()
    said = b""
    environment = {**os.environ, "SHELL": "/bin/sh", "PS1": "ready: "}
    argv = [sys.executable, "-m", "kvmharness", "host", "shell"]
    try:
        with process.child(
            argv, stdin=theirs, stdout=theirs, stderr=theirs, env=environment
        ) as command:
            os.set_blocking(ours, False)
            give_up = time.monotonic() + _BOOT / 2
            typed = False
            while command.poll() is None and time.monotonic() < give_up:
                if select.select([ours], [], [], 0.5)[0]:
                    said += os.read(ours, 4096)
                if not typed and said.rstrip().endswith((b"#", b"$", b"ready:")):
                    os.write(ours, b"uname -r; echo $((6*7)); exit 5\n")
                    typed = True
            status = command.wait(20)
    finally:
        os.close(ours)
        os.close(theirs)
    assert status == 5, said.decode()
    assert f"{host.facts['kernel']}\r".encode() in said
    assert b"\n42\r" in said


_POPULATE = """
import pathlib, sys, time
from kvmharness import Kvm, SourceBuffer, VmBuilder
from kvmharness.kvm.ffi import lib
from kvmharness.launch.sev import PageType, SnpPolicy

state = pathlib.Path("/proc/kvmharness_snp")
with Kvm.open() as kvm, VmBuilder(kvm, "snp").guest_memfd(size=8192).build() as vm:
    with SourceBuffer.anonymous(2) as source:
        vm.set_memory_attributes(0, 8192, lib.KVM_MEMORY_ATTRIBUTE_PRIVATE)
        vm.snp.launch_start(policy=SnpPolicy.SMT | SnpPolicy.RESERVED_MUST_BE_ONE)
        vm.snp.launch_update(0, 8192, source=source, type=PageType.NORMAL)
    print(state.read_text())
    pathlib.Path("/sys/module/snp_standin/parameters/leak_pages").write_text(sys.argv[1])
time.sleep(0.5)
print("after", state.read_text(), sep="\\n")
"""


@pytest.mark.parametrize("leak", [0, 1])
def test_pages_that_a_vm_leaves_behind_are_counted(host: EmulatedHost, leak: int) -> None:
    """The software RMP is empty after a VM's end, unless a page was (here: on purpose) kept."""
    result = host.run([sys.executable, "-c", _POPULATE, str(leak)], timeout=60)
    assert result.ok, result.explain() + result.stderr.decode()
    inside, _, after = result.stdout.partition(b"after\n")
    assert _state(inside)["rmp_guest_valid"] == "2"
    assert _state(inside)["rmp_context"] == "1"
    left = {k: int(v) for k, v in _state(after).items() if k.startswith("rmp_")}
    assert sum(left.values()) == leak
    assert _state(after)["host_writes"] == "0"

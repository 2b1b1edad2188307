# SPDX-License-Identifier: MIT
"""``git bisect run`` over a real repository, whose kernel is a shell script (bisect_step.py)."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

STEP = Path(__file__).with_name("bisect_step.py")
MAKEFILE = """\
olddefconfig modules:
	@:
bzImage:
	@sh -n kernel
	@mkdir -p arch/x86/boot include/config
	@cp kernel arch/x86/boot/bzImage
"""
#: Kernels: what they boot to, and what a populate comes to.
GOOD = "case $1 in populate) echo ok;; panic) exit 1;; esac\n"
BAD = GOOD.replace("echo ok", "echo EINVAL")
UNBUILDABLE = "case $1 in\n"
UNBOOTABLE = "exit 1 # whatever is asked\n"
PANICS = "echo ok\n"
#: A populate that the test's fixture fails on, and one that the test passes over.
UNTESTABLE = GOOD.replace("echo ok", "echo broken")
INCAPABLE = GOOD.replace("echo ok", "echo incapable")
TEST = """\
import os, subprocess
import pytest

@pytest.fixture
def outcome():
    said = subprocess.run(["sh", os.environ["KERNEL"], "populate"], stdout=-1, text=True).stdout
    return {"ok": 0, "EINVAL": 22, "incapable": None}[said.strip()]

def test_populate(outcome):
    if outcome is None:
        pytest.skip("it can't")
    assert outcome == 0
"""


@pytest.fixture(autouse=True)
def _one_plugin(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the pytest of a step take the plugin that is named, and no installed ones."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")


class Repository:
    """A kernel's history: a commit for each of what is given."""

    def __init__(self, directory: Path, *kernels: str) -> None:
        self.directory = directory
        self.test = directory / "test_populate.py"
        (directory / "linux").mkdir()
        self.tree = directory / "linux"
        self.test.write_text(TEST)
        self.git("init", "-q")
        (self.tree / "Makefile").write_text(MAKEFILE)
        (self.tree / ".gitignore").write_text("arch\ninclude\n")
        for number, kernel in enumerate(kernels):
            (self.tree / "kernel").write_text(kernel)
            (self.tree / "Documentation").write_text(f"{number}\n")
            self.git("add", ".")
            self.git("commit", "-q", "-m", f"commit {number}")

    def git(self, *arguments: str, timeout: float = 30) -> str:
        identity = ("-c", "user.name=A", "-c", "user.email=a@example.org")
        environment = {**os.environ, "GIT_CONFIG_GLOBAL": "/dev/null"}
        return subprocess.run(
            ["git", *identity, *arguments],
            cwd=self.tree,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=timeout,
        ).stdout

    def bisect(self, *command: str, options: tuple[str, ...] = ()) -> tuple[str | None, str]:
        """Bisect from the first commit (good) to the last (bad).

        Return the subject of the first bad commit, None where git names none, and what was said.
        """
        first = self.git("rev-list", "--max-parents=0", "HEAD").strip()
        self.git("bisect", "start", "HEAD", first)
        said = self.git("bisect", "run", *step(*command, options=options), timeout=120)
        named = re.search(r"(?m)^([0-9a-f]+) is the first bad commit", said)
        self.git("bisect", "reset")
        return (self.git("log", "-1", "--format=%s", named[1]).strip() if named else None), said

    def pytest(self, *more: str) -> tuple[str, ...]:
        plugin = ("-p", "kvmharness.suite.plugin", "-p", "no:cacheprovider", "-q")
        return (sys.executable, "-m", "pytest", *plugin, *(more or (str(self.test),)))


def step(*command: str, options: tuple[str, ...] = (), kernel: str = ".") -> list[str]:
    argv = [sys.executable, str(STEP), "host", "run", "--bisect", "--kernel", kernel]
    return [*argv, *options, "--", *command]


def status(repository: Repository, *command: str, **more: str | tuple[str, ...]) -> tuple[int, str]:
    """Return the status of one step at the repository's last commit, and what it said."""
    given = command or repository.pytest()
    done = subprocess.run(
        step(*given, **more),  # type: ignore[arg-type]
        cwd=repository.tree,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    return done.returncode, done.stderr


def test_the_first_bad_commit_is_named(tmp_path: Path) -> None:
    """Though commits don't build, or boot, or touch nothing that is compiled, on both sides."""
    history = (GOOD, UNBUILDABLE, GOOD, GOOD, BAD, BAD, UNBOOTABLE, BAD, UNBUILDABLE, BAD)
    repository = Repository(tmp_path, *history)
    named, said = repository.bisect(*repository.pytest())
    assert named == "commit 4", said


def test_what_can_not_be_judged_is_not_taken_for_bad(tmp_path: Path) -> None:
    """The fixture breaks at every commit between: git says which could be the first bad one."""
    repository = Repository(tmp_path, GOOD, UNTESTABLE, INCAPABLE, UNTESTABLE, BAD)
    named, said = repository.bisect(*repository.pytest())
    assert named is None
    assert "The first bad commit could be any of" in said


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("no/such/test.py", "ended with status 4"),
        ("--no-such-option", "ended with status 4"),
        ("-k nothing", "ended with status 5"),
        ("../broken.py", "ended with status 2"),
    ],
)
def test_a_command_that_is_wrong_ends_the_bisection(tmp_path: Path, path: str, told: str) -> None:
    repository = Repository(tmp_path, GOOD, GOOD, BAD, BAD)
    (tmp_path / "broken.py").write_text("import nothing_of_this_name\n")
    named, said = repository.bisect(*repository.pytest(path))
    assert named is None, said
    assert told in said
    assert "no verdict on the kernel" in said


@pytest.mark.parametrize(
    ("build", "told"),
    [
        ("true", "left no arch/x86/boot/bzImage"),
        ("mkdir -p arch/x86/boot; cp -p ../old arch/x86/boot/bzImage", "older than the checkout"),
        (
            "make -s bzImage; echo 7.3.0-g0123456789ab >include/config/kernel.release",
            "was built at 0123456789ab",
        ),
    ],
)
def test_an_image_of_another_commit_ends_the_bisection(
    tmp_path: Path, build: str, told: str
) -> None:
    repository = Repository(tmp_path, GOOD, GOOD, BAD, BAD)
    (tmp_path / "old").write_text(BAD)
    os.utime(tmp_path / "old", (1, 1))
    named, said = repository.bisect(*repository.pytest(), options=("--build", build))
    assert named is None, said
    assert told in said


def test_a_step_builds_with_the_command_that_is_given(tmp_path: Path) -> None:
    repository = Repository(tmp_path, GOOD, BAD)
    build = f"make -s bzImage; sed -i s/EINVAL/ok/ arch/x86/boot/bzImage; echo built >{tmp_path}/x"
    assert status(repository, options=("--build", build))[0] == 0
    assert (tmp_path / "x").read_text() == "built\n"
    assert status(repository)[0] == 1


def test_what_is_there_from_before_is_not_booted(tmp_path: Path) -> None:
    """Neither the image nor KVM's modules, where a build does not make them anew."""
    repository = Repository(tmp_path, GOOD, UNBUILDABLE)
    image = repository.tree / "arch/x86/boot/bzImage"
    module = repository.tree / "arch/x86/kvm/kvm.ko"
    module.parent.mkdir(parents=True)
    image.parent.mkdir(parents=True)
    module.write_bytes(b"old")
    image.write_text(GOOD)
    done, said = status(repository)
    assert (done, image.exists(), module.exists()) == (125, False, False)
    assert "it does not build" in said


@pytest.mark.parametrize(
    ("kernel", "expected", "told"),
    [
        (GOOD, 0, ""),
        (BAD, 1, ""),
        (PANICS, 1, "the kernel panicked while the command ran"),
        (UNBOOTABLE, 125, "boot-failed: not booted within"),
        (UNTESTABLE, 125, ""),
        (INCAPABLE, 125, ""),
    ],
)
def test_a_verdict_is_the_status_that_git_takes_for_it(
    tmp_path: Path, kernel: str, expected: int, told: str
) -> None:
    done, said = status(Repository(tmp_path, kernel))
    assert done == expected, said
    assert told in said


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"options": ("--smpp", "2")}, ""),
        ({"kernel": "7.3"}, "takes the path of a kernel tree"),
        ({"kernel": "/no/such/tree"}, "no such file or directory"),
        ({"options": ("--module-option", "x")}, "give MODULE.NAME=VALUE"),
    ],
)
def test_a_step_that_is_called_wrongly_is_no_verdict(
    tmp_path: Path, more: dict[str, str | tuple[str, ...]], told: str
) -> None:
    done, said = status(Repository(tmp_path, GOOD), **more)
    assert done == 128, said
    assert told in said


def test_a_mistake_of_our_own_is_no_verdict(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BREAK_THE_HARNESS", "1")
    done, said = status(Repository(tmp_path, GOOD))
    assert done == 128
    assert "ZeroDivisionError" in said

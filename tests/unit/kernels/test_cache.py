# SPDX-License-Identifier: MIT
"""The cache: whole or not at all, one maker at a time, nothing left of makers that were killed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from kvmharness.errors import HarnessError
from kvmharness.kernels import cache


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("KVMHARNESS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_the_cache_is_where_the_user_wants_it(
    own_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cache.cache_dir() == own_cache
    monkeypatch.delenv("KVMHARNESS_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache.cache_dir() == tmp_path / "xdg" / "kvmharness"


def test_a_cache_that_cant_be_made_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("KVMHARNESS_CACHE", str(tmp_path / "file" / "x"))
    with pytest.raises(HarnessError, match="set KVMHARNESS_CACHE"):
        cache.cache_dir()


def test_a_directory_is_published_whole_and_replaced(own_cache: Path) -> None:
    for text in ("one", "two"):
        with cache.staging("thing") as directory:
            made = directory / "thing"
            made.mkdir()
            (made / "file").write_text(text)
            cache.publish(made, own_cache / "things" / "thing")
        assert (own_cache / "things/thing/file").read_text() == text
    assert list((own_cache / "staging").iterdir()) == []


def test_a_failed_making_leaves_nothing(own_cache: Path) -> None:
    def fail() -> None:
        with cache.staging("thing") as directory:
            (directory / "half").touch()
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert list((own_cache / "staging").iterdir()) == []


_MAKER = """
import sys, time
from kvmharness.kernels import cache
with cache.locked("thing"), cache.staging("thing") as directory:
    (directory / "half").touch()
    print("up", flush=True)
    time.sleep(60)
"""


def test_a_killed_maker_loses_lock_and_directory(own_cache: Path) -> None:
    argv = [sys.executable, "-c", _MAKER]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as maker:
        assert maker.stdout is not None
        assert maker.stdout.readline() == b"up\n"
        with pytest.raises(cache.CacheBusy, match="another process"), cache.locked("thing", 0.1):
            pass
        with cache.staging("other"):
            assert len(list((own_cache / "staging").glob("thing.*"))) == 2  # directory and lock
        maker.kill()
    with cache.locked("thing", 5.0), cache.staging("thing"):
        assert not list((own_cache / "staging").glob("thing.*/half"))
    assert list((own_cache / "staging").iterdir()) == []

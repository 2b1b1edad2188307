# SPDX-License-Identifier: MIT
"""The names that the package itself offers: loaded late, and yet seen by dir() and help()."""

from __future__ import annotations

import pydoc

import pytest

import kvmharness


@pytest.mark.parametrize("name", kvmharness.__all__)
def test_each_name_is_what_its_home_calls_so(name: str) -> None:
    found = getattr(kvmharness, name)
    assert found.__name__ == name
    assert found.__module__ == f"kvmharness.{kvmharness._HOME[name]}"


def test_dir_and_help_show_them() -> None:
    assert set(kvmharness.__all__) <= set(dir(kvmharness))
    text = pydoc.plain(pydoc.render_doc(kvmharness))
    for name in kvmharness.__all__:
        assert f"class {name}(" in text


def test_another_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'Nothing'"):
        kvmharness.Nothing  # noqa: B018

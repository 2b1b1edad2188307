# SPDX-License-Identifier: MIT
"""Records behave as dataclasses with slots do, though nothing is compiled until one is made."""

from __future__ import annotations

import copy
import inspect
import pickle

import pytest

from kvmharness.kvm.exits import HltExit, IoExit
from kvmharness.record import Record


class Point(Record):
    x: int
    y: int = 7


class Named(Point):
    name: str = ""


class Fixed(Record, frozen=True):
    data: bytes
    more: int | None = None


def test_fields_come_by_place_by_name_and_by_default() -> None:
    assert (Point(1).x, Point(1).y) == (1, 7)
    assert Point(1, 2) == Point(y=2, x=1)
    assert Named(1, 2, "n") == Named(name="n", y=2, x=1)


@pytest.mark.parametrize("wrong", [(), (1, 2, 3)])
def test_a_wrong_number_of_values_is_a_type_error(wrong: tuple[int, ...]) -> None:
    with pytest.raises(TypeError, match=r"Point\.__init__"):
        Point(*wrong)


def test_no_field_by_another_name() -> None:
    point = Point(1)
    with pytest.raises(AttributeError):
        point.z = 3  # type: ignore[attr-defined]
    with pytest.raises(TypeError, match="z"):
        point.replaced(z=3)


def test_equal_if_of_one_class_and_of_equal_values() -> None:
    assert Point(1) == Point(1, 7)
    assert hash(Point(1)) == hash(Point(1, 7))
    assert Point(1) != Point(2)
    assert Point(1) != Named(1)
    assert Point(1) != (1, 7)


def test_a_repr_shows_the_fields_and_how_long_what_is_long_is() -> None:
    assert repr(Named(1, name="n")) == "Named(x=1, y=7, name='n')"
    assert repr(Fixed(bytes(65))) == "Fixed(data=<65 bytes>, more=None)"


def test_copies_and_pickles_are_equal() -> None:
    for made in (Named(1, 2, "n"), Fixed(b"d", 3), HltExit(5)):
        assert copy.copy(made) == made
        assert copy.deepcopy(made) == made
        assert pickle.loads(pickle.dumps(made)) == made
    assert Fixed(b"d").replaced(more=4) == Fixed(b"d", 4)


def test_only_a_frozen_one_refuses_assignment() -> None:
    point = Point(1)
    point.x = 5
    assert point == Point(5)
    with pytest.raises(AttributeError, match="replaced"):
        Fixed(b"d").more = 1  # type: ignore[misc]
    with pytest.raises(AttributeError, match="replaced"):
        del Fixed(b"d").more


def test_a_match_takes_the_fields_in_their_order() -> None:
    match IoExit(2, True, 0x3F8, 1, 1, b"a", 0x1000):
        case IoExit(_, is_out, port, data=data):
            assert (is_out, port, data) == (True, 0x3F8, b"a")
        case _:
            pytest.fail("an IoExit is none")


def test_the_signature_is_known_before_the_first_one_is_made() -> None:
    class Unmade(Point):
        z: str = "z"

    assert str(inspect.signature(Unmade)) == "(x: 'int', y: 'int' = 7, z: 'str' = 'z')"
    assert str(inspect.signature(IoExit)).startswith("(reason: 'int', is_out: 'bool', port")

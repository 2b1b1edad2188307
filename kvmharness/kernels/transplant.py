# SPDX-License-Identifier: MIT
"""Make a module that was built for one kernel load on another whose headers are not to be had.

Debian keeps the images of past stable series but not their headers. A module that uses only
functions and structures that did not change between the two kernels works there once three things
that tie it to its own kernel are taken away:

- ``vermagic`` in .modinfo and the CRCs in ``__versions``: the loader refuses a mismatch, and loads
  a module that has neither as if by force (needs CONFIG_MODULE_FORCE_LOAD, as Debian has);
- the relocations that fill in ``init`` and ``exit`` of struct module: their offsets move as the
  structure changes. A module of the target kernel (the reference) shows where they are there;
- the size of struct module, which must be equal and is only checked.
"""

from __future__ import annotations

import struct

from kvmharness.kernels.elf import BadModule, Module

_THIS_MODULE = ".gnu.linkonce.this_module"
_ENTRY_POINTS = ("init_module", "cleanup_module")


def transplant(module: bytes, reference: bytes) -> bytes:
    """Return `module` changed so that the kernel of `reference`, any module of its, loads it.

    Raises BadModule when the two kernels differ by more than can be mended.
    """
    source, target = Module(module), Module(reference)
    have, want = (module.section(_THIS_MODULE)["sh_size"] for module in (source, target))
    if have != want:
        raise BadModule(f"struct module has {have} bytes in the one kernel, {want} in the other")
    out = bytearray(module)
    places = {r.symbol: r.target for r in target.relocations(".rela" + _THIS_MODULE)}
    for relocation in source.relocations(".rela" + _THIS_MODULE):
        if relocation.symbol in _ENTRY_POINTS:
            if relocation.symbol not in places:
                raise BadModule(f"the reference module has no {relocation.symbol}")
            struct.pack_into("<Q", out, relocation.file_offset, places[relocation.symbol])
    _rename(out, source)
    return bytes(out)


def _rename(out: bytearray, source: Module) -> None:
    modinfo = source.section(".modinfo")
    begin = modinfo["sh_offset"]
    at = out.find(b"vermagic=", begin, begin + modinfo["sh_size"])
    if at < 0:
        raise BadModule("the module has no vermagic")
    out[at : at + 1] = b"x"
    for section in source.sections:
        if section.name == "__versions":
            at = source.name_offset(section) + 2
            out[at : at + 1] = b"x"

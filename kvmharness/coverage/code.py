# SPDX-License-Identifier: MIT
"""The functions of a kernel module, as basic blocks with the calls that they make (x86-64).

Capstone takes the code apart; where the kernel may branch to without a jump being there (a static
branch, which is patched in, and the way out of a fault) is in the module's tables.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from kvmharness.errors import UsageError
from kvmharness.kernels.elf import Module, Relocation, Symbol

if TYPE_CHECKING:
    from capstone import CsInsn

#: What the compiler appends to the name of a part or a variant of a function.
_VARIANT = re.compile(r"\.(cold|part|isra|constprop)(\.\d+)?")
#: Tables that name the target of a branch 4 bytes into each entry, with an entry's size: static
#: branches (struct jump_entry) and ways out of a fault (struct exception_table_entry).
_TABLES = {".rela__jump_table": 16, ".rela__ex_table": 12}
#: Callees that are no calls of the function's: its tracing, its return, the thunk of a pointer.
_NO_CALL = re.compile(r"__fentry__|__x86_return_thunk|__x86_indirect_(call|jump)?_?thunk_\w+")
#: Callees that only the failure of an assertion reaches, as ud2 does (WARN, BUG), or debugging.
_ASIDE = re.compile(
    r"__warn_printk|WARN_trap|__ubsan_\w+|__stack_chk_fail|__fortify_\w+|__list_\w+_or_report|"
    r"__dynamic_\w+|dump_stack"
)
_FILLING = ("nop", "int3")
#: A call that is patched in at boot: the trampoline of kvm_x86_ops.gmem_make_private.
_STATIC_CALL = "__SCT__"


@dataclass(frozen=True)
class Block:
    """Code with one way in and one way out: offsets in its section, and the callees' names."""

    begin: int
    end: int
    calls: tuple[str, ...] = ()
    #: Whether it is there for the failure of an assertion, or for debugging.
    aside: bool = False


@dataclass(frozen=True)
class Function:
    """A function: its name in the source, its section, its blocks by offset."""

    name: str
    section: str
    begin: int  # the offset of its entry
    blocks: tuple[Block, ...]


def check_installed() -> None:
    """Raise UsageError, saying how to get it, where Capstone is not installed."""
    try:
        import capstone  # noqa: F401
    except ImportError:
        raise UsageError(
            "--kernel-coverage needs the package capstone: pip install 'kvmharness[coverage]'"
        ) from None


def functions(module: Module, wanted: Callable[[str], bool]) -> list[Function]:
    """Return the functions of a module whose names in the source are `wanted`, by name.

    A function's unlikely part (``.cold``) is of it; what was inlined is of its callers.
    """
    parts: dict[tuple[str, str], list[Symbol]] = {}
    for symbol in module.functions():
        name = _VARIANT.sub("", symbol.name)
        if symbol.size and wanted(name):
            parts.setdefault((name, symbol.section), []).append(symbol)
    readers = {section: _Reader(module, section) for section in {section for _, section in parts}}
    found = []
    for (name, section), symbols in sorted(parts.items()):
        symbols.sort(key=lambda s: (s.name.endswith(".cold"), s.offset))
        blocks = readers[section].blocks(symbols)
        found.append(Function(name, section, symbols[0].offset, blocks))
    return found


class _Reader:
    """Takes the code of one section apart."""

    def __init__(self, module: Module, section: str) -> None:
        from capstone import CS_ARCH_X86, CS_MODE_64, Cs

        self._machine = Cs(CS_ARCH_X86, CS_MODE_64)
        self._machine.detail = True
        self._code = module.section(section).data()
        self._patched = {r.target: r for r in _relocations(module, f".rela{section}")}
        here = [symbol for symbol in module.functions() if symbol.section == section]
        self._names = {symbol.offset: symbol.name for symbol in here}
        # What a relocation may refer to: a function, or a place in the section.
        self._offsets = {symbol.name: symbol.offset for symbol in here} | {section: 0}
        self._entered = sorted(
            {
                r.addend
                for table, size in _TABLES.items()
                for r in _relocations(module, table)
                if r.symbol == section and r.target % size == 4
            }
        )

    def blocks(self, symbols: Sequence[Symbol]) -> tuple[Block, ...]:
        """Return the blocks of a function that is in these places."""
        read = [insn for symbol in symbols for insn in self._instructions(symbol)]
        inside = {insn.address for insn in read}
        entered = {symbol.offset for symbol in symbols} | inside.intersection(self._entered)
        targets = (self._target(insn) for insn in read if _jumps(insn))
        entered |= {target for target in targets if target in inside}
        cut = [
            insns
            for insns in _cut(read, entered)
            # Behind a jump or a return, where nothing leads to: filling.
            if insns[0].address in entered or any(i.mnemonic not in _FILLING for i in insns)
        ]
        blocks = {insns[0].address: self._block(insns, inside) for insns in cut}
        leads_to = {insns[0].address: self._successors(insns, blocks) for insns in cut}
        return tuple(_with_what_leads_aside(blocks, leads_to).values())

    def _instructions(self, symbol: Symbol) -> Iterator[CsInsn]:
        code = self._code[symbol.offset : symbol.offset + symbol.size]
        yield from self._machine.disasm(code, symbol.offset)

    def _block(self, insns: Sequence[CsInsn], inside: set[int]) -> Block:
        calls = [name for insn in insns for name in self._callee(insn, inside)]
        aside = any(insn.mnemonic == "ud2" for insn in insns)
        aside |= any(_ASIDE.fullmatch(name) for name in calls)
        return Block(insns[0].address, _end(insns), tuple(dict.fromkeys(calls)), aside)

    def _successors(self, insns: Sequence[CsInsn], blocks: Collection[int]) -> set[int]:
        """Return where the blocks begin that a block leads to."""
        last = insns[-1]
        found = {self._target(last)} if _jumps(last) else set()
        if not _leaves(last):
            found.add(_end(insns))
        return {at for at in found if at is not None and at in blocks}

    def _callee(self, insn: CsInsn, inside: set[int]) -> Iterator[str]:
        """Yield the name of what an instruction calls, also as its last deed, by a jump."""
        from capstone import CS_GRP_CALL

        if not (insn.group(CS_GRP_CALL) or _jumps(insn)):
            return
        target, patch = self._target(insn), self._patch(insn)
        if target is not None:
            name = "" if target in inside else self._names.get(target, "")
        else:
            name = "" if patch is None else patch.symbol
        name = _VARIANT.sub("", name).removeprefix(_STATIC_CALL)
        if name and not _NO_CALL.fullmatch(name):
            yield name

    def _patch(self, insn: CsInsn) -> Relocation | None:
        places = range(insn.address, insn.address + insn.size)
        return next((self._patched[at] for at in places if at in self._patched), None)

    def _target(self, insn: CsInsn) -> int | None:
        """Return where in this section a call or jump leads; None where that is not known."""
        from capstone.x86 import X86_OP_IMM

        operands = insn.operands
        if len(operands) != 1 or operands[0].type != X86_OP_IMM:
            return None
        patch = self._patch(insn)
        if patch is None:
            return int(operands[0].imm)
        base = self._offsets.get(patch.symbol)
        # The field is the instruction's last 4 bytes, and what it holds is relative to its end.
        return None if base is None else base + patch.addend + 4


def _relocations(module: Module, section: str) -> Iterator[Relocation]:
    """Yield the entries of a section that a module need not have."""
    if any(each.name == section for each in module.sections):
        yield from module.relocations(section)


def _with_what_leads_aside(
    blocks: Mapping[int, Block], leads_to: Mapping[int, set[int]]
) -> dict[int, Block]:
    """Return the blocks; what leads to nothing but such as don't count does not count either."""
    found = dict(blocks)
    changed = True
    while changed:
        changed = False
        for begin, block in found.items():
            onward = leads_to[begin]
            if not block.aside and onward and all(found[at].aside for at in onward):
                found[begin] = replace(block, aside=True)
                changed = True
    return found


def _cut(read: Iterable[CsInsn], entered: set[int]) -> Iterator[list[CsInsn]]:
    """Yield instructions block by block: it ends at a jump, before what is entered, at a hole."""
    block: list[CsInsn] = []
    for insn in read:
        if block and (insn.address in entered or insn.address != _end(block) or _jumps(block[-1])):
            yield block
            block = []
        block.append(insn)
    if block:
        yield block


def _end(insns: Sequence[CsInsn]) -> int:
    return int(insns[-1].address + insns[-1].size)


def _leaves(insn: CsInsn) -> bool:
    """Whether what follows an instruction is not run after it: a jump in any case, or a return."""
    from capstone import CS_GRP_RET

    return insn.mnemonic == "jmp" or bool(insn.group(CS_GRP_RET))


def _jumps(insn: CsInsn) -> bool:
    """Whether an instruction ends a block: a jump, conditional or not, or a return."""
    from capstone import CS_GRP_JUMP, CS_GRP_RET

    return bool(insn.group(CS_GRP_JUMP) or insn.group(CS_GRP_RET))

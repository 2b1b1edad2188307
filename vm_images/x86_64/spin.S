# SPDX-License-Identifier: MIT
#
# spin: long mode. Runs for ever without an exit of its own. No arguments.

.globl _start
_start:
        jmp     _start

# SPDX-License-Identifier: MIT
#
# touch: long mode. Touches each gpa of a table and reports what it found.
#   rdi  gpa of the table (bytes): entries of { u64 gpa, u64 flags }, flag bit 0: write as well
#   rsi  number of entries
#
# Per entry, in this order: report gpa; read the u64 there; report it; if asked, write ~gpa there
# (touch_mark in kvmharness/payload.py). The gpa goes out before the touch, so that the host knows which
# one a fault belongs to.

.include "protocol.inc"

.set ENTRY_GPA, 0
.set ENTRY_FLAGS, 8
.set ENTRY_SIZE, 16
.set FLAG_WRITE, 1

.globl _start
_start:
        test    %rsi, %rsi
        jz      .Lend
.Lentry:
        mov     ENTRY_GPA(%rdi), %rbx
        mov     %rbx, %rax
        REPORT_RAX
        mov     (%rbx), %rax
        REPORT_RAX
        testb   $FLAG_WRITE, ENTRY_FLAGS(%rdi)
        jz      .Lread_only
        mov     %rbx, %rax
        not     %rax
        mov     %rax, (%rbx)
.Lread_only:
        add     $ENTRY_SIZE, %rdi
        dec     %rsi
        jnz     .Lentry
.Lend:
        DONE    STATUS_OK

# SPDX-License-Identifier: MIT
#
# pattern: long mode. Fills a range of pages with a pattern, then reports the number of pages.
#   rdi  gpa of the first page (bytes)
#   rsi  number of pages
#   rdx  seed
#
# The word at gpa is seed + gpa * PATTERN_STEP: no two addresses hold the same word, so a page that
# ends up in another's place shows. pattern_page in kvmharness/payload.py is the same function.
# Registers only: any number of vCPUs can run one copy.

.include "protocol.inc"

.set PATTERN_STEP, 0x9e3779b97f4a7c15
.set UNROLLED, 16

.globl _start
_start:
        mov     %rsi, %r8               # kept for the report
        movabs  $PATTERN_STEP, %rbx
        mov     %rbx, %rax
        imul    %rdi, %rax
        add     %rdx, %rax              # the first word
        shl     $3, %rbx                # from one word to the next
        test    %rsi, %rsi
        jz      .Lend
.Lpage:
        mov     $PAGE_SIZE / (8 * UNROLLED), %ecx
.Lwords:
        .set    offset, 0
        .rept   UNROLLED
        mov     %rax, offset(%rdi)
        add     %rbx, %rax
        .set    offset, offset + 8
        .endr
        add     $8 * UNROLLED, %rdi
        dec     %ecx
        jnz     .Lwords
        dec     %rsi
        jnz     .Lpage
.Lend:
        mov     %r8, %rax
        REPORT_RAX
        DONE    STATUS_OK

# SPDX-License-Identifier: MIT
#
# checksum: long mode. Reports a checksum of each page of a range, in order.
#   rdi  gpa of the first page (bytes)
#   rsi  number of pages
#
# Per page: sum += word; running += sum, over the 512 words, from sum = CHECKSUM_SEED; the report is
# sum ^ rotl(running, 1). Two instructions a word, because some hosts emulate each of them, and
# sums are what Python computes fastest (page_checksum in kvmharness/payload.py is the same
# function). The seed makes a page of zeros differ from a register that was never written. It tells
# pages of a test apart; it is no defence against contents made to collide.
# Registers only: any number of vCPUs can run one copy.

.include "protocol.inc"

.set CHECKSUM_SEED, 0xcbf29ce484222325
.set UNROLLED, 16

.globl _start
_start:
        test    %rsi, %rsi
        jz      .Lend
.Lpage:
        movabs  $CHECKSUM_SEED, %rax
        xor     %ebx, %ebx
        mov     $PAGE_SIZE / (8 * UNROLLED), %ecx
.Lwords:
        .set    offset, 0
        .rept   UNROLLED
        add     offset(%rdi), %rax
        add     %rax, %rbx
        .set    offset, offset + 8
        .endr
        add     $8 * UNROLLED, %rdi
        dec     %ecx
        jnz     .Lwords

        rol     $1, %rbx
        xor     %rbx, %rax
        REPORT_RAX
        dec     %rsi
        jnz     .Lpage
.Lend:
        DONE    STATUS_OK

# SPDX-License-Identifier: MIT
#
# hello: long mode. Says hello on the console. No arguments.

.include "protocol.inc"

.globl _start
_start:
        lea     message(%rip), %rsi
        mov     $PORT_CONSOLE, %edx
.Lnext:
        mov     (%rsi), %al
        test    %al, %al
        jz      .Lend
        out     %al, %dx
        inc     %rsi
        jmp     .Lnext
.Lend:
        DONE    STATUS_OK

message:
        .asciz  "hello from guest_memfd\n"

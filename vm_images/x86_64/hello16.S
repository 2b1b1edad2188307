# SPDX-License-Identifier: MIT
#
# hello16: real mode, cs = ds = 0, ip = load_gpa. Says hello on the console. No arguments.

.include "protocol.inc"

.code16
.globl _start
_start:
        mov     $message, %si           # absolute: the image is linked at its load_gpa
        mov     $PORT_CONSOLE, %dx
.Lnext:
        mov     (%si), %al
        test    %al, %al
        jz      .Lend
        out     %al, %dx
        inc     %si
        jmp     .Lnext
.Lend:
        DONE    STATUS_OK

message:
        .asciz  "hello from real mode\n"

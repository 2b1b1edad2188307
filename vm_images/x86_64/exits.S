# SPDX-License-Identifier: MIT
#
# exits: long mode. Causes one exit, chosen by rdi, reports what came back, and finishes.
# Status 1 means that rdi names no exit. The numbers are the enum ExitCase of kvmharness/payload.py.
#   rdi       rsi                 rdx               rcx       r8        reports
#    0  HLT
#    1  MMIO  gpa                                                       the u64 read
#    2  MMIO  gpa                 u64 to write
#    3  PIO   port                                                      the u32 read
#    4  SHUTDOWN (a #UD with no IDT: a triple fault)
#    5  MSR   index                                                     the value read
#    6  MSR   index               value to write
#    7  VMCALL    number          a0                a1        a2        rax afterwards
#    8  VMMCALL   number          a0                a1        a2        rax afterwards
#    9  CPUID leaf                subleaf                               eax, ebx, ecx, edx
#   10  PIO   bytes to write      gpa of the bytes                      (one REP OUTSB to the console)
#   11  DEBUG (INT3; without guest debugging: SHUTDOWN, or INTERNAL_ERROR from an emulator)
# At CPL3 HLT and the MSR instructions fault, which ends in SHUTDOWN. The MSR instructions leave KVM
# only for an MSR that an MSR filter or KVM itself hands to userspace, and the hypercalls only for a
# number that KVM forwards. REP OUTSB may come as one exit or as several.

.include "protocol.inc"

.arch .vmx                              # for the assembler: VMCALL and VMMCALL
.arch .svme

.macro CASE number, label
        cmp     $\number, %rdi
        je      \label
.endm

.globl _start
_start:
        CASE    0, .Lhlt
        CASE    1, .Lmmio_read
        CASE    2, .Lmmio_write
        CASE    3, .Lpio_in
        CASE    4, .Lshutdown
        CASE    5, .Lrdmsr
        CASE    6, .Lwrmsr
        CASE    7, .Lvmcall
        CASE    8, .Lvmmcall
        CASE    9, .Lcpuid
        CASE    10, .Lpio_string
        CASE    11, .Lint3
        DONE    STATUS_BAD_ARGUMENT

.Lhlt:
        hlt
        jmp     .Lend

.Lmmio_read:
        mov     (%rsi), %rax
        jmp     .Lreport

.Lmmio_write:
        mov     %rdx, (%rsi)
        jmp     .Lend

.Lpio_in:
        mov     %esi, %edx
        in      %dx, %eax               # clears the upper half of %rax
        jmp     .Lreport

.Lshutdown:
        ud2

.Lrdmsr:
        mov     %esi, %ecx
        rdmsr
        shl     $32, %rdx
        or      %rdx, %rax
        jmp     .Lreport

.Lwrmsr:
        mov     %esi, %ecx
        mov     %edx, %eax
        shr     $32, %rdx
        wrmsr
        jmp     .Lend

.Lvmcall:
        mov     %rsi, %rax
        mov     %rdx, %rbx
        mov     %r8, %rdx
        vmcall
        jmp     .Lreport

.Lvmmcall:
        mov     %rsi, %rax
        mov     %rdx, %rbx
        mov     %r8, %rdx
        vmmcall
        jmp     .Lreport

.Lcpuid:
        mov     %esi, %eax
        mov     %edx, %ecx
        cpuid
        mov     %edx, %esi              # REPORT_RAX needs %rdx
        REPORT_RAX
        mov     %ebx, %eax
        REPORT_RAX
        mov     %ecx, %eax
        REPORT_RAX
        mov     %esi, %eax
        jmp     .Lreport

.Lpio_string:
        mov     %rsi, %rcx
        mov     %rdx, %rsi
        mov     $PORT_CONSOLE, %edx
        cld
        rep outsb
        jmp     .Lend

.Lint3:
        int3
        jmp     .Lend

.Lreport:
        REPORT_RAX
.Lend:
        DONE    STATUS_OK

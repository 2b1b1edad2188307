/* SPDX-License-Identifier: MIT */
/*
 * The kernel's fixed-width integers, spelled as <asm-generic/int-ll64.h> does, so that every
 * declaration below reads like the header it was taken from.
 */
typedef signed char __s8;
typedef unsigned char __u8;
typedef signed short __s16;
typedef unsigned short __u16;
typedef signed int __s32;
typedef unsigned int __u32;
typedef signed long long __s64;
typedef unsigned long long __u64;

// SPDX-License-Identifier: GPL-2.0
/* The memory encryption of a TD's pages, as far as one can see it. */
#include "tdx_module.h"

/*
 * A private page is encrypted with the TD's key: what the host finds in it is not what was put in.
 * One word of key stream for each word, different for every page and key.
 */
static u64 key_stream(struct td *td, u64 address)
{
	return (address / sizeof(u64) + 1) * 0x9e3779b97f4a7c15ULL + td->hkid;
}

void crypt(struct td *td, u64 *to, u64 address, const u64 *from, size_t size)
{
	size_t i;

	for (i = 0; i < size / sizeof(u64); i++)
		to[i] = from[i] ^ key_stream(td, address + i * sizeof(u64));
}

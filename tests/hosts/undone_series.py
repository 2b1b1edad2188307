# SPDX-License-Identifier: MIT
"""The upstream series of November 2025 undone, as far as 7.3 allows; written from 6.18's source.

populate hands the source's address to its callbacks again, which copy from it or pin it themselves,
with the file's invalidate lock held throughout; and SNP_LAUNCH_UPDATE checks no address.
"""

from __future__ import annotations

from collections.abc import Sequence

from .planted_series import GMEM, HOST, PUT, SEV, TDX, UNALIGNED, Edit, PlantedPatch

_POPULATE: Sequence[Edit] = [
    (
        HOST,
        "kvm_pfn_t pfn,\n\t\t\t\t    struct page *page,",
        "kvm_pfn_t pfn,\n\t\t\t\t    void __user *src,",
    ),
    (
        GMEM,
        "struct file *file, gfn_t gfn, struct page *src_page,\n",
        "struct file *file, gfn_t gfn, void __user *src,\n",
    ),
    (
        GMEM,
        "post_populate(kvm, gfn, pfn, src_page, opaque);",
        "post_populate(kvm, gfn, pfn, src, opaque);",
    ),
    (
        GMEM,
        "\tfilemap_invalidate_lock(file->f_mapping);\n\n"
        "\tfolio = __kvm_gmem_get_pfn(file, slot, index, &pfn, NULL);\n"
        "\tif (IS_ERR(folio)) {\n\t\tret = PTR_ERR(folio);\n\t\tgoto out_unlock;\n\t}\n",
        "\tfolio = __kvm_gmem_get_pfn(file, slot, index, &pfn, NULL);\n"
        "\tif (IS_ERR(folio))\n\t\treturn PTR_ERR(folio);\n",
    ),
    (
        GMEM,
        PUT + "\tfilemap_invalidate_unlock(file->f_mapping);\n",
        "out_put_folio:\n\tfolio_put(folio);\n",
    ),
    (GMEM, "\tif (WARN_ON_ONCE(!PAGE_ALIGNED(src)))\n\t\treturn -EINVAL;\n\n", ""),
    (
        GMEM,
        "npages);\n\tfor (i = 0; i < npages; i++) {\n\t\tstruct page *src_page = NULL;\n\n",
        "npages);\n\tfilemap_invalidate_lock(file->f_mapping);\n\tfor (i = 0; i < npages; i++) {\n",
    ),
    (
        GMEM,
        "\t\tif (src) {\n"
        "\t\t\tunsigned long uaddr = (unsigned long)src + i * PAGE_SIZE;\n"
        "\t\t\tunsigned int flags = may_writeback_src ? FOLL_WRITE : 0;\n\n"
        "\t\t\tret = get_user_pages_fast(uaddr, 1, flags, &src_page);\n"
        "\t\t\tif (ret < 0)\n\t\t\t\tbreak;\n"
        "\t\t\tif (ret != 1) {\n\t\t\t\tret = -ENOMEM;\n\t\t\t\tbreak;\n\t\t\t}\n\t\t}\n\n"
        "\t\tret = __kvm_gmem_populate(kvm, slot, file, start_gfn + i, src_page,\n"
        "\t\t\t\t\t  post_populate, opaque);\n\n"
        "\t\tif (src_page)\n\t\t\tput_page(src_page);\n\n"
        "\t\tif (ret)\n\t\t\tbreak;\n\t}\n",
        "\t\tret = __kvm_gmem_populate(kvm, slot, file, start_gfn + i,\n"
        "\t\t\t\t\t  src ? src + i * PAGE_SIZE : NULL,\n"
        "\t\t\t\t\t  post_populate, opaque);\n"
        "\t\tif (ret)\n\t\t\tbreak;\n\t}\n\tfilemap_invalidate_unlock(file->f_mapping);\n",
    ),
    (
        SEV,
        "struct page *src_page, void *opaque)\n{\n\tstruct sev_gmem_populate_args",
        "void __user *src, void *opaque)\n{\n\tstruct sev_gmem_populate_args",
    ),
    (
        SEV,
        "\tif (src_page) {\n\t\tvoid *src_vaddr = kmap_local_page(src_page);\n"
        "\t\tvoid *dst_vaddr = kmap_local_pfn(pfn);\n\n"
        "\t\tmemcpy(dst_vaddr, src_vaddr, PAGE_SIZE);\n\n"
        "\t\tkunmap_local(dst_vaddr);\n\t\tkunmap_local(src_vaddr);\n\t}\n",
        "\tif (src) {\n\t\tvoid *vaddr = kmap_local_pfn(pfn);\n"
        "\t\tbool failed = copy_from_user(vaddr, src, PAGE_SIZE);\n\n"
        "\t\tkunmap_local(vaddr);\n"
        "\t\tif (failed) {\n\t\t\tret = -EFAULT;\n\t\t\tgoto out;\n\t\t}\n\t}\n",
    ),
    (
        SEV,
        "\t\tvoid *src_vaddr = kmap_local_page(src_page);\n"
        "\t\tvoid *dst_vaddr = kmap_local_pfn(pfn);\n\n"
        "\t\tmemcpy(src_vaddr, dst_vaddr, PAGE_SIZE);\n\t\tset_page_dirty_lock(src_page);\n\n"
        "\t\tkunmap_local(dst_vaddr);\n\t\tkunmap_local(src_vaddr);\n",
        "\t\tvoid *vaddr = kmap_local_pfn(pfn);\n\n"
        '\t\tif (copy_to_user(src, vaddr, PAGE_SIZE))\n\t\t\tpr_debug("No page written back\\n");\n'
        "\t\tkunmap_local(vaddr);\n",
    ),
    (
        TDX,
        "struct page *src_page, void *_arg)\n{\n",
        "void __user *src, void *_arg)\n{\n\tstruct page *src_page;\n",
    ),
    (
        TDX,
        "\tkvm_tdx->page_add_src = src_page;\n"
        "\tret = kvm_tdp_mmu_map_private_pfn(arg->vcpu, gfn, pfn);\n"
        "\tkvm_tdx->page_add_src = NULL;\n",
        "\tret = get_user_pages_fast((unsigned long)src, 1, 0, &src_page);\n"
        "\tif (ret < 0)\n\t\treturn ret;\n\tif (ret != 1)\n\t\treturn -ENOMEM;\n\n"
        "\tkvm_tdx->page_add_src = src_page;\n"
        "\tret = kvm_tdp_mmu_map_private_pfn(arg->vcpu, gfn, pfn);\n"
        "\tkvm_tdx->page_add_src = NULL;\n\tput_page(src_page);\n",
    ),
]
_CHECK: Sequence[Edit] = [
    (SEV, UNALIGNED, ""),
    (
        SEV,
        "\tret = snp_lookup_rmpentry((u64)pfn, &assigned, &level);\n\tif (ret || assigned) {\n"
        '\t\tpr_debug("%s: Failed to ensure GFN',
        "\tif (WARN_ON_ONCE(sev_populate_args->type != KVM_SEV_SNP_PAGE_TYPE_ZERO && !src))\n"
        "\t\treturn -EINVAL;\n\n"
        "\tret = snp_lookup_rmpentry((u64)pfn, &assigned, &level);\n\tif (ret || assigned) {\n"
        '\t\tpr_debug("%s: Failed to ensure GFN',
    ),
]
PATCHES: Sequence[PlantedPatch] = [
    ("KVM: guest_memfd: Hand the source's address to populate's callbacks", _POPULATE),
    ("KVM: SEV: Take a source at any address", _CHECK),
]

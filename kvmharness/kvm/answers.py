# SPDX-License-Identifier: MIT
"""What a VMM answers to an exit before it runs the vCPU again, beyond I/O, MSRs and hypercalls."""

from __future__ import annotations

from typing import Any

from kvmharness.kvm.fields import make, u64
from kvmharness.kvm.structs import numbers

#: What a TDVMCALL's answer has beside its status.
_TDX_VALUES = 5


class AnswersCalls:
    """Answers to exits, written to struct kvm_run. HarnessError once the vCPU is closed."""

    _open_run: Any

    def complete_hyperv(self, result: int) -> None:
        """Answer a HypervCallExit: the call's result value."""
        self._open_run.hyperv.u.hcall.result = u64("result", result)

    def complete_xen(self, result: int) -> None:
        """Answer a XenExit: what the guest finds in RAX."""
        self._open_run.xen.u.hcall.result = u64("result", result)

    def complete_tdx(self, status: int, *values: int) -> None:
        """Answer a TdxExit: `status` is the guest's R10, `values` the outputs the call has.

        GetTdVmCallInfo's are leaf, R11, R12, R13 and R14. What is not given stays.
        """
        answer = self._open_run.tdx.unknown
        outputs = [u64("values", value) for value in numbers("values", values, _TDX_VALUES)]
        answer.ret = u64("status", status)
        for index, value in enumerate(outputs):
            answer.data[index] = value

    def complete_req_certs(self, status: int = 0, npages: int | None = None) -> None:
        """Answer a SnpReqCertsExit: `status` is 0, ENOSPC, EAGAIN or EIO.

        `npages` says with ENOSPC how many pages the certificates take.
        """
        answer = make("struct kvm_exit_snp_req_certs *", ret=status, npages=npages or 0)
        self._open_run.snp_req_certs.ret = answer.ret
        if npages is not None:
            self._open_run.snp_req_certs.npages = answer.npages

    def request_interrupt_window(self, wanted: bool = True) -> None:
        """Have KVM_RUN end as IrqWindowExit when the guest takes interrupts; without an irqchip."""
        self._open_run.request_interrupt_window = int(wanted)

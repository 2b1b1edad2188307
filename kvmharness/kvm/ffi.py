# SPDX-License-Identifier: MIT
"""The compiled binding: `ffi` makes and reads C data, `lib` has the kernel's constants."""

from kvmharness._kvm import ffi as ffi
from kvmharness._kvm import lib as lib

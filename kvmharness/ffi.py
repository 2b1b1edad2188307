# SPDX-License-Identifier: MIT
from kvmharness._kvm import ffi as ffi
from kvmharness._kvm import lib as lib

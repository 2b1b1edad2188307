# SPDX-License-Identifier: MIT
# The extension that cdefs/build.py compiles. Its names are the kernel's; the C compiler checks them
# against the kernel's headers, which mypy can't. `ffi` is not cffi.FFI: that one's CData has no
# fields, and an extension's ffi lacks half of its methods.
from typing import Any

ffi: Any
lib: Any

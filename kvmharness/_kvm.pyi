# SPDX-License-Identifier: MIT
# The extension that cdefs/build.py compiles. Its names are the kernel's and are checked against the
# kernel's headers by the C compiler, not by mypy.
from typing import Any

import cffi

ffi: cffi.FFI
lib: Any

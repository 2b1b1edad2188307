# SPDX-License-Identifier: MIT
import platform
import sys

from setuptools import setup

if sys.platform != "linux" or platform.machine() != "x86_64":
    sys.exit(
        "kvmharness builds on x86-64 Linux only: it binds the x86 KVM ioctls "
        f"(this is {sys.platform} on {platform.machine()})."
    )

setup(
    cffi_modules=["cdefs/build.py:ffibuilder"],
    # The binding uses the stable ABI: one wheel serves every Python from 3.11 on.
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)

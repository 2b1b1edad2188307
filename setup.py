# SPDX-License-Identifier: MIT
import platform
import sys

from setuptools import setup
from setuptools.command.editable_wheel import editable_wheel

if sys.platform != "linux" or platform.machine() != "x86_64":
    sys.exit(
        "kvmharness builds on x86-64 Linux only: it binds the x86 KVM ioctls "
        f"(this is {sys.platform} on {platform.machine()})."
    )


class PathEditable(editable_wheel):
    """An editable installation by the checkout's path, and not by an import hook.

    A hook is asked last: from the clone's parent directory, or by a script there, the clone itself
    is found before it, as a package of the same name without contents. mypy and pyright look for
    paths alone. The suite and the images, whose mapping asks for the hook, are found in a checkout
    without it.
    """

    def finalize_options(self) -> None:
        listed = self.distribution.packages
        self.distribution.packages = [
            name for name in listed if not name.startswith("kvmharness._")
        ]
        self.distribution.package_dir = {"": "."}
        super().finalize_options()


setup(
    cffi_modules=["cdefs/build.py:ffibuilder"],
    cmdclass={"editable_wheel": PathEditable},
    # The binding uses the stable ABI: one wheel serves every Python from 3.11 on.
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)

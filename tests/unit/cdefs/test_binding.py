# SPDX-License-Identifier: MIT
"""The compiled binding is the kernel's ABI: numbers, sizes, offsets, with old headers and new."""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import cffi
import pytest

from kvmharness import _kvm
from kvmharness.kvm.ffi import ffi, lib

ROOT = Path(__file__).resolve().parents[3]
CDEFS = ROOT / "cdefs"
CHECK_UAPI = ROOT / "ci" / "check_uapi"
DEADLINE = 120  # seconds; each of these takes about two

# Reads every constant and lays out every structure: cffi compares each with the C side only then.
TOUCH = """
import json
constants, wrong = {}, []
for name in dir(lib):
    try:
        value = getattr(lib, name)
    except ffi.error as error:
        wrong.append(str(error))
    else:
        if isinstance(value, int):
            constants[name] = value
layouts = {}
names, structs, unions = ffi.list_types()
for name in [*names, *("struct " + s for s in structs), *("union " + u for u in unions)]:
    try:
        fields = getattr(ffi.typeof(name), "fields", None) or []
        layouts[name] = [ffi.sizeof(name), [[f, d.offset] for f, d in fields]]
    except ffi.error as error:
        wrong.append(f"{name}: {error}")
"""


def touch(binding: Any) -> dict[str, Any]:
    """Everything `binding` declares, as the C compiler sees it."""
    scope: dict[str, Any] = {"ffi": binding.ffi, "lib": binding.lib}
    exec(TOUCH, scope)
    return {key: scope[key] for key in ("constants", "layouts", "wrong")}


@pytest.fixture(scope="module")
def build() -> ModuleType:
    spec = importlib.util.spec_from_file_location("cdefs_build", CDEFS / "build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def check_uapi(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, CHECK_UAPI, *arguments],
        capture_output=True,
        text=True,
        timeout=DEADLINE,
    )


def build_and_touch(
    target: Path, directory: Path = CDEFS, headers: str = ""
) -> subprocess.CompletedProcess[str]:
    """Build the binding elsewhere from `directory` and touch all of it in its own interpreter."""
    program = f"""
import importlib.util, sys
from pathlib import Path
spec = importlib.util.spec_from_file_location("cdefs_build", {str(CDEFS / "build.py")!r})
build = importlib.util.module_from_spec(spec)
spec.loader.exec_module(build)
target, directory = Path(sys.argv[1]), Path(sys.argv[2])
build.compile_into(target, "_planted", directory)
sys.path.insert(0, str(target))
from _planted import ffi, lib
{TOUCH}
print(json.dumps(dict(constants=constants, layouts=layouts, wrong=wrong)))
"""
    return subprocess.run(
        [sys.executable, "-c", program, target, directory],
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        env={**os.environ, "KVMHARNESS_UAPI": headers},
    )


@pytest.fixture
def planted(tmp_path: Path) -> Path:
    """A copy of the declarations, to plant mistakes in."""
    return Path(shutil.copytree(CDEFS, tmp_path / "cdefs", ignore=shutil.ignore_patterns("__*")))


def plant(directory: Path, file: str, right: str, wrong: str) -> None:
    text = (directory / file).read_text()
    assert text.count(right) == 1, f"{file} no longer has exactly one {right!r}"
    (directory / file).write_text(text.replace(right, wrong))


def test_every_name_agrees_with_the_compiler(build: ModuleType) -> None:
    seen = touch(_kvm)
    assert seen["wrong"] == []
    # What is declared, counted in the sources themselves: nothing was dropped on the way.
    text = "".join((CDEFS / file).read_text() for file in build.DECLARATIONS)
    defined = set(re.findall(r"^#define ([A-Z]\w+) [-0-9]", text, re.M))
    tags = set(re.findall(r"^struct (kvm_\w+|sev_\w+) \{", text, re.M))
    assert len(defined) > 600
    assert len(tags) > 100
    assert defined - seen["constants"].keys() == set()
    shim = (CDEFS / "shim_decl.h").read_text()
    shims = set(re.findall(r"^struct (\w+) \{", shim, re.M))
    layouts = {name.removeprefix("struct ") for name in seen["layouts"]} - shims
    assert tags - layouts == set()
    # What the fallbacks are made of is all of it, too.
    declared = build.read()
    assert declared.numbers.keys() == seen["constants"].keys() - set(re.findall(r"KVMH_\w+", shim))
    assert declared.structures.keys() | declared.aliases.keys() == {
        name for name in layouts if not name.startswith("__")
    }


@pytest.mark.parametrize(
    ("name", "number", "struct", "size"),
    [
        ("KVM_CREATE_GUEST_MEMFD", 0xC040AED4, "struct kvm_create_guest_memfd", 64),
        ("KVM_SET_USER_MEMORY_REGION2", 0x40A0AE49, "struct kvm_userspace_memory_region2", 160),
        ("KVM_SET_MEMORY_ATTRIBUTES", 0x4020AED2, "struct kvm_memory_attributes", 32),
        ("KVM_SET_MEMORY_ATTRIBUTES2", 0xC080AED2, "struct kvm_memory_attributes2", 128),
        ("KVM_PRE_FAULT_MEMORY", 0xC040AED5, "struct kvm_pre_fault_memory", 64),
        ("KVM_MEMORY_ENCRYPT_OP", 0xC008AEBA, "unsigned long", 8),
    ],
)
def test_ioctl_number_and_size(name: str, number: int, struct: str, size: int) -> None:
    assert getattr(lib, name) == number
    assert ffi.sizeof(struct) == size


@pytest.mark.parametrize(
    ("prefix", "values"),
    [
        (
            "KVM_CAP_",
            {
                "MEMORY_ATTRIBUTES": 233,
                "GUEST_MEMFD": 234,
                "VM_TYPES": 235,
                "PRE_FAULT_MEMORY": 236,
                "GUEST_MEMFD_FLAGS": 244,
                "GUEST_MEMFD_MEMORY_ATTRIBUTES": 252,
            },
        ),
        (
            "KVM_X86_",
            {
                "DEFAULT_VM": 0,
                "SW_PROTECTED_VM": 1,
                "SEV_VM": 2,
                "SEV_ES_VM": 3,
                "SNP_VM": 4,
                "TDX_VM": 5,
            },
        ),
        ("GUEST_MEMFD_FLAG_", {"MMAP": 1, "INIT_SHARED": 2}),
        (
            "KVM_SEV_SNP_",
            {"LAUNCH_START": 100, "LAUNCH_UPDATE": 101, "LAUNCH_FINISH": 102}
            | {"ENABLE_REQ_CERTS": 103},
        ),
        (
            "KVM_SEV_SNP_PAGE_TYPE_",
            {"NORMAL": 1, "ZERO": 3, "UNMEASURED": 4, "SECRETS": 5, "CPUID": 6},
        ),
        (
            "KVM_TDX_",
            {"CAPABILITIES": 0, "INIT_VM": 1, "INIT_VCPU": 2, "INIT_MEM_REGION": 3}
            | {"FINALIZE_VM": 4, "GET_CPUID": 5, "MEASURE_MEMORY_REGION": 1},
        ),
        ("SEV_RET_", {"NO_FW_CALL": -1, "POLICY_FAILURE": 7, "BAD_SIGNATURE": 10}),
    ],
)
def test_numbers(prefix: str, values: dict[str, int]) -> None:
    assert {name: getattr(lib, prefix + name) for name in values} == values


def test_an_ioctl_number_holds_the_size_of_its_argument() -> None:
    checked = 0
    for file in CDEFS.glob("*.h"):
        for name, number, argument in re.findall(
            r"^#define (\w+) (0x\w+) /\* ((?:struct )?\w+(?: long)?) \*/$", file.read_text(), re.M
        ):
            checked += 1
            assert int(number, 16) >> 16 & 0x3FFF == ffi.sizeof(argument), name
    assert checked > 60


def test_attributes2_reads_address_and_offset_at_the_same_place() -> None:
    attributes = ffi.new("struct kvm_memory_attributes2 *", {"offset": 0x1000})
    assert attributes.address == 0x1000
    assert ffi.offsetof("struct kvm_memory_attributes2", "error_offset") == 32


def test_exits_read_what_the_kernel_writes() -> None:
    """The members of kvm_run's union, by raw offsets: 32 is where the union starts."""
    run = ffi.new("struct kvm_run *")
    raw = ffi.cast("unsigned long long *", ffi.cast("char *", run) + 32)
    for i in range(32):
        raw[i] = 100 + i
    assert (run.memory_fault.flags, run.memory_fault.gpa, run.memory_fault.size) == (100, 101, 102)
    assert (run.hypercall.nr, list(run.hypercall.args)) == (100, [101, 102, 103, 104, 105, 106])
    # The unions inside: flags and longmode, flags and data[0] are the same bytes.
    assert (run.hypercall.ret, run.hypercall.flags, run.hypercall.longmode) == (107, 108, 108)
    assert (run.system_event.type, run.system_event.flags, run.system_event.data[0]) == (
        100,
        101,
        101,
    )
    assert run.system_event.data[15] == 116
    assert (run.emulation_failure.flags, run.emulation_failure.insn_size) == (101, 102)
    assert (run.tdx.flags, run.tdx.nr, run.tdx.unknown.ret, run.tdx.get_quote.size) == (
        100,
        101,
        102,
        104,
    )
    assert run.tdx.get_tdvmcall_info.r14 == 107
    assert (run.snp_req_certs.gpa, run.snp_req_certs.ret) == (100, 102)
    assert ffi.sizeof("struct kvm_run") == 32 + 256 + 16 + lib.SYNC_REGS_SIZE_BYTES
    run.s.regs.regs.rip = 0xFFF0
    assert raw[32 + 2 + 16] == 0xFFF0  # after valid and dirty: rip is the 17th register


def test_structures_with_a_flexible_array_can_be_made() -> None:
    cpuid = ffi.new("struct kvm_cpuid2 *", {"nent": 3, "entries": 3})
    cpuid.entries[2].function = 7
    assert len(cpuid.entries) == 3
    assert ffi.sizeof(cpuid[0]) == 8 + 3 * 40
    td = ffi.new("struct kvm_tdx_init_vm *", {"cpuid": {"nent": 2, "entries": 2}})
    td.cpuid.entries[1].function = 7
    assert ffi.sizeof(td[0]) == 256 + 8 + 2 * 40


def test_bit_fields_of_the_firmware_status() -> None:
    status = ffi.new("struct sev_user_data_snp_status *")
    ffi.buffer(status)[:] = bytes([1, 55, 2, 1]) + (58).to_bytes(4, "little") + b"\x0c" + bytes(23)
    assert (status.api_major, status.api_minor, status.state) == (1, 55, 2)
    assert (status.is_rmp_initialized, status.rsvd, status.build_id) == (1, 0, 58)
    assert (status.mask_chip_key, status.vlek_en, status.feature_info) == (0, 1, 1)


def test_the_extension_is_built_for_the_stable_abi() -> None:
    assert _kvm.__file__ is not None
    assert _kvm.__file__.endswith(".abi3.so")


def headers_at_hand(directory: Path) -> dict[str, str]:
    """Include directories to build against: the system's, and what else this machine has."""
    found = {"system": "/usr/include"}
    if tree := os.environ.get("KVMHARNESS_UAPI"):
        found["KVMHARNESS_UAPI"] = tree
    from kvmharness.kernels import cache, packages

    fetched = sorted(
        (cache.cache_dir() / "debs").glob("linux-libc-dev_*.deb"),
        key=lambda deb: packages.version_key(deb.name.split("_")[1]),
    )
    if fetched:
        packages.extract(
            fetched[-1], directory, keep=lambda path: "/include" in path or "x86" in path
        )
        found[fetched[-1].name] = str(directory / "usr" / "include")
    return found


def test_all_headers_at_hand_give_the_same_binding(tmp_path: Path) -> None:
    """Built with old headers and many fallbacks, or with new ones and few, it is the same."""
    ours = json.loads(json.dumps(touch(_kvm)))
    for name, tree in headers_at_hand(tmp_path / "headers").items():
        target = tmp_path / re.sub(r"\W", "_", name)
        target.mkdir()
        done = build_and_touch(target, headers=tree)
        assert done.returncode == 0, f"with {name}: {done.stderr}"
        assert json.loads(done.stdout.splitlines()[-1]) == ours, f"with {name}"
        for extra in ([], ["--fallbacks"]):
            checked = check_uapi("--headers", tree, *extra)
            assert checked.returncode == 0, f"with {name}: {checked.stdout}{checked.stderr}"


@pytest.fixture
def older(tmp_path: Path) -> Path:
    """The headers of this machine, less what a kernel could have had later."""
    base = Path(os.environ.get("KVMHARNESS_UAPI") or "/usr/include") / "linux"
    tree = tmp_path / "older"
    (tree / "linux").mkdir(parents=True)
    for name, edits in OLDER.items():
        text = (base / name).read_text()
        for pattern, replacement in edits:
            text, count = re.subn(pattern, replacement, text, flags=re.M)
            assert count == 1, f"{base / name} no longer has exactly one {pattern!r}"
        (tree / "linux" / name).write_text(text)
    return tree


OLDER = {
    "kvm.h": [
        (r"^#define KVM_CAP_IMMEDIATE_EXIT\s.*\n", ""),
        (r"^#define KVM_CAP_HLT\s.*", "#define KVM_CAP_HLT BIT(1)"),  # as 6.2 wrote some
        (r"^struct kvm_enc_region \{[^}]*\};\n", ""),
        (r"\t__u64 host_tsc;\n\t__u32 pad\[4\];", "\t__u32 pad[6];"),
        (r"^\t\t__u32 devid;\n", ""),
    ],
    "psp-sev.h": [
        (r"^\tSEV_GET_ID2,", "\tSEV_OTHER,"),
        (r"^struct sev_user_data_get_id2 \{[^}]*\}.*;", ""),
    ],
}


def lacking(build: ModuleType, tree: Path | None) -> set[str]:
    declarations = build.declare(cffi.FFI())
    include_dirs = build.uapi_include_dirs(str(tree)) if tree else build.uapi_include_dirs()
    command = build.compile_command(include_dirs)
    found: set[str] = build.lacking(declarations, build.read(), command)
    return found


def test_only_what_the_headers_lack_is_replaced(build: ModuleType, older: Path) -> None:
    assert lacking(build, older) - lacking(build, None) == {
        "KVM_CAP_IMMEDIATE_EXIT",
        "KVM_CAP_HLT",
        "kvm_enc_region",
        # Their numbers are made with its size.
        "KVM_MEMORY_ENCRYPT_REG_REGION",
        "KVM_MEMORY_ENCRYPT_UNREG_REGION",
        "kvm_clock_data",
        "kvm_irq_routing_msi",
        # They hold the one before.
        "kvm_irq_routing_entry",
        "kvm_irq_routing",
        "SEV_GET_ID2",
        "sev_user_data_get_id2",
    }


@pytest.mark.parametrize("variable", ["KVMHARNESS_UAPI", "CPPFLAGS", "CFLAGS"])
def test_what_the_headers_lack_is_made_from_the_declarations(
    older: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    """Also where the headers come by the compiler's own environment: both look in one place."""
    if variable != "KVMHARNESS_UAPI":
        monkeypatch.setenv(variable, f"-I{older}")
    done = build_and_touch(tmp_path, headers=str(older) if variable == "KVMHARNESS_UAPI" else "")
    assert done.returncode == 0, done.stderr
    assert "warning" not in done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == json.loads(json.dumps(touch(_kvm)))


def test_an_sdist_needs_no_compiler(build: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "/nonexistent/cc")
    build.make_builder()


def test_a_wrong_number_is_refused_where_it_is_used(planted: Path, tmp_path: Path) -> None:
    plant(planted, "kvm.h", "#define KVM_RUN 0xae80", "#define KVM_RUN 0xae81")
    done = build_and_touch(tmp_path, planted)
    assert done.returncode == 0, done.stderr
    (wrong,) = json.loads(done.stdout.splitlines()[-1])["wrong"]
    assert "'KVM_RUN'" in wrong
    assert "44672" in wrong  # 0xae80, what the C compiler says


def test_a_wrong_layout_is_refused_where_it_is_used(planted: Path, tmp_path: Path) -> None:
    plant(planted, "kvm.h", "\t__u64 linear_address;\n", "\t__u32 linear_address;\n")
    done = build_and_touch(tmp_path, planted)
    assert done.returncode == 0, done.stderr
    (wrong,) = json.loads(done.stdout.splitlines()[-1])["wrong"]
    assert "struct kvm_translation: wrong size for field 'linear_address'" in wrong


@pytest.mark.parametrize(
    ("file", "right", "wrong", "message"),
    [
        (
            "kvm.h",
            "#define KVM_CAP_IMMEDIATE_EXIT 136",
            "#define KVM_CAP_IMMEDIATE_EXIT 137",
            "DIFFERS  KVM_CAP_IMMEDIATE_EXIT: number: "
            "declared 137 (0x89), the headers say 136 (0x88)",
        ),
        (
            "kvm.h",
            "\t__u64 linear_address;\n\t__u64 physical_address;\n",
            "\t__u64 physical_address;\n\t__u64 linear_address;\n",
            "DIFFERS  struct kvm_translation.linear_address: offset: "
            "declared 8 bytes, the headers say 0 bytes",
        ),
        (
            "kvm.h",  # inside a member that has no tag, which cffi itself can't check
            "\t\t\t__u16 port;\n\t\t\t__u32 count;\n",
            "\t\t\t__u32 port;\n\t\t\t__u16 count;\n",
            "DIFFERS  struct kvm_run.io.port: offset: declared 36 bytes, the headers say 34 bytes",
        ),
        (
            "x86.h",
            "\t__u64 debugreg[8];\n",
            "\t__u64 debugreg[9];\n",
            "DIFFERS  struct kvm_guest_debug_arch: size: "
            "declared 72 bytes, the headers say 64 bytes",
        ),
        (
            "x86.h",
            "\t\t\t__u8 dest_mode:1;\n\t\t\t__u8 delivery_status:1;\n",
            "\t\t\t__u8 delivery_status:1;\n\t\t\t__u8 dest_mode:1;\n",
            "DIFFERS  struct kvm_ioapic_state.redirtbl[0].fields.dest_mode: bits: "
            "declared 1 bits from bit 204, the headers say 1 bits from bit 203",
        ),
    ],
)
def test_check_uapi_names_what_differs(
    planted: Path, file: str, right: str, wrong: str, message: str
) -> None:
    plant(planted, file, right, wrong)
    done = check_uapi("--headers", "/usr/include", "--declarations", planted)
    assert message in done.stdout.splitlines()
    assert done.returncode == 1


@pytest.mark.parametrize(
    ("file", "line", "name"),
    [
        ("kvm.h", "#define KVM_SMI 0xaeb7\n", "KVM_SMI"),
        ("kvm.h", "#define KVM_CAP_HLT 1\n", "KVM_CAP_HLT"),
        ("kvm.h", "#define KVM_EXIT_NMI 16\n", "KVM_EXIT_NMI"),
        ("sev.h", "#define KVM_SEV_LAUNCH_SECRET 5\n", "KVM_SEV_LAUNCH_SECRET"),
        ("psp.h", "#define SEV_PEK_CSR 3\n", "SEV_PEK_CSR"),
    ],
)
def test_check_uapi_finds_what_is_new(planted: Path, file: str, line: str, name: str) -> None:
    plant(planted, file, line, "")
    done = check_uapi("--headers", "/usr/include", "--declarations", planted)
    wanted = f"NEW      {name}: declare it in cdefs/, or say in ci/left_out.toml why not"
    assert [text for text in done.stdout.splitlines() if text.startswith("NEW")] == [wanted]
    assert done.returncode == 1


def test_check_uapi_wants_a_header_tree(tmp_path: Path) -> None:
    done = check_uapi("--headers", tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("ci/check_uapi: no linux/kvm.h under ")
    assert done.stderr.count("\n") == 1


def test_check_uapi_says_why_it_can_not_fetch(tmp_path: Path) -> None:
    """A machine without apt: status 4, as for any test that could not run, and one line."""
    done = subprocess.run(
        [sys.executable, CHECK_UAPI],
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        env={"PATH": str(tmp_path), "HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path)},
    )
    assert done.returncode == 4, done.stdout
    assert done.stderr.startswith("ci/check_uapi: linux-libc-dev could not be fetched: ")
    assert done.stderr.count("\n") == 1


def test_elsewhere_the_build_ends_in_one_line(
    build: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    with pytest.raises(SystemExit, match=r"^kvmharness builds on x86-64 Linux .* on aarch64\)\.$"):
        build.require_supported_platform()


def test_a_missing_header_tree_is_named(
    build: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("KVMHARNESS_UAPI", str(tmp_path))
    with pytest.raises(SystemExit, match=f"KVMHARNESS_UAPI: no linux/kvm.h under {tmp_path}"):
        build.make_builder()

# SPDX-License-Identifier: MIT
# shellcheck shell=bash
# Sourced by ci/kvmharness and ci/test: makes .venv and installs the package into it, once, and again
# when what it is built from has changed. Sets $top and $venv. Needs Python 3.11 or newer, a C compiler
# and Python's headers; on Debian as root it installs what of them is missing.

top=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv=${KVMHARNESS_VENV:-$top/.venv}

setup_say() { printf 'setup: %s\n' "$*" >&2; }
setup_fail() {
    setup_say "$*"
    exit 4
}

setup_python() {
    local python
    for python in ${PYTHON:-} python3 python3.13 python3.12 python3.11; do
        if command -v "$python" >/dev/null &&
            "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            command -v "$python"
            return
        fi
    done
    return 1
}

setup_missing_packages() {
    # What the build lacks, as Debian package names.
    local python=$1
    command -v cc >/dev/null || command -v gcc >/dev/null || echo gcc
    [ -e /usr/include/linux/kvm.h ] || echo linux-libc-dev
    [ -e /usr/include/stdio.h ] || echo libc6-dev
    "$python" -c 'import ensurepip, venv' 2>/dev/null || echo python3-venv
    "$python" -c 'import os, sys, sysconfig
sys.exit(not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")))' || echo python3-dev
}

setup_apt() {
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        setup_say "installing with apt-get: $*"
        { apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install -y \
            --no-install-recommends "$@"; } >/dev/null || setup_fail "apt-get could not install: $*"
    else
        setup_fail "missing: $*. Install them (Debian: apt-get install $*) and run this again."
    fi
}

# setup [EXTRA]: make the environment, with the package's optional dependencies EXTRA.
setup() {
    local python wanted stamp extra=${1:-} missing log
    case "$(uname -s)-$(uname -m)" in
        Linux-x86_64) ;;
        *) setup_fail "kvmharness runs on x86-64 Linux only; this is $(uname -s) on $(uname -m)" ;;
    esac
    if ! python=$(setup_python); then
        setup_apt python3 python3-venv python3-dev
        python=$(setup_python) || setup_fail "no Python 3.11 or newer; name one with PYTHON=..."
    fi
    missing=$(setup_missing_packages "$python" | tr '\n' ' ')
    # shellcheck disable=SC2086 # a list of names
    [ -z "$missing" ] || setup_apt $missing

    # Two at once would install into one another's half-made environment.
    exec 9>"$top/.setup.lock"
    flock 9
    wanted=$(cd "$top" && cat pyproject.toml setup.py cdefs/*.h cdefs/*.py | sha256sum | cut -c1-16)
    stamp=$venv/kvmharness-$wanted${extra:+-$extra}
    if [ ! -e "$stamp" ] || ! "$venv/bin/python" -P -c 'import kvmharness._kvm' 2>/dev/null; then
        if [ ! -x "$venv/bin/python" ]; then
            setup_say "making ${venv#"$top"/} with $("$python" --version)"
            "$python" -m venv "$venv" || setup_fail "could not make a virtual environment"
        fi
        setup_say "building the binding and installing kvmharness${extra:+ with [$extra]} into it"
        # Its own notes on editable installations are not news; shown when it fails.
        if ! log=$("$venv/bin/python" -m pip install --quiet --disable-pip-version-check \
            --editable "$top${extra:+[$extra]}" 2>&1); then
            printf '%s\n' "$log" >&2
            setup_fail "pip could not install the package; its output is above"
        fi
        # Nobody may come to write it by importing: emulated hosts read this directory, and twenty
        # times slower is what compiling is there.
        "$venv/bin/python" -m compileall -q "$top/kvmharness" || true
        rm -f "$venv"/kvmharness-*
        touch "$stamp" "$venv/kvmharness-$wanted"
    fi
    flock -u 9
    exec 9>&-
}

# SPDX-License-Identifier: MIT
"""What the exit status of a command says, everywhere the same. 0: passed."""

FAILED = 1
USAGE = 2
#: `series`: scenarios come out differently, and nothing broke.
CHANGED = 3
#: kselftest's status for a test that was skipped.
NOTHING_RAN = 4
#: As a shell reports a command that Ctrl-C ended.
INTERRUPTED = 130
#: To git bisect: this commit can't be judged.
BISECT_SKIP = 125
#: To git bisect, as everything above 127: the bisection can't go on.
BISECT_ABORT = 128
#: Set where a bisection reads the status: an error is no failure then, and a skip no pass.
BISECT_VARIABLE = "KVMHARNESS_BISECT"

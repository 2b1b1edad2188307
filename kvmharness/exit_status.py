# SPDX-License-Identifier: MIT
"""What the exit status of a command says, everywhere the same. 0: passed."""

FAILED = 1
USAGE = 2
#: kselftest's status for a test that was skipped.
NOTHING_RAN = 4
#: As a shell reports a command that Ctrl-C ended.
INTERRUPTED = 130

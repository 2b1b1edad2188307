# SPDX-License-Identifier: MIT
"""Hosts: a host runs a command where a kernel is, and brings its output and records back."""

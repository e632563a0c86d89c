# shellcheck shell=bash
# What set-up writes on its way. Sourced.
say() { echo "setup: $*" >&2; }
fail() { echo "setup: error: $*" >&2; exit 1; }

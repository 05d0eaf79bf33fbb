#!/bin/bash
# Creates the Python environment for tests/proof in DIR. Then set PODPAUSE_PROOF to DIR.
#
#     ci/proof.sh DIR
#
# It needs Python 3.11 or later with the module venv (Debian: python3-venv). It does nothing if DIR is up to date.
set -euo pipefail

[ $# = 1 ] || { echo "usage: $0 DIR" >&2; exit 2; }
requirements=$(dirname "$0")/../tests/proof/requirements.txt
cmp -s "$requirements" "$1/requirements.txt" && exit

rm -rf "$1"
python3 -m venv "$1"
"$1/bin/pip" install --quiet --disable-pip-version-check --only-binary :all: --require-hashes -r "$requirements"
# Copied last, so its presence shows that DIR is complete.
cp "$requirements" "$1/"

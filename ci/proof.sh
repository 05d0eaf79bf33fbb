#!/bin/bash
# Makes the Python environment of tests/proof in DIR, which `PODPAUSE_PROOF` then names:
#
#     ci/proof.sh DIR
#
# It needs Python 3.11 or later with its module venv (Debian: python3-venv). A DIR that is complete stays as
# it is.
set -euo pipefail

[ $# = 1 ] || { echo "usage: $0 DIR" >&2; exit 2; }
requirements=$(dirname "$0")/../tests/proof/requirements.txt
cmp -s "$requirements" "$1/requirements.txt" && exit

rm -rf "$1"
python3 -m venv "$1"
"$1/bin/pip" install --quiet --disable-pip-version-check --only-binary :all: --require-hashes -r "$requirements"
# Written last: it says that the rest is there.
cp "$requirements" "$1/"

#!/usr/bin/env bash
# Prints the Python that tests drive the binaries with: the one that CHARIOT_PYTHON names, else that of target/venv, which is made here
# when .ci/requirements.txt has changed. Without its packages most checks of kernels, records and `serve` would be skipped, and a run
# that skips them must not look like one that passed: that is an error. CHARIOT_ALLOW_SKIP=1 makes it a warning, and prints nothing.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

give_up() {
    if [ "${CHARIOT_ALLOW_SKIP:-}" = 1 ]; then
        echo "warning: $1: tests that need them will be skipped" >&2
        exit 0
    fi
    echo "error: $1, and tests that need them would be skipped; CHARIOT_ALLOW_SKIP=1 allows that" >&2
    exit 1
}

# Prints the packages of the list that a Python lacks, whatever their versions.
lacking() {
    "$1" - <<'END'
from importlib.metadata import PackageNotFoundError, version
for line in open(".ci/requirements.txt"):
    try:
        "==" in line and version(line.split("==")[0])
    except PackageNotFoundError as error:
        print(error.name, end=" ")
END
}

if [ -n "${CHARIOT_PYTHON:-}" ]; then
    names=$(lacking "$CHARIOT_PYTHON") || give_up "CHARIOT_PYTHON=$CHARIOT_PYTHON does not run, so there are no Python packages"
    [ -z "$names" ] || give_up "CHARIOT_PYTHON=$CHARIOT_PYTHON lacks packages of .ci/requirements.txt (${names% })"
    echo "$CHARIOT_PYTHON"
    exit
fi

venv=$PWD/target/venv
install() {
    python3 -m venv "$venv" && "$venv/bin/pip" install --quiet --disable-pip-version-check --no-deps -r .ci/requirements.txt
}
wanted=$(sha256sum <.ci/requirements.txt)
if [ "$(cat "$venv/stamp" 2>/dev/null)" != "$wanted" ]; then
    rm -rf "$venv"
    install >&2 || give_up "the packages of .ci/requirements.txt could not be installed into target/venv"
    echo "$wanted" >"$venv/stamp"
fi
echo "$venv/bin/python"

#!/bin/sh
# Makes .venv hold exactly what infra/constraints.txt pins, checked against its hashes, and this project, editable.
# A second run with nothing changed does nothing. PYTHON=... names another interpreter.
set -eu
cd "$(dirname "$0")/.."

python=${PYTHON:-python3}
lock=infra/constraints.txt
# What the environment was made from: the pins, the project's own metadata, and the folder (scripts hold its path).
key=$( { cat "$lock" pyproject.toml; pwd; } | cksum | tr ' ' '-')
stamp=.venv/.ready

fail() {
    echo "setup: $1" >&2
    exit 1
}

# Networks stutter: three tries, with a pause that grows.
retry() {
    for pause in 5 20 0; do
        if "$@"; then return 0; fi
        [ "$pause" = 0 ] || { echo "setup: failed; again in $pause s: $1 $2 $3" >&2; sleep "$pause"; }
    done
    fail "gave up after three tries: $1 $2 $3. Is the package index reachable, and is the disk not full?"
}

if [ "$(cat "$stamp" 2>/dev/null)" = "$key" ] && .venv/bin/python -c '' 2>/dev/null; then
    exit 0
fi

command -v "$python" >/dev/null || fail "no $python on PATH: install Python 3.11 or newer, or name one with PYTHON=..."
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    fail "$("$python" --version) is too old: Python 3.11 or newer is needed; name one with PYTHON=..."

echo "setup: installing into .venv (the first time PyTorch with CUDA, too: about 3 GB to download, 6 GB on disk)"
rm -f "$stamp"
# A virtual environment that was moved, or whose Python is gone, is made anew.
made_in=$(sed -n 's/^VIRTUAL_ENV=["'\'']\{0,1\}\([^"'\'']*\)["'\'']\{0,1\}$/\1/p' .venv/bin/activate 2>/dev/null | head -n 1)
if [ "$made_in" != "$PWD/.venv" ] || ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
    "$python" -m venv --clear .venv ||
        fail "$python cannot make a virtual environment: install its venv module (Debian: apt-get install python3-venv)"
fi

# pip fetches uv and the build backend, uv the rest.
retry .venv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r infra/constraints-build.txt
UV_HTTP_TIMEOUT=${UV_HTTP_TIMEOUT:-120}
export UV_HTTP_TIMEOUT
# One package comes as source alone: what builds it is of the pins, and checked against its hash, too.
retry .venv/bin/uv pip install --python .venv/bin/python --quiet --require-hashes -r "$lock" --build-constraints "$lock"
# The build backend is among the pins, so nothing more is fetched here.
retry .venv/bin/uv pip install --python .venv/bin/python --quiet --no-deps --no-build-isolation -e .
echo "$key" >"$stamp"

#!/bin/sh
# Makes .venv hold what a task needs, pinned and checked against hashes, and this project, editable:
#   infra/setup.sh          everything, as the tests need it (infra/constraints.txt)
#   infra/setup.sh demo     what protects photos here: the extra `gpu` where an NVIDIA GPU is, else `cpu`; and sample photos
# A second run with nothing changed does nothing. PYTHON=... names another interpreter.
set -eu
cd "$(dirname "$0")/.."

python=${PYTHON:-python3}

fail() {
    echo "setup: $1" >&2
    exit 1
}

case ${1:-all} in
all) wanted=all size="PyTorch with CUDA, too: about 3 GB to download, 6.5 GB on disk" ;;
demo)
    if nvidia-smi -L 2>/dev/null | grep -q GPU; then
        wanted=gpu size="PyTorch with CUDA, for the GPU here: about 3 GB to download, 5.5 GB on disk"
    else
        wanted=cpu size="about 0.3 GB to download, 0.6 GB on disk; no PyTorch"
    fi ;;
*) fail "unknown task '$1': say demo, or nothing for everything" ;;
esac
[ "$wanted" = all ] && locks=infra/constraints.txt || locks="infra/constraints-$wanted.txt infra/constraints-demo.txt"

# What the environment was made from: the pins, the project's own metadata, and the folder (scripts hold its path).
key=$( { cat infra/constraints*.txt pyproject.toml infra/build_hook.py; pwd; } | cksum | tr ' ' '-')
stamp=.venv/.ready

# Networks stutter: three tries, with a pause that grows.
retry() {
    for pause in 5 20 0; do
        if "$@"; then return 0; fi
        [ "$pause" = 0 ] || { echo "setup: failed; again in $pause s: $1 $2 $3" >&2; sleep "$pause"; }
    done
    fail "gave up after three tries: $1 $2 $3. Is the package index reachable, and is the disk not full?"
}

# Everything serves each task.
ready=$(cat "$stamp" 2>/dev/null || :)
if { [ "$ready" = "all $key" ] || [ "$ready" = "$wanted $key" ]; } && .venv/bin/python -c '' 2>/dev/null; then
    exit 0
fi

command -v "$python" >/dev/null || fail "no $python on PATH: install Python 3.11 or newer, or name one with PYTHON=..."
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    fail "$("$python" --version) is too old: Python 3.11 or newer is needed; name one with PYTHON=..."

echo "setup: installing into .venv ($size)"
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
# The pins are a whole resolution; nothing is built from source, so that no code of a package runs here.
set --
for lock in $locks; do set -- "$@" -r "$lock"; done
retry .venv/bin/uv pip install --python .venv/bin/python --quiet --no-deps --no-build --require-hashes "$@"
# The build backend is among the pins. Its hook fetches two networks, by pip (infra/build_hook.py).
retry .venv/bin/uv pip install --python .venv/bin/python --quiet --no-deps --no-build-isolation -e .
echo "$wanted $key" >"$stamp"

#!/bin/sh
# Builds MinkowskiEngine 0.5.4 for the CPU into .venv-minkowski (Python 3.10 or 3.11), about five minutes.
# Its setup.py imports torch, needs setuptools<60 and NumPy<2 while it builds, and OpenBLAS headers.
set -eu
python=${1:-python3}
venv=.venv-minkowski
"$python" -c 'import sys; sys.exit(0 if sys.version_info[:2] in ((3, 10), (3, 11)) else 1)' ||
    { echo "MinkowskiEngine builds on Python 3.10 or 3.11 only: make minkowski PYTHON=python3.11"; exit 1; }
if ! [ -e /usr/include/cblas.h ] && ! ls /usr/include/*/cblas.h >/dev/null 2>&1; then
    [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null ||
        { echo "MinkowskiEngine needs OpenBLAS headers: sudo apt-get install libopenblas-dev g++"; exit 1; }
    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq libopenblas-dev g++ >/dev/null
fi
[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
"$venv/bin/pip" install --quiet wheel 'numpy<2' ninja "$(grep '^torch==' constraints.txt)"
"$venv/bin/pip" install --quiet 'setuptools<60' # apart: torch's own metadata asks for a newer one
source=$(mktemp -d)
trap 'rm -rf "$source"' EXIT
"$venv/bin/pip" download --quiet --no-deps --no-build-isolation --no-binary :all: -d "$source" 'MinkowskiEngine==0.5.4'
tar -xzf "$source"/MinkowskiEngine-0.5.4.tar.gz -C "$source"
python_here=$PWD/$venv/bin/python
(cd "$source/MinkowskiEngine-0.5.4" && "$python_here" setup.py install --cpu_only --blas=openblas >"$source/build.log" 2>&1) ||
    { tail -n 30 "$source/build.log"; echo "MinkowskiEngine did not build; the lines above say why"; exit 1; }
"$venv/bin/python" - <<'PY'
import collections, collections.abc
collections.Sequence = collections.abc.Sequence  # gone since Python 3.10; MinkowskiEngine still asks for it
import MinkowskiEngine
print("MinkowskiEngine", MinkowskiEngine.__version__, "imports in .venv-minkowski")
PY

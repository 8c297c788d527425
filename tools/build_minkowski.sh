#!/bin/sh
# Makes .venv-minkowski (Python 3.10 or 3.11): MinkowskiEngine 0.5.4 built for the CPU from its source package, about five
# minutes, and beside it ssl3d from this checkout and spconv, so that parity tests and `ssl3d bench sparse` run there.
# MinkowskiEngine's setup.py imports torch, needs setuptools<60 and NumPy<2 while it builds, and OpenBLAS headers.
# All other packages are those of constraints.txt. Run again, it only brings the packages up to date.
set -eu
python=${1:-python3}
venv=.venv-minkowski
numpy='numpy==1.26.4'
"$python" -c 'import sys; sys.exit(0 if sys.version_info[:2] in ((3, 10), (3, 11)) else 1)' ||
    { echo "MinkowskiEngine builds on Python 3.10 or 3.11 only: make minkowski PYTHON=python3.11"; exit 1; }
[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
install() { "$venv/bin/pip" install -qq ${PIP_ARGS:-} "$@"; } # quieter: its setup.py leaves what pip deplores

built() { "$venv/bin/python" -c 'import importlib.metadata as m; m.version("MinkowskiEngine")' 2>/dev/null; }
if ! built; then
    if ! [ -e /usr/include/cblas.h ] && ! ls /usr/include/*/cblas.h >/dev/null 2>&1; then
        [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null ||
            { echo "MinkowskiEngine needs OpenBLAS headers: sudo apt-get install libopenblas-dev g++"; exit 1; }
        apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq libopenblas-dev g++ >/dev/null
    fi
    install wheel "$numpy" ninja "$(grep '^torch==' constraints.txt)"
    install 'setuptools<60' # apart: torch's own metadata asks for a newer one
    "$venv/bin/pip" download --quiet --no-deps --no-build-isolation --no-binary :all: -d "$work" 'MinkowskiEngine==0.5.4'
    tar -xzf "$work"/MinkowskiEngine-0.5.4.tar.gz -C "$work"
    python_here=$PWD/$venv/bin/python
    (cd "$work/MinkowskiEngine-0.5.4" && "$python_here" setup.py install --cpu_only --blas=openblas >"$work/build.log" 2>&1) ||
        { tail -n 30 "$work/build.log"; echo "MinkowskiEngine did not build; the lines above say why"; exit 1; }
fi

{ sed '/^numpy==/d' constraints.txt; echo "$numpy"; } >"$work/constraints.txt"
install -c "$work/constraints.txt" -e '.[dev]'
install -c "$work/constraints.txt" --only-binary :all: 'spconv==2.3.8' ||
    echo "spconv has no wheel for this machine (it is the other rival of ssl3d bench sparse); going on without it"
for name in minkowski spconv; do
    "$venv/bin/python" -c "from ssl3d.models.sparse.backends import load_backend as load; print('in $venv:', load('$name').library)" ||
        [ "$name" = spconv ]
done

#!/bin/sh
# The system libraries that Python wheels expect: installed by apt when root, otherwise named in one line.
#   libusb-1.0, libgl1, libgomp1: loaded by open3d at import      python3-venv: Debian splits it from python3
set -eu
have() { ldconfig -p 2>/dev/null | grep -q "$1"; }
missing=""
have libusb-1.0.so.0 || missing="$missing libusb-1.0-0"
have libGL.so.1 || missing="$missing libgl1"
have libgomp.so.1 || missing="$missing libgomp1"
python3 -c 'import ensurepip, venv' 2>/dev/null || missing="$missing python3-venv"
[ -n "$missing" ] || exit 0
if ! command -v apt-get >/dev/null 2>&1; then
    echo "ssl3d: not found on this system:$missing (Debian names; install their equivalents if open3d does not import)"
elif [ "$(id -u)" = 0 ]; then
    echo "Installing system libraries:$missing"
    { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >/dev/null; } ||
        echo "ssl3d: apt could not install:$missing (only open3d needs the libraries; going on)"
else
    echo "ssl3d: please install:$missing (sudo apt-get install$missing); only open3d needs the libraries; going on"
fi

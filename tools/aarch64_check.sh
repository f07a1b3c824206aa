#!/bin/sh
# Run zoo itself as aarch64 on a Debian machine with x86-64: an emulated Python with numpy and the engine, cross-compiled, must
# generate the text and compute the logits that this machine does. Takes about three minutes and downloads 50 MB.
# Debian: apt-get install gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user; python is that of an environment with zoo.
set -eu
cd "$(dirname "$0")/.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/apt/state/lists/partial" "$work/apt/cache/archives/partial" "$work/debs" "$work/root" "$work/site" "$work/source"

apt() { # with a state of its own, so that this system is not changed
    apt-get -qq -o APT::Architecture=arm64 -o APT::Architectures=arm64 -o Dir::State="$work/apt/state" \
        -o Dir::State::status="$work/apt/state/status" -o Dir::Cache="$work/apt/cache" -o APT::Sandbox::User=root "$@"
}
touch "$work/apt/state/status"
apt update
(cd "$work/debs" && apt download libc6 libgcc-s1 libstdc++6 zlib1g libexpat1 libssl3 libffi8 libbz2-1.0 liblzma5 libuuid1 \
    libsqlite3-0 libcrypt1 libpython3.11-minimal libpython3.11-stdlib python3.11-minimal)
for package in "$work"/debs/*.deb; do dpkg -x "$package" "$work/root"; done

for glibc in 2_17 2_27 2_28; do platforms="${platforms:-} --platform manylinux_${glibc}_aarch64"; done
# shellcheck disable=SC2086
python -m pip install -q --disable-pip-version-check --no-deps --only-binary=:all: --python-version 3.11 --platform manylinux2014_aarch64 \
    $platforms --target "$work/site" -c constraints.txt numpy ml_dtypes click tiktoken regex blake3 google-crc32c filelock platformdirs \
    requests urllib3 idna certifi charset-normalizer
cp -rL zoo "$work/source/zoo"
rm -f "$work"/source/zoo/engine/*.so
aarch64-linux-gnu-gcc -std=gnu11 -O3 -ffp-contract=off -Wno-psabi -fvisibility=hidden -pthread -shared -fPIC \
    zoo/engine/csrc/*.c -o "$work/source/zoo/engine/_kernels.cpython-311-aarch64-linux-gnu.so" -lm

emulated() { # emulated PROCESSOR ARGUMENTS...: Python with zoo
    processor=$1
    shift
    qemu-aarch64 -cpu "$processor" -L "$work/root" -E PYTHONPATH="$work/source:$work/site" -E OPENBLAS_NUM_THREADS=1 \
        "$work/root/usr/bin/python3.11" -P "$@" # not the zoo of this directory
}
text="generate -m stories -n 12 -t 0 --threads 2"
# shellcheck disable=SC2086
expected=$(python -m zoo $text "Once upon a time")
python tools/engine_logits.py "$work/here.npz"
for processor in cortex-a57 max; do # without and with dot products
    echo "- aarch64, $processor"
    # shellcheck disable=SC2086
    [ "$(emulated $processor -m zoo $text "Once upon a time")" = "$expected" ]
    emulated $processor tools/engine_logits.py "$work/$processor.npz"
    python tools/engine_logits.py "$work/here.npz" "$work/$processor.npz"
done

#!/bin/sh
# Build the kernel tests of the engine (tests/engine/c) and run them: natively for each instruction set of this machine, as x86-64
# without AVX, and as aarch64, both emulated by qemu-user. Exits with 77 if there is no compiler.
# Debian: apt-get install gcc clang gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user
set -eu
cd "$(dirname "$0")/.."
build=$(mktemp -d)
trap 'rm -rf "$build"' EXIT
flags="-std=gnu11 -O3 -Wall -Wextra -Wno-psabi -Werror -ffp-contract=off -Izoo/engine/csrc"

compile() { # compile COMPILER OUTPUT [FLAGS]
    compiler=$1 output=$2
    shift 2
    # shellcheck disable=SC2086
    "$compiler" $flags "$@" tests/engine/c/test_kernels.c zoo/engine/csrc/kernels_*.c zoo/engine/csrc/dispatch.c -o "$output" -lm -pthread
}

run() { # run NAME COMMAND...: status 77 means that the machine does not have the instructions
    name=$1
    shift
    echo "- $name"
    status=0
    "$@" || status=$?
    [ $status = 77 ] && echo "  skipped: not on this machine" && return
    [ $status = 0 ]
}

have() { command -v "$1" > /dev/null; }

found=
for compiler in gcc clang; do
    have $compiler || continue
    found=yes
    compile $compiler "$build/native"
    for isa in generic avx2 avxvnni avx512 avx512bf16 dotprod; do run "$compiler, $isa" "$build/native" $isa; done
done
[ "$found" ] || exit 77
if have gcc; then
    compile gcc "$build/sanitized" -O1 -g -fsanitize=address,undefined -fno-sanitize=alignment,shift,signed-integer-overflow -fno-sanitize-recover
    for isa in generic avx2 avxvnni avx512 avx512bf16; do run "gcc with sanitizers, $isa" "$build/sanitized" $isa; done
    if [ "$(uname -m)" = x86_64 ] && have qemu-x86_64; then
        for cpu in qemu64 Nehalem; do run "$cpu (no AVX)" qemu-x86_64 -cpu $cpu "$build/native"; done
    fi
fi
if have aarch64-linux-gnu-gcc && have qemu-aarch64; then
    compile aarch64-linux-gnu-gcc "$build/aarch64" -static
    run "aarch64, NEON" qemu-aarch64 -cpu cortex-a57 "$build/aarch64"
    run "aarch64, dot products" qemu-aarch64 -cpu max "$build/aarch64" dotprod
else
    echo "- aarch64: skipped, there is no aarch64-linux-gnu-gcc or qemu-aarch64"
fi

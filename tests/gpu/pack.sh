#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# Packs the checks of docs/gpu.md for a machine with a GPU: one archive of at most 60 MiB with prebuilt programs, which
# needs nothing there but a driver and Python's torch wheel.
#
#   tests/gpu/pack.sh [ARCHIVE]        default: build/lockstep_gpu_checks.tar.gz
#
# Builds the library once more, in build/gpu: without MPI, gloo and images, so that their libraries need not be there. With
# CMAKE_BUILD_PARALLEL_LEVEL=1, one file at a time.
# LOCKSTEP_GPU_BUILD: a folder in which such a build lies already.
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
archive=$(realpath -m "${1:-$root/build/lockstep_gpu_checks.tar.gz}")
build=${LOCKSTEP_GPU_BUILD:-$root/build/gpu}
limit_mib=60

if [ -z "${LOCKSTEP_GPU_BUILD:-}" ]; then
  cmake -S "$root" -B "$build" -G Ninja -DCMAKE_BUILD_TYPE=Release \
    -DLibTorch_ROOT="${LibTorch_ROOT:-$root/build/venv}" -DLOCKSTEP_WITH_CUDA=ON -DLOCKSTEP_WITH_MPI=OFF \
    -DLOCKSTEP_WITH_GLOO=OFF -DLOCKSTEP_WITH_IMAGES=OFF -DLOCKSTEP_BUILD_TESTS=OFF -DLOCKSTEP_BUILD_EXAMPLES=OFF \
    -DLOCKSTEP_BUILD_BENCHMARKS=OFF -DLOCKSTEP_BUILD_TOOLS=OFF -DLOCKSTEP_BUILD_GPU_CHECKS=ON
  cmake --build "$build" --target gpu_checks
fi
program=$build/tests/gpu/gpu_checks
[ -x "$program" ] || { echo "pack.sh: there is no $program" >&2; exit 1; }
# A variable, not a pipe into grep -q: with pipefail, ldd's SIGPIPE would count as "not found".
libraries=$(ldd "$program") || { echo "pack.sh: $program is no program with shared libraries" >&2; exit 1; }
if grep 'not found' <<<"$libraries" >&2; then
  echo "pack.sh: $program needs libraries that are not here" >&2
  exit 1
fi
if grep -q 'libmpi' <<<"$libraries"; then
  echo "pack.sh: $program needs MPI; build it with LOCKSTEP_WITH_MPI=OFF" >&2
  exit 1
fi

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
packed=$folder/lockstep_gpu_checks
mkdir -p "$packed/bin" "$packed/lib"
strip -o "$packed/bin/gpu_checks" "$program"
cp "$root/tests/gpu/run.sh" "$root/tests/gpu/checks.py" "$root/tests/gpu/resnet50.py" "$packed/"
cp "$root/docs/gpu.md" "$packed/README.md"
chmod +x "$packed/run.sh"

# Libraries of this system that another one may lack. The C library, the compiler's and those of the wheels are there.
awk '$2 == "=>" && $3 ~ /^\// { print $1, $3 }' <<<"$libraries" | while read -r name path; do
  case $name in
    libc.so.* | libm.so.* | libdl.so.* | librt.so.* | libpthread.so.* | libresolv.so.* | libutil.so.* | libnsl.so.* | \
      libstdc++.so.* | libgcc_s.so.* | libgomp* | ld-linux*) continue ;;
  esac
  case $path in */site-packages/*) continue ;; esac
  cp -L "$path" "$packed/lib/$name"
done
# What the program and these libraries need of the C library, for a machine with an older one.
find "$packed/bin" "$packed/lib" -type f -exec objdump -T {} + | grep -o 'GLIBC_[0-9.]*' | sort -Vu | tail -1 > "$packed/needs_glibc"
find "$packed/bin" "$packed/lib" -type f -exec objdump -T {} + | { grep -o 'GLIBCXX_[0-9.]*' || true; } | sort -Vu | tail -1 > "$packed/needs_libstdcxx"

mkdir -p "$(dirname "$archive")"
tar -czf "$archive" -C "$folder" lockstep_gpu_checks
mib=$(($(stat -c %s "$archive") / 1048576 + 1))
if [ "$mib" -gt "$limit_mib" ]; then
  echo "pack.sh: $archive has $mib MiB, more than $limit_mib" >&2
  exit 1
fi
echo "$archive: $mib MiB; needs $(cat "$packed/needs_glibc" "$packed/needs_libstdcxx" | paste -sd ' ')"

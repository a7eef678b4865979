# shellcheck shell=bash
# The real parts of test images: wheels of PyPI, unpacked to the files that are read. Drivers are
# those of the world. Sourced, after common.sh.

PARTS=$WORLD/doctor

# wheel DIR PLATFORM PYTHON REQUIREMENT MEMBER...: fetches a wheel and keeps only the members (a path, or the beginning of one).
wheel() {
  local dir=$1 platform=$2 python=$3 requirement=$4 got
  shift 4
  got=$(mktemp -d "$PARTS/fetch.XXXXXX")
  rm -rf "${PARTS:?}/$dir"
  python3 -m pip download -q --disable-pip-version-check --no-deps --only-binary=:all: --platform "$platform" --python-version "$python" -d "$got" "$requirement"
  python3 - "$got"/*.whl "$PARTS/$dir" "$@" <<'PY'
import sys, zipfile
archive, to, wanted = sys.argv[1], sys.argv[2], tuple(sys.argv[3:])
with zipfile.ZipFile(archive) as z:
    z.extractall(to, [n for n in z.namelist() if n.startswith(wanted)])
PY
  rm -rf "$got"
}

# PyTorch 2.0.1 for CUDA 11.7 as PyPI has it, with its 650 MB of device code; the build for arm64, which is CPU-only; the CUDA runtime;
# nvJPEG, a small library with machine code for all and PTX for one architecture.
fetch_parts() {
  wheel torch-cuda manylinux1_x86_64 310 torch==2.0.1 torch/version.py torch/lib/libtorch_cuda.so torch/lib/libtorch_python.so torch-2.0.1.dist-info/METADATA torch-2.0.1.dist-info/WHEEL
  wheel torch-cpu manylinux2014_aarch64 311 torch==2.0.1 torch/version.py torch/lib/libtorch_cpu.so torch-2.0.1.dist-info/METADATA torch-2.0.1.dist-info/WHEEL
  wheel cudart-11 manylinux1_x86_64 310 nvidia-cuda-runtime-cu11==11.7.99 nvidia/cuda_runtime/lib nvidia_cuda_runtime_cu11-11.7.99.dist-info
  wheel cudart-12 manylinux1_x86_64 310 nvidia-cuda-runtime-cu12==12.1.105 nvidia/cuda_runtime/lib nvidia_cuda_runtime_cu12-12.1.105.dist-info
  wheel nvjpeg manylinux1_x86_64 310 nvidia-nvjpeg-cu12==12.1.1.14 nvidia/nvjpeg/lib/libnvjpeg.so.12
}

# Libraries that no registry has: a stub, and one with the note of a compatibility package. Their content is ours; names, sonames, places
# and the note are as NVIDIA's packages have them.
build_libraries() {
  mkdir -p "$PARTS/lib"
  printf 'int cuInit(unsigned f) { return 34; }\n' >"$PARTS/lib/stub.c"
  cc -shared -fPIC -Wl,-soname,libcuda.so.1 -o "$PARTS/lib/stub.so" "$PARTS/lib/stub.c"
  printf '__asm__(".section .note.cuda.fwd_compatibility,\\"a\\",@note\\n.align 4\\n.long 19, 2f-1f, 0\\n.asciz \\"NVIDIA Corporation\\"\\n.align 4\\n1: .ascii \\"{\\\\\\"format\\\\\\":1,\\\\\\"CUDA version\\\\\\":\\\\\\"12.9\\\\\\",\\\\\\"driver\\\\\\":[535,550,560,565,570,575],\\\\\\"device\\\\\\":[1,2,7,8,9,10,11,12,13,14]}\\"\\n2:\\n.text\\n");\nint cuInit(unsigned f) { return 0; }\n' >"$PARTS/lib/compat.c"
  cc -shared -fPIC -Wl,-soname,libcuda.so.1 -o "$PARTS/lib/compat.so" "$PARTS/lib/compat.c"
}

make_parts() {
  mkdir -p "$PARTS"
  need python3 python3
  python3 -m pip --version >/dev/null 2>&1 || { apt-get update -qq && apt-get install -qq -y --no-install-recommends python3-pip; } >>"$WORLD/log/apt" 2>&1 </dev/null
  need cc gcc
  piece doctor-wheels "$(key_of wheel fetch_parts)" fetch_parts
  piece doctor-libraries "$(key_of build_libraries)" build_libraries
}

# Sourced after setup.sh: Debian's own Python for 64-bit ARM, for the emulator. Where Debian's arm64 packages cannot be had it
# skips, as setup.sh does.

# arm_python FOLDER HOST_PYTHON REQUIREMENT...: makes Python in FOLDER/root and packages of PyPI in FOLDER/site, without their
# dependencies. HOST_PYTHON needs pip. Sets $arm_python.
arm_python() {
    local folder=$1 host=$2 package version
    shift 2
    dpkg --print-foreign-architectures | grep -qx arm64 || [ "$(dpkg --print-architecture)" = arm64 ] \
        || { [ "$(id -u)" = 0 ] && dpkg --add-architecture arm64 && apt-get update -q >&2; } || skip 'dpkg lacks the architecture arm64'
    mkdir -p "$folder/packages" "$folder/root" "$folder/site" "$folder/wheels"
    debian_python "$folder/packages" || { [ "$(id -u)" = 0 ] && apt-get update -q >&2 && debian_python "$folder/packages"; } \
        || skip "Debian's Python for arm64 cannot be downloaded"
    for package in "$folder"/packages/*.deb; do dpkg-deb -x "$package" "$folder/root"; done
    arm_python=$(ls "$folder"/root/usr/bin/python3.* | head -n 1)
    version=${arm_python##*/python}
    "$host" -m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: --python-version "$version" \
        --platform manylinux_2_28_aarch64 --platform manylinux_2_27_aarch64 --platform manylinux2014_aarch64 \
        --dest "$folder/wheels" "$@"
    for package in "$folder"/wheels/*.whl; do "$host" -m zipfile -e "$package" "$folder/site"; done
}

# Python and what it needs; its dependencies have the version in their names.
debian_python() {
    local closure
    closure=$(apt-cache depends --recurse --no-recommends --no-suggests --no-conflicts --no-breaks --no-replaces --no-enhances \
        python3-minimal:arm64 libpython3-stdlib:arm64 libstdc++6:arm64 | grep -E '^[a-z0-9.+-]+:arm64$' | sort -u)
    # shellcheck disable=SC2086
    [ -n "$closure" ] && (cd "$1" && apt-get download -q $closure) >&2
}

# describe_arm_cpu CPU FOLDER: what programs in FOLDER/root read about their processor. The emulator shows them the host's files
# otherwise, in which ONNX Runtime finds no ARM processor and crashes.
describe_arm_cpu() {
    local part=0xd08 features='fp asimd evtstrm aes pmull sha1 sha2 crc32 cpuid'
    case $1 in
        cortex-a72) ;;
        cortex-a76) part=0xd0b features+=' atomics fphp asimdhp asimdrdm lrcpc dcpop asimddp' ;;
        *) echo "error: expected cortex-a72 or cortex-a76 for ONNX Runtime, found $1" >&2; exit 2 ;;
    esac
    mkdir -p "$2"/root/{proc,sys/devices/system/cpu}
    printf 'processor\t: 0\nFeatures\t: %s\nCPU implementer\t: 0x41\nCPU architecture: 8\nCPU variant\t: 0x0\nCPU part\t: %s\n' \
        "$features" "$part" >"$2/root/proc/cpuinfo"
    printf 'CPU revision\t: 3\n\n' >>"$2/root/proc/cpuinfo"
    echo 0 | tee "$2"/root/sys/devices/system/cpu/{possible,present} >/dev/null
}

# run_arm_python CPU FOLDER EMULATOR_OPTION... -- ARGUMENT...: runs the Python that arm_python made, for ten minutes at most
# or ARM_PYTHON_SECONDS.
run_arm_python() {
    local cpu=$1 folder=$2 options=()
    shift 2
    while [ "$1" != -- ]; do options+=("$1"); shift; done
    shift
    PYTHONHOME=$folder/root/usr PYTHONPATH=$folder/site PYTHONDONTWRITEBYTECODE=1 OPENBLAS_NUM_THREADS=1 \
        timeout "${ARM_PYTHON_SECONDS:-600}" qemu-aarch64 -cpu "$cpu" -L "$folder/root" "${options[@]}" "$arm_python" "$@"
}

# Sourced by the scripts beside it: a compiler for 64-bit ARM Linux (see dist/toolchain.sh) and an emulator, installed
# where they are missing (Debian or Ubuntu, as root). Where they cannot be had it prints why and exits with 0, or with 1 if
# PINHOLE_ARM=required.

skip() {
    printf '\n*** NO TEST ON ARM: %s ***\n\n' "$*" >&2
    [ "${PINHOLE_ARM:-}" != required ] || exit 1
    exit 0
}

. dist/toolchain.sh

# On ARM too: the emulator stands for the other processors.
command -v qemu-aarch64 >/dev/null || packages qemu-user || skip 'needs qemu-user'

# Sourced by the scripts beside it: a compiler for 64-bit ARM Linux (see dist/toolchain.sh) and an emulator, installed
# where they are missing (Debian or Ubuntu, as root). Exits with 0 and says so loudly where they cannot be had;
# PINHOLE_ARM=required makes that an error.

skip() {
    printf '\n*** NO TEST ON ARM: %s ***\n\n' "$*" >&2
    [ "${PINHOLE_ARM:-}" != required ] || exit 1
    exit 0
}

. dist/toolchain.sh

# At home too: the emulator still plays the other processors.
command -v qemu-aarch64 >/dev/null || packages qemu-user || skip 'qemu-user cannot be installed'

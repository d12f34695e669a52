# Sourced by the scripts beside it: a compiler for 64-bit ARM Linux and an emulator, installed where they are
# missing (Debian or Ubuntu, as root), and `cargo_arm`, which is cargo with them. Exits with 0 and
# says so loudly where they cannot be had; PINHOLE_ARM=required makes that an error.

target=aarch64-unknown-linux-gnu
# Another compiler's output must not mix with the host's.
arm=${CARGO_TARGET_DIR:-target}/arm
compiler=${RUSTC:-rustc}

skip() {
    printf '\n*** NO TEST ON ARM: %s ***\n\n' "$*" >&2
    [ "${PINHOLE_ARM:-}" != required ] || exit 1
    exit 0
}

# Installs the packages that are missing.
packages() {
    local missing=() package
    for package; do
        dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q '^install ok installed' || missing+=("$package")
    done
    [ ${#missing[@]} = 0 ] && return
    apt-get install -y -q --no-install-recommends "${missing[@]}" >&2 && return
    apt-get update -q >&2 && apt-get install -y -q --no-install-recommends "${missing[@]}" >&2
}

[ "$(uname -s)" = Linux ] || skip 'needs Linux'
if [ "$(uname -m)" = aarch64 ]; then
    # At home already: the host's own compiler; the emulator still plays the other processors.
    command -v qemu-aarch64 >/dev/null || packages qemu-user || skip 'qemu-user cannot be installed'
else
    if ! command -v aarch64-linux-gnu-gcc >/dev/null || ! command -v qemu-aarch64 >/dev/null \
        || [ ! -e /usr/aarch64-linux-gnu/lib/libc.a ]; then
        command -v apt-get >/dev/null || skip 'needs aarch64-linux-gnu-gcc and qemu-aarch64'
        packages gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user || skip 'the cross compiler cannot be installed'
    fi
    # The standard library for ARM: by rustup, or else Debian's, which comes with a compiler of its own.
    if ! ls "$(rustc --print sysroot)/lib/rustlib/$target/lib"/libstd-*.rlib >/dev/null 2>&1 \
        && ! { command -v rustup >/dev/null && rustup target add $target >/dev/null 2>&1; }; then
        if ! ls /usr/lib/rustlib/$target/lib/libstd-*.rlib >/dev/null 2>&1; then
            command -v apt-get >/dev/null || skip "needs rustup target add $target"
            dpkg --add-architecture arm64
            apt-get update -q >&2 || skip 'apt-get update fails'
            packages rustc-web libstd-rust-web-dev:arm64 || skip "Rust's standard library for ARM cannot be installed"
        fi
        compiler=/usr/bin/rustc
    fi
    export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc
    export CC_aarch64_unknown_linux_gnu=aarch64-linux-gnu-gcc AR_aarch64_unknown_linux_gnu=aarch64-linux-gnu-ar
fi

# cargo_arm COMMAND [OPTION...]: its output is in $arm/$target.
# Static, so that the emulator needs no ARM libraries and cannot mix up two sets of them.
cargo_arm() {
    CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUSTFLAGS='-C target-feature=+crt-static' \
        RUSTC=$compiler CARGO_TARGET_DIR=$arm cargo "$1" --target $target "${@:2}"
}

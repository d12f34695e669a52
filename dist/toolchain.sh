# Sourced, in the root folder: a compiler for 64-bit ARM Linux, installed where it is missing (Debian or Ubuntu, as
# root), and `cargo_arm` and `board_program`, which are cargo with it. Where it cannot be had it calls `skip REASON`,
# which the script that sources this defines and which does not return.

target=aarch64-unknown-linux-gnu
# Another compiler's output must not mix with the host's.
arm=${CARGO_TARGET_DIR:-target}/arm
compiler=${RUSTC:-rustc}

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
# At home already: the host's own compiler.
if [ "$(uname -m)" != aarch64 ]; then
    if ! command -v aarch64-linux-gnu-gcc >/dev/null || [ ! -e /usr/aarch64-linux-gnu/lib/libc.a ]; then
        command -v apt-get >/dev/null || skip 'needs aarch64-linux-gnu-gcc and its C library, static too'
        packages gcc-aarch64-linux-gnu libc6-dev-arm64-cross || skip 'the cross compiler cannot be installed'
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

# board_program pinhole|pinhole-firmware static|dynamic [RUSTC'S OPTION...]: builds the program as boards get it, into
# $arm/$target/dist. Only the last step differs between static and dynamic, and workspace-hack/ gives tract the same
# features in both programs, so that it is compiled once.
board_program() {
    local last=("${@:3}") sources
    # Messages of panics must not name this machine's folders.
    sources=${CARGO_HOME:-$HOME/.cargo}/registry/src
    [ "$2" = dynamic ] || last+=(-C target-feature=+crt-static)
    CARGO_ENCODED_RUSTFLAGS="--remap-path-prefix=$sources=crates"$'\x1f'"--remap-path-prefix=$PWD=pinhole" \
        RUSTC=$compiler CARGO_TARGET_DIR=$arm \
        cargo rustc --locked --profile dist --target $target -p "$1" --bin "$1" -- "${last[@]}"
}

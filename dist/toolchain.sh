# Sourced in the root folder: a compiler for 64-bit ARM Linux, and `cargo_arm` and `board_program`, which run cargo with
# it. What is missing is installed (Debian or Ubuntu, as root; see packages.sh). Where that fails it calls `skip REASON`,
# which the script that sources this defines and which does not return.
. dist/packages.sh

target=aarch64-unknown-linux-gnu
# A target folder of its own, as the compiler may be another than the host's.
arm=${CARGO_TARGET_DIR:-target}/arm
compiler=${RUSTC:-rustc}

[ "$(uname -s)" = Linux ] || skip 'needs Linux'
# On ARM the host's own compiler is used.
if [ "$(uname -m)" != aarch64 ]; then
    if ! command -v aarch64-linux-gnu-gcc >/dev/null || [ ! -e /usr/aarch64-linux-gnu/lib/libc.a ]; then
        command -v apt-get >/dev/null || skip 'needs aarch64-linux-gnu-gcc and its static C library'
        packages gcc-aarch64-linux-gnu libc6-dev-arm64-cross || skip 'needs the cross compiler'
    fi
    # The standard library for ARM: rustup's, or else Debian's, which belongs to Debian's compiler.
    if ! ls "$(rustc --print sysroot)/lib/rustlib/$target/lib"/libstd-*.rlib >/dev/null 2>&1 \
        && ! { command -v rustup >/dev/null && echo "Installing Rust's standard library for $target with rustup" >&2 \
            && rustup target add $target >/dev/null 2>&1; }; then
        if ! ls /usr/lib/rustlib/$target/lib/libstd-*.rlib >/dev/null 2>&1; then
            command -v apt-get >/dev/null || skip "needs rustup target add $target"
            if ! dpkg --print-foreign-architectures | grep -qx arm64; then
                if [ "$(id -u)" != 0 ]; then
                    printf 'First:\n    sudo dpkg --add-architecture arm64\n    sudo apt-get update\n' >&2
                else
                    echo 'Adding the architecture arm64 to dpkg' >&2
                    dpkg --add-architecture arm64
                    apt-get update -q >&2 || skip 'apt-get update fails'
                fi
            fi
            packages rustc-web libstd-rust-web-dev:arm64 || skip "needs Rust's standard library for $target"
        fi
        compiler=/usr/bin/rustc
    fi
    export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc
    export CC_aarch64_unknown_linux_gnu=aarch64-linux-gnu-gcc AR_aarch64_unknown_linux_gnu=aarch64-linux-gnu-ar
fi

# cargo_arm COMMAND [OPTION...]: its output is in $arm/$target.
# Static, so that the emulator needs no ARM libraries.
cargo_arm() {
    CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUSTFLAGS='-C target-feature=+crt-static' \
        RUSTC=$compiler CARGO_TARGET_DIR=$arm cargo "$1" --target $target "${@:2}"
}

# board_program pinhole|pinhole-firmware static|dynamic [RUSTC_OPTION...]: builds the program as boards get it, into
# $arm/$target/dist. Only the last step differs between static and dynamic, and workspace-hack/ gives tract the same
# features in both programs, so that it is compiled once.
board_program() {
    local last=("${@:3}") sources package=$1
    [ "$1" != pinhole ] || package=pinhole-cli
    # Messages of panics must not name this machine's folders.
    sources=${CARGO_HOME:-$HOME/.cargo}/registry/src
    [ "$2" = dynamic ] || last+=(-C target-feature=+crt-static)
    CARGO_ENCODED_RUSTFLAGS="--remap-path-prefix=$sources=crates"$'\x1f'"--remap-path-prefix=$PWD=pinhole" \
        RUSTC=$compiler CARGO_TARGET_DIR=$arm \
        cargo rustc --locked --profile dist --target $target -p "$package" --bin "$1" -- "${last[@]}"
}

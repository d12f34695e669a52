# Sourced by deb and tarball: common functions.
set -euo pipefail
export LC_ALL=C

skip() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}
. dist/toolchain.sh
if [ "$(uname -m)" = aarch64 ]; then tools=; else tools=aarch64-linux-gnu-; fi

[ $# = 0 ] || { echo "usage: $0 (no arguments; CARGO_TARGET_DIR sets the build folder)" >&2; exit 2; }

version=$(sed -n 's/^version = "\(.*\)"$/\1/p' Cargo.toml)
out=${CARGO_TARGET_DIR:-target}/packages
# For reproducible packages: the time of the commit, or without git that of the changelog.
epoch=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || stat -c %Y CHANGELOG.md)}
# Not for cargo: a change of this variable would rebuild tract.
unset SOURCE_DATE_EPOCH
umask 022
mkdir -p "$out"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# stage static|dynamic FOLDER: builds the program and installs all files under FOLDER, laid out as /usr.
stage() {
    board_program pinhole "$1" >&2
    cargo run --locked -q -p pinhole-dist -- "$work/made" --target $target >&2
    install -D "$arm/$target/dist/pinhole" "$2/bin/pinhole"
    install -Dm 644 -t "$2/share/man/man1" "$work"/made/pinhole/man/*.1
    install -Dm 644 "$work/made/pinhole/completions/pinhole.bash" "$2/share/bash-completion/completions/pinhole"
    install -Dm 644 -t "$2/share/zsh/vendor-completions" "$work/made/pinhole/completions/_pinhole"
    install -Dm 644 -t "$2/share/fish/vendor_completions.d" "$work/made/pinhole/completions/pinhole.fish"
    install -Dm 644 -t "$2/share/doc/pinhole" LICENSE-MIT LICENSE-APACHE "$work/made/pinhole/third-party-licences.txt"
    install -Dm 644 CHANGELOG.md "$2/share/doc/pinhole/changelog"
    install -Dm 644 -t "$2/share/pinhole/samples" assets/samples/*
    (cd assets && find demo -type f -exec install -Dm 644 {} "$2/share/pinhole/{}" \;)
}

# newest PROGRAM PREFIX: the newest version of the symbols with the prefix (GLIBC, GCC) that the program needs.
newest() {
    "${tools}objdump" -T "$1" | sed -n "s/.*[( ]$2_\([0-9.]*\).*/\1/p" | sort -V | tail -n 1
}

# bytes FILE
bytes() {
    stat -c %s "$1"
}

# sizes [NAME BYTES]...: a table on standard output.
sizes() {
    while [ $# -gt 0 ]; do
        awk -v name="$1" -v bytes="$2" 'BEGIN { printf "%-40s %10d bytes %6.1f MB\n", name, bytes, bytes / 1e6 }'
        shift 2
    done
}

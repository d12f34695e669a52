# Sourced: `packages`, which installs Debian or Ubuntu packages.

# packages NAME...: installs those that are missing, after naming them. Without root it prints the command that installs
# them, and fails.
packages() {
    local missing=() package
    for package; do
        dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q '^install ok installed' || missing+=("$package")
    done
    [ ${#missing[@]} = 0 ] && return
    if [ "$(id -u)" != 0 ]; then
        printf 'To install what is missing:\n    sudo apt-get install --no-install-recommends %s\n' "${missing[*]}" >&2
        return 1
    fi
    printf 'Installing Debian packages: %s\n' "${missing[*]}" >&2
    apt-get install -y -q --no-install-recommends "${missing[@]}" >&2 && return
    apt-get update -q >&2 && apt-get install -y -q --no-install-recommends "${missing[@]}" >&2
}

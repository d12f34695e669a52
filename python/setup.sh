# Sourced from the root of the repository: makes the virtual environment `$venv` with the packages of
# python/requirements.txt, and defines `licences`.
venv=$(realpath -m "${CARGO_TARGET_DIR:-target}")/python-venv
if [ ! -x "$venv/bin/python" ] || ! cmp -s python/requirements.txt "$venv/requirements.txt"; then
    python3 -m venv --clear "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check -r python/requirements.txt
    cp python/requirements.txt "$venv/requirements.txt"
fi

# licences TARGET: lists the crates inside the wheel with their licences, as part of the package.
licences() {
    local made
    made=$(mktemp -d)
    cargo run --locked -q -p pinhole-dist -- "$made" --target "$1"
    cp "$made/python/third-party-licences.txt" python/package/pinhole/
    rm -r "$made"
}

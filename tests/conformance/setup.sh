# Sourced from the root of the repository: makes the virtual environment `$venv` in target/; sets `$profile`
# (PINHOLE_PROFILE) and `$binaries`, the folder of its programs.
profile=${PINHOLE_PROFILE:-dev}
target=${CARGO_TARGET_DIR:-target}
binaries=$target/$([ "$profile" = dev ] && echo debug || echo "$profile")
venv=$target/conformance-venv
if [ ! -x "$venv/bin/python" ] || ! cmp -s tests/conformance/requirements.txt "$venv/requirements.txt"; then
    python3 -m venv --clear "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check -r tests/conformance/requirements.txt
    cp tests/conformance/requirements.txt "$venv/requirements.txt"
fi

# Sourced by the scripts in this folder, from the repository's root: builds Pinhole's programs and prepares the programs and
# files that it is compared with, all in $target. Only the first run takes long (PyTorch's download, some minutes).

target=${CARGO_TARGET_DIR:-target}
peers=$target/peers

# environment NAME REQUIREMENTS: a virtual environment in $target/NAME with exactly these packages.
environment() {
    local venv=$target/$1
    if [ ! -x "$venv/bin/python" ] || ! cmp -s "$2" "$venv/requirements.txt"; then
        python3 -m venv --clear "$venv"
        "$venv/bin/pip" install --quiet --disable-pip-version-check -r "$2"
        cp "$2" "$venv/requirements.txt"
    fi
}

# current FOLDER FILE...: whether FOLDER is complete and made from exactly these files; otherwise removes it.
current() {
    local folder=$1
    shift
    key=$(sha256sum "$@" | cut -d' ' -f1)
    if [ "$(cat "$folder/key" 2>/dev/null)" != "$key" ]; then
        rm -rf "$folder"
        return 1
    fi
}

# ViT-B/32 with random weights: its image encoder as files for the peers in $peers/files, and as a bundle of each precision in
# $peers/bundles, in f32 and int8 also with a conditional head of 100 classes (cocoop-...).
vit_b_32() {
    cargo build --quiet --release -p pinhole-cli -p pinhole-export
    mkdir -p "$peers"
    local makers=(benches/make_peers.py tests/conformance/random_checkpoint.py tests/reference/requirements.txt assets/samples/*)
    if ! current "$peers/files" "${makers[@]}"; then
        environment reference-venv tests/reference/requirements.txt
        mkdir "$peers/files"
        "$target/reference-venv/bin/python" tests/conformance/random_checkpoint.py ViT-B-32 "$peers/files/clip"
        "$target/reference-venv/bin/python" -W ignore benches/make_peers.py "$peers/files/clip" "$peers/files"
        echo "$key" > "$peers/files/key"
    fi
    if ! current "$peers/bundles" "$peers/files/key" "$target/release/pinhole-export" benches/make_prompt_learner.py \
        benches/setup.sh; then
        environment reference-venv tests/reference/requirements.txt
        mkdir "$peers/bundles"
        echo thing > "$peers/classes.txt"
        local precision
        for precision in f32 f16 int8; do
            "$target/release/pinhole-export" bundle --clip "$peers/files/clip" --classes "$peers/classes.txt" \
                --precision "$precision" --min-cosine 0 --min-agreement 0 --out "$peers/bundles/$precision"
        done
        seq -f 'thing number %g' 100 > "$peers/classes-100.txt"
        "$target/reference-venv/bin/python" benches/make_prompt_learner.py "$peers/prompt_learner.safetensors"
        for precision in f32 int8; do
            "$target/release/pinhole-export" bundle --clip "$peers/files/clip" --classes "$peers/classes-100.txt" \
                --prompt-learner "$peers/prompt_learner.safetensors" --calibration assets/samples \
                --precision "$precision" --min-cosine 0 --min-agreement 0 --out "$peers/bundles/cocoop-$precision"
        done
        echo "$key" > "$peers/bundles/key"
    fi
}

# Prints the machine, the date and the commit of a measurement.
provenance() {
    # In a virtual machine the model's name is not specific.
    awk -F': *' '/^(model name|cpu family|model)[ \t]*:/ { gsub(/[ \t]+$/, "", $1); line = line (line ? ", " : "") $1 " " $2 }
        /^$/ { exit } END { print line }' /proc/cpuinfo
    echo "processors: $(nproc), $(grep -m1 '^flags' /proc/cpuinfo | grep -owE 'avx2|avx512f|avx512_vnni|avx_vnni|amx_int8' | xargs)"
    date --utc +%F
    echo "commit $(git log -1 --format=%h)$([ -z "$(git status --porcelain --untracked-files=no)" ] || echo ' with changes')"
}

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

# encoder NAME: an encoder of tests/reference/random_encoders.py as files for the peers in $peers/NAME/files, and as a bundle
# of each precision in $peers/NAME/bundles. A precision that pinhole-export does not have for the encoder is reported.
encoder() {
    local folder=$peers/$1
    cargo build --quiet --release -p pinhole-cli -p pinhole-export
    mkdir -p "$folder"
    if ! current "$folder/files" benches/make_peers.py tests/reference/{random_encoders.py,requirements.txt} \
        tests/conformance/random_checkpoint.py assets/samples/*; then
        environment reference-venv tests/reference/requirements.txt
        "$target/reference-venv/bin/python" -W ignore benches/make_peers.py "$1" "$folder/files"
        echo "$key" > "$folder/files/key"
    fi
    if ! current "$folder/bundles" "$folder/files/key" "$target/release/pinhole-export" benches/setup.sh; then
        mkdir "$folder/bundles"
        local precision
        for precision in f32 f16 int8; do
            export_encoder "$folder" $precision || [ $precision != f32 ] || exit 1
        done
        echo "$key" > "$folder/bundles/key"
    fi
}

# export_encoder FOLDER PRECISION: FOLDER/bundles/PRECISION from FOLDER/files, from the checkpoint if it is there. Its quality
# is not judged, as the weights are random.
export_encoder() {
    local files=$1/files from log
    if [ -e "$files/clip" ]; then
        from=(bundle --clip "$files/clip")
    else
        from=(onnx --encoder "$files/f32.onnx" --preprocessing "$files/open_clip_config.json")
    fi
    # f32 is the default.
    [ "$2" = f32 ] || from+=(--precision "$2" --min-cosine 0 --min-agreement 0 --calibration assets/samples)
    if ! log=$("$target/release/pinhole-export" "${from[@]}" --classes "$files/classes.txt" \
        --class-embeddings "$files/classes.npy" --out "$1/bundles/$2" 2>&1); then
        printf 'note: %s: no bundle in %s:\n%s\n' "${1##*/}" "$2" "$log" >&2
        return 1
    fi
}

# conditional_bundles NAME: the encoder's bundles in f32 and int8 with a conditional head of 100 classes, cocoop-PRECISION.
conditional_bundles() {
    local folder=$peers/$1 precision
    if ! current "$folder/conditional" "$folder/bundles/key" benches/{make_prompt_learner.py,setup.sh}; then
        environment reference-venv tests/reference/requirements.txt
        mkdir "$folder/conditional"
        seq -f 'thing number %g' 100 > "$folder/conditional/classes.txt"
        "$target/reference-venv/bin/python" benches/make_prompt_learner.py "$folder/conditional/prompt_learner.safetensors"
        for precision in f32 int8; do
            "$target/release/pinhole-export" bundle --clip "$folder/files/clip" --classes "$folder/conditional/classes.txt" \
                --prompt-learner "$folder/conditional/prompt_learner.safetensors" --calibration assets/samples \
                --precision "$precision" --min-cosine 0 --min-agreement 0 --out "$folder/conditional/cocoop-$precision"
        done
        echo "$key" > "$folder/conditional/key"
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

#!/usr/bin/env bash
# Measures whole models with `octofold bench`: those of the project, in float and int8, and the plans and models in the arguments. Prints the median
# time, and the share of the machine's limits that it reaches.
#
#     benches/models.sh [PLAN|MODEL…]            THREADS=2 SECONDS_EACH=10 benches/models.sh
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cargo build --quiet --release --manifest-path "$root/Cargo.toml" -p octofold
octofold=${CARGO_TARGET_DIR:-$root/target}/release/octofold
folder=$(mktemp -d)
trap 'rm -r "$folder"' EXIT

# The first line of the report, and the last two.
time_model() {
    echo "$1"
    "$octofold" bench "$2" --threads "${THREADS:-1}" --seconds "${SECONDS_EACH:-4}" --profile | sed -n '1p; /the median run/p; $p' | sed 's/^ */    /'
}

for model in "$root"/models/*.onnx; do
    name=$(basename "$model" .onnx)
    "$octofold" compile "$model" --calibrate "$root/models/fashion_calibration.npz" --config "$root/models/fashion.toml" -o "$folder/$name.oct" >/dev/null
    time_model "$name, float" "$model"
    time_model "$name, int8" "$folder/$name.oct"
done
for model in "$@"; do
    time_model "$model" "$model"
done

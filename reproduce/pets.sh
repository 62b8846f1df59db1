#!/usr/bin/env bash
# The reference job: three recipes on the pets, their table, the figures of three pictures, and the report.
set -euo pipefail

usage() {
    cat <<'EOF'
Usage: reproduce/pets.sh

Fine-tunes ViT-B/16 on 37 breeds of pets with the three published settings (0.9193, 0.93 and 0.95), puts them side by
side, draws what the last one looks at, and writes report.html. Hours with a GPU; days without one. The same command
continues what was interrupted: finished trainings are skipped.

Environment:
  DATA         oxford-pets:reference (downloaded once), or a folder of {label}_{id}.jpg with train/ and val/
  OUT          where everything goes: runs/pets
  WEIGHTS_224  file of vit_base_patch16_224.orig_in21k; without it, from the hub, kept in the cache folder
  WEIGHTS_384  file of vit_base_patch16_384.orig_in21k_ft_in1k; likewise
  PICTURES     folder in which 26_5064.jpg, 29_4718.jpg and 31_4838.jpg are looked for: DATA, where that is a folder
  SET          recipe fields to change in all three, such as "epochs=3 batch_size=16"
  VITRINE      the command: vitrine

Exit status: 0 done; 2 something is wanted that is not here, and nothing was written.
EOF
}

if [[ ${1:-} == --help || ${1:-} == -h ]]; then
    usage
    exit 0
elif (($#)); then
    usage >&2
    exit 2
fi

read -ra vitrine <<<"${VITRINE:-vitrine}"
data=${DATA:-oxford-pets:reference}
out=${OUT:-runs/pets}
recipes=(pets-b16-224-bs32 pets-b16-224-bs16 pets-b16-384)
final=$out/pets-b16-384 # the best of the three as published; named before anything is measured
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

weights_of() {
    case $1 in
    *384*) echo "${WEIGHTS_384:-}" ;;
    *) echo "${WEIGHTS_224:-}" ;;
    esac
}

# Everything that is missing is found out before the first training, which may take hours.
missing=0
want_weights() { # name of the variable, its value, timm's name
    if [[ -n $2 && ! -f $2 ]]; then
        echo "There is no file $2 (from $1)." >&2
    elif [[ " ${SET:-}" == *" model"* ]]; then
        return # other models than the recipes': they are opened when they are trained
    elif "${vitrine[@]}" positions "${2:-$3}" ${2:+--arch "$3"} -o "$scratch/positions.png" >"$scratch/said" 2>&1; then
        return
    else
        head -n 1 "$scratch/said" >&2
    fi
    echo "  Wanted: model.safetensors of timm/$3 on the Hugging Face hub. Download it and say where it is: $1=FILE" >&2
    missing=1
}
want_data() {
    local status=0
    "${vitrine[@]}" check "$data" >"$scratch/said" 2>&1 || status=$?
    if ((status > 1)); then
        cat "$scratch/said" >&2
        echo "  Wanted: the Oxford-IIIT Pets, or your own copy as train/ and val/ with {label}_{id}.jpg: DATA=FOLDER" >&2
        missing=1
    fi
}
if ! command -v "${vitrine[0]}" >/dev/null; then
    echo "There is no command ${vitrine[0]}. Install vitrine, or say how it is called: VITRINE='python -m vitrine'" >&2
    exit 2
fi
want_weights WEIGHTS_224 "${WEIGHTS_224:-}" vit_base_patch16_224.orig_in21k
want_weights WEIGHTS_384 "${WEIGHTS_384:-}" vit_base_patch16_384.orig_in21k_ft_in1k
want_data
if ((missing)); then
    echo "Nothing was trained." >&2
    exit 2
fi
cat "$scratch/said" # what is in the data, and what is wrong with it

mkdir -p "$out"
runs=()
for recipe in "${recipes[@]}"; do
    run=$out/$recipe
    runs+=("$run")
    if [[ -f $run/metrics.json ]]; then
        echo "$run is finished."
        continue
    fi
    options=(--recipe "$recipe" -o "$run")
    [[ ! -f $run/recipe.toml ]] || options+=(--resume)
    weights=$(weights_of "$recipe")
    [[ -z $weights ]] || options+=(--set "pretrained=$weights")
    for setting in ${SET:-}; do
        options+=(--set "$setting")
    done
    "${vitrine[@]}" train "$data" "${options[@]}"
done

"${vitrine[@]}" compare "${runs[@]}" -o "$out/comparison"
"${vitrine[@]}" positions "$final" -o "$out/positions.png"

# The pictures that the reference job shows, where they are present.
place=${PICTURES:-$data}
found=()
if [[ -d $place ]]; then
    for name in 26_5064.jpg 29_4718.jpg 31_4838.jpg; do
        picture=$(find "$place" -name "$name" -type f | sed -n 1p)
        [[ -z $picture ]] || found+=("$picture")
    done
fi
if ((${#found[@]})); then
    mkdir -p "$out/pictures"
    cp "${found[@]}" "$out/pictures"
    "${vitrine[@]}" explain "$final" "$out/pictures" -o "$out/maps" --check
    "${vitrine[@]}" report "${runs[@]}" --final "$final" -o "$out/report.html" --pictures "$out"/pictures/*.jpg
else
    echo "26_5064.jpg, 29_4718.jpg and 31_4838.jpg are not in $place; the report chooses its pictures itself."
    "${vitrine[@]}" report "${runs[@]}" --final "$final" -o "$out/report.html"
fi

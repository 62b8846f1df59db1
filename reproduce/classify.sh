#!/usr/bin/env bash
# Label every picture of a folder: filename,label in name order.
set -euo pipefail

usage() {
    cat <<'EOF'
Usage: reproduce/classify.sh IMAGES OUT.csv

Writes one row a picture, filename,label, in the order of the names.

Environment:
  MODEL    what labels them: a run folder, or a weights file that says what its classes are:
           runs/pets/pets-b16-384, which reproduce/pets.sh trains
  ARCH     timm's name of the model, where MODEL is a weights file
  VITRINE  the command: vitrine

Exit status: 0 done; 2 something is wanted that is not here, and nothing was written.
EOF
}

if [[ ${1:-} == --help || ${1:-} == -h ]]; then
    usage
    exit 0
elif (($# != 2)); then
    usage >&2
    exit 2
fi

read -ra vitrine <<<"${VITRINE:-vitrine}"
model=${MODEL:-runs/pets/pets-b16-384}
if ! command -v "${vitrine[0]}" >/dev/null; then
    echo "There is no command ${vitrine[0]}. Install vitrine, or say how it is called: VITRINE='python -m vitrine'" >&2
    exit 2
fi
if [[ -z ${MODEL:-} && ! -f $model/metrics.json ]]; then
    cat >&2 <<EOF
There is no trained model in $model.
  Wanted: a run folder, or its weights. Train one (reproduce/pets.sh), or say where it is: MODEL=RUN
EOF
    exit 2
fi
if [[ ! -e $1 ]]; then
    echo "There are no pictures at $1. Expected a folder of pictures, or one picture." >&2
    exit 2
fi

exec "${vitrine[@]}" predict "$model" "$1" -o "$2" ${ARCH:+--arch "$ARCH"}

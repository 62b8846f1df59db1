#!/usr/bin/env bash
# Caption every picture of a folder: one figure a picture, with an attention map for every word, and captions.csv.
set -euo pipefail

usage() {
    cat <<'EOF'
Usage: reproduce/caption.sh IMAGES OUT_DIR

Writes for every picture a PNG of the same name with its caption and, word by word, the cross-attention map; and
captions.csv. The captioner is the published one (CATR v3), which is downloaded once.

Environment:
  WEIGHTS  the released file of the captioner, where it cannot be downloaded
  VOCAB    vocab.txt of bert-base-uncased; without it, beside WEIGHTS, else from the hub
  MODEL    another captioner in place of both: a run folder, or a model of transformers
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
if ! command -v "${vitrine[0]}" >/dev/null; then
    echo "There is no command ${vitrine[0]}. Install vitrine, or say how it is called: VITRINE='python -m vitrine'" >&2
    exit 2
fi
if [[ ! -e $1 ]]; then
    echo "There are no pictures at $1. Expected a folder of pictures, or one picture." >&2
    exit 2
fi

captioner=("${MODEL:-catr/v3}")
[[ -z ${WEIGHTS:-} ]] || captioner=("$WEIGHTS" --arch catr)
[[ -z ${VOCAB:-} ]] || captioner+=(--vocab "$VOCAB")
status=0
"${vitrine[@]}" caption "${captioner[@]}" "$1" -o "$2" || status=$?
if ((status == 2)) && [[ -z ${MODEL:-} ]]; then
    cat >&2 <<'EOF'
  If it is the captioner that is wanted: it is two files, weight493084032.pth of CATR v3 and vocab.txt of
  google-bert/bert-base-uncased. Download them elsewhere and say where they are: WEIGHTS=FILE VOCAB=FILE
EOF
fi
exit "$status"

#!/usr/bin/env bash
# Adds the int8 arm to experiments/hoc.toml: exports the distilled student of `hoc`, writes what the box says of the scored
# and of the inner documents, and runs the experiment again, which then has only that arm left to do.
#
#   experiments/hoc-int8.sh
set -euo pipefail
cd "$(dirname "$0")/.."
out=runs/hoc-experiment
cargo build --release --locked -p kdh-trainer -p kdh-exporter -p kdh-runtime
export PATH=$PWD/target/release:$PATH

for cell in $out/cells/hoc.distilled.seed-*.fold-1.*; do
  seed=${cell#*.seed-} seed=${seed%%.*}
  # The gate is wide: what int8 costs is what the experiment measures.
  kdh-export pack "$cell/student" --data data/hoc/dev.jsonl --output "$cell/int8.kdh" \
    --vocabulary-size 12000 --vocabulary-from data/hoc/train.jsonl --max-flip-rate 0.1 --max-f1-loss 0.1
  # The inner documents are those of the cell's own logits.
  python3 - "$cell/inner.jsonl" data/hoc/train.jsonl > "$cell/inner-documents.jsonl" <<'PYTHON'
import json
import sys

ids = {json.loads(line)["id"] for line in open(sys.argv[1], encoding="utf-8")}
for line in open(sys.argv[2], encoding="utf-8"):
    if json.loads(line)["id"] in ids:
        print(line, end="")
PYTHON
  kdh eval --bundle "$cell/int8.kdh" data/hoc/dev.jsonl --boundaries corpus --predictions "$out/int8-hoc-$seed.jsonl"
  kdh eval --bundle "$cell/int8.kdh" "$cell/inner-documents.jsonl" --boundaries corpus \
    --predictions "$out/int8-hoc-$seed-inner.jsonl"
  rm "$cell/inner-documents.jsonl"
done
kdh-train experiment run experiments/hoc.toml --out $out --commit "$(git rev-parse --short HEAD)"

#!/usr/bin/env bash
# Makes the default bundle: the 6 x 384 student with the sentence-evidence head on the Hallmarks of Cancer.
#
#   experiments/hoc-student.sh CORPUS
#
# CORPUS is the corpus in its published layout (text/ and labels/). Everything goes to runs/hoc-student; the bundle ends
# as models/default.kdh. An hour and a quarter of one core; the corpora lie in ../shared/data. A killed run goes on when the
# script is started again.
# It was run in bfloat16, the default where the processor multiplies it; elsewhere f32 is, with other last digits.
set -euo pipefail
corpus=$(realpath "${1:?give the folder of the Hallmarks of Cancer corpus (with text/ and labels/)}")
cd "$(dirname "$0")/.."
run=runs/hoc-student
commit=$(git rev-parse --short HEAD)

scripts/fetch-libtorch
cargo build --release --locked -p kdh-trainer -p kdh-exporter -p kdh-runtime
export PATH=$PWD/target/release:$PATH

kdh-train weights fetch student
kdh-train import hoc "$corpus" --split experiments/hoc-split.json data/hoc
# Three teachers whose mean logits teach: the two fine-tuned MPNets of hoc-teacher.sh (their logits are in the repository) and
# the linear baseline. 800 abstracts of another corpus, unlabelled, are imitated too.
experiments/hoc-transfer.py ../shared/data/cei - data/cei.jsonl 10000
kdh-train baseline --train data/hoc/train.jsonl --labels experiments/hoc-labels.json \
  --transfer data/cei.jsonl --logits runs/linear-cei.jsonl data/hoc/dev.jsonl
experiments/hoc-transfer.py ../shared/data/cei runs/linear-cei.jsonl data/cei-transfer.jsonl 800
kdh-train baseline --train data/hoc/train.jsonl --labels experiments/hoc-labels.json \
  --transfer data/hoc/dev.jsonl --transfer data/cei-transfer.jsonl --logits runs/linear.jsonl data/hoc/dev.jsonl
# alpha to temperature: the best of the swarm's first twelve evaluations, rounded (experiments/hoc-swarm.json).
kdh-train distill --weights third_party/weights/all-MiniLM-L6-v2 \
  --teacher-logits experiments/hoc-teacher-upper-logits.jsonl --teacher-logits experiments/hoc-teacher-whole-logits.jsonl \
  --teacher-logits runs/linear.jsonl \
  --transfer data/cei-transfer.jsonl \
  --train data/hoc/train.jsonl --dev data/hoc/dev.jsonl --labels experiments/hoc-labels.json --out $run \
  --boundaries corpus --max-tokens 512 --imitation-epochs 4 --epochs 5 --patience 5 --select micro-auprc --seed 1 \
  --alpha 0.582 --dropout 0.081 --head-factor 25 --layer-decay 0.893 --learning-rate 2.12e-4 \
  --sentence-weight 3.06 --temperature 1.77 \
  --name hoc-minilm-l6 --commit "$commit" \
  --data-name "Hallmarks of Cancer (Baker et al. 2016), 1,295 training documents of the BLURB split" \
  --data-licence "GPL-3.0 (the corpus; none of its text is in the bundle)" \
  --weights-licence Apache-2.0
kdh-train thresholds --student $run/best $run/dev-predictions.jsonl
kdh-export pack $run/best --data data/hoc/dev.jsonl --output models/default.kdh \
  --vocabulary-size 12000 --vocabulary-from data/hoc/train.jsonl \
  --release experiments/hoc-release.json --max-bytes 16000000
# What the logits mean, on the documents that chose epoch and thresholds too: calibration, operating points, abstention.
kdh recalibrate data/hoc/dev.jsonl --bundle models/default.kdh --allow-unsigned --output models/default.kdh \
  --rollback-counter 1 --pool-small-labels --data-name "Hallmarks of Cancer, 186 dev documents" \
  --reference data/hoc/train.jsonl --far examples/far/written.jsonl,examples/far/generated.jsonl \
  --html $run/decisions.html
# The published demonstration key: a product signs with a key of its own.
kdh-export sign models/default.kdh --key examples/keys/demonstration.secret
kdh verify --bundle models/default.kdh
kdh eval --bundle models/default.kdh data/hoc/dev.jsonl
kdh eval --bundle models/default.kdh data/hoc/dev.jsonl --boundaries corpus

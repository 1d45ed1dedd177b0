#!/usr/bin/env bash
# Makes the teacher of the default bundle and its logits, experiments/hoc-teacher-logits.jsonl, which teach the student.
#
#   experiments/hoc-teacher.sh CORPUS
#
# CORPUS is the corpus in its published layout (text/ and labels/). About an hour and a half of one core; the teacher itself
# goes to runs/hoc-teacher. The logits hold document ids and no text. A killed run goes on when the script is started
# again.
set -euo pipefail
corpus=$(realpath "${1:?give the folder of the Hallmarks of Cancer corpus (with text/ and labels/)}")
cd "$(dirname "$0")/.."
run=runs/hoc-teacher

scripts/fetch-libtorch
cargo build --release --locked -p kdh-trainer
export PATH=$PWD/target/release:$PATH

kdh-train weights fetch teacher
kdh-train import hoc "$corpus" --split experiments/hoc-split.json data/hoc
kdh-train fit --weights third_party/weights/all-mpnet-base-v2 \
  --train data/hoc/train.jsonl --dev data/hoc/dev.jsonl --labels experiments/hoc-labels.json --out $run \
  --max-tokens 512 --epochs 4 --batch-size 8 --freeze 6 --learning-rate 5e-5 --layer-decay 0.95 --patience 4 --seed 1 \
  --name hoc-mpnet \
  --data-name "Hallmarks of Cancer (Baker et al. 2016), 1,295 training documents of the BLURB split" \
  --data-licence "GPL-3.0" --weights-licence Apache-2.0
# data/cei-transfer.jsonl is made by hoc-student.sh before it needs these logits.
kdh-train predict --student $run/best data/hoc/train.jsonl data/hoc/dev.jsonl data/cei-transfer.jsonl \
  --decimals 3 --out experiments/hoc-teacher-logits.jsonl

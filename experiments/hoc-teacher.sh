#!/usr/bin/env bash
# Makes the two teachers of the default bundle and their logits, experiments/hoc-teacher-*-logits.jsonl, which teach the
# student.
#
#   experiments/hoc-teacher.sh CORPUS
#
# CORPUS is the corpus in its published layout (text/ and labels/). About an hour and a half of one core for the first
# teacher, two and a half for the second; they go to runs/hoc-teacher-*. The logits hold document ids and no text. A killed
# run goes on when the script is started again.
# It was run in bfloat16, the default where the processor multiplies it; elsewhere f32 is, with other last digits.
set -euo pipefail
corpus=$(realpath "${1:?give the folder of the Hallmarks of Cancer corpus (with text/ and labels/)}")
cd "$(dirname "$0")/.."

scripts/fetch-libtorch
cargo build --release --locked -p kdh-trainer
export PATH=$PWD/target/release:$PATH

kdh-train weights fetch teacher
kdh-train import hoc "$corpus" --split experiments/hoc-split.json data/hoc
# data/cei-transfer.jsonl is made by hoc-student.sh before it needs these logits.
teach() {
  local name=$1
  shift
  kdh-train fit --weights third_party/weights/all-mpnet-base-v2 \
    --train data/hoc/train.jsonl --dev data/hoc/dev.jsonl --labels experiments/hoc-labels.json \
    --out "runs/hoc-teacher-$name" --max-tokens 512 --layer-decay 0.95 --patience 4 --seed 1 --name "hoc-mpnet-$name" \
    --data-name "Hallmarks of Cancer (Baker et al. 2016), 1,295 training documents of the BLURB split" \
    --data-licence "GPL-3.0" --weights-licence Apache-2.0 "$@"
  kdh-train predict --student "runs/hoc-teacher-$name/best" \
    data/hoc/train.jsonl data/hoc/dev.jsonl data/cei-transfer.jsonl \
    --decimals 3 --out "experiments/hoc-teacher-$name-logits.jsonl"
}
# Two of one kind that learnt differently, since the mean of unlike teachers is better than each: micro-AUPRC on dev 0.900
# and 0.907, 0.909 together, 0.918 with the linear model (0.842) of hoc-student.sh.
teach upper --epochs 4 --batch-size 8 --learning-rate 5e-5 --freeze 6
teach whole --epochs 3 --batch-size 4 --learning-rate 4e-5

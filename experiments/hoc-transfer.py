#!/usr/bin/env python3
"""Chooses the texts on which the default bundle's student imitates its teachers without labels.

    experiments/hoc-transfer.py CEI LOGITS OUT COUNT

CEI is a folder with train.jsonl and dev.jsonl of the Chemical Exposure Information corpus; LOGITS are those of the linear
baseline for them (`kdh-train baseline --transfer ... --logits`). The COUNT documents to which the baseline gives the highest logit
of any label go to OUT: abstracts that are nearest to the subject teach most. Without LOGITS ("-") all documents go to OUT.
Labels are taken off, ids get the prefix `cei-`.
"""
import json
import sys

cei, logits, out, count = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
documents = []
for name in ("train", "dev"):
    with open(f"{cei}/{name}.jsonl", encoding="utf-8") as lines:
        for line in lines:
            document = json.loads(line)
            document["id"] = "cei-" + document["id"]
            document["labels"] = []
            for sentence in document.get("sentences") or []:
                sentence["labels"] = []
            documents.append(document)
if logits != "-":
    with open(logits, encoding="utf-8") as lines:
        highest = {row["id"]: max(row["logits"]) for row in map(json.loads, lines)}
    documents.sort(key=lambda document: -highest[document["id"]])
with open(out, "w", encoding="utf-8") as file:
    for document in documents[:count]:
        file.write(json.dumps(document) + "\n")

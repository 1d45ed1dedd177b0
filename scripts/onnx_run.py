#!/usr/bin/env python3
"""Runs an exported graph in ONNX Runtime on the CPU.

Usage: onnx_run.py MODEL.onnx < inputs.json > outputs.json

Input: [{"ids": [...], "sentence_ids": [...]}, ...]. Output, one object an input:
{"sentences": [[...], ...], "document": [...], "milliseconds": ...}
"""

import json
import sys
import time

import numpy as np
import onnxruntime


def main():
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
    outputs = []
    for case in json.load(sys.stdin):
        feed = {
            "input_ids": np.array([case["ids"]], np.int64),
            "sentence_ids": np.array([case["sentence_ids"]], np.int64),
        }
        start = time.perf_counter()
        sentences, document = session.run(["sentence_logits", "document_logits"], feed)
        milliseconds = (time.perf_counter() - start) * 1000
        outputs.append(
            {"sentences": sentences[0].tolist(), "document": document[0].tolist(), "milliseconds": milliseconds}
        )
    json.dump(outputs, sys.stdout)


main()

"""Runs one ONNX graph on ONNX Runtime or OpenVINO, as often as it is told: worker.py ort|openvino|openvino-f32
MODEL.onnx. The protocol is that of kdh.rs. One thread."""

import sys
import time

import numpy as np

engine, path = sys.argv[1:]
if engine == "ort":
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    print("ready onnxruntime", onnxruntime.__version__, flush=True)

    def run(inputs):
        return session.run(["document_logits"], inputs)[0]
else:
    import openvino

    config = {"INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1, "PERFORMANCE_HINT": "LATENCY", "ENABLE_CPU_PINNING": False}
    # Otherwise OpenVINO computes floats in bf16 where the processor has it.
    if engine == "openvino-f32":
        config["INFERENCE_PRECISION_HINT"] = "f32"
    request = openvino.Core().compile_model(path, "CPU", config).create_infer_request()
    print("ready openvino", openvino.__version__, flush=True)

    def run(inputs):
        return request.infer(inputs)["document_logits"]


for line in sys.stdin:
    repeat, *fields = line.split()
    ids, sentence_ids = (np.array([field.split(",")], dtype=np.int64) for field in fields)
    inputs = {"input_ids": ids, "sentence_ids": sentence_ids}
    for _ in range(int(repeat)):
        start = time.perf_counter()
        logits = run(inputs)
        print(f"{time.perf_counter() - start:.9f}", end=" ")
    print(float(logits.sum()), flush=True)

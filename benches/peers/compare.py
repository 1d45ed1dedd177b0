"""Prints how long kdh and its peers take for the same token ids on one core; see `run`.

Each peer runs in its own best form: kdh the int8 graph of kdh-export on its arena; ONNX Runtime `quantize_dynamic` of
the f32 export (per channel); rten that same graph; OpenVINO a static QDQ graph (`quantize_static` of the f32 export,
symmetric, int8 weights per channel, activations calibrated on random token ids), the float part as it likes best; tract
kdh's int8 graph. And all of them f32.
Every peer is a process of its own that waits while another one runs.
"""

import argparse
import hashlib
import json
import os
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

import numpy as np

LABELS, SENTENCES, MAX_TOKENS = 10, 64, 512


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("work", "weights", "export", "kdh", "rten"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--core", type=int, default=0)
    parser.add_argument("--tokens", default="32,64,128,256")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--models", default="student,distilbert")
    parser.add_argument("--peers", default="", help="only these, separated by commas: kdh-int8,ort-int8,...")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    args = parser.parse_args()
    os.sched_setaffinity(0, {args.core})

    result = {"core": args.core, "rounds": args.rounds, "roofline": roofline(args), "models": {}}
    for name, value in result["roofline"].items():
        print(f"{name.replace('_', ' ')}: " + ("unknown" if value is None else f"{value / 1e9:.1f} G"))
    for model in args.models.split(","):
        graphs = export(args, model)
        result["models"][model] = compare(args, model, graphs, result["roofline"])
    result["roofline_after"] = roofline(args)
    result["ort_int8_product"] = ort_int8_product()
    print(f"4 x 255 x 127 in ONNX Runtime's int8 product: {result['ort_int8_product']} ({4 * 255 * 127} is exact)")
    if args.json:
        args.json.write_text(json.dumps(result, indent=1) + "\n")


def ort_int8_product():
    """Four products of the largest u8 and s8: less than they are where sums of two saturate at 16 bits."""
    import onnx
    import onnxruntime
    from onnx import TensorProto, helper

    graph = helper.make_graph(
        [helper.make_node("MatMulInteger", ["a", "b"], ["y"])],
        "product",
        [helper.make_tensor_value_info("a", TensorProto.UINT8, [1, 4])],
        [helper.make_tensor_value_info("y", TensorProto.INT32, [1, 16])],
        [onnx.numpy_helper.from_array(np.full((4, 16), 127, np.int8), "b")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return int(session.run(None, {"a": np.full((1, 4), 255, np.uint8)})[0][0, 0])


def roofline(args):
    return json.loads(subprocess.run([args.work / "roofline"], check=True, capture_output=True).stdout)


def export(args, model):
    """The graphs of a model, made once for each exporter."""
    folder = args.work / model
    graphs = {name: folder / f"{name}.onnx" for name in ("f32", "kdh-int8", "dynamic", "static")}
    complete = folder / ".complete"
    exporter = hashlib.sha256(args.export.read_bytes()).hexdigest()
    if complete.exists() and complete.read_text() == exporter:
        return graphs
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    student(args, model, folder)
    for name, precision in (("f32", "f32"), ("kdh-int8", "int8")):
        command = [args.export, "onnx", folder, "--precision", precision, "--output", graphs[name]]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    import onnx

    # As the onnx package writes it: rten 0.27 does not read packed attributes.
    onnx.save(onnx.load(graphs["f32"]), graphs["f32"])
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_dynamic, quantize_static

    quantize_dynamic(graphs["f32"], graphs["dynamic"], per_channel=True, weight_type=QuantType.QInt8)
    quantize_static(
        graphs["f32"],
        graphs["static"],
        Calibration(),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        weight_type=QuantType.QInt8,
        activation_type=QuantType.QInt8,
        op_types_to_quantize=["MatMul", "Gemm"],
        # The fastest for OpenVINO of the variants tried: no zero points, and attention left to float.
        extra_options={"MatMulConstBOnly": True, "ActivationSymmetric": True},
    )
    complete.write_text(exporter)
    return graphs


class Calibration:
    """Random token ids for `quantize_static`."""

    def __init__(self):
        self.left = 8

    def get_next(self):
        self.left -= 1
        if self.left < 0:
            return None
        ids, sentence_ids = text(64, seed=self.left)
        return {"input_ids": np.array([ids]), "sentence_ids": np.array([sentence_ids])}


def student(args, model, folder):
    """A student folder: the pretrained 6 x 384 encoder, or a 6 x 768 one of DistilBERT's shape with random weights.
    The head is random."""
    random = np.random.default_rng(1)
    vocabulary = (args.weights / "vocab.txt").read_text().splitlines()
    shutil.copy(args.weights / "vocab.txt", folder)
    if model == "student":
        config = json.loads((args.weights / "config.json").read_text())
        tensors = read_safetensors(args.weights / "model.safetensors")
        hidden = config["hidden_size"]
    else:
        hidden, inner, layers = 768, 3072, 6
        config = {
            "model_type": "distilbert",
            "dim": hidden,
            "hidden_dim": inner,
            "n_heads": 12,
            "n_layers": layers,
            "max_position_embeddings": MAX_TOKENS,
            "vocab_size": len(vocabulary),
            "activation": "gelu",
            "sinusoidal_pos_embds": False,
        }
        matrix = lambda *shape: random.normal(0, 0.02, shape).astype(np.float32)
        tensors = {
            "embeddings.word_embeddings.weight": matrix(len(vocabulary), hidden),
            "embeddings.position_embeddings.weight": matrix(MAX_TOKENS, hidden),
        }
        norms = ["embeddings.LayerNorm"]
        for layer in range(layers):
            name = f"transformer.layer.{layer}"
            norms += [f"{name}.sa_layer_norm", f"{name}.output_layer_norm"]
            linears = [(f"{name}.attention.{part}_lin", hidden, hidden) for part in ("q", "k", "v", "out")]
            linears += [(f"{name}.ffn.lin1", inner, hidden), (f"{name}.ffn.lin2", hidden, inner)]
            for linear, outputs, inputs in linears:
                tensors[f"{linear}.weight"] = matrix(outputs, inputs)
                tensors[f"{linear}.bias"] = matrix(outputs)
        for norm in norms:
            tensors[f"{norm}.weight"] = np.ones(hidden, np.float32)
            tensors[f"{norm}.bias"] = np.zeros(hidden, np.float32)
    tensors["classifier.weight"] = random.normal(0, 0.02, (LABELS, hidden)).astype(np.float32)
    tensors["classifier.bias"] = np.zeros(LABELS, np.float32)
    tensors["document_bias"] = np.zeros(LABELS, np.float32)
    write_safetensors(folder / "model.safetensors", tensors)
    (folder / "config.json").write_text(json.dumps(config))
    labels = [{"code": f"L{label}", "name": f"label {label}", "threshold": 0.5} for label in range(LABELS)]
    nothing = {"data": "", "data_licence": "", "weights": "", "weights_licence": "", "command": "", "commit": "", "seed": 1, "metrics": []}
    card = {
        "version": 1,
        "name": model,
        "head": "sentence-evidence",
        "labels": labels,
        "max_tokens": MAX_TOKENS,
        "max_sentences": SENTENCES,
        "tokenizer": {"lowercase": True, "cls": "[CLS]", "sep": "[SEP]", "unk": "[UNK]"},
        "provenance": nothing,
    }
    (folder / "kdh.json").write_text(json.dumps(card))


def floor_ms(args, model, tokens, peak):
    """Linear layers at the int8 peak and attention at the f32 peak, nothing else."""
    if peak["int8_multiply_adds_per_second"] is None:
        return None
    config = json.loads((args.work / model / "config.json").read_text())
    hidden = config.get("hidden_size") or config["dim"]
    inner = config.get("intermediate_size") or config["hidden_dim"]
    layers = config.get("num_hidden_layers") or config["n_layers"]
    linear = tokens * layers * (4 * hidden * hidden + 2 * hidden * inner) / peak["int8_multiply_adds_per_second"]
    attention = tokens * tokens * layers * 2 * hidden / peak["f32_multiply_adds_per_second"]
    return 1e3 * (linear + attention)


def read_safetensors(path):
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    tensors = {}
    for name, entry in header.items():
        if name != "__metadata__" and entry["dtype"] == "F32":
            start, end = (8 + length + offset for offset in entry["data_offsets"])
            tensors[name] = np.frombuffer(data[start:end], np.float32).reshape(entry["shape"])
    return tensors


def write_safetensors(path, tensors):
    header, offset = {}, 0
    for name, tensor in tensors.items():
        header[name] = {"dtype": "F32", "shape": tensor.shape, "data_offsets": [offset, offset + tensor.nbytes]}
        offset += tensor.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(len(text).to_bytes(8, "little") + text + b"".join(tensor.tobytes() for tensor in tensors.values()))


def text(tokens, seed=0):
    """Ids and sentences of an input: sentences of 20 tokens."""
    ids = np.random.default_rng(seed).integers(1000, 20000, tokens)
    sentence_ids = np.arange(tokens) // 20
    ids[0], ids[-1] = 101, 102
    sentence_ids[0] = sentence_ids[-1] = -1
    return ids.tolist(), sentence_ids.tolist()


class Peer:
    def __init__(self, name, command):
        self.name = name
        environment = os.environ | {"OMP_NUM_THREADS": "1", "RTEN_NUM_THREADS": "1", "RAYON_NUM_THREADS": "1"}
        pipe = subprocess.PIPE
        command = [str(part) for part in command]
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=environment)
        ready = self.process.stdout.readline()
        if not ready.startswith("ready"):
            raise RuntimeError(f"{name} does not run the graph")
        print(f"{name}: {ready.removeprefix('ready ').strip()[:100]}", file=sys.stderr)

    def run(self, repeat, ids, sentence_ids):
        line = " ".join([str(repeat), ",".join(map(str, ids)), ",".join(map(str, sentence_ids))])
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        *seconds, logits = map(float, self.process.stdout.readline().split())
        return seconds, logits

    def stop(self):
        self.process.stdin.close()
        self.process.wait()


def compare(args, model, graphs, peak):
    vocabulary = sum(1 for _ in open(args.weights / "vocab.txt"))
    shape = [LABELS, SENTENCES, MAX_TOKENS, vocabulary]
    worker = [sys.executable, Path(__file__).with_name("worker.py")]
    commands = {
        "kdh-int8": [args.kdh, "arena", graphs["kdh-int8"], *shape],
        "ort-int8": [*worker, "ort", graphs["dynamic"]],
        "openvino-int8": [*worker, "openvino", graphs["static"]],
        "rten-int8": [args.rten, graphs["dynamic"]],
        "tract-int8": [args.kdh, "tract", graphs["kdh-int8"], *shape],
        "kdh-f32": [args.kdh, "arena", graphs["f32"], *shape],
        "ort-f32": [*worker, "ort", graphs["f32"]],
        "openvino-f32": [*worker, "openvino-f32", graphs["f32"]],
        "rten-f32": [args.rten, graphs["f32"]],
        "tract-f32": [args.kdh, "tract", graphs["f32"], *shape],
    }
    only = args.peers.split(",") if args.peers else list(commands)
    peers, failed = [], []
    for name in only:
        try:
            peers.append(Peer(name, commands[name]))
        except (RuntimeError, OSError) as error:
            failed.append(name)
            print(error, file=sys.stderr)
    result = {}
    print(f"\n{model}: median ms (minimum), and kdh-int8 / peer: median over the rounds (of minima)\n")
    for tokens in map(int, args.tokens.split(",")):
        ids, sentence_ids = text(tokens)
        times = {peer.name: [] for peer in peers}
        logits = {}
        for peer in peers:
            peer.run(2, ids, sentence_ids)
        for _ in range(args.rounds):
            for peer in peers:
                seconds, logits[peer.name] = peer.run(3, ids, sentence_ids)
                times[peer.name].append(seconds)
        result[tokens] = {"floor_ms": floor_ms(args, model, tokens, peak)}
        if result[tokens]["floor_ms"]:
            print(f"{tokens:5} {'floor':14} {result[tokens]['floor_ms']:9.3f}")
        for peer in peers:
            every = [second for seconds in times[peer.name] for second in seconds]
            figures = {"median_ms": 1e3 * statistics.median(every), "min_ms": 1e3 * min(every)}
            own = times.get("kdh-int8")
            if own:
                rounds = zip(own, times[peer.name])
                figures["kdh_over_peer"] = statistics.median(min(a) / min(b) for a, b in rounds)
                figures["kdh_over_peer_of_minima"] = min(map(min, own)) / min(every)
            figures["sum_of_logits"] = logits[peer.name]
            result[tokens][peer.name] = figures
            ratio = f"{figures['kdh_over_peer']:6.3f} ({figures['kdh_over_peer_of_minima']:.3f})" if own else ""
            print(f"{tokens:5} {peer.name:14} {figures['median_ms']:9.3f} ({figures['min_ms']:9.3f}) {ratio}", flush=True)
    for peer in peers:
        peer.stop()
    if failed:
        print(f"could not run: {', '.join(failed)}")
    result["failed"] = failed
    return result


main()

"""What the Python peers of `cargo load serving` share: a model in ONNX Runtime, asked in the words of the Open Inference Protocol.

    python peer.py --int8 MODEL TO      writes the file that ONNX Runtime's dynamic quantization makes of MODEL

PEER_NAME, PEER_MODEL and, for an embedder, PEER_TOKENIZER name the model, its file and its tokenizer's file.
"""

import logging
import os
import sys

import numpy as np

TOKENS_MAX = 256
INT64 = np.int64


class Tensors:
    """One f32 tensor in, one out: rows as the request has them."""

    def __init__(self, threads):
        self.session = session(threads)
        self.input = self.session.get_inputs()[0].name
        self.output = self.session.get_outputs()[0].name

    def parse(self, tensor):
        return np.asarray(tensor["data"], np.float32).reshape(tensor["shape"])

    def run(self, rows):
        """Answers of several requests, run as one."""
        joined = rows[0] if len(rows) == 1 else np.concatenate(rows)
        answers = self.session.run([self.output], {self.input: joined})[0]
        if len(rows) == 1:
            return [answers]
        return np.split(answers, np.cumsum([len(row) for row in rows[:-1]]))


class Embedder:
    """Text in, a vector of length one out: tokens, the graph, the mean over tokens, the length."""

    output = "embedding"

    def __init__(self, threads):
        from tokenizers import Tokenizer

        self.session = session(threads)
        self.tokenizer = Tokenizer.from_file(os.environ["PEER_TOKENIZER"])
        self.tokenizer.enable_truncation(TOKENS_MAX)
        self.tokenizer.enable_padding()

    def parse(self, tensor):
        return tensor["data"]

    def run(self, texts):
        """Answers of several requests, run as one, shorter texts padded."""
        encoded = self.tokenizer.encode_batch_fast([text for request in texts for text in request])
        ids = np.array([text.ids for text in encoded], INT64)
        mask = np.array([text.attention_mask for text in encoded], INT64)
        inputs = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
        vectors = self.session.run(None, inputs)[0]
        share = mask[:, :, None].astype(np.float32)
        mean = (vectors * share).sum(axis=1) / share.sum(axis=1)
        embeddings = mean / np.linalg.norm(mean, axis=1, keepdims=True)
        return np.split(embeddings, np.cumsum([len(request) for request in texts[:-1]]))


def session(threads):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(os.environ["PEER_MODEL"], options, ["CPUExecutionProvider"])


def model(threads):
    return Embedder(threads) if "PEER_TOKENIZER" in os.environ else Tensors(threads)


def answer(name, output, values):
    tensor = {"name": output, "datatype": "FP32", "shape": values.shape, "data": values.ravel()}
    return {"model_name": name, "model_version": "1", "outputs": [tensor]}


def int8(file, to):
    from onnxruntime.quantization import QuantType, quantize_dynamic

    logging.disable(logging.WARNING)
    # As in the engine suite: a scale a channel. The second name is given only to a whole file.
    quantize_dynamic(file, to + ".part", per_channel=True, weight_type=QuantType.QInt8)
    os.rename(to + ".part", to)


if __name__ == "__main__":
    if sys.argv[1] != "--int8":
        sys.exit(__doc__)
    int8(*sys.argv[2:])

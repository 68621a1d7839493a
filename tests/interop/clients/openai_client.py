"""Embeds texts with OpenAI's client, and compares with the same texts asked by the Open Inference Protocol.

    python3 openai_client.py NAME=HOST:PORT ..    environment: CA (a PEM file), KEY (an API key)
"""

import os
import ssl
import sys

import niquests
import numpy as np
import openai

TEXTS = ["Where is the nearest node?", "Wo ist der naechste Knoten?", "Bake bread at 230 degrees.", "a"]
MODEL = "minilm-l6"


def infer(address, texts):
    body = {"inputs": [{"name": "text", "datatype": "BYTES", "shape": [len(texts)], "data": texts}]}
    key = {"authorization": f"Bearer {os.environ['KEY']}"}
    answer = niquests.post(f"https://{address}/v2/models/{MODEL}/infer", json=body, headers=key, verify=os.environ["CA"])
    output = answer.raise_for_status().json()["outputs"][0]
    return np.array(output["data"], dtype=np.float32).reshape(output["shape"])


def at(name, address):
    http = openai.DefaultHttpxClient(verify=ssl.create_default_context(cafile=os.environ["CA"]))
    client = openai.OpenAI(base_url=f"https://{address}/v1", api_key=os.environ["KEY"], http_client=http, max_retries=0)
    told = client.embeddings.create(model=MODEL, input=TEXTS)  # base64, which this client asks for by itself
    vectors = np.array([item.embedding for item in told.data], dtype=np.float32)
    assert [item.index for item in told.data] == [0, 1, 2, 3] and told.model.startswith(MODEL), told
    assert told.usage.prompt_tokens == told.usage.total_tokens > 8, told.usage
    assert np.array_equal(vectors, infer(address, TEXTS)), "other bits than the Open Inference Protocol gives"
    floats = client.embeddings.create(model=MODEL, input=TEXTS[0], encoding_format="float")
    assert np.array_equal(np.array(floats.data[0].embedding, dtype=np.float32), vectors[0])
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    assert unit[0] @ unit[1] > unit[0] @ unit[2], "two ways of asking one question are further apart than bread"
    for wrong, kind in [
        (dict(model="nobody", input="a"), openai.NotFoundError),
        (dict(model=MODEL, input=[]), openai.BadRequestError),
        (dict(model=MODEL, input="a", dimensions=7), openai.BadRequestError),
        (dict(model="magika", input="a"), openai.BadRequestError),
    ]:
        try:
            client.embeddings.create(**wrong)
        except kind as error:
            assert error.body and str(error), error
            continue
        raise AssertionError(f"{wrong} was answered")
    stranger = openai.OpenAI(base_url=f"https://{address}/v1", api_key="mk_" + "0" * 64, http_client=http, max_retries=0)
    try:
        stranger.embeddings.create(model=MODEL, input="a")
        raise AssertionError("a key that nobody has was answered")
    except openai.AuthenticationError:
        pass
    print(f"  openai, {name}: embeddings in base64 and floats, to the bits of the other protocol; its own errors")


for place in sys.argv[1:]:
    at(*place.split("=", 1))

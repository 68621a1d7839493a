"""Checks what a node promised with an answer, with nothing of ours: `hmac` for the commitments, and files for verifiers of logs.

    python3 receipts.py HEAD QUESTION ANSWER FOLDER

HEAD is the head of the answer as curl wrote it. Writes FOLDER/{id,entry,promise.tlog-proof}, and prints what the receipt says.
"""

import base64
import hashlib
import hmac
import json
import pathlib
import re
import sys

head, question, answer, folder = (pathlib.Path(arg) for arg in sys.argv[1:])
value = re.search(r"^meridian-receipt: (.*?)\r?$", head.read_text(), re.M | re.I)[1]
receipt_id = re.search(r'\bid="([^"]+)"', value)[1]
key, promise = (base64.b64decode(re.search(rf"\b{name}=:([^:]+):", value)[1], validate=True) for name in ("key", "proof"))
first, extra, *_ = promise.decode().split("\n")
assert first == "c2sp.org/tlog-proof@v1" and extra.startswith("extra "), promise
entry = base64.b64decode(extra.removeprefix("extra "), validate=True)
said = json.loads(entry)
for name, body in [("input", question), ("output", answer)]:
    expected = "hmac-sha256:" + hmac.new(key, body.read_bytes(), "sha256").hexdigest()
    assert said[name] == expected, f"the {name} is not the one that was committed to"
leaf = hashlib.sha256(b"\0" + entry).hexdigest()
assert receipt_id == ":".join([*said["node"].split("/"), f"{said['index']}-{leaf}"]), receipt_id
folder.mkdir(exist_ok=True)
(folder / "id").write_text(receipt_id)
(folder / "entry").write_bytes(entry)
(folder / "promise.tlog-proof").write_bytes(promise)
print(said["node"], f"{said['model']}@{said['version']}", said["variant"], said["numerics"])

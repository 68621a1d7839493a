"""Asks a fleet over HTTP/3 with niquests, whose QUIC is qh3: found by Alt-Svc, as browsers find it, and at once.

    python3 http3.py NAME=HOST:PORT ..    environment: CA (a PEM file), KEY (an API key)
"""

import os
import sys

import niquests

FILE = "#!/usr/bin/env python3\nimport sys\nprint(sys.argv, %d)\n"
CA = os.environ["CA"]
HEADERS = {"authorization": f"Bearer {os.environ['KEY']}"}


def body(n, text=None):
    return {"id": f"h3-{n}", "inputs": [{"name": "file", "datatype": "BYTES", "shape": [1], "data": [text or FILE % n]}]}


def ask(session, address, n, **more):
    return session.post(f"https://{address}/v2/models/magika/infer", json=body(n, **more), headers=HEADERS, timeout=10, verify=CA)


def at(name, address):
    with niquests.Session() as session:
        versions = []
        for n in range(4):
            answer = ask(session, address, n)
            assert answer.status_code == 200, (answer.status_code, answer.text)
            told = answer.json()
            assert told["id"] == f"h3-{n}" and told["outputs"][0]["data"] == ["python"], told
            versions.append(answer.http_version)
        assert versions[0] in (11, 20) and versions[-1] == 30, f"Alt-Svc did not lead to HTTP/3: {versions}"
    with niquests.Session(disable_http1=True, disable_http2=True) as session:
        host, port = address.split(":")
        session.quic_cache_layer.add_domain(host, int(port))
        long = ask(session, address, 9, text="SELECT id FROM users;\n" * 40_000)  # many datagrams, many windows
        assert long.http_version == 30 and long.json()["outputs"][0]["data"] == ["sql"], long.text
        again = ask(session, address, 9, text="SELECT id FROM users;\n" * 40_000)
        assert again.headers["cache-status"].startswith("meridian; hit"), again.headers
        unknown = session.post(f"https://{address}/v2/models/nobody/infer", json=body(1), headers=HEADERS, timeout=10, verify=CA)
        assert unknown.status_code == 404 and "nobody" in unknown.json()["error"], unknown.text
        stranger = session.post(f"https://{address}/v2/models/magika/infer", json=body(1), timeout=10, verify=CA)
        assert stranger.status_code == 401 and stranger.http_version == 30, stranger.text
        head = session.head(f"https://{address}/v2/health/ready", timeout=10, verify=CA)
        assert head.status_code == 200 and head.content in (b"", None), head
    print(f"  niquests, {name}: from HTTP/{versions[0] // 10} to HTTP/3 by Alt-Svc, long bodies, refusals, HEAD")


for place in sys.argv[1:]:
    at(*place.split("=", 1))

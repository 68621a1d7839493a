"""Verifies a tiled log with aics-tlog, which is not ours: verify.py DIR VKEY [PROOF ENTRY].

With `-` for DIR only the proof is judged.
"""

import base64
import sys
from pathlib import Path

from aics_tlog.checkpoint import checkpoint_from_note, verify_checkpoint
from aics_tlog.hashing import leaf_hash
from aics_tlog.note import parse_note, parse_vkey
from aics_tlog.tiles import (
    FileSystemTileReader,
    consistency_proof_from_tiles,
    inclusion_proof_from_tiles,
    read_entry,
    tree_root_from_tiles,
)
from aics_tlog.tree import verify_consistency, verify_inclusion
from aics_tlog.verified import audit_tiles


def opened(text, key):
    """The checkpoint in a note, if the log's key signed it."""
    result = verify_checkpoint(parse_note(text), key, expected_origin=key.name)
    if not result.log_ok:
        sys.exit(f"the checkpoint is not signed: {result.error}")
    return checkpoint_from_note(text)[0]


def spread(size):
    """Indices at the edges and some between."""
    return sorted({i for i in (0, 1, 255, 256, 257, size // 2, size - 1) if 0 <= i < size})


def check_log(folder, key):
    checkpoint = opened((folder / "checkpoint").read_text(), key)
    size, root = checkpoint.size, checkpoint.root
    reader = FileSystemTileReader(folder)
    report = audit_tiles(reader, size, root)
    for index in spread(size):
        proof = inclusion_proof_from_tiles(reader, index, size)
        if not verify_inclusion(leaf_hash(read_entry(reader, index, size)), index, size, proof, root):
            sys.exit(f"entry {index} is not under the root")
        old = tree_root_from_tiles(reader, index + 1, size)
        proof = consistency_proof_from_tiles(reader, index + 1, size)
        if not verify_consistency(index + 1, size, old, root, proof):
            sys.exit(f"the tree of {index + 1} is no prefix")
    print(f"aics-tlog accepts {size} entries, {report.tiles} tiles and {report.bundles} bundles of {checkpoint.origin}")


def check_proof(proof, entry, key):
    """C2SP tlog-proof: a head with index and hashes, an empty line, the checkpoint."""
    head, note = proof.split("\n\n", 1)
    first, index, *hashes = [line for line in head.split("\n") if not line.startswith("extra ")]
    if first != "c2sp.org/tlog-proof@v1" or not index.startswith("index "):
        sys.exit("not a tlog-proof")
    checkpoint = opened(note, key)
    path = [base64.b64decode(h, validate=True) for h in hashes]
    if not verify_inclusion(leaf_hash(entry), int(index[6:]), checkpoint.size, path, checkpoint.root):
        sys.exit("the proof does not hold")
    print(f"aics-tlog accepts the proof of entry {index[6:]}")


def main(folder, vkey, proof=None, entry=None):
    key = parse_vkey(vkey.strip())
    if folder != "-":
        check_log(Path(folder), key)
    if proof is not None:
        check_proof(Path(proof).read_text(), Path(entry).read_bytes(), key)


main(*sys.argv[1:])

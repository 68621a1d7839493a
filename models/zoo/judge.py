"""Makes the inputs that int8 forms are calibrated with and judged by when they are published.

    python3 judge.py names|photos|files      writes judge/NAME.jsonl: none of them is a golden vector
    python3 judge.py calibrate               writes calibrate/photos.jsonl: of other photographs than those that judge

Inputs only: the f32 form's answers are what int8 is held against. `requirements.txt` says what was installed; another version
of Python or of a package may give other inputs, so the files are committed. `judge/README.md` says whose they are.
"""

import io
import json
import os
import random
import re
import sys

HERE = os.path.dirname(os.path.abspath(__file__))

PHOTOS = {
    "china.jpg": 10,
    "flower.jpg": 10,
    "rocket.jpg": 8,
    "camera.png": 7,
    "clock_motion.png": 5,
    "coins.png": 5,
    "retina.jpg": 5,
    "brick.png": 4,
    "grass.png": 4,
    "gravel.png": 4,
    "hubble_deep_field.jpg": 4,
    "ihc.png": 4,
    "cell.png": 2,
}

CALIBRATE = {"astronaut.png": 6, "chelsea.png": 4, "coffee.png": 4, "text.png": 1, "microaneurysms.png": 1}

MODULES = """argparse array ast asyncio base64 bdb binascii bisect calendar cmath codecs collections colorsys configparser
contextlib copy csv ctypes datetime decimal difflib dis email.utils enum filecmp fileinput fnmatch fractions ftplib functools
gc getpass gettext glob gzip hashlib heapq hmac html http.client imaplib importlib.util inspect io ipaddress itertools json
keyword linecache locale logging lzma mailbox math mimetypes netrc numbers operator os os.path pathlib pickle pickletools
pkgutil platform plistlib poplib posixpath pprint profile pstats py_compile queue random re reprlib sched secrets select
selectors shelve shlex shutil signal site smtplib socket sqlite3 ssl stat statistics string struct subprocess symtable sys
sysconfig tarfile tempfile textwrap threading time timeit token tokenize trace traceback types typing unicodedata unittest
urllib.parse urllib.request uuid venv warnings wave weakref webbrowser xml.dom.minidom xml.etree.ElementTree xml.sax.saxutils
zipfile zlib zoneinfo""".split()


def words(name):
    """`urllib.parse.urlsplit` as `urllib parse urlsplit`, `assertAlmostEqual` as `assert almost equal`."""
    return " ".join(re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+", name)).lower()


def names():
    """Functions of the standard library, and the first sentences of what their docstrings say."""
    import importlib
    import inspect

    pairs = {}
    for module in MODULES:
        for name, function in sorted(vars(importlib.import_module(module)).items()):
            said = inspect.getdoc(function) if inspect.isroutine(function) and not name.startswith("_") else None
            paragraph = " ".join((said or "").split("\n\n")[0].split())
            sentence = re.split(r"(?<=[.!?]) ", paragraph)[0]
            if 4 <= len(sentence.split()) <= 40 and sentence.isascii() and "->" not in sentence:
                pairs.setdefault(sentence, f"{words(module)} {words(name)}")
    chosen = sorted((query, answer) for answer, query in pairs.items())
    random.Random(1).shuffle(chosen)
    seen = set()
    chosen = [(q, a) for q, a in chosen if q not in seen and not seen.add(q)]
    return [{"query": texts("text", [q]), "answer": texts("text", [a])} for q, a in chosen[:360]]


def crops(photos, seed):
    """Crops of photographs, 192 pixels square."""
    import skimage
    import sklearn
    from PIL import Image

    folders = [os.path.join(os.path.dirname(skimage.__file__), "data")]
    folders.append(os.path.join(os.path.dirname(sklearn.__file__), "datasets", "images"))
    chance = random.Random(seed)
    lines = []
    for name, count in photos.items():
        path = next(p for p in (os.path.join(folder, name) for folder in folders) if os.path.exists(p))
        image = Image.open(path).convert("RGB")
        for _ in range(count):
            side = int(min(image.size) * chance.uniform(0.45, 1.0))
            left, above = chance.randint(0, image.width - side), chance.randint(0, image.height - side)
            crop = image.crop((left, above, left + side, above + side)).resize((192, 192), Image.Resampling.LANCZOS)
            file = io.BytesIO()
            quality = 75
            crop.save(file, "JPEG", quality=quality)
            while file.tell() > 5120:
                file, quality = io.BytesIO(), quality - 10
                crop.save(file, "JPEG", quality=quality)
            lines.append({"inputs": texts("image", [file.getvalue()])})
    return lines


def made_files():
    """Files of kinds that have no text, small ones made here."""
    import bz2
    import gzip
    import lzma
    import pickle
    import plistlib
    import sqlite3
    import tarfile
    import tempfile
    import wave
    import zipfile

    text = b"".join(b"line %d of a file that was packed\n" % (n * n) for n in range(200))
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/readme.txt", text)
        archive.writestr("b/table.csv", "a,b\n1,2\n")
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w") as archive:
        member = tarfile.TarInfo("readme.txt")
        member.size = len(text)
        archive.addfile(member, io.BytesIO(text))
    sound = io.BytesIO()
    with wave.open(sound, "wb") as file:
        file.setparams((1, 2, 8000, 0, "NONE", ""))
        file.writeframes(random.Random(3).randbytes(4000))
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "a.db")
        with sqlite3.connect(path) as table:
            table.execute("create table sensors (name text, value real)")
            table.executemany("insert into sensors values (?, ?)", [(f"s{n}", n / 7) for n in range(50)])
        table.close()
        with open(path, "rb") as file:
            database = file.read()
    tree = {"name": "edge", "ports": list(range(40)), "tls": True, "labels": {"region": "eu", "tier": "edge"}}
    plist = [plistlib.dumps(tree, fmt=form) for form in (plistlib.FMT_XML, plistlib.FMT_BINARY)]
    packs = [gzip.compress(text, mtime=0), bz2.compress(text), lzma.compress(text)]
    table = "".join(f"{n},{n * 37 % 101},{n * n % 13}.5\n" for n in range(100))
    mail = f"From: a@example.org\nTo: b@example.org\nSubject: figures\nMIME-Version: 1.0\n\n{table}"
    page = "<!DOCTYPE html><html><body><table>" + "".join(f"<tr><td>{n}</td></tr>" for n in range(60)) + "</table></body></html>"
    vector = '<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9">' + '<path d="M1 2L3 4"/>' * 30 + "</svg>"
    script = "function area(r) {\n  return Math.PI * r * r;\n}\nmodule.exports = { area };\n" * 8
    style = ".card { margin: 0 auto; color: #334455; }\n.card:hover { color: red; }\n" * 10
    yaml = "".join(f"- name: step {n}\n  run: make test\n  env:\n    LEVEL: {n}\n" for n in range(25))
    texts = [json.dumps(tree, indent=1), table, mail, page, vector, script, style, yaml]
    return [packed.getvalue(), tar.getvalue(), sound.getvalue(), database, pickle.dumps(tree), *plist, *packs] + [
        t.encode() for t in texts
    ]


def pictures():
    """One small picture in each of several forms."""
    import skimage
    from PIL import Image

    image = Image.open(os.path.join(os.path.dirname(skimage.__file__), "data", "rocket.jpg")).convert("RGB").resize((64, 48))
    files = []
    for form in ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM"):
        file = io.BytesIO()
        image.save(file, form)
        files.append(file.getvalue())
    return files


def files():
    """Sources, headers and texts of Python's distribution, and small files of other kinds."""
    import py_compile
    import sysconfig
    import tempfile

    library, headers = sysconfig.get_path("stdlib"), sysconfig.get_path("include")
    chance = random.Random(4)
    found = []
    for folder, ending, count in [(library, ".py", 48), (headers, ".h", 16)]:
        whole = [os.path.join(folder, name) for name in sorted(os.listdir(folder)) if name.endswith(ending)]
        found += chance.sample([path for path in whole if os.path.getsize(path) > 400], count)
    contents = []
    for path in found:
        with open(path, "rb") as file:
            contents.append(file.read())
    with tempfile.TemporaryDirectory() as folder:
        for path in found[:4]:
            py_compile.compile(path, os.path.join(folder, "a.pyc"), dfile="a.py")
            with open(os.path.join(folder, "a.pyc"), "rb") as file:
                contents.append(file.read())
    contents += made_files() + pictures()
    # What the model looks at: the ends. The middle of a long file would only fill the repository.
    ends = lambda content: content if len(content) <= 2048 else content[:1024] + content[-1024:]
    return [{"inputs": texts("file", [ends(content)])} for content in contents]


def texts(name, values):
    from golden import element

    return [{"name": name, "datatype": "BYTES", "shape": [len(values)], "data": [element(value) for value in values]}]


def main():
    kinds = {
        "names": ("judge/names.jsonl", names),
        "photos": ("judge/photos.jsonl", lambda: crops(PHOTOS, 2)),
        "files": ("judge/files.jsonl", files),
        "calibrate": ("calibrate/photos.jsonl", lambda: crops(CALIBRATE, 5)),
    }
    if len(sys.argv) != 2 or sys.argv[1] not in kinds:
        sys.exit(__doc__)
    place, make = kinds[sys.argv[1]]
    path = os.path.join(HERE, place)
    lines = make()
    with open(path, "w", encoding="utf-8") as file:
        for line in lines:
            file.write(json.dumps(line, separators=(",", ":"), ensure_ascii=False) + "\n")
    print(path, len(lines), "lines,", os.path.getsize(path), "bytes")


if __name__ == "__main__":
    main()

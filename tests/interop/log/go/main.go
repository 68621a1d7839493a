// Command verify checks a C2SP tiled log with the code that checks Go's own checksum database: verify DIR VKEY.
package main

import (
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

const width = 256

// folder reads tiles from their C2SP paths; tlog's own paths have the height in front.
type folder string

func (f folder) Height() int { return 8 }

func (f folder) ReadTiles(tiles []tlog.Tile) ([][]byte, error) {
	var data [][]byte
	for _, tile := range tiles {
		bytes, err := os.ReadFile(filepath.Join(string(f), place(strconv.Itoa(tile.L), tile.N, tile.W)))
		if err != nil {
			return nil, err
		}
		data = append(data, bytes)
	}
	return data, nil
}

func (f folder) SaveTiles([]tlog.Tile, [][]byte) {}

func place(level string, index int64, entries int) string {
	path := fmt.Sprintf("%03d", index%1000)
	for index /= 1000; index > 0; index /= 1000 {
		path = fmt.Sprintf("x%03d/%s", index%1000, path)
	}
	if entries < width {
		path += ".p/" + strconv.Itoa(entries)
	}
	return "tile/" + level + "/" + path
}

func (f folder) entries(size int64) (all [][]byte, err error) {
	for from := int64(0); from < size; from += width {
		count := min(size-from, width)
		bundle, err := os.ReadFile(filepath.Join(string(f), place("entries", from/width, int(count))))
		if err != nil {
			return nil, err
		}
		for range count {
			if len(bundle) < 2 || len(bundle) < 2+int(binary.BigEndian.Uint16(bundle)) {
				return nil, fmt.Errorf("bundle %d is cut short", from/width)
			}
			end := 2 + int(binary.BigEndian.Uint16(bundle))
			all, bundle = append(all, bundle[2:end]), bundle[end:]
		}
		if len(bundle) > 0 {
			return nil, fmt.Errorf("bundle %d has more than its entries", from/width)
		}
	}
	return all, nil
}

func checkpoint(text []byte, vkey string) (size int64, root tlog.Hash, err error) {
	verifier, err := note.NewVerifier(strings.TrimSpace(vkey))
	if err != nil {
		return 0, root, err
	}
	signed, err := note.Open(text, note.VerifierList(verifier))
	if err != nil {
		return 0, root, err
	}
	lines := strings.Split(signed.Text, "\n")
	if len(lines) < 4 || lines[0] != verifier.Name() {
		return 0, root, fmt.Errorf("not a checkpoint of %s", verifier.Name())
	}
	if size, err = strconv.ParseInt(lines[1], 10, 64); err != nil {
		return 0, root, err
	}
	hash, err := base64.StdEncoding.DecodeString(lines[2])
	if err != nil || len(hash) != tlog.HashSize {
		return 0, root, fmt.Errorf("the root is not a hash")
	}
	return size, tlog.Hash(hash), nil
}

func verify(dir, vkey string) error {
	text, err := os.ReadFile(filepath.Join(dir, "checkpoint"))
	if err != nil {
		return err
	}
	size, root, err := checkpoint(text, vkey)
	if err != nil {
		return err
	}
	entries, err := folder(dir).entries(size)
	if err != nil {
		return err
	}
	// This reader gives a hash only after proving its tile against the signed root.
	hashes := tlog.TileHashReader(tlog.Tree{N: size, Hash: root}, folder(dir))
	var leaves []int64
	for i := range size {
		leaves = append(leaves, tlog.StoredHashIndex(0, i))
	}
	stored, err := hashes.ReadHashes(leaves)
	if err != nil {
		return err
	}
	for i, entry := range entries {
		if tlog.RecordHash(entry) != stored[i] {
			return fmt.Errorf("entry %d is not what its tile says", i)
		}
	}
	for _, i := range []int64{0, size / 2, size - 1} {
		if size == 0 {
			break
		}
		proof, err := tlog.ProveRecord(size, i, hashes)
		if err != nil {
			return err
		}
		if err := tlog.CheckRecord(proof, size, root, i, tlog.RecordHash(entries[i])); err != nil {
			return fmt.Errorf("entry %d: %w", i, err)
		}
	}
	fmt.Printf("Go's sumdb accepts %d entries under %v\n", size, root)
	return nil
}

func main() {
	if err := verify(os.Args[1], os.Args[2]); err != nil {
		log.Fatal(err)
	}
}

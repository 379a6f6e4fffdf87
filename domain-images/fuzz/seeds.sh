#!/bin/bash
# Cuts a small bundle into seeds: fuzz/seeds.sh release.xupg
set -euo pipefail
bundle=$(realpath "$1")
corpus=$(dirname "$(realpath "$0")")/corpus
work=$(mktemp -d)
trap 'rm -r "$work"' EXIT
put() { # target: keeps stdin under its digest
    mkdir -p "$corpus/$1"
    cat > "$work/seed"
    mv "$work/seed" "$corpus/$1/$(sha256sum < "$work/seed" | cut -c1-16)"
}
le32() { printf "$(printf '\\x%02x\\x%02x\\x%02x\\x%02x' $(($1 & 255)) $(($1 >> 8 & 255)) $(($1 >> 16 & 255)) $(($1 >> 24 & 255)))"; }

put bundle < "$bundle"
tar -xf "$bundle" -C "$work"
put manifest < "$work/manifest.json"
put signature < "$work/manifest.sig"
for payload in "$work"/*.tar.zst; do
    zstd -dcq "$payload" | put tar
    # The first frame is the list: magic and length, then what zstd made of it.
    length=$(od -An -tu4 -j4 -N4 "$payload")
    tail -c +9 "$payload" | head -c $((length)) | zstd -dcq | put file_list
    { le32 0; printf '\x01'; head -c $((length + 8)) "$payload"; } | put frame
    # One frame of all the stream, as the manifest would describe it.
    zstd -dcq "$payload" > "$work/stream"
    { le32 "$(stat -c %s "$work/stream")"; printf '\x00'; zstd -cq "$work/stream"; } | put frame
done

#!/usr/bin/env bash
# Install OHIF for tests/dicom/test_viewers.py: its SR code for node, and the built viewer. About 120 MB, once per list.
# They lie outside the tree, in a folder named after the pinned packages; the tests look for it in the same place.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
key=$(cat "$here/package.json" "$here/package-lock.json" | sha256sum | head -c 12)
target=${XDG_CACHE_HOME:-$HOME/.cache}/cxr-mmdet-tests/npm-$key
[[ -e $target ]] && exit 0

work=$target.$$
trap 'rm -rf "$work"' EXIT
mkdir -p "$work"
cp "$here/package.json" "$here/package-lock.json" "$work"
cd "$work"
npm ci --ignore-scripts --legacy-peer-deps --no-audit --no-fund --loglevel=error
# The built viewer alone, without what it needs for segmentation and microscopy.
archive=$(npm pack --silent "$(npm pkg get config.app | tr -d '"')")
echo "$(npm pkg get config.integrity | tr -d '"')" | grep -qxF "sha512-$(openssl dgst -sha512 -binary "$archive" | base64 -w0)"
tar -xzf "$archive" --exclude='*.map' --exclude=package/dist/ort --exclude=package/dist/dicom-microscopy-viewer package/dist
rm "$archive"
mv "$work" "$target"

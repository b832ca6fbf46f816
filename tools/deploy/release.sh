#!/bin/bash
# release.sh VERSION OUT: static binaries for linux/amd64 and linux/arm64, an SBOM beside each, a deb and an rpm of each,
# the licences of the program and of what is in it, and SHA256SUMS, in OUT.
# The same source, Go and VERSION give the same bytes, wherever and whenever it runs; release-check.sh checks that.
set -euo pipefail
version=$1 out=$2
cd "$(dirname "$0")/../.."
mkdir -p "$out"
out=$(cd "$out" && pwd)
rm -f "$out"/smshooks-* "$out/LICENSE" "$out/THIRD_PARTY_LICENSES" "$out/SHA256SUMS"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
for arch in amd64 arm64; do
  file=$out/smshooks-$version-linux-$arch
  # -trimpath and an empty build id: no path of this machine gets into it. -buildvcs=false: nor the state of a clone;
  # the version says which source it is.
  CGO_ENABLED=0 GOOS=linux GOARCH=$arch GOAMD64=v1 GOARM64=v8.0 go build -trimpath -buildvcs=false -tags timetzdata \
    -ldflags "-s -w -buildid= -X main.version=$version" -o "$file" ./cmd/smshooks
  # without serial number and time, which would differ each time
  GOCACHE=${TOOL_GOCACHE:-$(go env GOCACHE)} go -C tools/deploy tool cyclonedx-gomod bin -json -std -noserial -notimestamp -version "$version" -output "$file.cdx.json" "$file" 2>"$log" || { cat "$log" >&2; exit 1; }
done
GOCACHE=${TOOL_GOCACHE:-$(go env GOCACHE)} go -C tools/deploy run ./licences -dir ../.. ./cmd/smshooks >"$out/THIRD_PARTY_LICENSES"
cp LICENSE "$out/LICENSE"
tools/deploy/packages.sh "$version" "$out"
(cd "$out" && sha256sum smshooks-* LICENSE THIRD_PARTY_LICENSES) >"$out/SHA256SUMS"
cat "$out/SHA256SUMS"

#!/bin/bash
# Builds the release twice, in two directories and with two build caches, and compares the bytes; then looks at what is in it.
set -euo pipefail
cd "$(dirname "$0")/../.."
version=v0.0.0-check
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
copy() { mkdir -p "$1" && git ls-files -z --cached --others --exclude-standard | tar --null -T - --ignore-failed-read -cf - 2>/dev/null | tar -C "$1" -xf -; }
copy "$work/one"
mkdir -p "$work/two/somewhere" && cp -a "$work/one" "$work/two/somewhere/else" # of the copy: the tree may change meanwhile
"$work/one/tools/deploy/release.sh" $version "$work/one/out" >/dev/null
# a cache of its own, or the second build would be the first one's objects; another umask and time zone, for good measure
export TOOL_GOCACHE=$(go env GOCACHE) # the SBOM's tool need not be compiled anew
(umask 077; export TZ=Asia/Tokyo GOCACHE=$work/cache; "$work/two/somewhere/else/tools/deploy/release.sh" $version "$work/two/out" >/dev/null)
diff -u "$work/one/out/SHA256SUMS" "$work/two/out/SHA256SUMS" || { echo "release: two builds of one source differ" >&2; exit 1; }
cd "$work/one/out"
sha256sum --quiet -c SHA256SUMS
fail() { echo "release: $*" >&2; exit 1; }
for arch in amd64 arm64; do
  file=smshooks-$version-linux-$arch
  facts=$(go version -m "$file")
  for fact in CGO_ENABLED=0 GOOS=linux "GOARCH=$arch" -trimpath=true; do
    grep -q -- "$fact" <<<"$facts" || fail "$file was not built with $fact"
  done
  ! grep -q "$work" "$file" || fail "$file holds a path of the machine it was built on"
  for word in '"bomFormat": "CycloneDX"' '"version": "'$version'"' pkg:golang/github.com/twmb/franz-go pkg:golang/github.com/redis/go-redis; do
    grep -qF -- "$word" "$file.cdx.json" || fail "$file.cdx.json does not name $word"
  done
  # an ELF file without a program interpreter needs no libraries
  ! head -c 4096 "$file" | grep -q ld-linux || fail "$file is not static"
done
case $(uname -m) in x86_64) own=amd64 ;; aarch64) own=arm64 ;; *) own= ;; esac
if [ -n "$own" ]; then
  said=$("./smshooks-$version-linux-$own" version)
  [ "$said" = "smshooks $version" ] || fail "the binary says it is '$said'"
fi
echo "release: two builds are the same bytes; $(grep -c '"bom-ref"' "smshooks-$version-linux-amd64.cdx.json") components in the SBOM"

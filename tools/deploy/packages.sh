#!/bin/bash
# packages.sh VERSION OUT: a deb and an rpm of each binary of release.sh in OUT, with its licences. Run release.sh.
set -euo pipefail
version=$1 out=$(cd "$2" && pwd)
cd "$(dirname "$0")/../.."
stage=$(mktemp -d)
trap 'rm -rf "$stage"' EXIT
export SOURCE_DATE_EPOCH=315532800 # 1980: in man pages, archives and packages
own=$out/smshooks-$version-linux-$(go env GOHOSTARCH)
[ -x "$own" ] || { echo "packages: man pages need a binary that runs here: build on linux/amd64 or linux/arm64" >&2; exit 1; }
"$own" man "$stage/man"
gzip -n9 "$stage"/man/*
for shell in bash zsh fish; do "$own" completion "$shell" >"$stage/completion.$shell"; done
# The package has the binary in /usr/bin, and a user of its own, who can read the settings.
sed -e '/^#/d' -e 's|/usr/local/bin/|/usr/bin/|' -e 's|^DynamicUser=yes$|User=smshooks\nGroup=smshooks|' \
  deploy/systemd/smshooks.service >"$stage/smshooks.service"
number=${version#v}
case $number in [0-9]*) ;; *) number=0.0.0+$number ;; esac # a commit: neither format takes a version without digits
for arch in amd64 arm64; do
  file=smshooks-$version-linux-$arch
  for format in deb rpm; do
    ARCH=$arch VERSION=$number BINARY=$out/$file STAGE=$stage OUT=$out GOCACHE=${TOOL_GOCACHE:-$(go env GOCACHE)} \
      go tool -modfile=tools/packages/go.mod nfpm package --config deploy/packages/nfpm.yaml --packager "$format" --target "$out/$file.$format" >"$stage/log" ||
      { cat "$stage/log" >&2; exit 1; }
  done
done

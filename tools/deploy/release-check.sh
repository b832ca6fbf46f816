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
export TOOL_GOCACHE=$(go env GOCACHE) # the SBOM's tool need not be compiled again
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

# The licences of the Kafka client and of Go itself, and every module of the SBOM.
for component in $(sed -n 's|.*"bom-ref": "pkg:golang/\([^?"]*\)?.*|\1|p' "smshooks-$version-linux-amd64.cdx.json" | sort -u); do
  module=${component%@*}
  case $module in std | github.com/smshooks/smshooks) continue ;; esac
  grep -q "^$module v[^ ]*: " THIRD_PARTY_LICENSES || fail "THIRD_PARTY_LICENSES has no licence of $module"
done
cmp LICENSE ../LICENSE || fail "the licence is missing beside the binaries"
grep -q ' LICENSE$' SHA256SUMS || fail "SHA256SUMS does not name LICENSE"
grep -q '^Go: LICENSE' THIRD_PARTY_LICENSES || fail "THIRD_PARTY_LICENSES has no licence of Go"

# What the packages contain: mode, owner and path of what is not obvious, and the rest by its path.
wanted="
-rwxr-xr-x root/root /usr/bin/smshooks
-rw-r--r-- root/root /usr/lib/systemd/system/smshooks.service
drwxr-x--- root/smshooks /etc/smshooks
-rw-r----- root/smshooks /etc/smshooks/smshooks.yaml
-rw------- root/root /etc/smshooks/secrets.env
-rw-r--r-- root/root /usr/share/man/man1/smshooks-serve.1.gz
-rw-r--r-- root/root /usr/share/bash-completion/completions/smshooks
-rw-r--r-- root/root /usr/share/fish/vendor_completions.d/smshooks.fish
-rw-r--r-- root/root /usr/share/doc/smshooks/copyright
-rw-r--r-- root/root /usr/share/doc/smshooks/THIRD_PARTY_LICENSES"
contains() { # PACKAGE LIST: the list has lines of mode, owner/group and path
  local line
  while read -r line; do
    [ -z "$line" ] || grep -qxF -- "$line" <<<"$2" || fail "$1 does not contain: $line. It has
$2"
  done <<<"$wanted
$3"
}
for arch in amd64 arm64; do
  deb=smshooks-$version-linux-$arch.deb rpm=smshooks-$version-linux-$arch.rpm
  contains "$deb" "$(dpkg-deb -c "$deb" | sed -E 's|^(\S+) +(\S+) .* \./?(\S*)$|\1 \2 /\3|; s|/$||')" "-rw-r--r-- root/root /usr/share/zsh/vendor-completions/_smshooks"
  [ "$(dpkg-deb -f "$deb" Package Version Architecture | tr '\n' ' ')" = "Package: smshooks Version: 0.0.0~check Architecture: $arch " ] ||
    fail "$deb says $(dpkg-deb -f "$deb")"
  dpkg-deb -x "$deb" "$work/$arch"
  cmp "$work/$arch/usr/bin/smshooks" "smshooks-$version-linux-$arch" || fail "$deb has another binary"
  dpkg-deb -e "$deb" "$work/$arch/control"
  for script in preinst postinst prerm postrm; do sh -n "$work/$arch/control/$script" || fail "$deb: $script"; done
  grep -qx /etc/smshooks/smshooks.yaml "$work/$arch/control/conffiles" || fail "$deb: an upgrade overwrites the settings"
  contains "$rpm" "$(rpm -qp --nosignature --qf '[%{FILEMODES:perms} %{FILEUSERNAME}/%{FILEGROUPNAME} %{FILENAMES}\n]' "$rpm")" "-rw-r--r-- root/root /usr/share/zsh/site-functions/_smshooks"
  rpm -qp --nosignature --configfiles "$rpm" | grep -qx /etc/smshooks/smshooks.yaml || fail "$rpm: an upgrade overwrites the settings"
done
unit=$work/amd64/usr/lib/systemd/system/smshooks.service
for line in User=smshooks "ExecStart=/usr/bin/smshooks serve --config=/etc/smshooks/smshooks.yaml"; do
  grep -qxF "$line" "$unit" || fail "the packages' unit has no $line"
done
! grep -q '^DynamicUser\|/usr/local' "$unit" || fail "the packages' unit is that of a manual installation"

case $(uname -m) in x86_64) own=amd64 ;; aarch64) own=arm64 ;; *) own= ;; esac
if [ -n "$own" ]; then
  said=$("./smshooks-$version-linux-$own" version)
  [ "$said" = "smshooks $version" ] || fail "the binary says it is '$said'"
  SMSHOOKS_REDIS_PASSWORD=x "$work/$own/usr/bin/smshooks" config print --config "$work/$own/etc/smshooks/smshooks.yaml" >/dev/null ||
    fail "the packages' settings are refused"
  if [ "$(id -u)" = 0 ]; then
    "$work/one/tools/deploy/install-check.sh" smshooks-$version-linux-$own.{deb,rpm} || fail "a package cannot be installed and removed"
  else
    echo "release: the packages were not installed: that needs root's rights" >&2
  fi
fi
echo "release: two builds are the same bytes; $(grep -c '"bom-ref"' "smshooks-$version-linux-amd64.cdx.json") components in the SBOM, $(grep -c "^====" THIRD_PARTY_LICENSES | awk '{print $1/2}') licences, $(ls ./*.deb ./*.rpm | wc -l) packages"

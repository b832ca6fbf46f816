#!/bin/bash
# install-check.sh DEB RPM: installs each package with its scripts into its own root directory, and checks the result;
# installs it again over changed settings, and removes it. Like an installation, it must run as root.
set -euo pipefail
[ "$(id -u)" = 0 ] || { echo "install-check: run it as root, which chroot needs" >&2; exit 1; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
fail() { echo "install-check: $*" >&2; exit 1; }

# root DIR: creates the files that dpkg and the scripts need, and the users of a new machine.
root() {
  local tool library
  mkdir -p "$1"/{dev,etc,tmp,var/lib/dpkg/{info,updates,triggers},var/lib/rpm}
  ln -s usr/bin "$1/bin"
  for tool in sh getent groupadd useradd dpkg dpkg-deb dpkg-split tar rm diff ldconfig start-stop-daemon; do
    tool=$(command -v $tool)
    install -D "$(readlink -f "$tool")" "$1/usr/bin/$(basename "$tool")"
    for library in $(ldd "$tool" | grep -o '/[^ ]*'); do install -D "$library" "$1$library"; done
  done
  echo 'root:x:0:0:root:/root:/bin/sh' >"$1/etc/passwd"
  echo 'root:x:0:' >"$1/etc/group"
  touch "$1"/{dev/null,etc/shadow,etc/gshadow,var/lib/dpkg/status}
  cp /etc/login.defs "$1/etc/"
}

# has PACKAGE DIR: checks the files with their modes and owners, the user, the binary, and the changed settings.
has() {
  local mode owner path group
  group=$(sed -n 's/^smshooks:[^:]*:\([0-9]*\):.*/\1/p' "$2/etc/group")
  [ -n "$group" ] || fail "$1 has made no group"
  grep -q '^smshooks:.*:/usr/sbin/nologin$' "$2/etc/passwd" || fail "$1 has made no user, or one who can log in"
  while read -r mode owner path; do
    [ "$(stat -c '%a %u:%g' "$2$path")" = "$mode $owner" ] || fail "$1: $path is $(stat -c '%a %u:%g' "$2$path"), not $mode $owner"
  done <<<"755 0:0 /usr/bin/smshooks
644 0:0 /usr/lib/systemd/system/smshooks.service
750 0:$group /etc/smshooks
640 0:$group /etc/smshooks/smshooks.yaml
600 0:0 /etc/smshooks/secrets.env"
  chroot "$2" /usr/bin/smshooks version >/dev/null || fail "$1: the binary does not run"
}

# goes_through PACKAGE INSTALL REMOVE, each a command that takes the root first
goes_through() {
  local at=$work/${1##*.}
  root "$at"
  "$2" "$at" "$1" >"$work/log" 2>&1 || fail "$1 cannot be installed: $(cat "$work/log")"
  has "$1" "$at"
  echo '# mine' >>"$at/etc/smshooks/smshooks.yaml"
  "$2" "$at" "$1" >"$work/log" 2>&1 || fail "$1 cannot be installed again: $(cat "$work/log")"
  has "$1" "$at"
  grep -q '^# mine' "$at/etc/smshooks/smshooks.yaml" || fail "$1: another installation overwrites the settings"
  "$3" "$at" >"$work/log" 2>&1 || fail "$1 cannot be removed: $(cat "$work/log")"
  [ ! -e "$at/usr/bin/smshooks" ] || fail "$1: the binary is left behind"
  cat "$at"/etc/smshooks/smshooks.yaml* | grep -q '^# mine' || fail "$1: changed settings are lost"
}
# With --root, dpkg would look up the group among those of this machine.
deb_install() { cp "$2" "$1/tmp/deb" && chroot "$1" dpkg --log=/tmp/log --force-depends --force-confold -i /tmp/deb; }
deb_remove() { chroot "$1" dpkg --log=/tmp/log -r smshooks; }
rpm_install() { rpm --root "$1" --nodeps --nosignature --replacepkgs -U "$2"; }
rpm_remove() { rpm --root "$1" -e smshooks; }
goes_through "$(readlink -f "$1")" deb_install deb_remove
goes_through "$(readlink -f "$2")" rpm_install rpm_remove

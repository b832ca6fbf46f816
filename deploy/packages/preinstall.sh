#!/bin/sh
# Creates the user and the group that the service runs as. They stay when the package is removed.
set -e
getent group smshooks >/dev/null || groupadd --system smshooks
getent passwd smshooks >/dev/null ||
  useradd --system --gid smshooks --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin smshooks

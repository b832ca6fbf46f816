#!/bin/sh
# Stops the service when the package is removed, not when it is upgraded: dpkg says "remove", rpm says 0.
set -e
case "${1:-}" in remove | 0) ;; *) exit 0 ;; esac
if [ -d /run/systemd/system ]; then
  systemctl disable --now smshooks.service
fi

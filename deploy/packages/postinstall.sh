#!/bin/sh
# Restarts the service after an upgrade if it runs. A first installation starts nothing, since settings are needed first.
set -e
if [ -d /run/systemd/system ]; then
  systemctl daemon-reload
  systemctl try-restart smshooks.service
fi

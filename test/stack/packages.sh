# Sourced by up.sh and .ci/run, so that both install Debian's packages in the same way.

# packages PACKAGE... installs what is given, with apt-get as root. At a terminal it asks first, unless
# SETUP=1 or CI=true allows it. It never continues without a package.
packages() {
  [ $# -gt 0 ] || return 0
  local answer log=${STACK_DIR:-/var/tmp}/apt.log
  if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null 2>&1; then
    echo "missing packages: $*. Install them, or run this on Debian as root" >&2
    exit 1
  fi
  if [ "${SETUP:-}" != 1 ] && [ "${CI:-}" != true ] && [ -t 0 ]; then
    read -r -p "Install $* with apt-get? [y/N] " answer
    case $answer in
      [yY]*) ;;
      *) echo "missing packages: $*. Install them, or set SETUP=1 to have them installed" >&2; exit 1 ;;
    esac
  fi
  echo "installing $*" >&2
  # RUNLEVEL=1 keeps the packages' own services (a Redis on 6379, say) from being started.
  local apt=(env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 apt-get)
  local install=("${apt[@]}" install -y -q --no-install-recommends "$@")
  "${install[@]}" >"$log" 2>&1 || { "${apt[@]}" update -q >>"$log" 2>&1 && "${install[@]}" >>"$log" 2>&1; } ||
    { tail -20 "$log" >&2; echo "apt-get could not install: $*" >&2; exit 1; }
}

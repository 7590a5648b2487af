#!/usr/bin/env bash
# Makes sure that glibc is at least 2.39, which ml-metadata 1.21 and tensorflow-data-validation 1.21 need (manylinux_2_39 wheels).
# On Debian 12 as root it installs libc6 and libstdc++6 (and g++, where there is no compiler) from Debian 13; `GLIBC=keep` refuses.
# Elsewhere it stops and says what to do. SYSROOT is the folder that holds `etc`, for tests.
set -euo pipefail

readonly NEEDED=2.39
readonly ETC=${SYSROOT:-}/etc
readonly ADVICE="use Debian 13, Ubuntu 24.04 or newer, or the container (make docker)"

stop() {
  echo "setup: $1: $ADVICE" >&2
  exit 2
}

glibc() { { getconf GNU_LIBC_VERSION 2>/dev/null || true; } | awk '{print $2}'; }

is_new_enough() { [ "$(printf '%s\n%s\n' "$NEEDED" "$1" | sort -V | head -n 1)" = "$NEEDED" ]; }

# The machine's own source of Debian 12 with the suite changed, so that mirror, key and options are those that it already trusts.
trixie_source() {
  local line stanza
  line=$(cat "$ETC"/apt/sources.list "$ETC"/apt/sources.list.d/*.list 2>/dev/null |
    sed -nE 's/^deb[[:space:]]+((\[[^]]*\][[:space:]]+)?[^[:space:]]+)[[:space:]]+bookworm[[:space:]].*/deb \1 trixie main/p' | head -n 1)
  stanza=$(for file in "$ETC"/apt/sources.list.d/*.sources; do
    if [ -e "$file" ]; then cat "$file" && echo; fi
  done | awk '
    BEGIN { RS = ""; FS = "\n" }
    done || /(^|\n)Enabled:[ \t]*no/ || !/(^|\n)Types:[^\n]*deb([ \t\n]|$)/ || !/(^|\n)Suites:[^\n]*[ \t]bookworm([ \t\n]|$)/ { next }
    {
      done = 1
      for (i = 1; i <= NF; i++) {
        if ($i ~ /^#/) continue
        sub(/^Types:.*/, "Types: deb", $i)
        sub(/^Suites:.*/, "Suites: trixie", $i)
        sub(/^Components:.*/, "Components: main", $i)
        print $i
      }
    }')
  if [ -n "$stanza" ]; then
    printf '%s\n' "$stanza" >"$ETC/apt/sources.list.d/gemma-tf-distill-trixie.sources"
  elif [ -n "$line" ]; then
    printf '%s\n' "$line" >"$ETC/apt/sources.list.d/gemma-tf-distill-trixie.list"
  else
    return 1
  fi
}

have=$(glibc)
if [ -z "$have" ]; then stop "this system has no GNU C library, and TFX 1.21 has wheels for glibc $NEEDED or newer only"; fi
if is_new_enough "$have"; then exit 0; fi

# shellcheck disable=SC1091
release=$(. "$ETC/os-release" && echo "${ID:-unknown} ${VERSION_ID:-}")
if [ "$release" != "debian 12" ]; then stop "glibc $have is older than $NEEDED, which TFX 1.21 needs"; fi
if [ "${GLIBC:-}" = keep ]; then stop "glibc $have is older than $NEEDED and GLIBC=keep forbids the upgrade"; fi
if [ "$(id -u)" != 0 ]; then stop "glibc $have is older than $NEEDED and only root may upgrade it: run 'make setup' as root once, or else"; fi

packages=(libc6 libstdc++6)
# Debian 12's own compiler could not be installed any more afterwards: its libc6-dev wants the old libc6.
if ! command -v c++ >/dev/null; then packages+=(g++); fi

echo "setup: glibc $have is older than $NEEDED: installing ${packages[*]} from Debian 13 (GLIBC=keep refuses this)"
log=$(mktemp)
undo() { rm -f "$ETC"/apt/sources.list.d/gemma-tf-distill-trixie.* "$ETC/apt/preferences.d/gemma-tf-distill-trixie"; }
trap undo EXIT
printf 'Package: *\nPin: release n=trixie\nPin-Priority: 50\n' >"$ETC/apt/preferences.d/gemma-tf-distill-trixie"
if ! trixie_source; then stop "found no source of Debian 12 in $ETC/apt to learn a mirror from"; fi
if ! {
  apt-get update -q &&
    DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends --no-remove \
      -o Dpkg::Options::=--force-confdef -o Dpkg::Options::=--force-confold -t trixie "${packages[@]}"
} >"$log" 2>&1 </dev/null; then
  tail -n 15 "$log" >&2
  stop "the upgrade of glibc failed (the log is $log)"
fi
if ! is_new_enough "$(glibc)"; then stop "glibc is still $(glibc) after the upgrade (the log is $log)"; fi
trap - EXIT
rm -f "$log"

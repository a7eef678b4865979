# shellcheck shell=bash
# version ROOT PACKAGE: the upstream version in an engine root, without Debian's epoch and revision.
version() {
  dpkg-query --admindir="${NVOCI_WORLD:-/var/cache/nvoci-world}/roots/$1/var/lib/dpkg" -W -f '${Version}\n' "$2" | sed -E 's/^[0-9]+:|^0[.]0~//; s/~rc/-rc/; s/[+~].*//; s/-[0-9].*//'
}

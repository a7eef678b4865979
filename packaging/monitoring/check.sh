#!/bin/sh
# For node-problem-detector's custom plugin: prints one line, and ends with 0 (well), 1 (a failure) or 2 (unknown).
#   NVOCI        the program (default /usr/bin/nvoci; /opt/nvoci/bin/nvoci with the chart)
#   NVOCI_HOST   where the node's root is mounted in the detector's container; empty on the node itself
nvoci=${NVOCI:-/usr/bin/nvoci}
run() { if [ -n "${NVOCI_HOST:-}" ]; then chroot "$NVOCI_HOST" "$nvoci" "$@"; else "$nvoci" "$@"; fi; }
report=$(run doctor host 2>/dev/null </dev/null)
case $? in
  0 | 1) echo 'nvoci doctor finds no failure'; exit 0 ;;
  2) ;;
  *) echo "$nvoci doctor host does not run on this node"; exit 2 ;;
esac
line=$(printf '%s\n' "$report" | grep -m 1 '^fail ' | tr -d '\000-\037\177' | cut -c 1-500)
echo "${line:-nvoci doctor finds a failure}"
exit 1

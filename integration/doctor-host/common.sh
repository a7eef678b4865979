# shellcheck shell=bash
# Helpers that compare the doctor's output with the expected findings. Sourced inside a simulated
# host after lib.sh.

# doctor NAME ARGUMENT...: its report in $CASE_DIR/NAME.out. The exit status must be that of the verdict.
doctor() {
  local name=$1 status=0 verdict
  shift
  run 20 "$name" nvoci doctor "$@" --json || status=$?
  verdict=$(jq -r .verdict "$CASE_DIR/$name.out" 2>/dev/null) || verdict=none
  case $status:$verdict in
    0:ok | 1:warn | 2:fail) ;;
    *) fail "doctor $*: exit $status with the verdict $verdict: $(tail -n 2 "$CASE_DIR/$name.err" | tr '\n' ' ')" ;;
  esac
}

# worst NAME CODE: the worst severity of a check, - if it has no finding.
worst() {
  jq -r --arg code "NVOCI-$2" '[.findings[] | select(.code == $code).severity] |
    if index("fail") then "fail" elif index("warn") then "warn" elif index("info") then "info" elif index("ok") then "ok" else "-" end' "$CASE_DIR/$1.out"
}

# says NAME CODE SEVERITY [WORDS]: the check has that severity, and its finding has the words.
says() {
  local got
  got=$(worst "$1" "$2")
  [ "$got" = "$3" ] || fail "$1: check $2 says $got instead of $3: $(jq -c --arg code "NVOCI-$2" '[.findings[] | select(.code == $code) | .cause]' "$CASE_DIR/$1.out" | cut -c1-300)"
  [ -z "${4:-}" ] || jq -e --arg code "NVOCI-$2" --arg words "$4" 'any(.findings[]; .code == $code and (tostring | contains($words)))' "$CASE_DIR/$1.out" >/dev/null ||
    fail "$1: check $2 does not say '$4'"
}

# on_the_cpu RUN-OPTION...: a container whose PyTorch has no GPU code, and where a person sees that.
on_the_cpu() {
  mkdir -p /scratch/torch
  printf "__version__ = '2.0.1'\ncuda = None\n" >/scratch/torch/version.py
  if must 60 start "${ENGINE[@]}" run -d --name probe --network=none -v /scratch/torch:/opt/conda/lib/python3.10/site-packages/torch \
    -e NVOCI_WARN_STDERR=true "$@" "$(image slim)" /usr/bin/probe --hold 300; then
    must 20 logs "${ENGINE[@]}" logs probe || true
    [ "$(cat "$CASE_DIR"/logs.{out,err} | grep -c '^nvoci: warning: .*\[NVOCI-7702\]')" = 1 ] || fail "not one line in its log: $(cat "$CASE_DIR"/logs.{out,err} | head -c 300)"
    must 20 last nvoci doctor --last || true
    grep -q 'started with a warning' "$CASE_DIR/last.out" || fail "doctor --last: $(head -c 300 "$CASE_DIR/last.out")"
    must 20 ps nvoci ps || true
    grep -q 'CPU only: NVOCI-7702' "$CASE_DIR/ps.out" || fail "ps: $(head -c 300 "$CASE_DIR/ps.out")"
    [ "$(stat -c '%u %a' "/run/nvoci/warnings/$("${ENGINE[@]}" inspect -f '{{.Id}}' probe </dev/null)"-*.json)" = '0 600' ] || fail 'no file of its id'
  fi
  remove probe
}

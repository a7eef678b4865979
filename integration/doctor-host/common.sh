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

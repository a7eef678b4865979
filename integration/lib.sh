# shellcheck shell=bash
# The harness: cases, their verdicts, one closing line. Sourced by every suite, on the machine and inside a simulated host.
#
#   case_begin NAME; ... fail MESSAGE ...; ok        a case passes when `ok` is reached and nothing called `fail`
#   skip REASON                                      ends a case; under CI a skip is a failure
#   run SECONDS NAME COMMAND...                      under a time limit, output to files ($CASE_DIR/NAME.out, .err)
#
# Every command of a suite goes through `run`: never a pipe (a runtime's container keeps the writing end open, and the
# reader waits for ever), never our standard input.

NVOCI_RESULTS=${NVOCI_RESULTS:-$(mktemp -d /tmp/nvoci-results.XXXXXX)}
export NVOCI_RESULTS
mkdir -p "$NVOCI_RESULTS/logs"
CASE='' CASE_DIR='' CASE_FAULTS=() CASE_START=0

now_ms() { local t=${EPOCHREALTIME/[.,]/}; echo "${t%???}"; }

case_begin() {
  [ -z "$CASE" ] || { fail "ended without a verdict"; ok; }
  CASE=$1 CASE_FAULTS=() CASE_START=$(now_ms)
  CASE_DIR=$NVOCI_RESULTS/logs/${CASE//[ \/]/_}
  rm -rf "$CASE_DIR"
  mkdir -p "$CASE_DIR"
}

fail() { CASE_FAULTS+=("$*"); }

# verdict pass|fail|skip MESSAGE
verdict() {
  local ms=$(($(now_ms) - CASE_START))
  printf '%s\t%s\t%s\t%s\n' "$1" "$CASE" "$ms" "${2//[$'\t\n']/ }" >>"$NVOCI_RESULTS/cases.tsv"
  case $1 in
    pass) [ -n "${QUIET:-}" ] || printf 'ok    %s (%d ms)\n' "$CASE" "$ms" ;;
    fail) printf 'FAIL  %s: %s\n      see %s\n' "$CASE" "${2:0:500}" "$CASE_DIR" ;;
    skip) printf 'skip  %s: %s\n' "$CASE" "$2" ;;
  esac
  CASE=''
}

ok() {
  local fault all=''
  for fault in "${CASE_FAULTS[@]}"; do all+="${all:+; }$fault"; done
  if [ -n "$all" ]; then verdict fail "$all"; else verdict pass ''; fi
}

skip() { if [ -n "${CI:-}" ]; then fail "skipped: $*"; ok; else verdict skip "$*"; fi; }

# run SECONDS NAME COMMAND...: its exit status (124 or 137 when it took too long); NAME names the files.
run() {
  local limit=$1 name=$2 status=0
  shift 2
  printf '%q ' "$@" >"$CASE_DIR/$name.cmd"
  timeout -k 2 "$limit" "$@" >"$CASE_DIR/$name.out" 2>"$CASE_DIR/$name.err" </dev/null || status=$?
  return $status
}

# must SECONDS NAME COMMAND...: run, and fail the case with the last words of the command if it does.
must() {
  local status=0
  run "$@" || status=$?
  [ $status = 0 ] || fail "$2: exit $status: $(tail -qn 2 "$CASE_DIR/$2.err" "$CASE_DIR/$2.out" | tr '\n' ' ' | cut -c1-400)"
  return $status
}

# has FILE LINE-REGEXP WHAT: one line of FILE must match as a whole.
has() {
  grep -qxE -- "$2" "$1" || fail "$3: wanted '${2:0:60}', got '$(grep -E -- "^${2%% *} ${4:-}" "$1" | head -n 3 | cut -c1-120 | tr "\n" "|")'"
}

# The mount table without ids, which differ each time, and without the mount of Podman's storage
# onto itself, which Podman makes and removes at any time. Mounts below it count.
mount_table() {
  sed -E 's/^[0-9]+ [0-9]+ [0-9]+:[0-9]+ //; s/ (shared|master|propagate_from):[0-9]+//g; / \/var\/lib\/containers\/storage\/overlay /d' /proc/self/mountinfo | sort
}

# same_mounts BEFORE-FILE: fails if the mount table has changed.
same_mounts() {
  mount_table >"$CASE_DIR/mounts.after"
  cmp -s "$1" "$CASE_DIR/mounts.after" || fail "mounts left behind: $(diff "$1" "$CASE_DIR/mounts.after" | grep '^[<>]' | head -n 5 | tr '\n' '|')"
}

count() { [ -e "$NVOCI_RESULTS/cases.tsv" ] || { echo 0; return; }; grep -c "^$1"$'\t' "$NVOCI_RESULTS/cases.tsv" || true; }

# progress NAME BEFORE EXPECTED: shows on a terminal how many cases of a host have ended, until it is killed.
progress() {
  while sleep 1; do printf '\r%s: %d of %d cases ' "$1" $(($(count '.*') - $2)) "$3" >&2; done
}

# host_suite NAME EXPECTED SIMHOST-OPTION... -- SCRIPT ARGUMENT...: runs a suite's script on a
# simulated host. EXPECTED is the number of cases that it must end. So a host that could not be
# entered, or a script that stopped half-way, is no success.
host_suite() {
  local name=$1 expected=$2 log=$NVOCI_RESULTS/logs/$1.out before ran shower=''
  shift 2
  before=$(count '.*')
  if [ -t 2 ]; then
    progress "$name" "$before" "$expected" &
    shower=$!
  fi
  timeout -s KILL "${HOST_LIMIT:-180}" bash "$(dirname "${BASH_SOURCE[0]}")/world/simhost.sh" --results "$NVOCI_RESULTS" "$@" >"$log" 2>&1 </dev/null || true
  if [ -n "$shower" ]; then
    kill "$shower" 2>/dev/null || true
    wait "$shower" 2>/dev/null || true
    printf '\r\e[K' >&2
  fi
  grep -E '^(ok|FAIL|skip) |^      see' "$log" | sed "s#see /results#see $NVOCI_RESULTS#" || true
  ran=$(($(count '.*') - before))
  [ $ran != "$expected" ] || return 0
  case_begin "$name"
  fail "$ran of $expected cases ran: $(tail -n 3 "$log" | tr '\n' ' ')"
  ok
}

# summary: the closing line; false if anything failed or nothing ran.
summary() {
  [ -z "$CASE" ] || { fail "ended without a verdict"; ok; }
  local passed failed skipped
  passed=$(count pass) failed=$(count fail) skipped=$(count skip)
  if [ "$failed" != 0 ]; then
    echo 'Failed:'
    awk -F'\t' '$1 == "fail" { print "  " $2 ": " substr($4, 1, 200) }' "$NVOCI_RESULTS/cases.tsv"
  fi
  printf '%d passed, %d failed, %d skipped\n' "$passed" "$failed" "$skipped"
  [ "$failed" = 0 ] && [ $((passed + skipped)) != 0 ]
}

# suite_end: how every suite ends. integration/run starts several, and closes for all of them.
suite_end() { [ -n "${NVOCI_NESTED:-}" ] || summary; }

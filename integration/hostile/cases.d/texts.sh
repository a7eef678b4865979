# shellcheck shell=bash disable=SC2034,SC2154
# The attacker may have a container made, and writes its config.json, of any size.

huge() { local item=$1; direct; ITEM=$item; trick() { perl -0pi -e 's/^\s*\{/"{\"x\":[" . $ENV{ITEM} x (60_000_000 \/ length $ENV{ITEM}) . "0],"/e' "$BUNDLE/config.json"; }; export ITEM; BITE=''; }
t_79_numbers() { huge '0,'; EXPECT=refused; }
t_79_lists() { huge '[],'; EXPECT=refused; }
t_79_objects() { huge '{"":[{}]},'; EXPECT=refused; }
t_79_texts() { huge '"",'; EXPECT=refused; }
t_79_no_request() { huge '[],'; ENVS=(A=b); EXPECT=any; check() { ! grep -q NVOCI-1107 "$CASE_DIR/said" || fail 'a definition that asks for nothing is refused for its size'; }; }

# shellcheck shell=bash disable=SC2034,SC2154
# Who made the image writes ld.so.conf; who may have a container made writes config.json, of any size.

globs() { local lines=$1; GLOBS=$lines; trick() { mkdir -p "$R/d"; (cd "$R/d" && perl -e 'print "a" x 240, $_, "\n" for 1 .. 2000' | xargs touch); perl -e "$GLOBS" >"$R/etc/ld.so.conf"; }; EXPECT=gpu BITE='' LIMIT=4000; }
t_78_brackets() { globs 'print "include /d/*", "[" x 30000, "\n"'; }
t_78_many() { globs 'print "include ", ("/d/*" . "*[" x 100 . " ") x 200, "\n"'; }
t_78_stars() { globs 'print "include ", ("/d/*" . "*a" x 150 . "b ") x 150, "\n"'; }
t_78_sets() { globs 'print "include /d/*", "[!b]*" x 700, "b\n"'; }
t_78_plain() { trick() { perl -e 'print "include ", "a " x 30000, "\n" for 1' >"$R/etc/ld.so.conf.d/0.conf"; for i in {1..200}; do cp "$R/etc/ld.so.conf.d/0.conf" "$R/etc/ld.so.conf.d/$i.conf"; done; echo 'include ld.so.conf.d/*.conf' >"$R/etc/ld.so.conf"; }; EXPECT=gpu BITE='' LIMIT=6000; }

huge() { local item=$1; direct; ITEM=$item; trick() { perl -0pi -e 's/^\s*\{/"{\"x\":[" . $ENV{ITEM} x (60_000_000 \/ length $ENV{ITEM}) . "0],"/e' "$BUNDLE/config.json"; }; export ITEM; BITE=''; }
t_79_numbers() { huge '0,'; EXPECT=refused; }
t_79_lists() { huge '[],'; EXPECT=refused; }
t_79_objects() { huge '{"":[{}]},'; EXPECT=refused; }
t_79_texts() { huge '"",'; EXPECT=refused; }
t_79_no_request() { huge '[],'; ENVS=(A=b); EXPECT=any; check() { ! grep -q NVOCI-1107 "$CASE_DIR/said" || fail 'a definition that asks for nothing is refused for its size'; }; }

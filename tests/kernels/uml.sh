#!/bin/busybox sh
# The first process of user-mode Linux, a kernel without CONFIG_CHECKPOINT_RESTORE. On it, pause cannot give its
# memory back, but has to do everything else. This script reports to the console like init.sh.

export PATH=/bin
/bin/busybox --install -s /bin
mount -t proc proc /proc
. /functions.sh

echo "value kernel $(uname -r)"
check "it answers" "$(/pause -v)" "$version"

start_pause "asleep"
check "it keeps its start stack" "$(yes_if grep -q '\[stack\]$' "/proc/$pause/maps")" yes
echo "value Anonymous $(status RssAnon)"
check_reaping "asleep" $few_orphans
make_orphans "asleep" traced $few_orphans
check "asleep: traced orphans leave no zombie" "$(yes_if wait_until is_childless)" yes
check "it holds after traced orphans" "$(yes_if wait_until holds)" yes
kill -TERM $pause
end SIGTERM "$farewell_term"

echo "done $checks"
poweroff -f

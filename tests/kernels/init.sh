#!/bin/busybox sh
# The first process of the virtual machine that tests/kernels/main.rs boots: it starts pause as
# PID 1 of new namespaces, looks at it, and at last becomes pause itself.
#
# What it finds is written to the console, a line each:
#
#     ok NAME            a check that held
#     not ok NAME: WHY   one that did not
#     value NAME VALUE   something measured, for the test to judge
#     done NUMBER        the end, and how many checks there were
#
# Nobody sleeps here for a given time. But a shell has nothing else than /proc to see what another
# process does, so it looks there again and again, for half a minute at most.

export PATH=/bin
/bin/busybox mkdir -p /dev /proc /cgroup
/bin/busybox --install -s /bin
mount -t devtmpfs devtmpfs /dev
mount -t proc proc /proc
mount -t cgroup2 cgroup2 /cgroup

# What the kernel does not know of its command line, it hands over as environment.
version="pause $podpause_version"
farewell_term="pause: SIGTERM 15"
farewell_int="pause: SIGINT   2"
# pause waits for each signal that it blocks, and those that it waits for are blocked before and after,
# but not meanwhile.
blocked_in_wait=0000000000000000
# An emulated processor takes some 15 ms for each.
orphans=1000
few_orphans=200

checks=0

# check NAME FOUND EXPECTED
check() {
    checks=$((checks + 1))
    if [ "$2" = "$3" ]; then
        echo "ok $1"
    else
        echo "not ok $1: '$2' instead of '$3'"
    fi
}

# The seconds since the kernel started.
uptime() { cut -d . -f 1 /proc/uptime; }

# wait_until COMMAND...: fails if that does not succeed within half a minute.
wait_until() {
    deadline=$(($(uptime) + 30))
    until "$@"; do
        [ $(uptime) -lt $deadline ] || return 1
        usleep 10000
    done
}

# yes_if COMMAND...: says yes or no, for `check`.
yes_if() {
    if "$@"; then echo yes; else echo no; fi
}

# status FIELD: from /proc/PID/status of $pause, without the unit.
status() {
    sed -n "s/^$1:[[:space:]]*\([^[:space:]]*\).*/\1/p" "/proc/$pause/status"
}

is_in_state() { [ "$(status State)" = "$1" ]; }

# How often the kernel switched to $pause and away from it, of its own accord or not.
switches() { echo $(sed -n 's/^.*voluntary_ctxt_switches:[[:space:]]*//p' "/proc/$pause/status"); }

children() { echo $(cat "/proc/$1/task/$1/children"); }

# Whether $runtime has a child, which then is $pause.
has_pause() { pause=$(children $runtime) && [ -n "$pause" ]; }

# Whether $pause sleeps and waits for its signals.
holds() { is_in_state S && [ "$(status SigBlk)" = $blocked_in_wait ]; }

# start COMMAND...: as PID 1 of new namespaces, of which nobody has a mount outside. Its messages
# are in /messages. A descriptor is leaked to it. $runtime waits for it, and ends with its status.
start() {
    unshare -m -u -i -n -p -f "$@" 9</dev/null 2>/messages &
    runtime=$!
    wait_until has_pause
}

start_pause() {
    start /pause
    check "$1: it holds" "$(yes_if wait_until holds)" yes
    check "$1: it has closed what was leaked" "$(echo $(ls /proc/$pause/fd))" "0 1 2"
}

# end SIGNAL FAREWELL: pause ends, after that signal was sent, and says so.
end() {
    wait $runtime 2>/dev/null
    check "$1 ends it" "$? $(cat /messages)" "0 $2"
}

# make_orphans NUMBER: in the PID namespace of $pause. Each has a parent of its own, who ends without
# a look at it.
make_orphans() {
    nsenter -t $pause -p sh -c '
        orphans=$0
        while [ $orphans -gt 0 ]; do
            (: &)
            orphans=$((orphans - 1))
        done
    ' $1
}

is_childless() { [ -z "$(children $pause)" ]; }

# check_reaping WHEN NUMBER: nobody is left, and pause was not woken for it.
check_reaping() {
    before=$(switches)
    make_orphans $2
    check "$1: $2 orphans leave no zombie" "$(yes_if wait_until is_childless)" yes
    check "$1: $2 orphans cost no context switch" "$(switches)" "$before"
}

# Where the start stack of $pause ended, or rather where the path of the program is, in its last
# page. That is AT_EXECFN (31) of the auxiliary vector, whose words are as wide as the program's.
path_address() {
    # EI_CLASS: 1 is 32 bits, 2 is 64 bits.
    word=$((4 * $(od -A n -t u1 -j 4 -N 1 /pause)))
    od -A n -v -t x$word -w$((2 * word)) "/proc/$pause/auxv" | while read -r key value; do
        [ $((0x$key)) -ne 31 ] || echo "$value"
    done
}

# check_memory WHO: two mappings of a page each, and nothing else but what the kernel has above the
# start stack. What that is, and how much all of it takes, is for the test to judge.
check_memory() {
    page_kb=$(sed -n 's/^KernelPageSize: *\([0-9]*\) kB/\1/p' "/proc/$pause/smaps" | head -n 1)
    # Without the last three digits, these are numbers: the topmost addresses would be negative.
    path=$(path_address)
    path=$((0x${path%???}))
    line=0 above=
    while read -r range permissions offset device inode name; do
        line=$((line + 1)) start=${range%-*} end=${range#*-}
        start=$((0x${start%???})) end=$((0x${end%???}))
        what="$permissions $((4 * (end - start))) $name"
        case $line in
            1) check "$1: the first mapping is the text" "$what" "r-xp $page_kb /pause" ;;
            2)
                # Its name differs with the kernel's version: the stack and the heap are in it.
                what=${what%'[heap]'} what=${what%'[stack]'}
                check "$1: the second is the private page" "$what" "rw-p $page_kb "
                ;;
            *)
                check "$1: $name is above the start stack" "$(yes_if [ $start -gt $path ])" yes
                above="$above$name"
                ;;
        esac
    done <"/proc/$pause/maps"
    echo "value page_kb $page_kb"
    echo "value mappings_above ${above:-none}"
    for field in VmRSS RssAnon RssFile VmPTE; do
        echo "value $field $(status $field)"
    done
    # The sums in `status` may lag, these are of the page tables themselves.
    for field in Rss Anonymous; do
        echo "value $field $(sed -n "s/^$field: *\([0-9]*\) kB/\1/p" "/proc/$pause/smaps_rollup")"
    done
}

check_names() {
    check "$1: its name" "$(tr '\0' '|' <"/proc/$pause/cmdline")" "/pause|"
    check "$1: its thread's name" "$(cat "/proc/$pause/comm")" pause
}

echo "value kernel $(uname -r)"
echo "value machine $(uname -m)"

for argument in -v -V --version; do
    said=$(/pause $argument)
    check "it answers $argument" "$? $said" "0 $version"
    said=$(unshare -p -f /pause $argument)
    check "it answers $argument as PID 1" "$? $said" "0 $version"
done

start_pause "from outside"
check_names "in namespaces"
check_memory "in namespaces"
check_reaping "asleep" $orphans
check "it sleeps on" "$(status State)" S
kill -TERM $pause
end SIGTERM "$farewell_term"

start_pause "from inside"
kill -STOP $pause
check "it stops" "$(yes_if wait_until is_in_state T)" yes
check_reaping "stopped" $few_orphans
check "it is still stopped" "$(status State)" T
kill -CONT $pause
check "it holds again after the stop" "$(yes_if wait_until holds)" yes
# It has a handler for no signal, so these are nothing to a PID 1.
nsenter -t $pause -p sh -c 'for signal in HUP USR1 ABRT STOP KILL; do kill -$signal 1; done'
check "it holds after other signals" "$(yes_if wait_until holds)" yes
# Who sends it is in the namespace, and so is killed with all that is there. The shell says so.
nsenter -t $pause -p sh -c 'kill -INT 1'
end SIGINT "$farewell_int"

start_pause "in a cgroup"
mkdir /cgroup/pod
echo $pause >/cgroup/pod/cgroup.procs
is_frozen() { grep -q '^frozen 1$' /cgroup/pod/cgroup.events; }
echo 1 >/cgroup/pod/cgroup.freeze
check "it freezes" "$(yes_if wait_until is_frozen)" yes
check_reaping "frozen" $few_orphans
check "it is still frozen" "$(yes_if is_frozen)" yes
# The signal comes before the thaw: it is neither lost nor late.
kill -TERM $pause
echo 0 >/cgroup/pod/cgroup.freeze
end "SIGTERM while frozen" "$farewell_term"
rmdir /cgroup/pod

# A PID 1 that reaps nobody: this shows that so many orphans are made, and that the checks above can
# fail.
start sleep 1000000
make_orphans $few_orphans
all_are_zombies() { [ $(children $pause | wc -w) -eq $few_orphans ]; }
check "$few_orphans orphans of a sleeper are zombies" "$(yes_if wait_until all_are_zombies)" yes
kill -KILL $pause
wait $runtime

# From here on this process is pause, and what follows is done by its child.
{
    pause=1
    is_pause() { [ "$(cat /proc/1/comm)" = pause ]; }
    check "as init: it is pause" "$(yes_if wait_until is_pause)" yes
    check "as init: it holds" "$(yes_if wait_until holds)" yes
    check_names "as init"
    check_memory "as init"
    before=$(switches)
    for orphan in 1 2 3 4 5 6 7 8 9 10; do
        (: &)
    done
    has_only_this() { [ $(children 1 | wc -w) -eq 1 ]; }
    check "as init: orphans leave no zombie" "$(yes_if wait_until has_only_this)" yes
    check "as init: orphans cost no context switch" "$(switches)" "$before"
    echo "done $checks"
    # Where init ends, Linux panics, and says with which status it did.
    kill -TERM 1
} &
exec /pause 9</dev/null

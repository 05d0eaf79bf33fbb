#!/bin/busybox sh
# The first process of the virtual machine that tests/kernels/main.rs boots. It starts pause as PID 1 of new
# namespaces, checks it, and finally executes pause itself.
#
# It reports to the console, one line each:
#
#     ok NAME            a check that passed
#     not ok NAME: WHY   a check that failed
#     value NAME VALUE   a measurement, which main.rs evaluates
#     done NUMBER        the end, with the number of checks
#
# Nothing here sleeps for a fixed time. A shell can see the state of another process only in /proc, so it polls there
# for at most a minute.
#
# /load (load.rs) makes the orphans. Its arguments are words without a dash, because some versions of busybox's nsenter
# mistake the options of the program that they start for their own. The scripts check how many orphans were made.

export PATH=/bin
/bin/busybox mkdir -p /dev /proc /cgroup /tracing
/bin/busybox --install -s /bin
mount -t devtmpfs devtmpfs /dev
mount -t proc proc /proc
mount -t cgroup2 cgroup2 /cgroup

. /functions.sh

# Prints the address of the program's path, which was in the last page of the start stack of $pause. The address is
# AT_EXECFN (31) in the auxiliary vector. Words of this vector are as wide as words of the program.
path_address() {
    od -A n -v -t x$word -w$((2 * word)) "/proc/$pause/auxv" | while read -r key value; do
        [ $((0x$key)) -ne 31 ] || echo "$value"
    done
}

# check_memory LABEL: checks that $pause has two mappings of a page each, and otherwise only mappings above the start
# stack. main.rs checks which mappings are above it, and how much memory all mappings take.
check_memory() {
    page_kb=$(sed -n 's/^KernelPageSize: *\([0-9]*\) kB/\1/p' "/proc/$pause/smaps" | head -n 1)
    # Drops the last three hexadecimal digits of addresses: as shell numbers, the highest addresses would be negative.
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
                # pause tells the kernel that this page is its stack.
                check "$1: the second is the private page" "$what" "rw-p $page_kb [stack]"
                ;;
            *)
                check "$1: $name is above the start stack" "$(yes_if [ $start -gt $path ])" yes
                above="$above$name"
                ;;
        esac
    done <"/proc/$pause/maps"
    echo "value page_kb $page_kb"
    echo "value above ${above:-none}"
    for field in VmRSS RssAnon RssFile VmPTE; do
        echo "value $field $(status $field)"
    done
    # The numbers in `status` may lag behind. For `smaps_rollup`, the kernel counts the pages in the page tables.
    for field in Rss Anonymous; do
        echo "value $field $(sed -n "s/^$field: *\([0-9]*\) kB/\1/p" "/proc/$pause/smaps_rollup")"
    done
}

check_names() {
    check "$1: its name" "$(tr '\0' '|' <"/proc/$pause/cmdline")" "/pause|"
    check "$1: its thread's name" "$(cat "/proc/$pause/comm")" pause
}

# entry_point FILE: prints the file offset of the program's first instruction. /pause and /load are both mapped at
# 4 MiB, from their first byte on.
entry_point() {
    echo $((0x$(echo $(od -A n -t x$word -j 24 -N $word "$1")) - 0x400000))
}

# set_probe NAME FILE OFFSET: sets a probe on the instruction at that offset, in every process that maps the file.
set_probe() {
    printf 'p:uprobes/%s %s:0x%x\n' $1 $2 $3 >>/tracing/uprobe_events &&
        echo 1 >/tracing/events/uprobes/$1/enable
}

# hits NAME: prints how often the probe was hit.
hits() { awk -v name=$1 '$2 == name { print $3 }' /tracing/uprobe_profile; }
was_hit() { [ "$(hits $1)" -gt 0 ]; }

# set_probe_on_wake NAME FILE: sets a probe on the instruction at which $pause continues when its wait is interrupted.
set_probe_on_wake() {
    set_probe $1 $2 $((0x$(sed 's/.* 0x//' "/proc/$pause/syscall") - 0x400000))
}

remove_probes() {
    for name in "$@"; do
        echo 0 >/tracing/events/uprobes/$name/enable
    done
    echo >/tracing/uprobe_events
}

# Prints the address of the mapping [uprobes] in $pause, if it has one.
probes_mapping() { awk '$6 == "[uprobes]" { sub(/-.*/, "", $1); print $1 }' "/proc/$pause/maps"; }

# The control: whether a program that keeps [uprobes] survives a probe. Instead of [uprobes], it unmaps an unused page.
survives_probe() {
    start /load unmap 10000000
    check "a program with a probe waits" "$(yes_if wait_until is_in_state S)" yes
    set_probe_on_wake control /load
    kill -STOP $pause
    wait_until is_in_state T
    kill -CONT $pause
    check "the probe of that program is hit" "$(yes_if wait_until was_hit control)" yes
    kill -TERM $pause
    wait $runtime 2>/dev/null
    survived=$?
    remove_probes control
    [ $survived -eq 0 ]
}

# Checks that pause survives two probes: one is set before pause gives its memory back, and the other after that.
check_probes() {
    survives_probe || {
        echo "value probes broken"
        return
    }
    set_probe early /pause $(entry_point /pause)
    check "a probe on its first instruction is set" $? 0
    start_pause "probed"
    check "probed: its first instruction was hit" "$(hits early)" 1
    mapping=$(probes_mapping)
    if [ -n "$mapping" ]; then echo "value probes mapped"; else echo "value probes emulated"; fi
    set_probe_on_wake late /pause
    check "probed: a probe on where it wakes is set" $? 0
    kill -STOP $pause
    check "probed: it stops" "$(yes_if wait_until is_in_state T)" yes
    kill -CONT $pause
    check "probed: the second probe is hit" "$(yes_if wait_until was_hit late)" yes
    check "probed: it holds again" "$(yes_if wait_until holds)" yes
    check "probed: the mapping is the same" "$(probes_mapping)" "$mapping"
    check_reaping "probed" $few_orphans
    kill -TERM $pause
    end "probed: SIGTERM" "$farewell_term"
    remove_probes early late

    [ -n "$mapping" ] || return
    # The negative control: a program that unmaps [uprobes] does not survive a probe.
    set_probe early /load $(entry_point /load)
    start /load unmap $mapping
    check "a program that unmaps [uprobes] waits" "$(yes_if wait_until is_in_state S)" yes
    check "a program that unmaps [uprobes] has no such mapping" "$(probes_mapping)" ""
    set_probe_on_wake late /load
    kill -STOP $pause
    wait_until is_in_state T
    kill -CONT $pause
    wait $runtime
    status=$?
    check "a program that unmaps [uprobes] is killed by the next probe" "$(yes_if [ $status -gt 128 ])" yes
    remove_probes early late
}

# Checks pause without the system calls with 32-bit times, and without those with 64-bit times: a 32-bit kernel may
# lack either.
check_times() {
    for missing in time32 time64; do
        start_pause "without $missing" /load without $missing /pause
        kill -STOP $pause
        wait_until is_in_state T
        kill -CONT $pause
        check "without $missing: it holds after a stop" "$(yes_if wait_until holds)" yes
        check_reaping "without $missing" $few_orphans
        kill -TERM $pause
        end "without $missing: SIGTERM" "$farewell_term"
    done
    # The negative control of the filters: with neither kind of call, pause cannot wait.
    unshare -p -f /load without both /pause 2>/messages
    check "without both, it ends with status 3" "$?" 3
}

# The width of a word of the program, in bytes. In the ELF header, EI_CLASS 1 means 32 bits, and 2 means 64 bits.
word=$((4 * $(od -A n -t u1 -j 4 -N 1 /pause)))

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
make_orphans "asleep" traced $few_orphans
check "asleep: traced orphans leave no zombie" "$(yes_if wait_until is_childless)" yes
check "it holds after traced orphans" "$(yes_if wait_until holds)" yes
check_reaping "after traced orphans" $few_orphans
kill -TERM $pause
end SIGTERM "$farewell_term"

start_pause "from inside"
kill -STOP $pause
check "it stops" "$(yes_if wait_until is_in_state T)" yes
check_reaping "stopped" $few_orphans
make_orphans "stopped" traced $few_orphans
check "stopped: traced orphans wait for it" "$(yes_if wait_until has_children $few_orphans)" yes
check "it is still stopped" "$(status State)" T
kill -CONT $pause
check "it holds again after the stop" "$(yes_if wait_until holds)" yes
check "after the stop: traced orphans leave no zombie" "$(yes_if wait_until is_childless)" yes
# pause has no handlers, so these signals from its own namespace do nothing to it as PID 1.
nsenter -t $pause -p -- sh -c 'for signal in HUP USR1 ABRT STOP KILL; do kill -$signal 1; done'
check "other signals are sent" $? 0
check "it holds after other signals" "$(yes_if wait_until holds)" yes
# The sender is in the namespace, so it is killed with everything there. This shell reports that on the console.
nsenter -t $pause -p -- sh -c 'kill -INT 1'
end SIGINT "$farewell_int"

start_pause "in a cgroup"
mkdir /cgroup/pod
echo $pause >/cgroup/pod/cgroup.procs
is_frozen() { grep -q '^frozen 1$' /cgroup/pod/cgroup.events; }
echo 1 >/cgroup/pod/cgroup.freeze
check "it freezes" "$(yes_if wait_until is_frozen)" yes
check_reaping "frozen" $few_orphans
make_orphans "frozen" traced $few_orphans
check "frozen: traced orphans wait for it" "$(yes_if wait_until has_children $few_orphans)" yes
check "it is still frozen" "$(yes_if is_frozen)" yes
echo 0 >/cgroup/pod/cgroup.freeze
check "thawed: traced orphans leave no zombie" "$(yes_if wait_until is_childless)" yes
echo 1 >/cgroup/pod/cgroup.freeze
check "it freezes again" "$(yes_if wait_until is_frozen)" yes
# A signal that is sent while pause is frozen must take effect after the thaw.
kill -TERM $pause
echo 0 >/cgroup/pod/cgroup.freeze
end "SIGTERM while frozen" "$farewell_term"
rmdir /cgroup/pod

# The negative control: a PID 1 that never reaps. Every orphan stays a zombie, so the checks above can fail.
start sleep 1000000
made=0
for kind in dead living traced; do
    made=$((made + few_orphans))
    make_orphans "a sleeper" $kind $few_orphans
    check "$kind orphans of a sleeper are zombies" "$(yes_if wait_until has_children $made)" yes
done
kill -KILL $pause
wait $runtime

[ $word -eq 8 ] || check_times

if mount -t tracefs tracefs /tracing && [ -e /tracing/uprobe_events ]; then
    check_probes
else
    echo "value probes none"
fi

# Finally, this process executes pause, and its child does the checks.
{
    pause=1
    is_pause() { [ "$(cat /proc/1/comm)" = pause ]; }
    check "as init: it is pause" "$(yes_if wait_until is_pause)" yes
    check "as init: it holds" "$(yes_if wait_until holds)" yes
    check_names "as init"
    check_memory "as init"
    # This shell is a child of pause, too, so pause always has one child.
    before=$(switches)
    for kind in dead living; do
        check "as init: $kind orphans are made" "$(/load $kind $few_orphans | wc -c)" $few_orphans
        check "as init: $kind orphans leave no zombie" "$(yes_if wait_until has_children 1)" yes
    done
    check "as init: orphans cost no context switch" "$(switches)" "$before"
    check "as init: traced orphans are made" "$(/load traced $few_orphans | wc -c)" $few_orphans
    check "as init: traced orphans leave no zombie" "$(yes_if wait_until has_children 1)" yes
    echo "done $checks"
    # When init ends, Linux panics, and prints init's exit status.
    kill -TERM 1
} &
exec /pause 9</dev/null

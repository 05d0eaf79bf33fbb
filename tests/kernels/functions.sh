# Functions of init.sh and uml.sh: checks, pause in namespaces, and orphans.

# The kernel passes unknown NAME=VALUE words of its command line to init as environment variables.
version="pause $podpause_version"
farewell_term="pause: SIGTERM 15"
farewell_int="pause: SIGINT   2"
# The number of orphans of each kind, and a smaller one for repetitions.
orphans=500
few_orphans=100

checks=0

# check NAME FOUND EXPECTED: reports whether the two values are equal.
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

# wait_until COMMAND...: fails if the command does not succeed within a minute.
wait_until() {
    deadline=$(($(uptime) + 60))
    until "$@"; do
        [ $(uptime) -lt $deadline ] || return 1
        usleep 10000
    done
}

# yes_if COMMAND...: prints yes or no, for `check`.
yes_if() {
    if "$@"; then echo yes; else echo no; fi
}

# status FIELD: prints the field of /proc/PID/status of $pause, without the unit.
status() {
    sed -n "s/^$1:[[:space:]]*\([^[:space:]]*\).*/\1/p" "/proc/$pause/status"
}

is_in_state() { [ "$(status State)" = "$1" ]; }

# The number of context switches of $pause, voluntary and involuntary.
switches() { echo $(sed -n 's/^.*voluntary_ctxt_switches:[[:space:]]*//p' "/proc/$pause/status"); }

children() { echo $(cat "/proc/$1/task/$1/children"); }

# Sets $pause to the PID of the child of $runtime. Fails if there is no child.
has_pause() { pause=$(children $runtime) && [ -n "$pause" ]; }

# Whether $pause sleeps and waits for its signals. pause ignores SIGCHLD (17) only after it has blocked its signals.
# While pause waits for these signals, the kernel shows them as not blocked.
holds() {
    is_in_state S && [ $((0x$(status SigIgn) >> 16 & 1)) -eq 1 ] && [ $((0x$(status SigBlk))) -eq 0 ]
}

# start COMMAND...: starts the command as PID 1 of new namespaces, with a leaked descriptor. Its messages go to
# /messages. Sets $pause to the PID of the command. Sets $runtime to the PID of its parent, which waits for the command
# and exits with its status.
start() {
    unshare -m -u -i -n -p -f "$@" 9</dev/null 2>/messages &
    runtime=$!
    wait_until has_pause
}

# start_pause LABEL [COMMAND...]: starts /pause, or a command that executes it. LABEL is the prefix of the checks.
start_pause() {
    label=$1
    shift
    start "${@:-/pause}"
    check "$label: it holds" "$(yes_if wait_until holds)" yes
    check "$label: it has closed what was leaked" "$(echo $(ls /proc/$pause/fd))" "0 1 2"
}

# end SIGNAL FAREWELL: checks how pause ended, after that signal was sent.
end() {
    wait $runtime 2>/dev/null
    check "$1 ends it" "$? $(cat /messages)" "0 $2"
}

# make_orphans WHEN KIND NUMBER: makes orphans in the PID namespace of $pause, and checks how many were made.
make_orphans() {
    check "$1: $3 $2 orphans are made" "$(nsenter -t $pause -p /load $2 $3 | wc -c)" $3
}

is_childless() { [ -z "$(children $pause)" ]; }

# Whether $pause has this many children.
has_children() { [ "$(children $pause | wc -w)" -eq $1 ]; }

# check_reaping WHEN NUMBER: checks that ordinary orphans leave no zombies, and do not wake pause up.
check_reaping() {
    before=$(switches)
    for kind in dead living; do
        make_orphans "$1" $kind $2
        check "$1: $2 $kind orphans leave no zombie" "$(yes_if wait_until is_childless)" yes
    done
    check "$1: twice $2 orphans cost no context switch" "$(switches)" "$before"
}

"""The contract: all that pause may do.

The contract is written from docs/behaviour.md and docs/design.md, not from the code. prove.py proves that the program keeps it
on every path: for every start stack, and for every result of every system call.

A *stage* is a point in the life of pause. Its function returns the system calls that are allowed there, with their
arguments. A call names the stage that follows it, or one stage for each kind of result. A result below zero is a
negated errno.
"""

import tomllib
from pathlib import Path

import z3
from contract import NULL, Call, Expected, otherwise, pointer_to, stage, word
from machine import PAGE, SHED, STACK_FLOOR, TEXT, Violation
from values import symbol


def package_version():
    """The version in Cargo.toml."""
    manifest = (Path(__file__).parents[2] / "Cargo.toml").read_bytes()
    return tomllib.loads(manifest.decode())["package"]["version"].encode()


#: What is proved. A violation names one of these.
PROPERTIES = {
    "calls": "It makes only the system calls of the contract.",
    "signals": (
        "Unless it answers, it first blocks the six signals that it waits for, then ignores SIGCHLD. If either fails, it "
        "exits."),
    "answers": "It answers the first argument that asks for the version or for help, and no other argument.",
    "not PID 1": (
        "If getpid does not return 1, and only then, it warns (unless an argument is `-P`), and asks the kernel to make it a "
        "child subreaper and to change its directory to `/`."),
    "name": (
        "It asks the kernel to name its thread `pause`. It copies its name, cut at 127 bytes. The memory map that it gives "
        "the kernel points to the copy, or has an empty name if there is no argument."),
    "messages": (
        "It writes each message at most once, only when what the message says has happened, and only after a ppoll with a "
        "zero timeout has reported an event on stderr."),
    "status": (
        "It ends only through `exit`, with each status only in the case that the contract gives for it. It executes its "
        "trap instruction only if `exit` fails."),
    "reaping": (
        "Before it waits for a signal, it calls wait4 until a call reaps no child. It skips wait4 only if the previous wait "
        "for a signal has failed: when it repeats that wait after EINTR and, on 32-bit platforms, when it falls back to "
        "the call with 32-bit times."),
    "memory": (
        "It unmaps only memory above the private page, and only after the kernel has accepted the new memory map."),
    "descriptors": (
        "Before it waits for a signal, it calls close_range for all descriptors above 2, as the last step. It skips this "
        "where it skips wait4."),
    "waiting": (
        "It waits for the six signals. SIGTERM, SIGINT and a failure other than EINTR end it (on 32-bit platforms, a failure "
        "of the call with 32-bit times). After another signal or EINTR, it waits again."),
    "reads": (
        "It reads only its text, its private page, the start stack, the strings there (and up to six bytes past the end "
        "of a string), and what it has written below the start stack."),
    "writes": (
        "It writes only to its private page and, while it runs on the start stack, to the 320 bytes below that. In the "
        "private page, data stays in the lower half and the stack in the upper half."),
    "released": "Once it has called munmap, it uses no memory above the private page.",
    "control flow": (
        "It executes only the instructions that static disassembly from its entry point finds, and each function returns "
        "to its caller."),
    "stack": "The stack pointer stays in the upper half of the private page, or within 320 bytes below the start stack.",
    "termination": (
        "Each iteration of an unbounded loop moves on along the start stack, reaps a child or waits for a signal."),
}

SIGINT, SIGPIPE, SIGTERM, SIGCHLD, SIGTTOU, SIGXFSZ = 2, 13, 15, 17, 22, 25
EINTR = 4
SIG_SETMASK, SIG_IGN = 2, 1
WNOHANG, WALL = 1, 0x40000000
POLLOUT = 4
PR_SET_NAME, PR_SET_MM, PR_SET_MM_MAP, PR_SET_CHILD_SUBREAPER = 15, 35, 14, 36
AT_EXECFN = 31
STDOUT, STDERR = 1, 2

#: The signals that pause blocks first, and waits for.
SIGNALS = [SIGINT, SIGTERM, SIGCHLD, SIGPIPE, SIGTTOU, SIGXFSZ]

VERSION_LINE = b"pause %s\n" % package_version()
ABOUT = VERSION_LINE + b"[-v | -h | -P]\n"
HELP, VERSION, SILENCE = [b"-h", b"--help"], [b"-v", b"-V", b"--version"], [b"-P"]
NOT_PID_1 = b"pause: not PID #1\n"
CANNOT_HOLD = b"pause: can't hold\n"
BY_SIGTERM = b"pause: SIGTERM 15\n"
BY_SIGINT = b"pause: SIGINT   2\n"
CANNOT_ANSWER, CANNOT_ARM, CANNOT_WAIT = 1, 2, 3

#: How many bytes of the name are copied at most, without the zero byte.
NAME_MAX = 127


def signal_set(pause, signals):
    return pointer_to(pause.number(sum(1 << signal - 1 for signal in signals), 8), f"the set of signals {signals}")


# Before the private page is touched.


@stage("answers")
def looks_at_arguments(pause):
    for answer, questions in ((ABOUT, HELP), (VERSION_LINE, VERSION)):
        if pause.argument_is(questions):
            length = len(answer)
            return [Call("write", STDOUT, pointer_to(answer, repr(answer)), word(length), then=[
                (lambda result: result == length, exits(0)),
                (otherwise, exits(CANNOT_ANSWER))])]
    return []


def passes_argument(pause):
    """Checks that pause may go on to the next argument without an answer to this one."""
    if pause.argument_may_be(HELP + VERSION):
        raise Violation("answers", "goes past an argument that may ask for an answer, and has not answered it")
    if pause.argument_is(SILENCE):
        pause.state.is_silent = True
    elif not pause.state.is_silent and pause.argument_may_be(SILENCE):
        raise Violation("not PID 1", "goes past an argument that may be -P, and has not found out whether it is")


def passes_all_arguments(pause):
    """Checks that pause has read all arguments. It is about to use the private page."""
    if pause.state.argument is None or not pause.state.must(pause.state.argument == 0):
        raise Violation("answers", "uses the private page before it has read all arguments")


# In the private page.


@stage("signals")
def begins(pause):
    return [Call("rt_sigprocmask", SIG_SETMASK, signal_set(pause, SIGNALS), NULL, word(8), requires=name_is_copied, then=[
        (lambda result: result == 0, has_blocked_signals()),
        (otherwise, ends(CANNOT_HOLD, CANNOT_ARM))])]


@stage("signals")
def has_blocked_signals(pause):
    action = pause.number(SIG_IGN, pause.word) + bytes(4 * pause.word)
    return [Call("rt_sigaction", SIGCHLD, pointer_to(action, "SIG_IGN"), NULL, word(8), then=[
        (lambda result: result == 0, is_armed()),
        (otherwise, ends(CANNOT_HOLD, CANNOT_ARM))])]


@stage("not PID 1")
def is_armed(pause):
    return [Call("getpid", then=[(lambda result: result == 1, names_thread()), (otherwise, is_not_pid_1())])]


@stage("not PID 1")
def is_not_pid_1(pause):
    return (adopts_orphans() if pause.state.is_silent else says(NOT_PID_1, adopts_orphans())).calls(pause)


@stage("not PID 1")
def adopts_orphans(pause):
    return [Call("prctl", PR_SET_CHILD_SUBREAPER, word(1), then=goes_to_root())]


@stage("not PID 1")
def goes_to_root(pause):
    return [Call("chdir", pointer_to(b"/\0", "/"), then=names_thread())]


@stage("name")
def names_thread(pause):
    return [Call("prctl", PR_SET_NAME, pointer_to(b"pause\0", "pause"), then=is_named())]


@stage("memory")
def is_named(pause):
    if not pause.state.abi.has_memory_end and has_no_path(pause):
        return reaps().calls(pause)
    if pause.word == 8:
        return [moves_name(memory_map(pause, 104), 104, reaps())]
    # A 32-bit kernel has a shorter struct, because the pointer to the auxiliary vector has four bytes. On Arm, the
    # struct ends with padding, because its size is a multiple of the alignment of the u64 fields.
    return [moves_name(memory_map(pause, 100), 104 if pause.name == "arm-v7" else 100, is_told_by_64_bit_kernel())]


@stage("memory")
def is_told_by_64_bit_kernel(pause):
    return [moves_name(memory_map(pause, 104), 104, reaps())]


def moves_name(map, size, if_refused):
    return Call("prctl", PR_SET_MM, word(PR_SET_MM_MAP), map, word(size), word(0), broken="name", then=[
        (lambda result: result == 0, gives_memory_back()),
        (otherwise, if_refused)])


@stage("memory")
def gives_memory_back(pause):
    return [Call("munmap", word(SHED), to_end_of_memory(), releases=True, then=reaps())]


@stage("reaping")
def reaps(pause):
    return [Call("wait4", -1, NULL, WNOHANG | WALL, NULL, then=[
        (lambda result: result > 0, reaps()),
        (otherwise, closes_descriptors())])]


@stage("descriptors")
def closes_descriptors(pause):
    return [Call("close_range", 3, 0x7FFFFFFF, 0, then=waits())]


@stage("waiting")
def waits(pause):
    if pause.word == 8:
        return [wait(pause, "rt_sigtimedwait")]
    return [wait(pause, "rt_sigtimedwait_time64", (is_refused, waits_by_older_call()))]


@stage("waiting")
def waits_by_older_call(pause):
    return [wait(pause, "rt_sigtimedwait")]


def is_refused(result):
    """A 32-bit program first makes the call that has 64-bit times. If this fails, but not with EINTR, it makes the older
    call."""
    return z3.And(result < 0, result != -EINTR)


def wait(pause, name, *if_refused):
    return Call(name, signal_set(pause, SIGNALS), NULL, NULL, word(8), then=[
        *if_refused,
        (lambda result: result == SIGTERM, ends(BY_SIGTERM, 0)),
        (lambda result: result == SIGINT, ends(BY_SIGINT, 0)),
        (lambda result: result > 0, reaps()),
        (lambda result: result == -EINTR, waits()),
        (otherwise, ends(CANNOT_HOLD, CANNOT_WAIT))])


def ends(message, status):
    return says(message, exits(status))


@stage("messages")
def says(pause, message, following):
    """The write of a message must not block. So pause first calls ppoll, with a timeout of zero."""
    if pause.word == 8:
        return [poll(pause, "ppoll", message, following)]
    older = says_by_older_call(message, following)
    return [poll(pause, "ppoll_time64", message, following, (is_refused, older))]


@stage("messages")
def says_by_older_call(pause, message, following):
    return [poll(pause, "ppoll", message, following)]


def poll(pause, name, message, following, *if_refused):
    stderr = pause.number(STDERR, 4) + pause.number(POLLOUT, 2)
    no_time = bytes(16 if name == "ppoll_time64" else 2 * pause.word)
    return Call(name, pointer_to(stderr, "a pollfd of stderr"), word(1), pointer_to(no_time, "a timeout of zero"), NULL,
                broken="messages", writes=(0, len(stderr), 2), then=[  # revents
        *if_refused,
        (lambda result: result > 0, writes(message, following)),
        (otherwise, following)])


@stage("messages")
def writes(pause, message, following):
    return [Call("write", STDERR, pointer_to(message, repr(message)), word(len(message)), then=following)]


@stage("status")
def exits(pause, status):
    return [Call("exit", status, then=has_exited())]


@stage("status")
def has_exited(pause):
    """Only if exit was denied does pause get here. Then it may only execute its trap instruction."""
    return []


#: Calls that pause may repeat without limit. After a wait4, it calls wait4 again only if it has reaped a child. The
#: other calls sleep.
REPEATED = {"wait4", "rt_sigtimedwait", "rt_sigtimedwait_time64"}


# The name.

#: The addresses in struct prctl_mm_map, 8 bytes each. The struct is at the start of the private page.
FIELDS = ["start_code", "end_code", "start_data", "end_data", "start_brk", "brk", "start_stack", "arg_start", "arg_end",
          "env_start", "env_end"]


def map_field(pause, name):
    return pause.field(PAGE + 8 * FIELDS.index(name), 8)


def name_is_copied(pause):
    """Checks that the first argument was copied correctly, and that the memory map points to the copy.

    After that, the 128 possible lengths are one case: the copy may have any bytes and any length, but must not change
    any more."""
    state, start, end = pause.state, map_field(pause, "arg_start"), map_field(pause, "arg_end")
    first, state.name = state.name, None
    if first is None or not (isinstance(start, int) and isinstance(end, int)):
        raise Violation("name", "the name has not been copied")
    if start == end:
        if not state.must(first == 0):
            raise Violation("name", "there may be a first argument, but there is no copy of it")
        return
    length = end - start - 1
    if not (PAGE <= start and start + NAME_MAX + 1 <= STACK_FLOOR and 0 <= length <= NAME_MAX):
        raise Violation("name", f"the memory map has the copy of the name at {start:#x} to {end:#x}")
    of_name = [symbol(f"{first.decl().name()}[{index}]", 8) for index in range(length + 1)]
    for index in range(length):
        byte = pause.field(start + index, 1)
        if isinstance(byte, int) or not byte.eq(of_name[index]) or not state.must(byte != 0):
            raise Violation("name", f"byte {index} of the copy of the name may be wrong, or past the end of the name")
    rest = NAME_MAX + 1 - length
    if pause.content(start + length, rest) != bytes(rest):
        raise Violation("name", "the copy of the name is not followed by zero bytes")
    if length < NAME_MAX and not state.must(of_name[length] == 0):
        raise Violation("name", f"the copy of the name ends after {length} bytes, but the name may be longer")
    state.copy_name(start, NAME_MAX + 1, PAGE + 8 * FIELDS.index("arg_end"))


def memory_map(pause, size):
    """A memory map that has the copy as the name. `end_code` and `start_stack` are the start of the private page. All
    other fields are one and the same address in the text. If there is no copy, so are the fields of the name."""

    def test(pause, value):
        fields = dict(zip(FIELDS, (pause.field(PAGE + 8 * index, 8) for index in range(len(FIELDS)))))
        start, end = fields.pop("arg_start"), fields.pop("arg_end")
        text = fields["start_code"]
        if not pause.equal(value, PAGE) or not isinstance(text, int) or not TEXT <= text < PAGE:
            return False
        is_empty = pause.state.copied is None and (start, end) == (text, text)
        if not is_empty and not pause.state.is_copied_name(start, end):
            return False
        is_page = {"end_code", "start_stack"}
        # No auxiliary vector (a null pointer, as wide as the kernel's, and size 0) and no executable (exe_fd is -1).
        rest = bytes(size - 100 + 8) + b"\xff" * 4
        return (all(field == (PAGE if name in is_page else text) for name, field in fields.items())
                and pause.content(PAGE + 88, len(rest)) == rest)

    return Expected("the memory map, with the name at its new place", test)


# Memory.


def has_no_path(pause):
    """Whether the auxiliary vector has no AT_EXECFN. It is a violation if pause has not read far enough to know."""
    key = pause.state.key
    if key is not None and pause.state.must(key == AT_EXECFN):
        return False
    if key is not None and pause.state.must(key == 0):
        return True
    raise Violation("memory", "has found neither AT_EXECFN nor the end of the auxiliary vector")


def passes_pair(pause):
    """Checks that pause may go on to the next pair of the auxiliary vector."""
    if pause.state.may(pause.state.key == AT_EXECFN):
        raise Violation("memory", "goes past a pair that may be AT_EXECFN")


def to_end_of_memory():
    """The distance from SHED to the end of memory or to the last string of the start stack. SHED is the address of the
    next page after the private page if pages have 64 KiB."""

    def test(pause, value):
        if pause.state.abi.has_memory_end:
            return pause.equal(value, (1 << 47) - 2 * 4096 - SHED)
        return pause.state.value is not None and pause.equal(value, pause.state.value - SHED)

    return Expected(f"the distance from {SHED:#x} to the end of memory", test)

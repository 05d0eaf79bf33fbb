"""The contract: all that pause may do.

It is written from README.md and docs/design.md, and knows nothing of the code. prove.py shows that the program keeps
it on every path: for every start stack, and for every result of every system call.

A *stage* is a point in the life of pause. It returns the system calls that are allowed there, with their arguments.
What follows a call is a stage, or one for each kind of result. A result below zero is a negated errno.
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
    "signals": "Before anything else it blocks the six signals and ignores SIGCHLD.",
    "answers": "It answers the first argument that asks for the version or for help, and no other argument.",
    "silence": "If it is not PID 1, it warns, unless an argument is `-P`; it becomes a child subreaper and goes to `/`.",
    "name": "It copies its name, cut at 127 bytes, and tells the kernel where the copy is.",
    "messages": "It writes each message for its reason, once, and only if poll says that the write does not block.",
    "status": "Each exit status has its reason, and the program ends only by exit.",
    "reaping": "Each time before it sleeps, it reaps until no child is left to reap.",
    "memory": "It unmaps the start stack only after the name has moved, and unmaps nothing else.",
    "descriptors": "It closes all descriptors above 2, as the last thing before it sleeps.",
    "waiting": "It waits for the six signals. SIGTERM and SIGINT end it, an error ends it, anything else does not.",
    "reads": "It reads only its text, its page, what it wrote, the start stack and the strings there (and up to six bytes behind one).",
    "writes": "It writes only to its page, and below the start stack while that is its stack; data and stack do not meet.",
    "released": "It uses nothing above the private page once that may be unmapped.",
    "control flow": "It executes only instructions that its entry point leads to, returns where it was called, and stops only after exit.",
    "stack": "The stack pointer stays in the upper half of the private page, or near the start stack.",
    "termination": "It loops only over the start stack, over children that were reaped, and over waits.",
}

SIGINT, SIGPIPE, SIGTERM, SIGCHLD, SIGTTOU, SIGXFSZ = 2, 13, 15, 17, 22, 25
EINTR = 4
SIG_SETMASK, SIG_IGN = 2, 1
WNOHANG, WALL = 1, 0x40000000
POLLOUT = 4
PR_SET_NAME, PR_SET_MM, PR_SET_MM_MAP, PR_SET_CHILD_SUBREAPER = 15, 35, 14, 36
AT_EXECFN = 31
STDOUT, STDERR = 1, 2

#: Blocked from the beginning, and waited for.
SIGNALS = [SIGINT, SIGTERM, SIGCHLD, SIGPIPE, SIGTTOU, SIGXFSZ]

VERSION_LINE = b"pause %s\n" % package_version()
ABOUT = VERSION_LINE + b"[-v | -h | -P]\n"
HELP, VERSION, SILENCE = [b"-h", b"--help"], [b"-v", b"-V", b"--version"], [b"-P"]
NOT_PID_1 = b"pause: not PID #1\n"
CANNOT_HOLD = b"pause: can't hold\n"
BY_SIGTERM = b"pause: SIGTERM 15\n"
BY_SIGINT = b"pause: SIGINT   2\n"
CANNOT_ANSWER, CANNOT_ARM, CANNOT_WAIT = 1, 2, 3

#: The bytes of the name that are copied, without the zero.
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
    """pause goes on to the next argument, and has not answered."""
    if pause.argument_may_be(HELP + VERSION):
        raise Violation("answers", "goes past an argument that may ask for an answer")
    if pause.argument_is(SILENCE):
        pause.state.is_silent = True
    elif not pause.state.is_silent and pause.argument_may_be(SILENCE):
        raise Violation("silence", "goes past an argument that may ask for silence")


def passes_all_arguments(pause):
    """pause is about to use the private page."""
    if pause.state.argument is None or not pause.state.must(pause.state.argument == 0):
        raise Violation("answers", "has not looked at all arguments")


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


@stage("silence")
def is_armed(pause):
    return [Call("getpid", then=[(lambda result: result == 1, names_thread()), (otherwise, is_not_pid_1())])]


@stage("silence")
def is_not_pid_1(pause):
    return (adopts_orphans() if pause.state.is_silent else says(NOT_PID_1, adopts_orphans())).calls(pause)


@stage("silence")
def adopts_orphans(pause):
    return [Call("prctl", PR_SET_CHILD_SUBREAPER, word(1), then=goes_to_root())]


@stage("silence")
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
    # Of a 32-bit kernel: a shorter address of the auxiliary vector, and then what aligns an u64.
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
    """A 32-bit program makes the call that has 64-bit times; where the kernel does not know that, the older one."""
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
    """The write of a message must not block. So pause asks ppoll first, and gives it no time."""
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
    return Call(name, pointer_to(stderr, "a pollfd of stderr"), word(1), pointer_to(no_time, "no time"), NULL,
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
    """exit was denied: only the instruction that stops pause is left."""
    return []


#: Calls that may be made again and again: one sleeps, of the other each has reaped a child.
REPEATED = {"wait4", "rt_sigtimedwait", "rt_sigtimedwait_time64"}


# The name.

#: struct prctl_mm_map, which is at the beginning of the page: addresses of 8 bytes each.
FIELDS = ["start_code", "end_code", "start_data", "end_data", "start_brk", "brk", "start_stack", "arg_start", "arg_end",
          "env_start", "env_end"]


def map_field(pause, name):
    return pause.field(PAGE + 8 * FIELDS.index(name), 8)


def name_is_copied(pause):
    """Compares the copy of the first argument, and where the map says that it is.

    128 lengths are then one case: the copy is any bytes, with any end, and must not change any more."""
    state, start, end = pause.state, map_field(pause, "arg_start"), map_field(pause, "arg_end")
    first, state.name = state.name, None
    if first is None or not (isinstance(start, int) and isinstance(end, int)):
        raise Violation("name", "the name is not looked at")
    if start == end:
        if not state.must(first == 0):
            raise Violation("name", "there is a first argument, and no copy of it")
        return
    length = end - start - 1
    if not (PAGE <= start and start + NAME_MAX + 1 <= STACK_FLOOR and 0 <= length <= NAME_MAX):
        raise Violation("name", f"the copy of the name is at {start:#x} to {end:#x}")
    of_name = [symbol(f"{first.decl().name()}[{index}]", 8) for index in range(length + 1)]
    for index in range(length):
        byte = pause.field(start + index, 1)
        if isinstance(byte, int) or not byte.eq(of_name[index]) or not state.must(byte != 0):
            raise Violation("name", f"byte {index} of the copy of the name")
    rest = NAME_MAX + 1 - length
    if pause.content(start + length, rest) != bytes(rest):
        raise Violation("name", "no zero behind the copy of the name")
    if length < NAME_MAX and not state.must(of_name[length] == 0):
        raise Violation("name", f"the copy of the name ends after {length} bytes, and the name may not")
    state.copy_name(start, NAME_MAX + 1, PAGE + 8 * FIELDS.index("arg_end"))


def memory_map(pause, size):
    """The kernel shows the name at its new place; all else that it is told is an address of the text, or the page."""

    def test(pause, value):
        fields = dict(zip(FIELDS, (pause.field(PAGE + 8 * index, 8) for index in range(len(FIELDS)))))
        start, end = fields.pop("arg_start"), fields.pop("arg_end")
        text = fields["start_code"]
        if not pause.equal(value, PAGE) or not isinstance(text, int) or not TEXT <= text < PAGE:
            return False
        if not pause.state.is_copied_name(start, end) and (start, end) != (text, text):
            return False
        is_page = {"end_code", "start_stack"}
        # No auxiliary vector, whose address is as long as the kernel's, of size 0, and no file to execute.
        rest = bytes(size - 100 + 8) + b"\xff" * 4
        return (all(field == (PAGE if name in is_page else text) for name, field in fields.items())
                and pause.content(PAGE + 88, len(rest)) == rest)

    return Expected("the memory map, with the name at its new place", test)


# Memory.


def has_no_path(pause):
    """Whether the auxiliary vector has no AT_EXECFN. pause must have found out."""
    key = pause.state.key
    if key is not None and pause.state.must(key == AT_EXECFN):
        return False
    if key is not None and pause.state.must(key == 0):
        return True
    raise Violation("memory", "has not found AT_EXECFN, nor the end of the auxiliary vector")


def passes_pair(pause):
    """pause goes on to the next pair of the auxiliary vector."""
    if pause.state.may(pause.state.key == AT_EXECFN):
        raise Violation("memory", "goes past what may be AT_EXECFN")


def to_end_of_memory():
    """From the first page behind the private one to the end of memory, or to the last string of the start stack."""

    def test(pause, value):
        if pause.state.abi.has_memory_end:
            return pause.equal(value, (1 << 47) - 2 * 4096 - SHED)
        return pause.state.value is not None and pause.equal(value, pause.state.value - SHED)

    return Expected("the distance from there to the end of memory", test)

"""The language of the contract in spec.py: stages, calls, arguments and results. Checks each system call of the program
against the contract."""

from typing import Callable, NamedTuple

import z3
from machine import PAGE, TEXT, Violation
from values import number_of, symbol

_functions = {}


class Stage(NamedTuple):
    """A point in the life of pause. The function with this name returns the system calls that are allowed there."""

    name: str
    arguments: tuple
    broken: str  # the property that a call not allowed here breaks

    def calls(self, pause):
        return _functions[self.name](pause, *self.arguments)

    def __str__(self):
        return self.name.replace("_", " ")


def stage(broken):
    """Turns a function into a stage. A system call that is not among those that the function returns breaks the
    property `broken`."""

    def make(function):
        _functions[function.__name__] = function
        return lambda *arguments: Stage(function.__name__, arguments, broken)

    return make


class Expected(NamedTuple):
    """The expected value of an argument: in words, and as a test."""

    words: str
    test: Callable


class Call:
    """An allowed system call. `then` is the next stage, or a list of pairs (condition on the result, stage).
    The first condition that holds decides. A number as an argument stands for a C int: the kernel uses 32 bits of it."""

    def __init__(self, name, *arguments, then, broken=None, requires=None, writes=None, releases=False):
        self.name, self.arguments, self.then, self.broken = name, arguments, then, broken
        #: A further check of the state.
        self.requires = requires
        #: Memory that the kernel writes: the index of a pointer argument, an offset from the pointer, and a size.
        self.writes = writes
        #: Whether memory above the private page may be gone after this call, so that the program must not use it.
        self.releases = releases

    def mismatch(self, pause, values):
        """What is wrong with these arguments, if anything."""
        for index, (expected, value) in enumerate(zip(self.arguments, values)):
            if isinstance(expected, int):
                expected = c_int(expected)
            if not expected.test(pause, value):
                return f"argument {index + 1} is {shown(value)} and should be {expected.words}"
        return None


def shown(value):
    return hex(value) if isinstance(value, int) else str(value)


def c_int(number):
    low = lambda value: value & 0xFFFFFFFF if isinstance(value, int) else z3.Extract(31, 0, value)
    return Expected(str(number), lambda pause, value: pause.equal(low(value), number & 0xFFFFFFFF))


def word(number):
    """An unsigned long, or an address."""
    return Expected(hex(number), lambda pause, value: pause.equal(value, number & (1 << pause.state.bits) - 1))


NULL = word(0)


def pointer_to(content, what):
    """The address of these bytes in the text or in the private page."""
    return Expected(f"the address of {what}", lambda pause, value: pause.content(value, len(content)) == content)


class Pause:
    """What the contract sees of a state."""

    def __init__(self, state):
        self.state = state
        self.word, self.order, self.name = state.abi.word, state.abi.order, state.abi.name

    def equal(self, value, number):
        return value == number if isinstance(value, int) else self.state.must(value == number)

    def number(self, value, size):
        """A number in the byte order of the program."""
        return (value & (1 << 8 * size) - 1).to_bytes(size, self.order)

    def field(self, address, size):
        """A value in the private page or in the text. None if not all of its bytes are in one of them."""
        if not isinstance(address, int) or not (PAGE <= address and address + size <= PAGE + 4096 or
                                                TEXT <= address and address + size <= TEXT + len(self.state.code.program.text)):
            return None
        return self.state.load(address, size)

    def content(self, address, size):
        """The bytes at an address, if all are known."""
        found = [self.field(address + index, 1) if isinstance(address, int) else None for index in range(size)]
        return bytes(found) if all(isinstance(byte, int) for byte in found) else None

    # The argument of the command line that pause has read last.

    def _is(self, text):
        name = self.state.argument.decl().name()
        return z3.And([symbol(f"{name}[{index}]", 8) == byte for index, byte in enumerate(text + b"\0")])

    def argument_is(self, texts):
        argument = self.state.argument
        return argument is not None and self.state.must(z3.And(argument != 0, z3.Or(*map(self._is, texts))))

    def argument_may_be(self, texts):
        argument = self.state.argument
        return self.state.may(z3.And(argument != 0, z3.Or(*map(self._is, texts))))


class Pending(NamedTuple):
    """A result after which several stages are possible."""

    result: z3.BitVecRef
    outcomes: tuple  # pairs of a condition and a stage

    def replace(self, change):
        return Pending(change(self.result), tuple((change(condition), stage) for condition, stage in self.outcomes))

    def key(self):
        return tuple((number_of(condition), stage) for condition, stage in self.outcomes)


def settle(state):
    """Resolves a pending result if only one stage is possible."""
    if state.pending:
        possible = [stage for condition, stage in state.pending.outcomes if state.may(condition)]
        if len(possible) == 1:
            state.stage, state.pending = possible[0], None


def stages(state):
    """Splits a state with a pending result into one for each possible stage."""
    settle(state)
    if not state.pending:
        return [state]
    states = []
    for condition, stage in state.pending.outcomes:
        if state.may(condition):
            one = state.copy()
            one.assume(condition)
            one.stage, one.pending = stage, None
            states.append(one)
    return states


def allowed(state, name, values):
    """The allowed call that matches this one."""
    pause = Pause(state)
    choices = state.stage.calls(pause)
    mismatch = None
    for call in choices:
        if call.name == name:
            mismatch = call.mismatch(pause, values)
            if mismatch is None:
                if call.requires:
                    call.requires(pause)
                return call
            broken = call.broken or state.stage.broken
    if mismatch:
        raise Violation(broken, f'{name} at the stage "{state.stage}": {mismatch}')
    names = " or ".join(sorted({call.name for call in choices}))
    names = f"only {names}" if names else "no system call"
    raise Violation(state.stage.broken, f'{name} at the stage "{state.stage}", where {names} is allowed')


def follow_result(state, call, result):
    """Records the stages after the call. `result` has 32 bits. If it is below zero, it is a negated errno."""
    if isinstance(call.then, Stage):
        state.stage, state.pending = call.then, None
        return
    before, outcomes = [], []
    for test, stage in call.then:  # The first condition that holds decides.
        condition = z3.BoolVal(True) if test is otherwise else test(result)
        outcomes.append((z3.simplify(z3.And(condition, z3.Not(z3.Or(*before)))), stage))
        before.append(condition)
    assert call.then[-1][0] is otherwise, f"{call.name} does not have a stage for every result"
    state.pending = Pending(result, tuple(outcomes))


def otherwise(_):
    """The condition for all other results."""

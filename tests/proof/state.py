"""A state of the program: registers, memory, what the path has learnt, and the stage of the contract.

A state stands for all processes that fit it. A state that forgets something stands for more processes. So forgetting
can make a proof fail, but never makes it wrong.

The start stack may have any length. An address on it is a *cursor* plus a number. A cursor is an unknown address; only
the kind of the word there is known. When the program moves on along the start stack, the cursor moves with it, and the
words that the program has passed are forgotten. So the state after any number of arguments is the same as the state
after one. This is the inductive invariant that closes these loops."""

from typing import NamedTuple

import z3
from contract import Pause
from machine import PAGE, PAGE_END, STACK_FLOOR, TEXT, Violation
from values import Bytes, constant_part, difference, normal, number_of, symbol, symbols_of

# Kinds of words on the start stack, from the lowest address up. System V ABI, "Process Initialization"; `create_elf_tables`
# in Linux fs/binfmt_elf.c.
COUNT, FIRST, ARGUMENT, VARIABLE, FIRST_KEY, KEY, VALUE = (
    "count", "first argument", "argument", "variable", "first key", "key", "value")
STRINGS = (FIRST, ARGUMENT, VARIABLE)
#: How many bytes after the terminator of a string on the start stack may be read: see `StackString` in src/start.rs.
BEHIND_STRING = 6
#: How far below the stack pointer an ABI lets a function write (64-Bit ELF V2 ABI for Power, 2.2.2.4).
RED_ZONE = 288
#: How far below the start stack the program may use memory. On s390x, each of two nested functions reserves 160 bytes
#: for the function that it calls (ELF ABI s390x supplement, 1.2.2).
START_DEPTH = 320
#: A byte below the stack pointer. It may have any value.
FORGOTTEN = (symbol("forgotten", 8), 0)


class Cursor(NamedTuple):
    """`base` is the address of a word of this kind. `words` are the words that were read, by their distance from the
    base, in words. `lowest` is the least distance of a live address from the base, in bytes, when the cursor was made."""

    kind: str
    base: z3.BitVecRef
    words: dict
    lowest: int = 0


class Solver:
    """Answers whether an expression can hold. Asks z3 each question only once."""

    def __init__(self):
        self.asked, self.answers = 0, {}

    def is_possible(self, expression, constraints):
        """Whether an expression can hold under these constraints."""
        names, picked, todo = set(symbols_of(expression)), [], list(constraints)
        while True:  # A constraint matters only if it shares an unknown with the expression or with another that matters.
            near = [c for c in todo if not names.isdisjoint(symbols_of(c))]
            if not near:
                break
            picked += near
            todo = [c for c in todo if names.isdisjoint(symbols_of(c))]
            names.update(*map(symbols_of, near))
        key = number_of(expression), frozenset(number_of(c) for c in picked)
        if key not in self.answers:
            solver = z3.SimpleSolver()
            solver.add(expression, *picked)
            answer = solver.check()
            if answer == z3.unknown:
                raise Violation("control flow", f"the solver cannot decide {expression}")
            self.asked += 1
            self.answers[key] = answer == z3.sat
        return self.answers[key]


class State:
    def __init__(self, code, solver, stage, contract):
        self.code, self.solver, self.abi, self.contract = code, solver, code.program.architecture, contract
        self.bits = 8 * self.abi.word
        self.address = code.program.entry
        self.registers, self.page, self.below = Bytes(), Bytes(), Bytes()
        start = symbol("start", self.bits)
        #: Expressions that hold, by their number.
        self.constraints = {}
        self.cursors = {"start": Cursor(COUNT, start, {})}
        #: How many bytes at the start of each string are known not to be zero.
        self.prefixes = {}
        #: The registers, and the words read, at the last visit of each loop head. Only `advance` uses this.
        self.seen = {}
        self.stage, self.pending = stage, None  # see contract.py
        #: What the contract follows: the last argument, the name, the last key of the auxiliary vector and its value.
        self.argument = self.name = self.key = self.value = None
        self.is_answering, self.is_silent, self.is_released = True, False, False
        self.copied = None  # where the copy of the name is
        self.callers = ()  # the addresses at which the callers continue, the innermost caller last
        self.trace = None
        self.assume(start != 0)
        self.set(self.abi.stack, start)

    def copy(self):
        twin = object.__new__(State)
        twin.__dict__.update(self.__dict__)
        for name in ("registers", "page", "below"):
            setattr(twin, name, Bytes(getattr(self, name)))
        for name in ("constraints", "prefixes", "seen"):
            setattr(twin, name, dict(getattr(self, name)))
        twin.cursors = {name: c._replace(words=dict(c.words)) for name, c in self.cursors.items()}
        return twin

    def log(self, *entry):
        self.trace = (self.trace, entry)

    # What is known.

    def may(self, expression):
        expression = z3.simplify(expression)
        if z3.is_true(expression) or z3.is_false(expression):
            return z3.is_true(expression)
        return self.solver.is_possible(expression, self.constraints.values())

    def must(self, expression):
        expression = z3.simplify(expression)
        return number_of(expression) in self.constraints or not self.may(z3.Not(expression))

    def assume(self, expression):
        expression = z3.simplify(expression)
        if not z3.is_true(expression):
            self.constraints[number_of(expression)] = expression
            self.log("learnt", expression)

    def held(self):
        """The names of all unknowns in use."""
        expressions = [e for bytes_ in (self.registers, self.page, self.below) for e in bytes_.expressions()]
        expressions += [e for e in (self.argument, self.name, self.key, self.value) if e is not None]
        expressions += [e for c in self.cursors.values() for e in (c.base, *c.words.values())]
        expressions += [self.pending.result] if self.pending else []
        names = set().union(*map(symbols_of, expressions))
        # While a byte of a string is in use, the name of the string is, too.
        return names | {name.split("[")[0] for name in names}

    def fresh(self, name, bits):
        """A new unknown, with a name that is not in use. The name says where the unknown comes from, so states that
        differ only in the path that led to them use the same names."""
        held, chosen, version = self.held(), name, 0
        while chosen in held:
            version += 1
            chosen = f"{name}.{version}"
        self.forget(lambda names: any(n == chosen or n.startswith(chosen + "[") for n in names))
        self.prefixes.pop(chosen, None)
        self.log("new", chosen, name)
        return symbol(chosen, bits)

    def forget(self, which):
        for number in [n for n, c in self.constraints.items() if which(symbols_of(c))]:
            del self.constraints[number]

    # Registers.

    def get(self, name):
        offset, size = self.code.lifter.registers[name]
        return self.read_register(offset, size)

    def set(self, name, value):
        offset, size = self.code.lifter.registers[name]
        self.registers.put(offset, size, value)

    def read_register(self, offset, size):
        def missing(byte):
            self.registers[byte] = (self.fresh(f"register{byte:x}@{self.address:x}", 8), 0)
            return self.registers[byte]

        return self.registers.take(offset, size, missing)

    # Memory.

    def load(self, address, size):
        if isinstance(address, int):
            if TEXT <= address and address + size <= TEXT + len(self.code.program.text):
                return int.from_bytes(self.code.program.text[address - TEXT : address - TEXT + size], self.abi.order)
            if PAGE <= address and address + size <= PAGE_END:
                return self.read_page(address, size)
            raise Violation("reads", f"reads {size} bytes at {address:#x}")
        name, distance = self.locate(address)
        if self.is_released:
            raise Violation("released", f"reads the start stack after munmap: {describe(name, distance)}")
        if name not in self.cursors:
            return self.read_string(name, distance, size)
        if name == "start" and distance < 0:
            if distance + size > 0 or any(distance + index not in self.below for index in range(size)):
                raise Violation("reads", f"reads {describe(name, distance)}, which it has not written")
            return self.below.take(distance, size, None, self.abi.order)
        index, offset = divmod(distance, self.abi.word)
        if offset + size > self.abi.word:
            raise Violation("reads", f"reads across words of the start stack: {describe(name, distance)}")
        word = self.read_word(name, index)
        if size == self.abi.word:
            return word
        low = offset if self.abi.order == "little" else self.abi.word - offset - size
        return normal(z3.Extract(8 * (low + size) - 1, 8 * low, word))

    def read_page(self, address, size):
        for at in range(address, address + size):
            if self.page.get(at) is FORGOTTEN:
                self.page[at] = (self.fresh(f"stack{at:x}@{self.address:x}", 8), 0)
        return self.page.take(address, size, lambda _: 0, self.abi.order)

    def store(self, address, size, value):
        if isinstance(address, int):
            stack = self.get(self.abi.stack)
            is_stack = isinstance(stack, int) and address >= stack - RED_ZONE
            low, high = (STACK_FLOOR, PAGE_END) if is_stack else (PAGE, STACK_FLOOR)
            if not (low <= address and address + size <= high):
                raise Violation("writes", f"writes {size} bytes at {address:#x}")
            self.page.put(address, size, value, self.abi.order)
            return
        name, distance = self.locate(address)
        if name != "start" or distance + size > 0 or distance < -START_DEPTH:
            raise Violation("writes", f"writes {size} bytes at {describe(name, distance)}")
        if self.is_released:
            raise Violation("released", f"writes the start stack after munmap: {describe(name, distance)}")
        if isinstance(self.get(self.abi.stack), int):
            raise Violation("writes", f"writes at {describe(name, distance)}, although its stack is in the private page")
        self.below.put(distance, size, value, self.abi.order)

    def environment(self):
        """The address of the first environment variable, which follows argc, the arguments and a null."""
        start = self.cursors["start"]
        if 0 not in start.words:
            return None
        return normal(start.base + self.abi.word * start.words[0] + 2 * self.abi.word)

    def locate(self, address):
        """What an address is relative to: the name of a cursor or of a string, and the distance from that, in bytes."""
        names = symbols_of(address)
        for name, cursor in self.cursors.items():
            if symbols_of(cursor.base) <= names:
                distance = difference(address, cursor.base)
                if distance is not None:
                    return name, distance
        environment = self.environment()
        if environment is not None and not isinstance(environment, int):
            distance = difference(address, environment)
            if distance is not None:
                self.cursors["environment"] = Cursor(VARIABLE, environment, {})
                return "environment", distance
        for name in names:
            if name.startswith("string@") and "[" not in name:
                distance = difference(address, symbol(name, self.bits))
                if distance is not None:
                    return name, distance
        raise Violation("control flow" if self.is_released else "reads", f"an address in no known memory: {address}")

    def read_string(self, name, distance, size):
        if not self.must(symbol(name, self.bits) != 0):
            raise Violation("reads", f"reads a string, but the pointer to it may be null: {name}")
        known = self.prefixes.get(name, 0)
        while known < distance + size and self.must(symbol(f"{name}[{known}]", 8) != 0):
            known += 1
        self.prefixes[name] = known
        if distance < 0 or distance + size - 1 - known > BEHIND_STRING:
            raise Violation("reads", f"reads byte {distance + size - 1} of a string that may end with byte {known}")
        found = [(symbol(f"{name}[{distance + index}]", 8), 0) for index in range(size)]
        parts = [byte for byte, _ in (found if self.abi.order == "little" else found[::-1])]
        return normal(z3.Concat(*reversed(parts))) if size > 1 else parts[0]

    # The start stack.

    def kind_at(self, cursor, index):
        """The kind of the word at this distance from the base, in words. None if the program may not read it: it may lie
        past the end of the start stack, or the program has passed it."""
        kind = cursor.kind
        if index < 0:
            # Of the words before the base, only the value of the pair that was passed last may still be read.
            return VALUE if index == -1 and kind == KEY else None
        for at in range(index):
            of = at - 1 if kind == VALUE else at
            word = cursor.words.get(of)
            is_nonzero = word is not None and self.must(word != 0)
            is_zero = word is not None and not is_nonzero and self.must(word == 0)
            if kind == COUNT:
                kind = FIRST
            elif kind in (FIRST, ARGUMENT) and (is_nonzero or is_zero):
                kind = ARGUMENT if is_nonzero else VARIABLE
            elif kind == VARIABLE and (is_nonzero or is_zero):
                kind = VARIABLE if is_nonzero else FIRST_KEY
            elif kind in (FIRST_KEY, KEY):
                kind = VALUE
            elif kind == VALUE and is_nonzero:
                kind = KEY
            else:
                return None
        return kind

    def read_word(self, name, index):
        cursor = self.cursors[name]
        kind = self.kind_at(cursor, index)
        if kind is None:
            raise Violation("reads", f"reads word {index} from {name}, which may be past the end of the start stack")
        if index not in cursor.words:
            prefix = "string" if kind in STRINGS else kind.split()[-1]
            if kind in (FIRST_KEY, KEY) and self.abi.word == 8:
                # No key has more than 32 bits.
                word = normal(z3.ZeroExt(32, self.fresh(f"{prefix}@{self.address:x}", 32)))
            else:
                word = self.fresh(f"{prefix}@{self.address:x}", self.bits)
            cursor.words[index] = word
            self.log("word", kind, word)
            self._follow(kind, cursor.words, index)
        return cursor.words[index]

    def _follow(self, kind, words, index):
        """Tells the contract which word the program has read. The program has to read arguments and pairs in order."""
        pause, word = Pause(self), words[index]
        if kind in (FIRST, ARGUMENT) and self.is_answering:
            if kind == ARGUMENT:
                if self.argument is None or not is_same(words.get(index - 1), self.argument):
                    raise Violation("answers", "does not read the arguments in order")
                self.contract.passes_argument(pause)
            elif self.argument is not None:
                raise Violation("answers", "reads the first argument again")
            self.argument = word
        elif kind == FIRST:
            self.name = word
        elif kind in (FIRST_KEY, KEY):
            if kind == KEY:
                if self.key is None or not is_same(words.get(index - 2), self.key):
                    raise Violation("memory", "does not read the pairs of the auxiliary vector in order")
                self.contract.passes_pair(pause)
            self.key, self.value = word, None
        elif kind == VALUE and is_same(words.get(index - 1), self.key):
            self.value = word

    # The copy of the name.

    def copy_name(self, at, size, end):
        """Records where the copy is. From here on, it may have any bytes and any length."""
        for index in range(size):
            self.page[at + index] = (symbol(f"name[{index}]", 8), 0)
        self.page.put(end, 8, symbol("name_end", 64), self.abi.order)
        self.copied = at, size

    def is_copied_name(self, start, end):
        """Whether the copy is here, and has not changed."""
        if self.copied is None or start != self.copied[0] or not is_same(end, symbol("name_end", 64)):
            return False
        return all(is_same(self.read_page(start + i, 1), symbol(f"name[{i}]", 8)) for i in range(self.copied[1]))

    def advance(self):
        """Moves the cursors along with the program. Returns `moved` if one moved, `made` if one was made, None otherwise."""
        what = None
        for name in list(self.cursors):
            if name != "start":
                what = self._move(name) or what
        self.cursors.pop("environment", None) if not self._uses("environment") else None
        what = self._leave_start() or what
        if self.address in self.code.loop_heads:
            what = self._follow_index() or what
        return what

    def _expressions(self):
        return [e for bytes_ in (self.registers, self.page, self.below) for e in bytes_.expressions()]

    def _uses(self, name):
        cursor = self.cursors.get(name)
        return cursor and any(symbols_of(cursor.base) <= symbols_of(e) for e in self._expressions())

    def _move(self, name):
        cursor = self.cursors[name]
        if name == "environment":  # `_leave_start` gives it a base of its own
            return None
        own = symbols_of(cursor.base)
        distances = [constant_part(e) for e in self._expressions() if own <= symbols_of(e) and e.size() == self.bits]
        shift = (min(distances) - cursor.lowest) // self.abi.word if distances else 0
        if shift <= 0 or (min(distances) - cursor.lowest) % self.abi.word:
            return None
        kind = self.kind_at(cursor, shift)
        if kind is None:
            return None
        self.forget(lambda names: own <= names)
        self.substitute({cursor.base: cursor.base - shift * self.abi.word})
        self.cursors[name] = Cursor(kind, cursor.base, shifted(cursor.words, shift), cursor.lowest)
        return "moved"

    def _leave_start(self):
        """Gives addresses above argc a cursor of their own, which no longer depends on argc."""
        word, made = self.abi.word, None
        start = self.cursors["start"]
        above = {}
        for expression in self._expressions():
            if "start" in symbols_of(expression):
                distance = difference(expression, start.base)
                if distance is not None and distance >= word:
                    above[distance] = expression
        if above:
            made = self._make(FIRST, shifted(start.words, 1), {e: d - word for d, e in above.items()})
        environment = self.environment()
        if environment is not None:
            known = self.cursors.pop("environment", None)
            near = {e: difference(e, environment) for e in self._expressions() if "start" in symbols_of(e)}
            near = {e: d for e, d in near.items() if d is not None}
            if near:
                made = self._make(VARIABLE, known.words if known else {}, near)
        return made

    def _make(self, kind, words, distances):
        base = self.fresh("cursor", self.bits)
        self.cursors[base.decl().name()] = Cursor(kind, base, dict(words), min(distances.values()))
        self.substitute_whole({e: normal(base + d) for e, d in distances.items()})
        return "made"

    def _follow_index(self):
        """A loop may count in a register, and add the count to a cursor that does not move. Then the sum becomes a cursor."""
        numbers = {}
        for name in self.abi.registers:
            value = self.registers.take(*self.code.lifter.registers[name], lambda _: FORGOTTEN)
            if isinstance(value, int):
                numbers[name] = value
        reached = {name: max(c.words, default=-1) for name, c in self.cursors.items()}
        before, self.seen[self.address] = self.seen.get(self.address), (numbers, reached)
        if before is None:
            return None
        for register, value in numbers.items():
            step = value - before[0].get(register, value)
            shift, rest = divmod(step, self.abi.word)
            for name, cursor in list(self.cursors.items()):
                has_read = reached[name] > before[1].get(name, -1)
                if shift <= 0 or rest or name in ("start", "environment") or not has_read:
                    continue
                kind = self.kind_at(cursor, shift)
                if kind is None:
                    continue
                base = self.fresh("cursor", self.bits)
                self.cursors[base.decl().name()] = Cursor(kind, base, shifted(cursor.words, shift), before[0][register])
                self.set(register, normal(base - cursor.base + before[0][register]))
                self.cursors[name] = cursor._replace(words={})
                return "made"
        return None

    # Normalisation: states that stand for the same processes become equal.

    def substitute_whole(self, replacements):
        """Replaces whole values."""
        by_number = {number_of(e): value for e, value in replacements.items()}
        for bytes_ in (self.registers, self.page, self.below):
            for address, byte in bytes_.items():
                if not isinstance(byte, int) and number_of(byte[0]) in by_number:
                    value = by_number[number_of(byte[0])]
                    bytes_[address] = value >> 8 * byte[1] & 255 if isinstance(value, int) else (value, byte[1])

    def substitute(self, replacements):
        """Replaces unknowns within values."""
        pairs = list(replacements.items())
        names = set().union(*(symbols_of(old) for old, _ in pairs))
        self.substitute_whole({e: normal(z3.substitute(e, *pairs)) for e in self._expressions() if names & symbols_of(e)})

    def forget_dead(self):
        """Forgets dead registers and the memory below the stack pointer."""
        live = self.code.live[self.address]
        for byte in [b for b in self.registers if b not in live]:
            del self.registers[byte]
        stack = self.get(self.abi.stack)
        if isinstance(stack, int):
            self.below.clear()
            for address in self.page:
                if STACK_FLOOR <= address < stack:
                    self.page[address] = FORGOTTEN
        else:
            _, top = self.locate(stack)
            for distance in [d for d in self.below if d < top]:
                del self.below[distance]

    def forget_unused(self):
        """Forgets the unknowns that nothing refers to, and what is known about them."""
        if self.is_released:
            self.key = self.value = None
        followed = [w for w in (self.argument, self.name, self.key, self.value) if w is not None]
        used = set().union(*map(symbols_of, [*self._expressions(), *followed]))
        used |= symbols_of(self.pending.result) if self.pending else set()
        followed = {number_of(w) for w in followed}
        for name, cursor in list(self.cursors.items()):
            if name != "start" and not symbols_of(cursor.base) <= used:
                del self.cursors[name]
                continue
            for index, word in list(cursor.words.items()):
                is_key_of_base = index == -1 and cursor.kind == VALUE
                is_used = symbols_of(word) <= used if name == "start" else index >= 0
                if not is_used and number_of(word) not in followed and not is_key_of_base:
                    del cursor.words[index]
        roots = self.held()
        self.forget(lambda names: names.isdisjoint(roots) and all(n.split("[")[0] not in used for n in names))
        self.prefixes = {name: known for name, known in self.prefixes.items() if name in used}
        for old in sorted(n for n in roots if "." in n and "[" not in n):
            name = old.split(".")[0]
            if name not in self.held():
                self.rename(old, name)

    def rename(self, old, new):
        self.forget(lambda names: any(n == new or n.startswith(new + "[") for n in names))
        names = self.held().union(*map(symbols_of, self.constraints.values()))
        pairs = []
        for name in names:
            if name == old or name.startswith(old + "["):
                size = symbol(name, 0).size()
                pairs.append((symbol(name, size), symbol(new + name[len(old) :], size)))
        change = lambda e: e if e is None else z3.simplify(z3.substitute(e, *pairs))
        self.substitute(dict(pairs))
        self.constraints = {number_of(c): c for c in map(change, self.constraints.values())}
        self.argument, self.name, self.key, self.value = map(change, (self.argument, self.name, self.key, self.value))
        if self.pending:
            self.pending = self.pending.replace(change)
        self.cursors = {
            new if name == old else name: c._replace(base=change(c.base), words={i: change(w) for i, w in c.words.items()})
            for name, c in self.cursors.items()
        }
        if old in self.prefixes:
            self.prefixes[new] = self.prefixes.pop(old)
        self.log("renamed", old, new)

    def key_of(self):
        """Equal for states that stand for the same processes."""
        number = lambda e: e if e is None else number_of(e)
        cursors = tuple(
            (name, c.kind, c.lowest, tuple(sorted((i, number_of(w)) for i, w in c.words.items())))
            for name, c in sorted(self.cursors.items())
        )
        return (
            self.address, self.registers.key(), self.page.key(), self.below.key(), frozenset(self.constraints), cursors,
            self.stage, self.pending and self.pending.key(), number(self.argument), number(self.name), number(self.key), number(self.value),
            self.is_answering, self.is_silent, self.is_released, self.copied, self.callers,
            frozenset(item for item in self.prefixes.items() if item[1]),
        )


def is_same(a, b):
    return a is not None and b is not None and not isinstance(a, int) and not isinstance(b, int) and a.eq(b)


def shifted(words, by):
    """Words by their distance from a base that has moved. The two words just before the new base are still needed."""
    return {index - by: word for index, word in words.items() if index - by >= -2}


def describe(name, distance):
    return f"{'the start stack' if name == 'start' else name}{distance:+}"

"""Lifts s390x, for which SLEIGH has no language.

capstone decodes the instructions. This file defines what they do, for those that occur in our program (z/Architecture
Principles of Operation, SA22-7832, chapter 7). The test `compared::s390x` compares this with qemu, one instruction at a
time."""

import re

import capstone

from machine import TEXT, Instruction, Operation, Place, Violation

#: Registers: r0 to r15, then the condition code and the program mask, which are parts of the PSW.
REGISTERS = {f"r{number}": (8 * number, 8) for number in range(16)} | {"cc": (128, 1), "pm": (129, 1)}
CC, PROGRAM_MASK = Place("register", 128, 1), Place("register", 129, 1)

#: Conditions of jumps: the condition codes for which they jump, as a mask of four bits. The highest stands for code 0.
MASKS = {"": 15, "e": 8, "ne": 7, "lh": 6, "nlh": 9, "l": 4, "nl": 11, "h": 2, "nh": 13, "he": 10, "le": 12}
#: Conditions of instructions that compare and jump: the comparison, and whether its inputs are swapped.
COMPARISONS = {
    "e": ("INT_EQUAL", False), "lh": ("INT_NOTEQUAL", False), "ne": ("INT_NOTEQUAL", False), "l": ("INT_SLESS", False),
    "h": ("INT_SLESS", True), "le": ("INT_SLESSEQUAL", False), "he": ("INT_SLESSEQUAL", True),
    "nh": ("INT_SLESSEQUAL", False), "nl": ("INT_SLESSEQUAL", True),
}


def constant(value, size):
    return Place("const", value & (1 << 8 * size) - 1, size)


class _Builder:
    """The operations of one instruction."""

    def __init__(self, decoded):
        self.decoded, self.operations, self.unique = decoded, [], 0

    # Operands.

    def register(self, index, size=8):
        """The whole register, or its low part."""
        return self._place(self.decoded.operands[index].reg, size)

    def _place(self, register, size=8):
        return Place("register", 8 * int(self.decoded.reg_name(register)), size)

    def number(self, index):
        operand = self.decoded.operands[index]
        if operand.type != capstone.CS_OP_IMM:
            raise NotImplementedError
        return operand.imm

    def address(self, index):
        memory = self.decoded.operands[index].mem
        address = constant(memory.disp, 8)
        for register in (memory.base, memory.index):
            if register:
                address = self.do("INT_ADD", 8, address, self._place(register))
        return address

    # Operations.

    def do(self, code, size, *inputs):
        self.unique += 16
        result = Place("unique", self.unique, size)
        self.operations.append(Operation(code, inputs, result))
        return result

    def copy(self, to, value):
        self.operations.append(Operation("COPY", (value,), to))

    def go(self, code, *inputs):
        self.operations.append(Operation(code, inputs))

    def load(self, address, size):
        return self.do("LOAD", size, constant(0, 8), address)

    def store(self, address, value):
        self.go("STORE", constant(0, 8), address, value)

    # Condition codes.

    def compare(self, one, two, less="INT_SLESS"):
        """Sets the condition code: 0 for equal, 1 for less, 2 for greater."""
        greater = self.do("INT_LEFT", 1, self.do(less, 1, two, one), constant(1, 1))
        self.copy(CC, self.do("INT_ADD", 1, self.do(less, 1, one, two), greater))

    def calculate(self, code, overflow, to, one, two):
        """Adds or subtracts. The condition code compares the result with zero, or is 3 after an overflow."""
        has_overflown = self.do(overflow, 1, one, two)
        result = self.do(code, to.size, one, two)
        self.compare(result, constant(0, to.size))
        self.copy(to, result)
        self.copy(CC, self.do("INT_OR", 1, CC, self.do("INT_MULT", 1, has_overflown, constant(3, 1))))

    def condition(self, mask):
        bit = self.do("INT_AND", 1, self.do("INT_RIGHT", 1, constant(8, 1), CC), constant(mask, 1))
        return self.do("INT_NOTEQUAL", 1, bit, constant(0, 1))


def _compare_and_jump(b, size, condition):
    code, is_swapped = COMPARISONS[condition]
    inputs = [b.register(0, size), constant(b.number(1), size)]
    return b.do(code, 1, *(inputs[::-1] if is_swapped else inputs))


def _many(b):
    """The registers from the first operand to the second, each with its address in memory."""
    first, last = (b.register(index).offset // 8 for index in (0, 1))
    if last < first:  # r0 would follow r15
        raise NotImplementedError
    address = b.address(2)
    for index in range(last - first + 1):
        yield Place("register", 8 * (first + index), 8), b.do("INT_ADD", 8, address, constant(8 * index, 8))


def _store_many(b):
    for register, place in _many(b):
        b.store(place, register)


def _load_many(b):
    # All are loaded first, because the address may depend on one of the registers.
    values = [(register, b.load(place, 8)) for register, place in _many(b)]
    for register, value in values:
        b.copy(register, value)


def _test_under_mask(b):
    mask = b.number(1)
    chosen = b.do("INT_AND", 2, b.register(0, 2), constant(mask, 2))
    highest = b.do("INT_AND", 2, chosen, constant(1 << mask.bit_length() - 1, 2))
    parts = [
        b.do("INT_NOTEQUAL", 1, chosen, constant(0, 2)),
        b.do("INT_NOTEQUAL", 1, highest, constant(0, 2)),
        b.do("INT_EQUAL", 1, chosen, constant(mask, 2)),
    ]
    b.copy(CC, b.do("INT_ADD", 1, b.do("INT_ADD", 1, parts[0], parts[1]), parts[2]))


def _or_low(b):
    result = b.do("INT_OR", 2, b.register(0, 2), constant(b.number(1), 2))
    b.copy(b.register(0, 2), result)
    b.copy(CC, b.do("INT_NOTEQUAL", 1, result, constant(0, 2)))


def _insert_program_mask(b):
    code = b.do("INT_LEFT", 1, CC, constant(4, 1))
    mask = b.do("INT_AND", 1, PROGRAM_MASK, constant(15, 1))
    byte = b.register(0)._replace(offset=b.register(0).offset + 3, size=1)
    b.copy(byte, b.do("INT_OR", 1, code, mask))


def _rotate_then_insert(b):
    first, last, by = b.number(2) & 63, b.number(3), b.number(4) & 63
    if not last & 0x80 or first > last & 63:
        raise NotImplementedError
    source = b.register(1)
    rotated = b.do("INT_OR", 8, b.do("INT_LEFT", 8, source, constant(by, 8)), b.do("INT_RIGHT", 8, source, constant(64 - by, 8)))
    count = (last & 63) - first + 1
    result = b.do("INT_AND", 8, rotated, constant((1 << count) - 1 << 63 - (last & 63), 8))
    b.copy(b.register(0), result)
    b.compare(result, constant(0, 8))


def _load_and_test(b, size):
    b.copy(b.register(0, size), b.load(b.address(1), size))
    b.compare(b.register(0, size), constant(0, size))


EFFECTS = {
    "lgr": lambda b: b.copy(b.register(0), b.register(1)),
    "lr": lambda b: b.copy(b.register(0, 4), b.register(1, 4)),
    "lghi": lambda b: b.copy(b.register(0), constant(b.number(1), 8)),
    "lgfi": lambda b: b.copy(b.register(0), constant(b.number(1), 8)),
    "iilf": lambda b: b.copy(b.register(0, 4), constant(b.number(1), 4)),
    "larl": lambda b: b.copy(b.register(0), constant(b.number(1), 8)),
    "la": lambda b: b.copy(b.register(0), b.address(1)),
    "lay": lambda b: b.copy(b.register(0), b.address(1)),
    "l": lambda b: b.copy(b.register(0, 4), b.load(b.address(1), 4)),
    "lg": lambda b: b.copy(b.register(0), b.load(b.address(1), 8)),
    "lb": lambda b: b.copy(b.register(0, 4), b.do("INT_SEXT", 4, b.load(b.address(1), 1))),
    "lt": lambda b: _load_and_test(b, 4),
    "ltg": lambda b: _load_and_test(b, 8),
    "stg": lambda b: b.store(b.address(1), b.register(0)),
    "stc": lambda b: b.store(b.address(1), b.register(0, 1)),
    "stmg": _store_many,
    "lmg": _load_many,
    "mvhhi": lambda b: b.store(b.address(0), constant(b.number(1), 2)),
    "mvhi": lambda b: b.store(b.address(0), constant(b.number(1), 4)),
    "mvghi": lambda b: b.store(b.address(0), constant(b.number(1), 8)),
    "aghi": lambda b: b.calculate("INT_ADD", "INT_SCARRY", b.register(0), b.register(0), constant(b.number(1), 8)),
    "afi": lambda b: b.calculate("INT_ADD", "INT_SCARRY", b.register(0, 4), b.register(0, 4), constant(b.number(1), 4)),
    "agr": lambda b: b.calculate("INT_ADD", "INT_SCARRY", b.register(0), b.register(0), b.register(1)),
    "sgr": lambda b: b.calculate("INT_SUB", "INT_SBORROW", b.register(0), b.register(0), b.register(1)),
    "sllg": lambda b: b.copy(b.register(0), b.do("INT_LEFT", 8, b.register(1), constant(b.number(2), 8))),
    "srl": lambda b: b.copy(b.register(0, 4), b.do("INT_RIGHT", 4, b.register(0, 4), constant(b.number(1), 4))),
    "chi": lambda b: b.compare(b.register(0, 4), constant(b.number(1), 4)),
    "cfi": lambda b: b.compare(b.register(0, 4), constant(b.number(1), 4)),
    "cr": lambda b: b.compare(b.register(0, 4), b.register(1, 4)),
    "c": lambda b: b.compare(b.register(0, 4), b.load(b.address(1), 4)),
    "cghsi": lambda b: b.compare(b.load(b.address(0), 8), constant(b.number(1), 8)),
    "clhhsi": lambda b: b.compare(b.load(b.address(0), 2), constant(b.number(1), 2), "INT_LESS"),
    "cli": lambda b: b.compare(b.load(b.address(0), 1), constant(b.number(1), 1), "INT_LESS"),
    "tmll": _test_under_mask,
    "oill": _or_low,
    "ipm": _insert_program_mask,
    "risbg": _rotate_then_insert,
    "svc": lambda b: b.operations.append(Operation("CALLOTHER", (), None, "svc")),
}


class S390xLifter:
    def __init__(self, program):
        self.program, self.registers = program, REGISTERS
        self.disassembler = capstone.Cs(capstone.CS_ARCH_SYSZ, capstone.CS_MODE_BIG_ENDIAN)
        self.disassembler.detail = True

    def lift(self, address):
        code = self.program.text[address - TEXT : address - TEXT + 6]
        if code[:2] == b"\0\0":
            return Instruction(address, 2, "trap", [Operation("CALLOTHER", (), None, "trap")])
        decoded = next(self.disassembler.disasm(code, address, count=1), None)
        if decoded is None:
            raise Violation("control flow", f"{address:#x} is not an instruction: {code.hex()}")
        text = f"{decoded.mnemonic} {decoded.op_str}"
        builder = _Builder(decoded)
        try:
            self._build(builder, decoded)
        except (KeyError, NotImplementedError) as error:
            raise Violation("control flow", f"s390x.py does not describe {text} at {address:#x}") from error
        return Instruction(address, decoded.size, text, builder.operations)

    @staticmethod
    def _build(b, decoded):
        name, next_address = decoded.mnemonic, decoded.address + decoded.size
        if name in EFFECTS:
            EFFECTS[name](b)
        elif name == "brasl":
            b.copy(b.register(0), constant(next_address, 8))
            b.go("CALL", Place("ram", b.number(1) & (1 << 64) - 1, 8))
        elif name == "br":
            b.go("RETURN", b.register(0))
        elif name == "j":
            b.go("BRANCH", Place("ram", b.number(0), 8))
        elif match := re.fullmatch(r"c(g?)ij(\w+)", name):
            condition = _compare_and_jump(b, 8 if match[1] else 4, match[2])
            b.go("CBRANCH", Place("ram", b.number(2), 8), condition)
        elif match := re.fullmatch(r"c(g?)ib(\w+)", name):
            target = b.address(2)
            condition = _compare_and_jump(b, 8 if match[1] else 4, match[2])
            b.go("CBRANCH", constant(2, 4), b.do("BOOL_NEGATE", 1, condition))  # skips the next operation
            b.go("RETURN", target)
        elif match := re.fullmatch(r"j(\w+)", name):
            b.go("CBRANCH", Place("ram", b.number(0), 8), b.condition(MASKS[match[1]]))
        else:
            raise KeyError(name)

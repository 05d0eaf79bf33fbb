"""The program as machine code: its file, architecture, instructions and control flow."""

import re
import struct
from pathlib import Path
from typing import NamedTuple

TEXT, PAGE, PAGE_END, SHED = 0x400000, 0x410000, 0x411000, 0x420000  # pause.ld
#: The upper half of the private page is the stack, the lower half is data.
STACK_FLOOR = PAGE + 2048


class Violation(Exception):
    """The program can break the contract. `broken` is the property that it breaks."""

    def __init__(self, broken, text):
        super().__init__(text)
        self.broken = broken


class BadInput(Exception):
    """The file is not a program that can be proved or refuted."""


class Architecture(NamedTuple):
    """The ABI of an architecture, as in src/arch, which cites the documents that define the ABI. Registers have SLEIGH's
    names."""

    name: str  # pause-linux-NAME
    source: str  # src/arch/SOURCE.rs
    machine: int  # e_machine in the ELF header
    language: str  # the language in SLEIGH; empty if there is none
    flags: int  # e_flags in the ELF header
    enter: str  # the system call instruction, in hexadecimal
    trap: str  # the trap instruction, in hexadecimal
    word: int  # the size of an address, in bytes
    order: str
    stack: str
    number: str
    arguments: list
    result: str
    changed: list  # other registers that a system call clobbers
    registers: list  # the general registers, which compare.py compares, in the order of gdb
    emulator: str = ""  # qemu's name for the architecture; empty for x86_64, which runs natively
    counter: str = "pc"  # the program counter
    gdb_numbers: dict = {}  # gdb's numbers of registers that differ from their index in `registers`
    state_of_error: str = ""  # the register whose lowest bit marks the result as an errno
    has_memory_end: bool = False  # MEMORY_END in src/arch

    def gdb_number(self, register):
        """The number of a register in gdb's description of the architecture (gdb/features in gdb's source)."""
        if register in self.gdb_numbers:
            return self.gdb_numbers[register]
        return self.registers.index(register) if register in self.registers else len(self.registers)


def numbered(prefix, numbers):
    return [f"{prefix}{number}" for number in numbers]


ARCHITECTURES = [
    Architecture("amd64", "x86_64", 62, "x86:LE:64:default", 0, "0f05", "0f0b",
                 8, "little", "RSP", "RAX", "RDI RSI RDX R10 R8".split(),
                 "RAX", ["RCX", "R11"], "RAX RBX RCX RDX RSI RDI RBP RSP".split() + numbered("R", range(8, 16)),
                 counter="RIP", has_memory_end=True),
    Architecture("386", "x86", 3, "x86:LE:32:default", 0, "cd80", "0f0b",
                 4, "little", "ESP", "EAX", "EBX ECX EDX ESI EDI".split(),
                 "EAX", [], "EAX ECX EDX EBX ESP EBP ESI EDI".split(), emulator="i386", counter="EIP"),
    Architecture("arm64", "aarch64", 183, "AARCH64:LE:64:v8A", 0, "010000d4", "00000000",
                 8, "little", "sp", "x8", numbered("x", range(5)),
                 "x0", [], numbered("x", range(31)) + ["sp"], emulator="aarch64"),
    Architecture("arm-v7", "arm", 40, "ARM:LE:32:v8", 0x05000400, "000000ef", "f000f0e7",
                 4, "little", "sp", "r7", numbered("r", range(5)),
                 "r0", [], numbered("r", range(13)) + ["sp", "lr"], emulator="arm"),
    Architecture("riscv64", "riscv64", 243, "RISCV:LE:64:RV64GC", 5, "73000000", "0000",
                 8, "little", "sp", "a7", numbered("a", range(5)),
                 "a0", [], "zero ra sp gp tp t0 t1 t2 s0 s1".split() + numbered("a", range(8))
                 + numbered("s", range(2, 12)) + numbered("t", range(3, 7)), emulator="riscv64"),
    Architecture("ppc64le", "powerpc64", 21, "PowerPC:LE:64:default", 2, "02000044", "0800e07f",
                 8, "little", "r1", "r0", numbered("r", range(3, 8)),
                 "r3", numbered("r", [0, *range(4, 13)]) + ["CTR", "XER", "xer_so", "xer_ov", "xer_ca", "xer_count",
                 "xer_ov32", "xer_ca32"], numbered("r", range(32)) + ["LR", "CTR"], emulator="ppc64le",
                 gdb_numbers={"pc": 64, "CR": 66, "LR": 67, "CTR": 68}, state_of_error="cr0"),
    Architecture("loong64", "loongarch64", 258, "Loongarch:LE:64:lp64d", 0x43, "00002b00", "00002a00",
                 8, "little", "sp", "a7", numbered("a", range(5)),
                 "a0", numbered("t", range(9)), "zero ra tp sp".split() + numbered("a", range(8))
                 + numbered("t", range(9)) + ["r21", "fp"] + numbered("s", range(9)),
                 emulator="loongarch64", gdb_numbers={"pc": 33}),
    Architecture("s390x", "s390x", 22, "", 0, "0a00", "0000",
                 8, "big", "r15", "r1", numbered("r", range(2, 7)),
                 "r2", [], numbered("r", range(16)), emulator="s390x",
                 gdb_numbers={"pc": 1} | {f"r{number}": 2 + number for number in range(16)}),
]

# SLEIGH's names for system call instructions, and for traps. They do not tell which system call instruction it is, or
# whether a trap is conditional. So `Code` also compares the bytes with those of the architecture.
SYSTEM_CALLS = {"syscall", "CallSupervisor", "software_interrupt", "ecall", "swi", "svc"}
TRAPS = {"invalidInstructionException", "UndefinedInstructionException", "software_udf", "trap", "ebreak", "unimp",
         "break", "trapWord"}


class Program(NamedTuple):
    path: str
    text: bytes
    architecture: Architecture
    entry: int


def read_program(path):
    """Reads the ELF header, and checks that the segments are those that the proof assumes."""
    try:
        text = open(path, "rb").read()
    except OSError as error:
        raise BadInput(f"{path}: {error.strerror}") from error
    if text[:4] != b"\x7fELF":
        raise BadInput(f"{path}: not an ELF file")
    try:
        wide, order = text[4] == 2, "<" if text[5] == 1 else ">"
        kind, machine = struct.unpack_from(order + "HH", text, 16)
        flags = struct.unpack_from(order + "I", text, 48 if wide else 36)[0]
        entry, headers = struct.unpack_from(order + ("QQ" if wide else "II"), text, 24)
        size, count = struct.unpack_from(order + "HH", text, 54 if wide else 42)
        form = "IIQQQQQQ" if wide else "IIIIIIII"
        segments = [struct.unpack_from(order + form, text, headers + size * index) for index in range(count)]
    except struct.error as error:
        raise BadInput(f"{path}: the ELF header is cut off") from error
    known = [a for a in ARCHITECTURES if a.machine == machine and (a.word == 8) == wide and (a.order == "little") == (order == "<")]
    if not known:
        raise BadInput(f"{path}: not a supported architecture: e_machine is {machine}, {64 if wide else 32} bits")
    # Type, flags, offset, address, size in the file and in memory.
    at = (0, 1, 2, 3, 5, 6) if wide else (0, 6, 1, 2, 4, 5)
    found = [tuple(segment[index] for index in at) for segment in segments]
    size = len(text)
    expected = [(1, 5, 0, TEXT, size, size), (1, 6, 0, PAGE, 0, PAGE_END - PAGE), (0x6474E551, 6, 0, 0, 0, 0)]
    if found != expected:
        raise BadInput(f"{path}: not a pause program: its segments are not one text at {TEXT:#x} and one page at {PAGE:#x}")
    if kind != 2:  # ET_EXEC
        raise BadInput(f"{path}: not a pause program: e_type is {kind}")
    if flags != known[0].flags:
        raise BadInput(f"{path}: not a pause program: e_flags is {flags:#x}, and not {known[0].flags:#x}")
    return Program(path, text, known[0], entry)


def system_calls(architecture):
    """The numbers of the system calls that pause makes, by name, from src/arch. `crates/abi-check` compares these
    numbers with the libc crate."""
    folder = Path(__file__).parents[2] / "src/arch"
    source = (folder / f"{architecture.source}.rs").read_text()
    if "asm_generic as nr" in source:
        source = (folder / "asm_generic.rs").read_text()
    constants = re.findall(r"pub const ([A-Z0-9_]+): usize = ([\d_]+);", source)
    return {name.lower(): int(number.replace("_", "")) for name, number in constants}


class Place(NamedTuple):
    """An operand. `space` is const, register, unique (temporary, within one instruction) or ram."""

    space: str
    offset: int
    size: int


class Operation(NamedTuple):
    """A P-code operation (SLEIGH documentation). `name` is the kind of a CALLOTHER."""

    code: str
    inputs: tuple
    output: Place = None
    name: str = ""


class Instruction:
    """One instruction as P-code operations, with its static control flow."""

    def __init__(self, address, size, text, operations):
        self.address, self.size, self.text, self.operations = address, size, text, operations
        self.enters_kernel = self.traps = self.is_indirect = False
        self.targets, self.calls, self.falls_through = set(), set(), True
        for index, operation in enumerate(operations):
            code, first = operation.code, operation.inputs[0] if operation.inputs else None
            self.enters_kernel |= operation.name in SYSTEM_CALLS
            self.traps |= operation.name in TRAPS
            if self.enters_kernel or self.traps:
                # The operations after this one are SLEIGH's model of the kernel. `Executor` has its own.
                del operations[index + 1 :]
                break
            if code in ("BRANCH", "CBRANCH") and first.space != "const":
                self.targets.add(first.offset)
            if code == "CALL":
                self.calls.add(first.offset)
            self.is_indirect |= code in ("RETURN", "BRANCHIND", "CALLIND")
        inner = any(o.code in ("BRANCH", "CBRANCH") and o.inputs[0].space == "const" for o in operations)
        last = operations[-1] if operations else None
        ends = last is not None and last.code in ("BRANCH", "RETURN", "BRANCHIND", "CALL", "CALLIND")
        if self.traps or (ends and not inner):
            self.falls_through = False

    @property
    def next(self):
        return self.address + self.size


class SleighLifter:
    """Lifts with SLEIGH, Ghidra's processor language. SLEIGH describes all our architectures except s390x."""

    def __init__(self, program):
        import pypcode

        self.program = program
        self.context = pypcode.Context(program.architecture.language)
        self.registers = {name: (node.offset, node.size) for name, node in self.context.registers.items()}
        self.bad_data = (pypcode.BadDataError, pypcode.UnimplError)

    def lift(self, address):
        code = self.program.text[address - TEXT : address - TEXT + 16]
        architecture = self.program.architecture.name
        if architecture == "riscv64" and code[:2] == b"\0\0":
            # c.unimp, which SLEIGH lacks.
            return Instruction(address, 2, "c.unimp", [Operation("CALLOTHER", (), None, "trap")])
        try:
            lifted = self.context.translate(code, address, max_instructions=1).ops
            listed = self.context.disassemble(code, address, max_instructions=1).instructions[0]
        except self.bad_data as error:
            raise Violation("control flow", f"{address:#x} is not an instruction: {error}") from error
        operations = []
        for operation in lifted[1:]:  # The first one is IMARK.
            inputs = tuple(Place(node.space.name, node.offset, node.size) for node in operation.inputs)
            output = operation.output and Place(operation.output.space.name, operation.output.offset, operation.output.size)
            name = ""
            if operation.opcode.name == "CALLOTHER":
                name = operation.inputs[0].getUserDefinedOpName()
            if architecture == "loong64" and listed.mnem.endswith(".d") and inputs[1:] == (Place("const", 0x1F, inputs[0].size),):
                # SLEIGH keeps only five bits of the distance of a 64-bit shift. The processor uses six
                # (LoongArch Reference Manual, volume 1, 2.2.1.11).
                inputs = (inputs[0], Place("const", 0x3F, inputs[0].size))
            operations.append(Operation(operation.opcode.name, inputs, output or None, name))
        return Instruction(address, lifted[0].inputs[0].size, f"{listed.mnem} {listed.body}".strip(), operations)


def lifter_of(program):
    if program.architecture.language:
        return SleighLifter(program)
    from s390x import S390xLifter

    return S390xLifter(program)


class Code:
    """The instructions that are reachable from the entry point by static control flow.

    The instruction after a call is reachable only if the function can return. `found` has the calls through a register
    that execution has found so far, as pairs of the address of the call and the address of the function."""

    def __init__(self, program, lifter, found=frozenset()):
        self.program, self.lifter = program, lifter
        self.instructions, self.returns = {}, set()
        returning, waiting, seen = set(), {}, set()
        todo = [(program.entry, program.entry)]
        while todo:
            address, function = step = todo.pop()
            if step in seen:
                continue
            seen.add(step)
            instruction = self._instruction(address)
            instruction.calls.update(target for call, target in found if call == address)
            todo += [(target, function) for target in instruction.targets]
            todo += [(target, target) for target in instruction.calls]
            for target in instruction.calls:
                behind = (instruction.next, function)
                waiting.setdefault(target, []).append(behind)
                if target in returning:
                    todo.append(behind)
                    self.returns.add(instruction.next)
            if any(operation.code == "RETURN" for operation in instruction.operations):
                returning.add(function)
                todo += waiting.get(function, [])
                self.returns.update(address for address, _ in waiting.get(function, []))
            if instruction.falls_through:
                todo.append((instruction.next, function))
        self.indirect_targets = self.returns | {target for _, target in found}
        in_order = sorted(self.instructions.values(), key=lambda i: i.address)
        for one, two in zip(in_order, in_order[1:]):
            if one.next > two.address:
                raise Violation("control flow", f"instructions overlap at {one.address:#x} and {two.address:#x}")
        self.size = sum(instruction.size for instruction in in_order)
        every = self.instructions.values()
        #: The addresses at which paths can meet. States are compared there.
        self.junctions = {program.entry} | self.indirect_targets
        self.junctions.update(*(i.targets | i.calls for i in every), (i.next for i in every if i.targets))
        #: Targets of backward jumps.
        self.loop_heads = {target for i in every for target in i.targets if target <= i.address}
        self.live = self._live_registers()

    def _instruction(self, address):
        if address not in self.instructions:
            end = TEXT + len(self.program.text)
            if not TEXT <= address < end:
                raise Violation("control flow", f"control flow leaves the text: {address:#x}")
            instruction = self.instructions[address] = self.lifter.lift(address)
            abi = self.program.architecture
            code = self.program.text[address - TEXT : instruction.next - TEXT].hex()
            if instruction.enters_kernel and code != abi.enter:
                raise Violation("calls", f"enters the kernel by another instruction at {address:#x}: {instruction.text}")
            if instruction.traps and code != abi.trap:
                raise Violation("status", f"traps by another instruction at {address:#x}: {instruction.text}")
            if instruction.next > end:
                raise Violation("control flow", f"the instruction at {address:#x} reaches beyond the text")
        return self.instructions[address]

    def _live_registers(self):
        """The live register bytes before each instruction. The executor forgets the others. Forgetting makes a state more
        general, so the proof stays sound even if a live byte is missing here."""
        abi = self.program.architecture
        span = lambda name: set(range(self.lifter.registers[name][0], sum(self.lifter.registers[name])))
        reads, writes, successors = {}, {}, {}
        for address, instruction in self.instructions.items():
            read, written, is_certain = set(), set(), True
            for operation in instruction.operations:
                for place in operation.inputs:
                    if place.space == "register":
                        read |= set(range(place.offset, place.offset + place.size)) - written
                if operation.name in SYSTEM_CALLS:
                    read |= set().union(*(span(name) for name in [abi.number, *abi.arguments])) - written
                    written |= set().union(*(span(name) for name in [abi.result, *abi.changed]))
                is_certain &= operation.code not in ("BRANCH", "CBRANCH")
                if operation.output and operation.output.space == "register" and is_certain:
                    written |= set(range(operation.output.offset, operation.output.offset + operation.output.size))
            reads[address] = read if instruction.traps else read | span(abi.stack)
            writes[address] = written - span(abi.stack)
            following = instruction.targets | instruction.calls
            if instruction.is_indirect:
                following = following | self.indirect_targets
            if instruction.falls_through:
                following = following | {instruction.next}
            successors[address] = following & set(self.instructions)
        live = {address: set(read) for address, read in reads.items()}
        changed = True
        while changed:
            changed = False
            for address in sorted(self.instructions, reverse=True):
                after = set().union(*(live[successor] for successor in successors[address]))
                more = after - writes[address] - live[address]
                live[address] |= more
                changed |= bool(more)
        return live

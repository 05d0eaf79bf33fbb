"""Compares the proof's model of instructions with what a processor does.

    compare.py PROGRAM...

A processor, or qemu's emulation of one, executes the program one instruction at a time, and so does the executor of the
proof. After each instruction, the registers and the bytes that the proof has written must be the same in both. The
kernel starts the program, but the program's system calls are not made: their results come from a scenario. The report
names each instruction that no scenario reaches.

ptrace(2) controls a native program. The gdb stub of the emulator that --emulator names controls any other.
"""

import argparse
import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time

from executor import Executor, NewTarget
from machine import PAGE, PAGE_END, BadInput, Code, lifter_of, read_program, system_calls
from state import START_DEPTH
from values import Bytes

ENOSYS, EINTR = 38, 4
#: Each scenario has the program's arguments, and the results of each system call, one after the other. The last result
#: is repeated. A call that is not listed returns 0.
SCENARIOS = [
    (["pause"], {"getpid": [1], "wait4": [7, 0], "rt_sigtimedwait": [17, -EINTR, 15], "ppoll": [1]}),
    (["pause", "-P"], {"getpid": [2], "rt_sigtimedwait": [2]}),
    (["n" * 200, "-", "--", "--hel", "--vers", "--versio", "--version1", "-Px"], {"getpid": [2], "ppoll": [1]}),
    (["pause"], {"rt_sigprocmask": [-1], "ppoll": [1]}),
    (["pause"], {"rt_sigaction": [-1], "ppoll": [-1], "ppoll_time64": [-1]}),
    (["pause"], {"getpid": [-1], "prctl": [-1], "wait4": [-1], "rt_sigtimedwait_time64": [15]}),
    (["pause"], {"getpid": [1], "prctl": [0, -1, 0], "ppoll_time64": [-ENOSYS], "rt_sigtimedwait_time64": [-ENOSYS],
                 "rt_sigtimedwait": [-EINTR, 2], "ppoll": [1]}),
    (["pause", "x", "-v"], {"write": [12]}),
    (["pause", "-V"], {"write": [-1]}),
    (["pause", "--version"], {"write": [11]}),
    (["pause", "-h"], {"write": [27]}),
    (["pause", "--help", "-v"], {"write": [27]}),
]
#: How long an emulator may take to start listening, or to answer.
DEADLINE_SECONDS = 60


class Difference(Exception):
    """The executor and the processor do not agree."""


class Ptrace:
    """A process of this machine's architecture, x86_64. ptrace(2)"""

    TRACEME, GETREGS, SETREGS, SINGLESTEP, SETOPTIONS, O_EXITKILL = 0, 12, 13, 9, 0x4200, 0x100000
    #: `struct user_regs_struct` in sys/user.h
    FIELDS = ("R15 R14 R13 R12 RBP RBX R11 R10 R9 R8 RAX RCX RDX RSI RDI orig RIP cs flags RSP ss fs_base gs_base ds es fs gs"
              ).split()

    def __init__(self, architecture, path, arguments, _emulator):
        self.libc = ctypes.CDLL(None, use_errno=True)
        self.libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p]
        self.process = subprocess.Popen(arguments, executable=path, preexec_fn=lambda: self.libc.ptrace(self.TRACEME, 0, None, None))
        self.registers = (ctypes.c_ulonglong * len(self.FIELDS))()
        self._wait()
        self._ptrace(self.SETOPTIONS, self.O_EXITKILL)
        self.memory = os.open(f"/proc/{self.process.pid}/mem", os.O_RDONLY)
        self._get()

    def _ptrace(self, request, data=None):
        if self.libc.ptrace(request, self.process.pid, None, data) < 0:
            raise OSError(ctypes.get_errno(), "ptrace")

    def _wait(self):
        _, status = os.waitpid(self.process.pid, 0)
        if not os.WIFSTOPPED(status) or os.WSTOPSIG(status) != signal.SIGTRAP:
            raise Difference(f"the process did not stop after an instruction: wait status {status:#x}")

    def _get(self):
        self._ptrace(self.GETREGS, ctypes.addressof(self.registers))

    def get(self, name):
        return self.registers[self.FIELDS.index(name)]

    def set(self, values):
        for name, value in values.items():
            self.registers[self.FIELDS.index(name)] = value
        self._ptrace(self.SETREGS, ctypes.addressof(self.registers))

    def read(self, address, size):
        return os.pread(self.memory, size, address)

    def step(self):
        self._ptrace(self.SINGLESTEP)
        self._wait()
        self._get()

    def close(self):
        os.close(self.memory)
        self.process.kill()
        self.process.wait()


class Emulator:
    """A process that qemu emulates, controlled through gdb's remote protocol (GDB manual, appendix E)."""

    def __init__(self, architecture, path, arguments, emulator):
        self.architecture = architecture
        self.folder = tempfile.TemporaryDirectory()
        where = os.path.join(self.folder.name, "gdb")
        self.process = subprocess.Popen([emulator, "-g", where, "-0", arguments[0], path, *arguments[1:]])
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(DEADLINE_SECONDS)
        deadline = time.monotonic() + DEADLINE_SECONDS
        while True:
            try:
                self.socket.connect(where)
                break
            except (FileNotFoundError, ConnectionRefusedError):
                if self.process.poll() is not None or time.monotonic() > deadline:
                    raise BadInput(f"{emulator} -g {where} does not listen") from None
                time.sleep(0.01)
        self.buffer, self.registers = b"", None
        # qemu gives access to single registers only to a client that has asked for this description.
        self.ask("qXfer:features:read:target.xml:0,10")

    def _byte(self):
        if not self.buffer:
            self.buffer = self.socket.recv(4096)
            if not self.buffer:
                raise Difference("the emulator has ended")
        byte, self.buffer = self.buffer[:1], self.buffer[1:]
        return byte

    def ask(self, command):
        self.socket.sendall(f"${command}#{sum(command.encode()) % 256:02x}".encode())
        while self._byte() != b"$":
            pass
        answer = b""
        while (byte := self._byte()) != b"#":
            answer += byte
        self._byte(), self._byte()
        self.socket.sendall(b"+")
        if not answer or answer.startswith(b"E"):
            raise BadInput(f"the emulator answers {answer.decode()!r} to {command}")
        return answer.decode()

    def get(self, name):
        number, word = self.architecture.gdb_number(name), self.architecture.word
        # On Power, these registers come after the floating-point registers, which qemu's answer to `g` leaves out. So
        # they are at another place in the answer than their numbers say.
        if number >= 64:
            return self._number(self.ask(f"p{number:x}"))
        if self.registers is None:
            self.registers = self.ask("g")
        return self._number(self.registers[2 * word * number : 2 * word * (number + 1)])

    def _number(self, digits):
        return int.from_bytes(bytes.fromhex(digits), self.architecture.order)

    def set(self, values):
        for name, value in values.items():
            size = 4 if name == "CR" else self.architecture.word
            content = value.to_bytes(size, self.architecture.order).hex()
            self.ask(f"P{self.architecture.gdb_number(name):x}={content}")
        self.registers = None

    def read(self, address, size):
        most = 1_024  # what fits in a packet
        parts = ((at, min(most, address + size - at)) for at in range(address, address + size, most))
        return bytes.fromhex("".join(self.ask(f"m{at:x},{length:x}") for at, length in parts))

    def step(self):
        self.ask("s")
        self.registers = None

    def close(self):
        self.socket.close()
        self.process.kill()
        self.process.wait()
        self.folder.cleanup()


class Known:
    """A state for the executor in which every value is known."""

    is_answering = is_released = False
    callers = ()

    def __init__(self, code, process):
        self.code, self.abi, self.process = code, code.program.architecture, process
        self.registers, self.address, self.written = Bytes(), process.get(self.abi.counter), {}

    def read_register(self, offset, size):
        return self.registers.take(offset, size, lambda _: 0)

    def get(self, name):
        return self.read_register(*self.code.lifter.registers[name])

    def set(self, name, value):
        self.registers.put(*self.code.lifter.registers[name], value)

    def load(self, address, size):
        content = bytearray(self.process.read(address, size))
        for index in range(size):
            content[index] = self.written.get(address + index, content[index])
        return int.from_bytes(content, self.abi.order)

    def store(self, address, size, value):
        self.written.update(zip(range(address, address + size), value.to_bytes(size, self.abi.order)))


class Comparison:
    """Compares one scenario, instruction by instruction."""

    def __init__(self, code, emulator, executed):
        self.code, self.abi, self.emulator, self.executed = code, code.program.architecture, emulator, executed
        self.executor = Executor(code, system_calls(self.abi))
        self.steps = 0

    def run(self, arguments, results):
        kind = Emulator if self.abi.emulator else Ptrace
        with contextlib.closing(kind(self.abi, self.code.program.path, arguments, self.emulator)) as process:
            state, results = Known(self.code, process), {name: list(values) for name, values in results.items()}
            for name in self.abi.registers:
                state.set(name, process.get(name))
            stack = process.get(self.abi.stack)
            #: Where the program may write, by the start address: what is there according to the proof.
            self.memory = {at: bytearray(process.read(at, size))
                           for at, size in ((PAGE, PAGE_END - PAGE), (stack - START_DEPTH, START_DEPTH))}
            while True:
                instruction = self.code.instructions.get(state.address)
                if instruction is None:
                    raise Difference(f"{state.address:#x} is executed, but the proof never reaches it")
                if instruction.enters_kernel:
                    self.executed.add(state.address)
                    self.compare_memory(process)
                    if not self.make_call(state, process, instruction, results):
                        return
                else:
                    self.step(state, process, instruction)

    def compare_memory(self, process):
        """Compares all memory that the program may write. This finds a write that the proof does not know of."""
        for at, content in self.memory.items():
            found = process.read(at, len(content))
            if found != content:
                first = next(index for index, byte in enumerate(content) if byte != found[index])
                raise Difference(f"{at + first:#x} is {found[first]:#x}, but the proof says {content[first]:#x}")

    def make_call(self, state, process, instruction, results):
        """Takes the place of the kernel: sets the result of a system call. Returns whether the program goes on."""
        number = state.get(self.abi.number)
        name = self.executor.names.get(number)
        if name is None:
            raise Difference(f"an unknown system call, {number}, at {state.address:#x}")
        if name == "exit":
            return False
        values = results.get(name, [0])
        result = values.pop(0) if len(values) > 1 else values[0]
        changes = {self.abi.counter: instruction.next}
        if self.abi.state_of_error:
            is_error, result = result < 0, abs(result)
            state.set(self.abi.state_of_error, state.get(self.abi.state_of_error) & ~1 | is_error)
            changes["CR"] = process.get("CR") & ~(1 << 28) | is_error << 28
        changes[self.abi.result] = result & (1 << 8 * self.abi.word) - 1
        process.set(changes)
        state.set(self.abi.result, changes[self.abi.result])
        state.address = instruction.next
        return True

    def step(self, state, process, instruction):
        before, state.written = state.address, {}
        todo, done = [(state, 0, Bytes())], []
        while todo:
            one, index, scratch = todo.pop()
            done += self.executor.operate(one, instruction, index, scratch, todo)
        if [how for how, _ in done] != ["run"]:
            raise Difference(f"{before:#x} {instruction.text} does not have exactly one successor")
        process.step()
        self.steps += 1
        self.executed.add(before)
        pairs = [(name, state.get(name), process.get(name)) for name in self.abi.registers]
        pairs.append((self.abi.counter, state.address, process.get(self.abi.counter)))
        for address, byte in state.written.items():
            pairs.append((hex(address), byte, process.read(address, 1)[0]))
            for at, content in self.memory.items():
                if at <= address < at + len(content):
                    content[address - at] = byte
        for name, ours, theirs in pairs:
            if ours != theirs:
                raise Difference(f"{before:#x} {instruction.text}: {name} is {theirs:#x}, but the proof says {ours:#x}")


def run_all(program, emulator, change=lambda code: None):
    """Returns how many instructions were executed, the set of their addresses, and the code."""
    found, executed, steps = set(), set(), 0
    code = Code(program, lifter_of(program))
    change(code)
    for arguments, results in SCENARIOS:
        while True:
            comparison = Comparison(code, emulator, executed)
            try:
                comparison.run(arguments, results)
                break
            except NewTarget as error:
                found.add((error.call, error.function))
                code = Code(program, lifter_of(program), frozenset(found))
                change(code)
        steps += comparison.steps
    return steps, executed, code


def subtract(code):
    """Turns additions into subtractions. The comparison has to notice this."""
    for instruction in code.instructions.values():
        for index, operation in enumerate(instruction.operations):
            if operation.code == "INT_ADD" and operation.inputs[0].space == "register":
                instruction.operations[index] = operation._replace(code="INT_SUB")


def compare(program, emulator):
    result = run_all(program, emulator)
    try:
        run_all(program, emulator, subtract)
    except Difference:
        return result
    raise Difference("the comparison does not notice that additions were turned into subtractions")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--emulator", help="qemu's user-mode emulator of the program's architecture")
    parser.add_argument("programs", nargs="+", metavar="PROGRAM")
    arguments = parser.parse_args()
    for path in arguments.programs:
        try:
            program = read_program(path)
            name = program.architecture.name
            if bool(program.architecture.emulator) != bool(arguments.emulator):
                raise BadInput(f"{path}: all architectures except amd64 need --emulator, and amd64 takes none")
            steps, executed, code = compare(program, arguments.emulator)
        except BadInput as error:
            print(error, file=sys.stderr)
            return 2
        except Difference as difference:
            print(f"{name}: DIFFERENT: {difference}")
            return 1
        missed = [i for a, i in sorted(code.instructions.items()) if a not in executed and not i.traps]
        print(f"{name}: THE SAME after {steps:,} executed instructions ({len(executed)} distinct, "
              f"of {len(code.instructions)} in the program)")
        for instruction in missed:
            print(f"    not compared: {instruction.address:#x} {instruction.text}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Executes instructions on symbolic states, and explores until no new state is found."""

import contract
import spec
import z3
from contract import Pause
from machine import PAGE_END, STACK_FLOOR, SYSTEM_CALLS, TRAPS, Code, Violation
from state import RED_ZONE, START_DEPTH, Solver, State, describe
from values import Bytes, normal, operate, signed, symbol

#: More states than our programs have. The exploration of a program that never converges stops at this number.
MOST_STATES = 20_000


class NewTarget(Exception):
    """A call through a register reaches a function that was not known."""

    def __init__(self, call, function):
        self.call, self.function = call, function


class Executor:
    """Executes one instruction on a state."""

    def __init__(self, code, numbers):
        self.code, self.abi = code, code.program.architecture
        self.names = {number: name for name, number in numbers.items()}
        #: The addresses at which each system call is made.
        self.calls = {}
        self.executed = set()
        self.lowest_stack, self.lowest_start, self.instructions = PAGE_END, 0, 0

    def step(self, state):
        """The states after one instruction, each with its kind: `run`, `call` or `trap`."""
        instruction = self.code.instructions[state.address]
        self.instructions += 1
        self.executed.add(state.address)
        done, todo = [], [(state, 0, Bytes())]
        while todo:
            state, index, scratch = todo.pop()
            done += self.operate(state, instruction, index, scratch, todo)
        for _, after in done:
            self._check_stack(after)
        return done

    def operate(self, state, instruction, index, scratch, todo):
        while index < len(instruction.operations):
            operation = instruction.operations[index]
            index += 1
            code, inputs, output = operation.code, operation.inputs, operation.output

            def value(place):
                if place.space == "const":
                    return place.offset
                if place.space == "register":
                    return state.read_register(place.offset, place.size)
                if place.space == "unique":
                    return scratch.take(place.offset, place.size, lambda _: (symbol("scratch", 8), 0))
                return state.load(place.offset, place.size)

            def jump(to, state, scratch):
                """Continues at another instruction, or at another operation of this one."""
                if to.space == "const":
                    todo.append((state, index - 1 + signed(to.offset, 8 * to.size), scratch))
                    return []
                state.address = to.offset
                return [("run", state)]

            if operation.name == "setISAMode":  # Arm
                if not Pause(state).equal(state.get("ISAModeSwitch"), 0):
                    raise Violation("control flow", "may continue with Thumb code")
                continue
            if operation.name in TRAPS:
                return [("trap", state)]
            if operation.name in SYSTEM_CALLS:
                return self._system_call(state, instruction)
            if code == "BRANCH":
                return jump(inputs[0], state, scratch)
            if code == "CBRANCH":
                condition = value(inputs[1])
                if not isinstance(condition, int):
                    holds = z3.simplify(condition == 1)
                    is_possible, is_certain = state.may(holds), not state.may(z3.Not(holds))
                    if is_possible and not is_certain:
                        other = state.copy()
                        other.assume(holds)
                        state.assume(z3.Not(holds))
                        todo.append((state, index, Bytes(scratch)))
                        return jump(inputs[0], other, scratch)
                    condition = is_possible
                if condition:
                    return jump(inputs[0], state, scratch)
                continue
            if code == "CALL":
                state.callers += (instruction.next,)
                state.address = inputs[0].offset
                return [("run", state)]
            if code in ("RETURN", "BRANCHIND", "CALLIND"):
                target = value(inputs[0])
                if not isinstance(target, int):
                    raise Violation("control flow", f"jumps to an unknown address: {target}")
                if self.abi.name == "arm-v7":
                    target &= ~1
                if code == "CALLIND":
                    if target not in instruction.calls:
                        raise NewTarget(instruction.address, target)
                    state.callers += (instruction.next,)
                else:
                    *callers, expected = state.callers or (None,)
                    if target != expected:
                        raise Violation("control flow", f"returns to {target:#x}, where its caller does not continue")
                    state.callers = tuple(callers)
                state.address = target
                return [("run", state)]
            if code == "STORE":
                self._store(state, value(inputs[1]), inputs[2].size, value(inputs[2]))
                continue
            if code == "LOAD":
                result = state.load(value(inputs[1]), output.size)
            elif code == "CALLOTHER":
                raise Violation("control flow", f"an unknown instruction: {instruction.text}")
            else:
                try:
                    result = operate(code, [value(place) for place in inputs], [place.size for place in inputs], output.size)
                except KeyError as error:
                    raise Violation("control flow", f"an unknown operation: {error} of {instruction.text}") from error
                if result is None:
                    result = state.fresh(f"unknown{index}@{instruction.address:x}", 8 * output.size)
            if output.space == "register":
                state.registers.put(output.offset, output.size, result)
            elif output.space == "unique":
                scratch.put(output.offset, output.size, result)
            else:
                state.store(output.offset, output.size, result)
        state.address = instruction.next
        return [("run", state)]

    def _store(self, state, address, size, value):
        if isinstance(address, int) and state.is_answering:
            self._leave_answering(state)
        state.store(address, size, value)

    def _leave_answering(self, state):
        spec.passes_all_arguments(Pause(state))
        state.is_answering, state.argument, state.stage = False, None, spec.begins()

    def _check_stack(self, state):
        stack = state.get(self.abi.stack)
        if isinstance(stack, int):
            self.lowest_stack = min(self.lowest_stack, stack)
            if state.is_answering:
                self._leave_answering(state)
            if not STACK_FLOOR + RED_ZONE <= stack <= PAGE_END:
                raise Violation("stack", f"the stack pointer is {stack:#x}")
        else:
            name, distance = state.locate(stack)
            self.lowest_start = min(self.lowest_start, distance)
            if name != "start" or not -START_DEPTH <= distance <= 0:
                raise Violation("stack", f"the stack pointer is {describe(name, distance)}")

    def _system_call(self, state, instruction):
        number = state.get(self.abi.number)
        if not isinstance(number, int):
            raise Violation("calls", "a system call with an unknown number")
        # Some kernels use the whole register.
        name = self.names.get(number)
        if name is None:
            raise Violation("calls", f"system call {number}, which is not in the contract")
        values = [state.get(register) for register in self.abi.arguments]
        self.calls.setdefault(name, set()).add(instruction.address)
        done = []
        for one in contract.stages(state):
            call = contract.allowed(one, name, values)
            one.log("call", instruction.address, call.name, values[: len(call.arguments)])
            self._write(one, call, values)
            if self.abi.state_of_error:
                done += [self._return(one.copy(), call, instruction, is_error) for is_error in (0, 1)]
            else:
                done.append(self._return(one, call, instruction))
        return [("call", one) for one in done]

    def _write(self, state, call, values):
        """Models the kernel's writes to memory."""
        if call.writes:
            argument, distance, size = call.writes
            start = values[argument] + distance
            state.page.put(start, size, state.fresh(f"written{start:x}", 8 * size))
        state.is_released |= call.releases

    def _return(self, state, call, instruction, is_error=None):
        """Models the kernel's writes to registers. The result is unknown. If a bit marks an errno, the caller calls
        this once for each value of the bit."""
        for register in self.abi.changed:
            _, size = self.code.lifter.registers[register]
            state.set(register, state.fresh(f"{register}@{instruction.address:x}", 8 * size))
        result = state.fresh(f"result@{instruction.address:x}", state.bits)
        state.set(self.abi.result, result)
        low = normal(z3.Extract(31, 0, result))
        if is_error is not None:
            others = state.fresh(f"{self.abi.state_of_error}@{instruction.address:x}", 8)
            state.set(self.abi.state_of_error, normal(z3.Concat(z3.Extract(7, 1, others), z3.BitVecVal(is_error, 1))))
        if is_error:
            state.assume(z3.And(z3.UGE(result, 1), z3.ULE(result, 4095)))
            low = normal(-low)
        state.log("result", call.name, low)
        contract.follow_result(state, call, low)
        state.address = instruction.next
        return state


class Edge:
    """A step between two states: the number of instructions, the system calls, and whether a cursor moved or was made."""

    def __init__(self, to, instructions, calls, cursor):
        self.to, self.instructions, self.calls, self.cursor = to, instructions, calls, cursor


class Exploration:
    """All states that a program can have at junctions, and the edges between them."""

    def __init__(self, program, lifter, numbers):
        self.program, self.solver = program, Solver()
        found = set()
        while True:
            self.code = Code(program, lifter, frozenset(found))
            self.executor = Executor(self.code, numbers)
            try:
                self._explore()
                break
            except NewTarget as error:
                found.add((error.call, error.function))
        self._check_loops()

    def _explore(self):
        self.edges, self.ends = {}, set()
        state = State(self.code, self.solver, spec.looks_at_arguments(), spec)
        self.first = state.key_of()
        todo = [(self.first, state)]
        self.edges[self.first] = None
        while todo:
            key, state = todo.pop()
            self.edges[key] = []
            for edge, after in self._to_junctions(state):
                self.edges[key].append(edge)
                if after is not None and edge.to not in self.edges:
                    self.edges[edge.to] = None
                    todo.append((edge.to, after))
            if len(self.edges) > MOST_STATES:
                raise Violation("termination", f"more than {MOST_STATES} states: a loop may never end")

    def _to_junctions(self, state):
        todo = [(state, 0, ())]
        while todo:
            state, count, calls = todo.pop()
            address = state.address
            try:
                behind = self.executor.step(state)
                for how, after in behind:
                    if how == "trap":
                        contract.settle(after)
                        if after.pending or after.stage.name != "has_exited":
                            raise Violation("status", f'executes its trap instruction at the stage "{after.stage}"')
                        yield Edge(None, count + 1, calls, None), None
                        continue
                    made = calls + ((self.code.instructions[address].address,) if how == "call" else ())
                    if after.address not in self.code.junctions:
                        todo.append((after, count + 1, made))
                        continue
                    after.forget_dead()
                    moved = after.advance()
                    contract.settle(after)
                    after.forget_unused()
                    yield Edge(after.key_of(), count + 1, made, moved), after
            except Violation as violation:
                if not hasattr(violation, "trace"):
                    violation.trace, violation.address = state.trace, address
                    violation.instruction = self.code.instructions[address].text
                raise

    def _check_loops(self):
        """Checks that each loop ends or is allowed by the contract. A loop over the start stack ends, because the start
        stack is finite. In such a loop, a cursor moves, and no cursor is created."""
        repeated = {address for name in spec.REPEATED for address in self.executor.calls.get(name, ())}
        graph = {key: [e for e in edges if e.to is not None] for key, edges in self.edges.items()}
        calm = {key: [e for e in edges if not repeated & set(e.calls)] for key, edges in graph.items()}
        groups = components(calm)
        inner = {key: [e for e in edges if groups[e.to] == groups[key]] for key, edges in calm.items()}
        for key, edges in inner.items():
            if any(edge.cursor == "made" for edge in edges):
                raise Violation("termination", f"a loop at {key[0]:#x} walks along the start stack again and again")
        resting = {key: [e for e in edges if e.cursor != "moved"] for key, edges in inner.items()}
        groups = components(resting)
        for key, edges in resting.items():
            if any(groups[edge.to] == groups[key] for edge in edges):
                raise Violation("termination", f"a loop at {key[0]:#x} may never end")
        loops = components(graph)
        self.loops = {
            key[0] for key, edges in graph.items() for edge in edges if loops[edge.to] == loops[key]
            and (edge.cursor == "moved" or repeated & set(edge.calls))
        }


def components(graph):
    """The strongly connected components (Tarjan): maps each node to a representative of its component."""
    index, low, component, path, on_path = {}, {}, {}, [], set()
    for root in graph:
        if root in index:
            continue
        index[root] = low[root] = len(index)
        path.append(root), on_path.add(root)
        todo = [(root, iter(graph[root]))]
        while todo:
            node, edges = todo[-1]
            for edge in edges:
                to = edge.to
                if to not in index:
                    index[to] = low[to] = len(index)
                    path.append(to), on_path.add(to)
                    todo.append((to, iter(graph[to])))
                    break
                if to in on_path:
                    low[node] = min(low[node], index[to])
            else:
                todo.pop()
                if todo:
                    low[todo[-1][0]] = min(low[todo[-1][0]], low[node])
                if low[node] == index[node]:
                    while True:
                        member = path.pop()
                        on_path.discard(member)
                        component[member] = node
                        if member is node:
                            break
    return component

"""Proves that a program keeps the contract in spec.py, or prints a path on which the program breaks it.

    prove.py PROGRAM...
    prove.py --properties

The exit status is 0 if all programs were proved, 1 if one was refuted, and 2 if a file is not a program that can be
proved or refuted.
"""

import argparse
import hashlib
import resource
import sys
import time

from executor import Exploration
from machine import PAGE_END, BadInput, Violation, lifter_of, read_program, system_calls
from spec import PROPERTIES


def prove(program):
    """Returns a report. Raises a Violation if the program is refuted."""
    start = time.perf_counter()
    exploration = Exploration(program, lifter_of(program), system_calls(program.architecture))
    executor, code = exploration.executor, exploration.code
    seconds = time.perf_counter() - start
    mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    calls = (f"{name} at {', '.join(map(hex, sorted(places)))}" for name, places in sorted(executor.calls.items()))
    return "\n    ".join([
        f"{program.architecture.name}: PROVED, {len(program.text):,} bytes, sha256 {hashlib.sha256(program.text).hexdigest()}",
        f"{len(exploration.edges):,} states, {executor.instructions:,} instructions executed, "
        f"{exploration.solver.asked:,} questions to the solver, {seconds:.1f} s, {mib} MiB",
        f"{len(executor.executed)} of {len(code.instructions)} reachable instructions are executed on some path; "
        f"the reachable instructions have {code.size} bytes",
        f"loops at {', '.join(map(hex, sorted(exploration.loops)))}",
        f"stack: at most {PAGE_END - executor.lowest_stack} bytes of the private page; "
        f"before the switch to it, at most {-executor.lowest_start} bytes below the start stack",
        f"system calls: {'; '.join(calls)}",
    ])


def refutation(program, violation):
    where = f"  at {violation.address:#x}: {violation.instruction}" if hasattr(violation, "address") else ""
    lines = [f"{program.architecture.name}: REFUTED: {violation.broken}", f"  {PROPERTIES[violation.broken]}", f"  But: {violation}", where]
    path, trace = [], getattr(violation, "trace", None)
    while trace:
        trace, (kind, *entry) = trace
        if kind == "call":
            address, name, values = entry
            path.append(f"    {address:#x} {name}({', '.join(map(shown, values))})")
        elif kind == "result":
            path.append(f"      returns {shown(entry[1])}")
        elif kind == "word":
            path.append(f"    reads from the start stack: {entry[0]} {shown(entry[1])}")
        elif kind == "learnt":
            path.append(f"      where {shown(entry[0])}")
    return "\n".join(filter(None, [*lines, "  on this path:" if path else "", *reversed(path)]))


def shown(value):
    return hex(value) if isinstance(value, int) else " ".join(str(value).split())


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--properties", action="store_true", help="print the properties that are proved, and exit")
    parser.add_argument("programs", nargs="*", metavar="PROGRAM", help="a pause program for any supported architecture")
    arguments = parser.parse_args()
    if arguments.properties:
        print("\n".join(f"{name}: {text}" for name, text in PROPERTIES.items()))
        return 0
    if not arguments.programs:
        parser.error("no PROGRAM is given")
    status = 0
    for path in arguments.programs:
        try:
            program = read_program(path)
            print(prove(program), flush=True)
        except BadInput as error:
            print(error, file=sys.stderr)
            return 2
        except Violation as violation:
            print(refutation(program, violation), flush=True)
            status = 1
    return status


if __name__ == "__main__":
    sys.exit(main())

"""Values and P-code operations on them. A value is an integer, or a z3 bit vector if part of it is unknown.

Each operation is in a table for integers, and all but one also in a table for bit vectors. `check_operations` compares
the tables."""

import random

import z3

_kept = []
_symbols = {}


def symbol(name, bits):
    """The unknown with this name. `bits` is its size, and counts only at its first use."""
    if name not in _symbols:
        _symbols[name] = z3.BitVec(name, bits)
    return _symbols[name]


def number_of(expression):
    """A number that is equal for equal expressions. The expression is kept alive, because z3 reuses these numbers."""
    try:
        return expression.number
    except AttributeError:
        expression.number = expression.get_id()
        _kept.append(expression)
        return expression.number


_names = {}


def symbols_of(expression):
    """The names of the unknowns in an expression."""
    try:
        return expression.names
    except AttributeError:
        number = number_of(expression)
        if number not in _names:
            names, todo, seen = set(), [expression], set()
            while todo:
                part = todo.pop()
                if part.get_id() in seen:
                    continue
                seen.add(part.get_id())
                if z3.is_const(part) and part.decl().kind() == z3.Z3_OP_UNINTERPRETED:
                    names.add(part.decl().name())
                todo += part.children()
            _names[number] = frozenset(names)
        expression.names = _names[number]
        return expression.names


def normal(expression):
    """Simplifies an expression. Returns an integer if it is constant."""
    expression = z3.simplify(expression)
    return expression.as_long() if z3.is_bv_value(expression) else expression


def signed(value, bits):
    """The signed number that these bits stand for in two's complement."""
    return value - (1 << bits) if value >> (bits - 1) & 1 else value


def vector(value, bits):
    """A value as a bit vector."""
    return z3.BitVecVal(value, bits) if isinstance(value, int) else value


def constant_part(expression):
    """The constant part of a sum, as a signed number."""
    zeros = [(symbol(n, 0), z3.BitVecVal(0, symbol(n, 0).size())) for n in symbols_of(expression)]
    rest = z3.simplify(z3.substitute(expression, *zeros))
    return signed(rest.as_long(), rest.size())


_differences = {}


def difference(a, b):
    """a - b as a signed number, or None if the difference depends on unknowns."""
    key = number_of(a), number_of(b)
    if key not in _differences:
        rest = z3.simplify(a - b)
        if not z3.is_bv_value(rest) and symbols_of(a) == symbols_of(b):
            # If the difference is constant, it equals its value with all unknowns set to 0. z3 cannot always simplify
            # it, so ask the solver.
            at_zero = z3.BitVecVal(constant_part(rest), rest.size())
            solver = z3.SimpleSolver()
            solver.add(rest != at_zero)
            rest = at_zero if solver.check() == z3.unsat else rest
        known = z3.is_bv_value(rest)
        _differences[key] = signed(rest.as_long(), rest.size()) if known else None
    return _differences[key]


def _overflows(total, bits):
    return not -(1 << bits - 1) <= total < 1 << bits - 1


# Operations on integers: inputs a and b of n bits, and a result that is truncated to m bits.
NUMBERS = {
    "COPY": lambda a, n, m: a,
    "INT_ADD": lambda a, b, n, m: a + b,
    "INT_SUB": lambda a, b, n, m: a - b,
    "INT_AND": lambda a, b, n, m: a & b,
    "INT_OR": lambda a, b, n, m: a | b,
    "INT_XOR": lambda a, b, n, m: a ^ b,
    "INT_EQUAL": lambda a, b, n, m: a == b,
    "INT_NOTEQUAL": lambda a, b, n, m: a != b,
    "INT_LESS": lambda a, b, n, m: a < b,
    "INT_LESSEQUAL": lambda a, b, n, m: a <= b,
    "INT_SLESS": lambda a, b, n, m: signed(a, n) < signed(b, n),
    "INT_SLESSEQUAL": lambda a, b, n, m: signed(a, n) <= signed(b, n),
    "INT_ZEXT": lambda a, n, m: a,
    "INT_SEXT": lambda a, n, m: signed(a, n),
    "INT_CARRY": lambda a, b, n, m: a + b >= 1 << n,
    "INT_SCARRY": lambda a, b, n, m: _overflows(signed(a, n) + signed(b, n), n),
    "INT_SBORROW": lambda a, b, n, m: _overflows(signed(a, n) - signed(b, n), n),
    "INT_2COMP": lambda a, n, m: -a,
    "INT_NEGATE": lambda a, n, m: ~a,
    "INT_MULT": lambda a, b, n, m: a * b,
    "INT_LEFT": lambda a, b, n, m: a << b if b < m else 0,
    "INT_RIGHT": lambda a, b, n, m: a >> b,
    "INT_SRIGHT": lambda a, b, n, m: signed(a, n) >> min(b, n),
    "BOOL_NEGATE": lambda a, n, m: a ^ 1,
    "BOOL_AND": lambda a, b, n, m: a & b,
    "BOOL_OR": lambda a, b, n, m: a | b,
    "BOOL_XOR": lambda a, b, n, m: a ^ b,
    "POPCOUNT": lambda a, n, m: a.bit_count(),
    "LZCOUNT": lambda a, n, m: n - a.bit_length(),
    "SUBPIECE": lambda a, b, n, m: a >> 8 * b,
}


def _shift_left(a, b, n, m):
    # z3 simplifies a multiplication within a sum better than a shift.
    return a * z3.BitVecVal(1 << b.as_long(), m) if z3.is_bv_value(b) else a << b


def _piece(a, b, n, m):
    low = 8 * b.as_long()
    high = min(low + m, n)
    return z3.ZeroExt(m - (high - low), z3.Extract(high - 1, low, a))


def _leading_zeros(a, n, m):
    count = z3.BitVecVal(n, m)
    for bit in range(n):
        count = z3.If(z3.Extract(bit, bit, a) == 1, z3.BitVecVal(n - 1 - bit, m), count)
    return count


# The same operations on bit vectors. The result of an operation that is missing here is unknown.
VECTORS = {
    "COPY": lambda a, n, m: a,
    "INT_ADD": lambda a, b, n, m: a + b,
    "INT_SUB": lambda a, b, n, m: a - b,
    "INT_AND": lambda a, b, n, m: a & b,
    "INT_OR": lambda a, b, n, m: a | b,
    "INT_XOR": lambda a, b, n, m: a ^ b,
    "INT_EQUAL": lambda a, b, n, m: a == b,
    "INT_NOTEQUAL": lambda a, b, n, m: a != b,
    "INT_LESS": lambda a, b, n, m: z3.ULT(a, b),
    "INT_LESSEQUAL": lambda a, b, n, m: z3.ULE(a, b),
    "INT_SLESS": lambda a, b, n, m: a < b,
    "INT_SLESSEQUAL": lambda a, b, n, m: a <= b,
    "INT_ZEXT": lambda a, n, m: z3.ZeroExt(m - n, a),
    "INT_SEXT": lambda a, n, m: z3.SignExt(m - n, a),
    "INT_CARRY": lambda a, b, n, m: z3.ULT(a + b, a),
    "INT_SCARRY": lambda a, b, n, m: z3.Not(z3.And(z3.BVAddNoOverflow(a, b, True), z3.BVAddNoUnderflow(a, b))),
    "INT_SBORROW": lambda a, b, n, m: z3.Not(z3.And(z3.BVSubNoOverflow(a, b), z3.BVSubNoUnderflow(a, b, True))),
    "INT_2COMP": lambda a, n, m: -a,
    "INT_NEGATE": lambda a, n, m: ~a,
    "INT_MULT": lambda a, b, n, m: a * b,
    "INT_LEFT": _shift_left,
    "INT_RIGHT": lambda a, b, n, m: z3.LShR(a, b),
    "INT_SRIGHT": lambda a, b, n, m: a >> b,
    "BOOL_NEGATE": lambda a, n, m: a ^ 1,
    "BOOL_AND": lambda a, b, n, m: a & b,
    "BOOL_OR": lambda a, b, n, m: a | b,
    "BOOL_XOR": lambda a, b, n, m: a ^ b,
    "LZCOUNT": _leading_zeros,
    "SUBPIECE": _piece,
}
SHIFTS = {"INT_LEFT", "INT_RIGHT", "INT_SRIGHT"}


def operate(code, values, sizes, size):
    """The result, of `size` bytes, of an operation on values of `sizes` bytes. None if the result is unknown."""
    n, m = 8 * sizes[0], 8 * size
    if all(isinstance(value, int) for value in values):
        return int(NUMBERS[code](*values, n, m)) & ((1 << m) - 1)
    if code == "INT_XOR" and not isinstance(values[0], int) and values[0] is values[1]:
        return 0
    if code not in VECTORS:
        if code not in NUMBERS:
            raise KeyError(code)
        return None
    # The second input of a shift may have another size than the first.
    bits = [n if code in SHIFTS else 8 * s for s in sizes]
    if code in SHIFTS and sizes[1] != sizes[0]:
        if not isinstance(values[1], int):
            return None
        values = [values[0], min(values[1], n)]
    result = VECTORS[code](*(vector(v, b) for v, b in zip(values, bits)), n, m)
    if z3.is_bool(result):
        result = z3.If(result, z3.BitVecVal(1, m), z3.BitVecVal(0, m))
    return normal(result)


def check_operations(rounds=200):
    """Compares the two tables on random and on extreme numbers."""
    chance = random.Random(1)
    for code, on_vectors in VECTORS.items():
        for _ in range(rounds):
            n = 8 if code.startswith("BOOL") else chance.choice([8, 16, 32, 64])
            m = {"INT_ZEXT": 64, "INT_SEXT": 64, "SUBPIECE": 8}.get(code, n)
            top = 2 if code.startswith("BOOL") else 1 << n
            pick = lambda: chance.choice([0, 1, top >> 1, (top >> 1) - 1, top - 1, chance.randrange(top)]) % top
            a, b = pick(), pick()
            if code in SHIFTS:
                b = chance.randrange(n)
            if code == "SUBPIECE":
                b = chance.randrange(n // 8)
            values = [a, b][: NUMBERS[code].__code__.co_argcount - 2]
            expected = int(NUMBERS[code](*values, n, m)) & ((1 << m) - 1)
            result = on_vectors(*(z3.BitVecVal(v, n) for v in values), n, m)
            if z3.is_bool(result):
                result = z3.If(result, z3.BitVecVal(1, m), z3.BitVecVal(0, m))
            result = z3.simplify(result).as_long()
            if result != expected:
                raise ArithmeticError(f"{code} of {values} in {n} bits is {expected}, but z3 says {result}")
    print(f"{len(VECTORS)} operations agree on {rounds} inputs each")


class Bytes(dict):
    """Bytes by address. Each byte is a number, or a pair of a bit vector and the index of the byte in that vector."""

    def put(self, address, size, value, order="little"):
        for index in range(size):
            place = address + (index if order == "little" else size - 1 - index)
            self[place] = value >> 8 * index & 255 if isinstance(value, int) else (value, index)

    def take(self, address, size, missing, order="little"):
        """The value of `size` bytes. `missing` gives the byte at an address where none was put."""
        found = [self[a] if a in self else missing(a) for a in range(address, address + size)]
        return joined(found if order == "little" else found[::-1])

    def expressions(self):
        """All bit vectors that bytes refer to, each once."""
        return {number_of(v[0]): v[0] for v in self.values() if not isinstance(v, int)}.values()

    def key(self):
        return tuple(sorted((a, v if isinstance(v, int) else (number_of(v[0]), v[1])) for a, v in self.items()))


def joined(found):
    """The value of these bytes, of which the first is the least significant."""
    if all(isinstance(byte, int) for byte in found):
        return sum(byte << 8 * index for index, byte in enumerate(found))
    if not isinstance(found[0], int):
        whole = found[0][0]
        if whole.size() == 8 * len(found) and all(
            not isinstance(byte, int) and byte[1] == index and byte[0] is whole for index, byte in enumerate(found)
        ):
            return whole
    key = tuple(byte if isinstance(byte, int) else (number_of(byte[0]), byte[1]) for byte in found)
    if key not in _joined:
        parts = [vector(b, 8) if isinstance(b, int) else z3.Extract(8 * b[1] + 7, 8 * b[1], b[0]) for b in found]
        _joined[key] = normal(z3.Concat(*reversed(parts)) if len(parts) > 1 else parts[0])
    return _joined[key]


_joined = {}


if __name__ == "__main__":
    check_operations()

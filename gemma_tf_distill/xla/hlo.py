"""What an HLO program does, counted in its own words: products, traffic, fusions, largest buffers; loops as often as they run."""

import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from tensorflow.compiler.xla import xla_data_pb2
from tensorflow.compiler.xla.service import hlo_pb2

# Of an element; types of 4 bits take half a byte, and tokens and opaque values none.
_BITS = {"PRED": 8, "S4": 4, "U4": 4, "BF16": 16, "TOKEN": 0, "OPAQUE_TYPE": 0}
# These move no data of their own.
_FREE = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "while", "call", "conditional", "opt-barrier"}
_CALLS = {"fusion", "call", "conditional", "while", "async-start", "custom-call"}
# The second memory of a TPU, on the chip, is space 1; what lies there is read at no cost to the first.
_HBM = 0


class Buffer(NamedTuple):
    """A value that a program keeps in memory.

    Attributes:
      name: of the instruction that makes it.
      shape: dtype and dimensions, such as `bf16[1024,1152]`.
      bytes: without padding.
      operation: TensorFlow's name of what it is for; empty where the compiler tells none.
    """

    name: str
    shape: str
    bytes: int
    operation: str


class HloStatistics(NamedTuple):
    """Figures of a program.

    Attributes:
      fusions: instructions that compute several operations without keeping what lies between them.
      flops: multiplications and additions of its matrix products.
      bytes: read from and written to main memory by all instructions.
      largest_buffers: the largest results of instructions, largest first.
      unknown_loops: loops whose length the program does not tell; they are counted as one turn.
    """

    fusions: int
    flops: int
    bytes: int
    largest_buffers: list[Buffer]
    unknown_loops: int


class HloProgram:
    """An HLO module, before or after the compiler's passes."""

    def __init__(self, serialized: bytes):
        """Args:
        serialized: an `HloModuleProto` (xla/service/hlo.proto).
        """
        self._module = hlo_pb2.HloModuleProto.FromString(serialized)
        self._computations = {computation.id: computation for computation in self._module.computations}
        self._instructions = {c.id: {i.id: i for i in c.instructions} for c in self._module.computations}

    @property
    def parameters(self) -> list[str]:
        """Shapes of the program's arguments, in their order."""
        return [shape_text(shape) for shape in self._module.host_program_shape.parameters]

    def aliased(self, count: int) -> bytes:
        """The module, serialized, in which the first `count` results are written over the first `count` arguments."""
        module = hlo_pb2.HloModuleProto()
        module.CopyFrom(self._module)
        for index in range(count):
            module.input_output_alias.entries.add(output_shape_index=[index], parameter_number=index, kind=hlo_pb2.MUST_ALIAS)
        return module.SerializeToString()

    def flops(self) -> int:
        """Of all products, each loop's as often as it runs: 2 a multiplication with its addition.

        To be asked before the compiler's passes: they write products as convolutions, some of whose multiplications are by padding.
        """
        return sum(times * self._flops(computation, instruction) for computation, instruction, times, _ in self._executed())

    def statistics(self, largest: int = 10) -> HloStatistics:
        """All figures of an optimised program.

        Args:
          largest: how many buffers to name.
        """
        fusions = flops = moved = 0
        buffers: dict[str, Buffer] = {}
        for computation, instruction, times, inside_fusion in self._executed():
            flops += times * self._flops(computation, instruction)
            if inside_fusion:
                continue
            fusions += instruction.opcode == "fusion"
            if instruction.opcode in _FREE:
                continue
            moved += times * self._traffic(computation, instruction)
            for shape in _leaves(instruction.shape):
                if _in_hbm(shape):
                    operation = instruction.metadata.op_name
                    buffer = Buffer(instruction.name, shape_text(shape), shape_bytes(shape), operation)
                    buffers[f"{instruction.name} {buffer.shape}"] = buffer
        ordered = sorted(buffers.values(), key=lambda buffer: (-buffer.bytes, buffer.name))
        return HloStatistics(fusions, flops, moved, ordered[:largest], sum(self._trips(i) is None for i in self._loops()))

    def _loops(self) -> Iterator[Any]:
        return (i for c in self._module.computations for i in c.instructions if i.opcode == "while")

    def _executed(self) -> Iterator[tuple[int, Any, int, bool]]:
        """Computation, instruction, how often it runs, and whether it is inside a fusion."""
        pending = [(self._module.entry_computation_id, 1, False)]
        while pending:
            computation, times, fused = pending.pop()
            for instruction in self._computations[computation].instructions:
                yield computation, instruction, times, fused
                if instruction.opcode in _CALLS:
                    turns = (self._trips(instruction) or 1) if instruction.opcode == "while" else 1
                    for called in instruction.called_computation_ids:
                        pending.append((called, times * turns, fused or instruction.opcode == "fusion"))

    def _flops(self, computation: int, instruction: Any) -> int:
        if instruction.opcode != "dot":
            return 0
        left = self._instructions[computation][instruction.operand_ids[0]].shape.dimensions
        inner = math.prod(left[axis] for axis in instruction.dot_dimension_numbers.lhs_contracting_dimensions)
        return 2 * inner * math.prod(instruction.shape.dimensions)

    def _traffic(self, computation: int, instruction: Any) -> int:
        """Bytes that an instruction reads and writes; of a slice, and of an update in place, only the part."""
        known = self._instructions[computation]
        operands = [known[operand].shape for operand in instruction.operand_ids]
        inner = self._fused(instruction) if instruction.opcode == "fusion" else None
        if inner is None:
            if instruction.opcode in ("dynamic-slice", "slice", "gather"):
                return 2 * _hbm_bytes(instruction.shape)
            if instruction.opcode == "dynamic-update-slice":
                return 2 * _hbm_bytes(operands[1])
            if instruction.opcode.endswith("-done"):
                return 0
            if instruction.opcode.endswith("-start"):
                # Its result names the source once more.
                source = sum(map(_hbm_bytes, operands))
                return source + max(0, _hbm_bytes(instruction.shape) - source)
            return _hbm_bytes(instruction.shape) + sum(map(_hbm_bytes, operands))
        parameters = {i.parameter_number: i for i in inner.values() if i.opcode == "parameter"}
        read = 0
        for number, shape in enumerate(operands):
            users = [i for i in inner.values() if number in parameters and parameters[number].id in i.operand_ids]
            if users and all(i.opcode == "dynamic-slice" and i.operand_ids[0] == parameters[number].id for i in users):
                read += sum(min(shape_bytes(i.shape), _hbm_bytes(shape)) for i in users)
            elif users and all(i.opcode == "dynamic-update-slice" and i.operand_ids[0] == parameters[number].id for i in users):
                continue
            else:
                read += _hbm_bytes(shape)
        updates = [i for i in inner.values() if i.opcode == "dynamic-update-slice"]
        whole = {shape_text(i.shape) for i in updates}
        written = sum(_hbm_bytes(shape) for shape in _leaves(instruction.shape) if shape_text(shape) not in whole)
        return read + written + sum(shape_bytes(inner[i.operand_ids[1]].shape) for i in updates)

    def _fused(self, instruction: Any) -> Mapping[int, Any]:
        return self._instructions[instruction.called_computation_ids[0]]

    def _trips(self, loop: Any) -> int | None:
        """Turns of a loop that counts from 0 by 1, as TensorFlow's do, to the least number that its condition compares with."""
        for called in loop.called_computation_ids:
            computation = self._computations[called]
            root = self._instructions[called][computation.root_id]
            if not root.shape.dimensions and root.shape.element_type == xla_data_pb2.PRED:
                return min(self._bounds(called), default=None)
        return None

    def _bounds(self, computation: int) -> Iterator[int]:
        known = self._instructions[computation]
        for instruction in known.values():
            if instruction.opcode == "compare" and instruction.comparison_direction == "LT":
                bound = known[instruction.operand_ids[1]]
                while bound.opcode in ("copy", "convert", "bitcast", "reshape", "broadcast"):
                    bound = known[bound.operand_ids[0]]
                if bound.opcode == "constant":
                    yield from (*bound.literal.s32s, *bound.literal.s64s)
            for called in instruction.called_computation_ids if instruction.opcode in ("call", "fusion") else ():
                yield from self._bounds(called)


def shape_text(shape: Any) -> str:
    """A shape as HLO writes it, such as `f32[8,128]`."""
    if shape.element_type == xla_data_pb2.TUPLE:
        return f"({', '.join(map(shape_text, shape.tuple_shapes))})"
    return f"{xla_data_pb2.PrimitiveType.Name(shape.element_type).lower()}[{','.join(map(str, shape.dimensions))}]"


def shape_bytes(shape: Any) -> int:
    """Bytes of a shape, of a tuple's leaves together, without a layout's padding."""
    return sum(-(-math.prod(leaf.dimensions) * _bits(leaf) // 8) for leaf in _leaves(shape))


def _bits(shape: Any) -> int:
    name = xla_data_pb2.PrimitiveType.Name(shape.element_type)
    if name in _BITS:
        return _BITS[name]
    return 8 if name.startswith("F8") else int(name.lstrip("SUFC"))


def _leaves(shape: Any) -> Iterator[Any]:
    if shape.element_type == xla_data_pb2.TUPLE:
        for part in shape.tuple_shapes:
            yield from _leaves(part)
    else:
        yield shape


def _in_hbm(shape: Any) -> bool:
    return shape.layout.memory_space == _HBM


def _hbm_bytes(shape: Any) -> int:
    return sum(shape_bytes(leaf) for leaf in _leaves(shape) if _in_hbm(leaf))

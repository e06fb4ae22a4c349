"""Since-versions of operators that importers register from lists, since each is one function of the framework."""

# Element by element, from one input, two, or any number of them. What changed between the versions are element types.
ELEMENTWISE: dict[str, tuple[int, ...]] = {
    "Abs": (6, 13), "Acos": (7, 22), "Acosh": (9, 22), "Asin": (7, 22), "Asinh": (9, 22), "Atan": (7, 22),
    "Atanh": (9, 22), "BitwiseNot": (18,), "Ceil": (6, 13), "Cos": (7, 22), "Cosh": (9, 22), "Erf": (9, 13),
    "Exp": (6, 13), "Floor": (6, 13), "IsNaN": (9, 13, 20), "Log": (6, 13), "Neg": (6, 13), "Not": (1,),
    "Reciprocal": (6, 13), "Relu": (6, 13, 14), "Round": (11, 22), "Sigmoid": (6, 13), "Sign": (9, 13),
    "Sin": (7, 22), "Sinh": (9, 22), "Softplus": (1, 22), "Softsign": (1, 22), "Sqrt": (6, 13), "Tan": (7, 22),
    "Tanh": (6, 13),
    "Add": (7, 13, 14), "And": (7,), "BitwiseAnd": (18,), "BitwiseOr": (18,), "BitwiseXor": (18,),
    "Equal": (7, 11, 13, 19), "Greater": (7, 9, 13), "GreaterOrEqual": (12, 16), "Less": (7, 9, 13),
    "LessOrEqual": (12, 16), "Mul": (7, 13, 14), "Or": (7,), "Sub": (7, 13, 14), "Xor": (7,),
    "Max": (8, 12, 13), "Min": (8, 12, 13), "Sum": (8, 13),
}  # fmt: skip
# Reductions: with axes as an attribute, and with axes as an input.
REDUCTIONS: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
    "ReduceL1": ((1, 11, 13), (18,)),
    "ReduceL2": ((1, 11, 13), (18,)),
    "ReduceLogSum": ((1, 11, 13), (18, 28)),
    "ReduceLogSumExp": ((1, 11, 13), (18, 28)),
    "ReduceMax": ((1, 11, 12, 13), (18, 20)),
    "ReduceMean": ((1, 11, 13), (18,)),
    "ReduceMin": ((1, 11, 12, 13), (18, 20)),
    "ReduceProd": ((1, 11, 13), (18,)),
    "ReduceSum": ((1, 11), (13,)),
    "ReduceSumSquare": ((1, 11, 13), (18,)),
}
EXTREMES_AND_SUMS = frozenset({"ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd", "ReduceSum"})
"""Reductions that leave a tensor as it is when they reduce no axis."""

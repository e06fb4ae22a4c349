"""PyTorch's exported programs (`.pt2`) as hub has them: for every plugin that starts from one or writes one.

A `.pt2` that hub wrote says what its inputs, outputs and open dimensions are called (`extra/hub.json`); this library
reads and writes that, refuses files that would run code, and makes of a program a flat function behind the border that
the user asked for. torch is imported inside the functions that need it, in a worker.
"""

from hub_torchprogram.adapt import AdaptedProgram, adapt, check_names, words
from hub_torchprogram.dynamic import LEAST_TRACED, names_of_symbols, rename, sized, stored_sizes
from hub_torchprogram.export import export_error, export_module, is_data_dependent, sample
from hub_torchprogram.pickles import LEGACY_MAGIC, LEGACY_PICKLES, is_weight_global, pickle_globals
from hub_torchprogram.program import (
    Program,
    dtype_of,
    fixed_spec,
    flat_outputs,
    module_of,
    name_parameters,
    spec_of,
    torch_dtype_of,
)
from hub_torchprogram.pt2 import (
    PICKLE_HINT,
    StoredNames,
    exported_program,
    exported_signature,
    flatten_exported,
    load_exported,
    mutated_state,
    save_exported,
    stored_names,
)
from hub_torchprogram.quantized_operators import LIBRARY, REGISTERING, register_operators

__all__ = [
    "LEAST_TRACED",
    "LEGACY_MAGIC",
    "LEGACY_PICKLES",
    "LIBRARY",
    "PICKLE_HINT",
    "REGISTERING",
    "AdaptedProgram",
    "Program",
    "StoredNames",
    "adapt",
    "check_names",
    "dtype_of",
    "export_error",
    "export_module",
    "exported_program",
    "exported_signature",
    "fixed_spec",
    "flat_outputs",
    "flatten_exported",
    "is_data_dependent",
    "is_weight_global",
    "load_exported",
    "module_of",
    "mutated_state",
    "name_parameters",
    "names_of_symbols",
    "pickle_globals",
    "register_operators",
    "rename",
    "sample",
    "save_exported",
    "sized",
    "spec_of",
    "stored_names",
    "stored_sizes",
    "torch_dtype_of",
    "words",
]

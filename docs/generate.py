"""Write the reference pages that are generated from the code: `python docs/generate.py [--check]`."""

import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import click
import msgspec

from docs.remarks import said_remarks
from hub._corrections import FEWEST
from hub._layer_bounds import BOUNDS, FAR_STEPS, HEARD_CUT, REACH, LocalBounds
from hub._local import MOST_BYTES, SAMPLES
from hub._parity import POLICIES, carried
from hub._plugins import Registry
from hub.cli import cli
from hub.spec import Accepts, Edge, Gives, Numerics, Receipt
from hub.spec.errors import HubError, error_classes

REFERENCE = Path(__file__).parent / "reference"
_MADE = "<!-- made by docs/generate.py: change the code, not this page -->\n\n"


def cli_page() -> str:
    """Every command's help."""
    context = click.Context(cli, info_name="hub", terminal_width=110, **cli.context_settings)
    names = [name for name in cli.list_commands(context) if name in _own_commands()]
    return _MADE + "# Command line\n\n" + "\n".join(_command_section(context, name) for name in names)


def _own_commands() -> set[str]:
    from hub.cli import COMMANDS

    return set(COMMANDS)


def _command_section(parent: click.Context, name: str) -> str:
    command = cli.get_command(parent, name)
    if command is None:
        raise ValueError(f"no command {name}")
    context = click.Context(command, info_name=name, parent=parent, max_content_width=110, terminal_width=110)
    return f"## hub {name}\n\n```text\n{command.get_help(context)}\n```\n"


def gates_page() -> str:
    """The gate of each precision and where it comes from."""
    rows = [
        f"| {name.value} | {_bound(p.relative_max)} | {_bound(p.cosine_min)} | "
        f"{_bound(p.sqnr_min_db)} | {_bound(p.centred_min_db)} | {_bound(p.single_min_db)} | {_bound(p.top1_min)} | "
        f"{_share(p.movement_min)} |"
        for name, p in POLICIES.items()
    ]
    head = (
        "| precision | relative ≤ | cosine ≥ | SQNR dB ≥ | without the mean ≥ | single ≥ | top-1 ≥ | moves ≥ |\n"
        "|---|---|---|---|---|---|---|---|\n"
    )
    why = "".join(f"* `{name.value}` ({name.meaning}): {p.source}\n" for name, p in POLICIES.items())
    plain, halves, short, dynamic = (
        BOUNDS.get(name, LocalBounds()) for name in (Numerics.INT8, Numerics.FP16, Numerics.BF16, Numerics.INT8_DYNAMIC)
    )
    least = (bounds.sqnr_min_db for bounds in (plain, halves, short, dynamic))
    joint = plain.joint_min_db, halves.joint_min_db, plain.plain_min_db
    ends = plain.cut_noise, HEARD_CUT, 1 / REACH, FEWEST
    local = (SAMPLES, plain.rms_steps, FAR_STEPS, *least, *joint, *ends, MOST_BYTES >> 20)
    kept = _KEPT.format(carried(Numerics.INT8).sqnr_min_db, *local)
    return _MADE + "# Gates\n\n" + _GATES_TEXT + head + "\n".join(rows) + "\n\n" + why + kept


_GATES_TEXT = """Every bound must hold for every output, with every kernel set of the result's runtime, against the
source model in its own runtime. A comparison over no samples, of NaN, or against outputs that are zero throughout is an
error, not a pass. Element types are the source's, or declared. Why each bound is what it is:
[decision 62](../adr/0062-evidence-of-outputs.md).

* *What the last operator gives.* Where the source's values say that it is rectified, a sigmoid, a hyperbolic tangent
  or a softmax, a result outside of that by more than the precision shows is refused:
  [decision 80](../adr/0080-layers-several-at-once.md).
* *Quiet parts.* Where an output holds things that differ by ten times in scale (a detector's boxes in pixels and scores
  below one), along any axis and wherever they lie, each that is less than 5 % of the power is judged by itself, under
  the same bounds, as `output[:, 4:84]`: a detector whose scores are all zero has an SQNR of 32 dB over the whole.
* *Without the mean.* SQNR with the signal counted from the source's mean: a constant has 0 dB there.
* *Single.* SQNR of the worst sample (row of a batch) and of the worst component of an axis, where its noise stands out
  from the others': a result that is zero for some inputs, or in one channel, has 0 dB there.
* *Top-1.* Of rows whose first class leads by more than the noise, the share whose arg-max agrees; it fails where so few
  would agree by chance once in a thousand times (binomial tail). Labels, where the data has some, by the same tail.
* *Moves.* An output that moves by less, as a part of its largest value, is no evidence, and so are scores that are all
  below 0.01 where the result says so too. That ends as `no-evidence`, exit status 8: [decision
  63](../adr/0063-no-evidence.md).

Your own gate: `--max-relative`, `--min-cosine`, `--min-sqnr`; those alone are then judged, and the receipt says
`custom`.

"""


_KEPT = """
A step that keeps the precision of a quantized source, scales and all, is held to {:g} dB where that is more: only the
rounding of two runtimes differs. int8-dynamic is left out, as every kernel set draws its ranges its own way.

A result whose dimensions stay open is compared at a second size too, at both ends where the model says bounds. Where
all attempts fail and one rounding step of the inputs alone moves the source beyond the float gate, the error says so:
such samples prove little.

## Layer by layer

A result that computes in less than float32 is also held against the float model of its own format that it was
made of (`hub verify`: or the source, or what hub makes of it), layer by layer: each layer of the float model
computes from what the result's own layer was given, with the result's own constants, so that one layer's rounding is
not taken for the next one's fault; {} samples are enough, as a layer has many values in each. Refused is

* a constant that is further from the float one than half a step of its grid, or the rounding of its element
  type; a grid that cuts off 1 % of a constant's power (8 bits and more: 4 bits are cut off on purpose);
* a layer that is further off than {:g} steps of its grid (root mean square; rounding is 0.29), or more than
  {:g} steps at 1 % of its values, where that is noise above -60 dB; a layer that lies on no grid and has less
  than {:g} dB (fp16 {:g}, bf16 {:g}, int8-dynamic {:g});
* layers that do together what several of the float model do, with constants of their own (scales were folded, an
  operator is written as five), and come to less than {:g} dB beside one step of their grid (fp16 {:g}, {:g} where
  nothing in them is rounded).

Told and not refused, as quantizers do the first two on purpose: a range that cuts off values with {:.1%} of a layer's
power, or {:.1%} where it ends before {:.2f} of what a sample holds at most (`layer-range-cuts`); a bias that was moved
by something else than what the correction of NNCF, done again on the calibration samples, makes of it
(`layer-bias-moved`; `hub verify` has no calibration samples and allows for what other samples make of it, {} of them or
more; where the correction cannot be done again, a bias that brings the layer's means nearer to the float model's is
right, and where a layer does not run apart, that is said: `correction-unknown`); a norm whose epsilon is another one
(`layer-epsilon-off`), or whose values are larger or smaller in all than its rounding explains (`layer-norm-off`).

What cannot be compared is counted with its reason in the receipt (`left_out` of the step's `local`) and is no
fault: a layer whose result the float model has nothing for, an operator that does not run alone. Models of more than
{} MiB are not compared so, and formats whose plugin does not show layers. What is caught of planted faults, and what
is refused falsely: [What the verdict catches](../verdict.md).
`--fast` keeps to the outputs.
"""


def _bound(value: float | None) -> str:
    return "" if value is None else f"{value:g}"


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.2%}"


def errors_page() -> str:
    """Every error code with its exit status."""
    own = [kind for kind in error_classes() if kind.__module__ == HubError.__module__ and kind is not HubError]
    rows = [f"| `{k.code}` | {k.exit_status} | {(k.__doc__ or '').splitlines()[0]} |" for k in own]
    return _MADE + "# Errors\n\n| code | exit status | when |\n|---|---|---|\n" + "\n".join(rows) + "\n"


def remarks_page() -> str:
    """Every code of a remark, what kind it is of, and what it says."""
    escaped = str.maketrans({"|": "\\|", "<": "&lt;"})
    rows = [
        f"| `{said.code}` | {said.kind} | {said.text.translate(escaped)} | {said.package} |" for said in said_remarks()
    ]
    return _MADE + _REMARKS_TEXT + "\n".join(rows) + "\n"


_REMARKS_TEXT = """# Remarks

Whatever hub tells besides errors is a remark: a kind, a code, a sentence with the values, and a hint where there is
something to do. `--json` and the receipt have all of them under `remarks`, so that a CI job can look for a code:

```sh
jq -e 'all(.remarks[]; .code != "not-faster")' model.tflite.hub.json
```

A code means one cause, and stays. Kinds are those of `hub.spec.RemarkKind`.

| code | kind | what it says | said by |
|---|---|---|---|
"""


def schema_page() -> str:
    """The receipt's JSON Schema. What the types cannot say: a result was compared, or there is a reason why not."""
    schema = msgspec.json.schema(Receipt)
    schema["$defs"]["Receipt"]["anyOf"] = [
        {"required": [name], "properties": {name: {"type": "object"}}} for name in ("parity", "not_run")
    ]
    return msgspec.json.format(msgspec.json.encode(schema), indent=2).decode() + "\n"


def decisions_page() -> str:
    """The list of decisions, by number, with each page's own title."""
    pages = sorted((REFERENCE.parent / "adr").glob("*.md"))
    lines = [f"* [{page.read_text().splitlines()[0].lstrip('# ')}](../adr/{page.name})" for page in pages]
    return (
        _MADE
        + "# Decisions\n\nWhy things are as they are, with the measurements behind them.\n\n"
        + "\n".join(lines)
        + "\n"
    )


def states_page() -> str:
    """Formats and edges of the plugins in this repository: where a stranger's edge may join."""
    registry = Registry()
    formats = [
        f"| `{name}` | {_code(item.suffixes)} | {_forms(registry, name)} | {_code(n.value for n in item.numerics)} |"
        for name, item in registry.formats.items()
        if not name.startswith("toy")
    ]
    edges = [
        f"| `{name}` | {edge.title} | {'<br>'.join(_end(item) for item in edge.accepts)} | {_end(edge.gives)} | "
        f"{', '.join(_traits(edge))} |"
        for name, edge in registry.edges.items()
        if not name.startswith("toy.")
    ]
    return _MADE + _STATES_TEXT.format(formats="\n".join(formats), edges="\n".join(edges), count=len(edges))


_STATES_TEXT = """# States and edges

A state is (format, form, numerics). An edge of yours may start from any state below and may end in one: the planner
joins them, whoever wrote them. A form is a promise: `static` is `prepared` is plain, so an edge that accepts the plain
form takes all three, and one that accepts `static` gets models whose dimensions are all fixed.

* `onnx` in the form `prepared`: opset lifted, constants folded, `If` folded where its condition is known, names of
  dimensions unique; dimensions may be dynamic. `onnx.prepare-dynamic` writes it.
* `onnx` in the form `static`: the same with every dimension fixed. `onnx.prepare` writes it.
* `pytorch`: a `.pt2` by `torch.export.save`, with names and dynamic dimensions of inputs and outputs in the extra file
  `hub.json`. `torchscript`, `builder` and `pickle` are what users bring; edges lead from them to `.pt2`.
* `keras`: a `.keras` or `.h5` file that Keras 3 loads; `savedmodel` is TensorFlow's folder.

## Formats

| format | suffixes | forms | numerics that its reader tells |
|---|---|---|---|
{formats}

## The {count} edges

`keep` is what the source computes in. *Lossy* edges change more than float rounding, *data* means `--calibration`.

| edge | engine | from | to | |
|---|---|---|---|---|
{edges}
"""


def _code(words: Iterable[str]) -> str:
    return ", ".join(f"`{word}`" for word in words)


def _forms(registry: Registry, name: str) -> str:
    ends = [end for edge in registry.edges.values() for end in (*edge.accepts, edge.gives) if end.format == name]
    return _code(sorted({end.form for end in ends if end.form}))


def _end(end: Accepts | Gives) -> str:
    form = f"+{end.form}" if end.form else ""
    numerics = end.numerics if isinstance(end.numerics, tuple) else (end.numerics,)
    return f"`{end.format}{form}` {', '.join(numerics)}"


def _traits(edge: Edge) -> list[str]:
    said = {"lossy": edge.lossy, "data": edge.needs_calibration, "dynamic dimensions": edge.keeps_dynamic}
    honours = [f"`{option}`" for option in edge.honours]
    return [*(word for word, holds in said.items() if holds), *honours]


PAGES: dict[str, Callable[[], str]] = {
    "cli.md": cli_page,
    "gates.md": gates_page,
    "errors.md": errors_page,
    "remarks.md": remarks_page,
    "receipt.schema.json": schema_page,
    "decisions.md": decisions_page,
}
FIRST_PARTY = {"keras", "onnxruntime", "openvino", "pytorch", "tensorrt", "tflite", "toy"}
PLUGIN_PAGES: dict[str, Callable[[], str]] = {"../authors/states.md": states_page}
"""Pages that are made, and checked, only where every plugin of the repository is loaded and no other."""


def main() -> int:
    """Write the pages, or with --check say which are stale."""
    loaded = {plugin.name for plugin in Registry().plugins if not plugin.error}
    pages = PAGES | PLUGIN_PAGES if loaded == FIRST_PARTY else PAGES
    stale = [name for name, page in pages.items() if _read(REFERENCE / name) != page()]
    if "--check" in sys.argv:
        sys.stderr.write("".join(f"stale: {name}; run: python docs/generate.py\n" for name in stale))
        return int(bool(stale))
    REFERENCE.mkdir(exist_ok=True)
    for name in stale:
        (REFERENCE / name).write_text(pages[name]())
    return 0


def _read(path: Path) -> str:
    return path.read_text() if path.exists() else ""


if __name__ == "__main__":
    sys.exit(main())

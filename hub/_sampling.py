"""The samples of one conversion: real ones loaded and held out, or random ones drawn to fit."""

import msgspec

from hub._calibration import LoadedSamples, infer_shapes, load_samples, split
from hub._inputs import draw_samples, repeat_samples
from hub._request import Request
from hub._runner import Runner
from hub._shapes import Shapes, check_names, fix_shapes, other_sizes
from hub._store import key_of
from hub.spec import CalibrationRecord, ConvertOptions, InputsKind, Remark, SampleFolder, Signature


class Samples(msgspec.Struct, frozen=True, kw_only=True):
    """Inputs for the parity check, and for calibration.

    Attributes:
        check: Folder and fingerprint of the inputs that source and result are compared on.
        kind: Where they came from.
        options: The request's options; with every shape fixed where the route needs that.
        calibration: Folder and fingerprint of the calibration inputs; empty strings for none.
        record: For the receipt.
        labels: Class of each checked row, where the data says.
        remarks: What is doubtful about the data, and what was fixed without being asked for.
        shapes: The samples' shapes, for a route that needs fixed ones.
        shape_notes: How they were found.
        others: Folder and fingerprint of inputs at other sizes, where dimensions stay open, with their shapes.
        guessed: Whether a size is hub's own choice, at which nothing may be fixed.
    """

    check: tuple[str, str]
    kind: InputsKind
    options: ConvertOptions
    calibration: tuple[str, str] = ("", "")
    record: CalibrationRecord | None = None
    labels: tuple[int, ...] = ()
    remarks: tuple[Remark, ...] = ()
    shapes: Shapes = {}
    shape_notes: tuple[Remark, ...] = ()
    others: tuple[tuple[tuple[str, str], Shapes], ...] = ()
    guessed: bool = False

    def fixed(self) -> "Samples":
        """The same samples, for a route that needs fixed shapes."""
        options = msgspec.structs.replace(self.options, shapes=self.shapes)
        remarks = tuple(dict.fromkeys((*self.shape_notes, *self.remarks)))
        return msgspec.structs.replace(self, options=options, remarks=remarks, others=())


def prepare_samples(request: Request, runner: Runner, signature: Signature, *, fix: bool, guess: int = 0) -> Samples:
    """Load, check and split the request's data, or draw random inputs; fix the shapes that are still open.

    Args:
        request: The request.
        runner: To call a user's sample function in a worker.
        signature: The source's inputs and outputs.
        fix: Whether the route needs fixed shapes.
        guess: Size for dimensions that nobody names, for a route that keeps them open; 0 to refuse them.

    Raises:
        CalibrationError: The data does not fit the model.
        ShapeNeeded: A dimension is symbolic and nothing says its size.
    """
    check_names(signature, request.options)
    shapes, notes = fix_shapes(signature, request.options, _data_shapes(request, runner, signature), guess)
    options = msgspec.structs.replace(request.options, shapes=shapes) if fix else request.options
    if request.calibration or request.test:
        found = _real(request, runner, signature, shapes, options)
    else:
        found = _random(request, runner, signature, shapes, options)
    found = msgspec.structs.replace(found, shapes=shapes, shape_notes=notes, guessed=bool(guess))
    if guess:
        found = msgspec.structs.replace(found, remarks=(*notes, *found.remarks))
    return found.fixed() if fix else _with_other_sizes(found, request, runner, signature)


def _with_other_sizes(samples: Samples, request: Request, runner: Runner, signature: Signature) -> Samples:
    """Add samples at other sizes: drawn where the first are, else the real ones repeated."""
    others = []
    for shapes in other_sizes(signature, samples.shapes, (*request.options.shapes, *request.options.constants)):
        if samples.kind == "random":
            others.append((_random(request, runner, signature, shapes, request.options).check, shapes))
            continue
        folder = runner.folder()
        repeat_samples(SampleFolder(samples.check[0]), shapes, folder)
        others.append(((str(folder), key_of("repeated", samples.check[1], shapes)), shapes))
    return msgspec.structs.replace(samples, others=tuple(others))


def _data_shapes(request: Request, runner: Runner, signature: Signature) -> Shapes:
    spec = request.calibration or request.test
    if not spec or signature.is_static:
        return {}
    options = request.options
    return infer_shapes(
        spec, signature, constants=_not_in_data(options), shapes=options.shapes, call_function=runner.call_function
    )


def _not_in_data(options: ConvertOptions) -> set[str]:
    """Inputs that hub feeds itself: data needs no array for them."""
    return {*options.constants, *options.states}


def _random(request: Request, runner: Runner, signature: Signature, shapes: Shapes, options: ConvertOptions) -> Samples:
    folder = runner.folder()
    kept = tuple(spec for spec in signature.inputs if spec.name in shapes)
    fed = Signature(inputs=kept, outputs=signature.outputs)
    seed, count = request.options.seed, request.random_samples
    remarks = draw_samples(fed, shapes, folder, count=count, seed=seed)
    fingerprint = key_of("random", fed, shapes, seed, count)
    return Samples(check=(str(folder), fingerprint), kind="random", options=options, remarks=remarks)


def _real(request: Request, runner: Runner, signature: Signature, shapes: Shapes, options: ConvertOptions) -> Samples:
    needed = bool(request.numerics and request.numerics.needs_calibration)

    def load(spec: str) -> LoadedSamples:
        return load_samples(
            spec,
            signature,
            into=runner.folder(),
            shapes=shapes,
            constants=_not_in_data(request.options),
            call_function=runner.call_function,
            calibrates=spec == request.calibration and needed,
        )

    whole = load(request.calibration) if request.calibration else None
    if request.test:
        return _samples(request, whole, load(request.test), options)
    if whole is None:
        raise ValueError("neither calibration nor test data")
    return _samples(request, *split(whole, runner.folder()), options)


def _samples(
    request: Request,
    calibration: LoadedSamples | None,
    check: LoadedSamples,
    options: ConvertOptions,
) -> Samples:
    record = CalibrationRecord(
        spec=request.calibration,
        test=request.test,
        fingerprint=calibration.fingerprint if calibration else "",
        calibration_samples=calibration.count if calibration else 0,
        held_out_samples=check.count,
    )
    return Samples(
        check=(check.folder, check.fingerprint),
        kind="given" if request.test else "held-out",
        options=options,
        calibration=(calibration.folder, calibration.fingerprint) if calibration else ("", ""),
        record=record,
        labels=check.labels,
        remarks=(calibration or check).remarks,
    )

"""Which device and which compute precision a session is opened with."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hub.spec import DeviceMissing, RuntimeOptions, UnsupportedModel

if TYPE_CHECKING:
    import openvino

Settings = dict[str, str | int | bool]
"""Properties that a model is compiled with."""

VIRTUAL = ("AUTO", "HETERO", "MULTI", "BATCH")
"""OpenVINO's own devices, which hand the work on to real ones."""

PINNED = "f32"
PRECISIONS = ("", "auto", "f32", "f16", "bf16")


def check_device(core: openvino.Core, wanted: str) -> str:
    """Returns OpenVINO's name of a device: `cpu` -> `CPU`, `gpu.1` -> `GPU.1`, `auto:gpu,cpu` -> `AUTO:GPU,CPU`.

    Raises:
        DeviceMissing: It is not there; the message lists those that are.
    """
    word = wanted.upper()
    head, _, rest = word.partition(":")
    there = list(core.available_devices)
    named = [name.strip().removeprefix("-").partition("(")[0] for name in rest.split(",") if name.strip()]
    asked = named if head in VIRTUAL else [word]
    missing = [name for name in asked if not (name in there or any(item.partition(".")[0] == name for item in there))]
    if missing:
        listed = ", ".join([*(name.lower() for name in there), "auto"])
        message = f"OpenVINO has no device {', '.join(missing).lower()} here; it has {listed}"
        raise DeviceMissing(message, hint="choose one of them, or install the device's driver: --device cpu")
    return word


def settings_of(core: openvino.Core, device: str, options: RuntimeOptions) -> Settings:
    """Returns the properties that a model is compiled with.

    A pinned session computes floats in float32 and quantizes nothing that the file does not: by default OpenVINO
    computes in bfloat16 or float16 where the device is fast at it, and quantizes activations of products with
    compressed weights on the fly.

    Raises:
        UnsupportedModel: The device does not compute in the precision that was asked for.
    """
    settings: Settings = {"INFERENCE_NUM_THREADS": options.threads} if options.threads else {}
    if options.precision not in PRECISIONS:
        known = ", ".join(filter(None, PRECISIONS))
        raise UnsupportedModel(f"there is no compute precision {options.precision!r}", hint=f"known: {known}")
    if options.precision == "auto":
        return settings
    settings["INFERENCE_PRECISION_HINT"] = options.precision or PINNED
    if options.precision in ("", PINNED):
        return settings | {"EXECUTION_MODE_HINT": "ACCURACY"}
    check_precision(core, device, options.precision)
    return settings


def check_precision(core: openvino.Core, device: str, precision: str) -> None:
    """Refuses a half precision that the device does not have: it would be emulated, or be float32 in secret.

    Raises:
        UnsupportedModel: Says what the device has.
    """
    if device.partition(":")[0] in VIRTUAL:
        return
    able = [str(item) for item in core.get_property(device, "OPTIMIZATION_CAPABILITIES")]
    wanted = {"f16": "FP16", "bf16": "BF16"}[precision]
    if wanted not in able:
        name = core.get_property(device, "FULL_DEVICE_NAME")
        message = f"{device} ({name}) does not compute in {precision}; it has {', '.join(able)}"
        raise UnsupportedModel(message, hint="leave the precision to the device: auto, or pin float32")

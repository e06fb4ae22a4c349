"""How far a layer of a sound result may be off the float model's, by precision; and what was found, in words."""

from typing import NamedTuple

from hub.spec import LocalReport, Numerics


class LocalBounds(NamedTuple):
    """How far a sound layer may be off.

    Attributes:
        constant_steps: Steps of its grid, for a constant: half a step is rounding, the rest float32's own; where scales
            are kept in float16, that of up to 127 steps of a scale that is rounded by 2^-11.
        scale_smallest: Rounding of a scale that is kept in float16 and is next to nothing there, as a channel's may be.
        relative: For constants on no grid: the rounding of their element type.
        smallest: What may become zero in that type.
        rms_steps: Root mean square of a result's error in steps: 0.29 is one rounding, 0.41 two in a row.
        far_share: Share of values that may be `FAR_STEPS` off.
        cut_noise: Power of what a range cuts off, over the power of the layer's own signal. Quantizers cut off what is
            rare on purpose; the noise of a layer of 20 dB is heard in any output.
        sqnr_min_db: For results that lie on no grid.
        plain_min_db: For results that lie on no grid, of layers in which no integers are.
        joint_min_db: For what several layers give together, with constants of their own: their weights' rounding is in
            it, which is 35 to 45 dB by channel and may be 25 of a whole tensor.
        inner_min_db: For what several layers give together with the same constants: what they round between them.
    """

    constant_steps: float = 0.51
    scale_smallest: float = 0.0
    relative: float = 1e-6
    smallest: float = 1e-12
    rms_steps: float = 0.75
    far_share: float = 0.01
    cut_noise: float = 0.01
    sqnr_min_db: float = 80.0
    plain_min_db: float = 70.0
    joint_min_db: float = 20.0
    inner_min_db: float = 30.0


REACH = 1 / 0.65
"""Times a range that the extremes of a sample may be, in the mean over samples, where what is cut off is heard: ranges
are chosen by such extremes, and those of sound artifacts end at 0.70 of them or later (decision 90)."""

HEARD_CUT = 0.001
"""Power of what a range cuts off, over that of the layer, below which it does not matter how far it reaches."""

FAR_STEPS = 2.0
GROSS = 1e-6
"""Noise over signal below which no error of a layer matters, however fine its grid (60 dB)."""

BOUNDS: dict[Numerics, LocalBounds] = {
    Numerics.FP16: LocalBounds(
        relative=2**-11, smallest=2e-7, sqnr_min_db=50, plain_min_db=45, joint_min_db=45, inner_min_db=45
    ),
    Numerics.BF16: LocalBounds(relative=2**-8, sqnr_min_db=35, plain_min_db=30, joint_min_db=30, inner_min_db=30),
    Numerics.INT8_DYNAMIC: LocalBounds(constant_steps=0.65, scale_smallest=2**-25, sqnr_min_db=25),
    Numerics.INT8_WEIGHTS: LocalBounds(constant_steps=0.65, scale_smallest=2**-25),
    Numerics.INT4_WEIGHTS: LocalBounds(constant_steps=0.65, scale_smallest=2**-25, joint_min_db=8),
    Numerics.FP8: LocalBounds(sqnr_min_db=25, plain_min_db=25),
}
"""Where constants are rounded to another float type, or layers round what they are given by themselves."""


def layers_words(local: LocalReport) -> str:
    """What was found layer by layer, or why nothing was."""
    if local.lack:
        return f"not held against the float model's: {local.lack}"
    against = f"; the float model is {local.against}" if local.against else ""
    samples = f"{local.samples} sample{'s' if local.samples > 1 else ''}"
    if local.failed:
        wrong = f"{local.failed} of {local.layers + local.constants} comparisons failed"
        return f"{local.layers} of {local.of} were held against the float model's, on {samples}: {wrong}{against}"
    sound = f"{local.layers} of {local.of} compute what the float model's do, within their own rounding"
    joint = f" ({local.joint} of them several at once)" if local.joint else ""
    left = "".join(
        f"; {number} left out, so that nothing is known of them: {why}" for why, number in local.left_out.items()
    )
    return f"{sound}{joint}{left}, on {samples}; their {local.constants} constants are the float ones, rounded{against}"

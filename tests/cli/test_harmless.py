"""What plugins and models say acts on no terminal, is bounded there, and is whole in JSON."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hub.cli.harmless import MOST, harmless, shown

Hub = Callable[..., Any]
Install = Callable[..., Path]
NASTY = "\x1b[2J\x1b]0;owned\x07\u202etxt.exe\u2066\x9b31m\x00\r[red]"
ACTS = ("\x1b", "\x07", "\u202e", "\u2066", "\x9b", "\x00", "\ud800")

PLUGIN = """
from hub.spec import *

NASTY = {nasty!r}

def convert(job):
    {does}

EDGES = (
    Edge(
        id="hostile.bin", title="hostile " + NASTY, accepts=(Accepts(format="toy", numerics=(Numerics.FP32,)),),
        gives=Gives(format="toybin", numerics="keep"), cost=0.01, lossy=False, convert=convert, keeps_dynamic=True,
    ),
)

@hookimpl
def hub_register_edges():
    return EDGES
"""
SAYS = """from hub_toy.edges import EDGES
    sound = next(edge for edge in EDGES if edge.id == "toy.bin").convert(job)
    import msgspec
    told = (Remark("blocker", "bad-words", NASTY, NASTY), Remark("note", "long", "a" * 200_000))
    return msgspec.structs.replace(sound, notes=told)"""


def calm(text: str) -> bool:
    """Whether a text does nothing but show."""
    return not any(char in text for char in ACTS)


def test_every_character_that_acts_is_marked_and_the_rest_stays() -> None:
    assert harmless("größe: 漢字 👩‍💻\n\tx") == "größe: 漢字 👩‍💻\n\tx"
    assert calm(harmless(NASTY + "\ud800"))
    assert len(harmless(NASTY)) == len(NASTY)
    assert shown("x" * (MOST + 5)) == "x" * MOST + "… (5 characters more: --json has them)"


@pytest.mark.parametrize("verbose", [(), ("-v",)])
def test_what_a_plugin_says_acts_on_no_terminal(
    hub: Hub, install: Install, toy: Path, tmp_path: Path, verbose: tuple[str, ...]
) -> None:
    install("hostile", "hub_hostile", PLUGIN.format(nasty=NASTY, does=SAYS))
    words = ("convert", toy, "--to", "toybin", "--avoid", "toy.bin", "--force", "-o", tmp_path / "out.toybin", *verbose)
    ran = hub(*words)
    assert ran.status == 0, ran.err
    assert calm(ran.out + ran.err)
    assert "txt.exe" in ran.err
    assert "blocker" in ran.out
    assert "characters more: --json has them" in ran.out
    assert len(ran.out) < 4 * MOST
    found = {remark["code"]: remark for remark in hub(*words, "--json").json["remarks"]}
    assert found["bad-words"]["text"] == NASTY
    assert len(found["long"]["text"]) == 200_000


@pytest.mark.parametrize("half", ["", "\ud800"])
@pytest.mark.parametrize("verbose", [(), ("-v",)])
def test_what_a_plugin_fails_with_acts_on_no_terminal(
    hub: Hub, install: Install, toy: Path, tmp_path: Path, half: str, verbose: tuple[str, ...]
) -> None:
    does = "raise StepError(NASTY + 'a' * 200_000, hint=NASTY)"
    install("hostile", "hub_hostile", PLUGIN.format(nasty=half + NASTY, does=does))
    words = ("convert", toy, "--to", "toybin", "--avoid", "toy.bin", "-o", tmp_path / "out.toybin", *verbose)
    ran = hub(*words)
    assert ran.status == 5, ran.err
    assert calm(ran.out + ran.err)
    error = hub(*words, "--json").error
    assert error["code"] == "step-failed"
    assert NASTY in error["message"]
    assert len(error["message"]) > 200_000


def test_names_in_a_model_act_on_no_terminal(hub: Hub, toy: Path) -> None:
    content = toy.read_text().replace('"x"', json.dumps(NASTY)).replace('"y"', json.dumps("y" * 200_000))
    toy.write_text(content)
    ran = hub("inspect", toy, "--layers")
    assert ran.status == 0, ran.err
    assert calm(ran.out + ran.err)
    assert "characters more: --json has them" in ran.out
    told = hub("inspect", toy, "--json").json["summary"]["signature"]
    assert told["inputs"][0]["name"] == NASTY
    assert len(told["outputs"][0]["name"]) == 200_000

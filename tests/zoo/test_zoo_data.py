"""The zoo's data is real for the models themselves: they read, hear and recognise what was put in."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from tests.zoo import data, fetch, text

pytestmark = pytest.mark.real
FILES = [name for name in data.MAKERS if name in fetch.names() or name == "vad_core_jit"]


def run(name: str, feeds: data.Feeds) -> npt.NDArray[Any]:
    onnxruntime = pytest.importorskip("onnxruntime", reason="ONNX Runtime runs these models")
    session = onnxruntime.InferenceSession(fetch.path(name), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, feeds)[0])


@pytest.mark.parametrize("name", data.MAKERS)
def test_data_repeat_and_parts_share_no_sample(name: str, tmp_path: Path) -> None:
    first, again = data.write(name, tmp_path / "a", calibration=6, test=4), data.feeds(name, "calibration", 6)
    with np.load(first.calibration) as calibration, np.load(first.test) as test:
        assert all(np.array_equal(calibration[key], again[key]) for key in again)
        varying = [key for key in again if key not in {"sr", "token_type_ids"}]
        rows = [
            [b"".join(part[key][row].tobytes() for key in varying) for row in range(size)]
            for part, size in ((calibration, 6), (test, 4))
        ]
    assert len({*rows[0], *rows[1]}) == 10


@pytest.mark.parametrize("name", [name for name in FILES if name.endswith("_onnx") or name.startswith("ocr")])
def test_model_takes_a_sample_and_answers_differently(name: str) -> None:
    feeds = data.feeds(name, "test", 3)
    batched = not name.startswith("vad")
    answers = [
        run(name, {key: rows[[row]] if batched else np.asarray(rows[row]) for key, rows in feeds.items()})
        for row in range(3)
    ]
    assert all(np.isfinite(answer).all() for answer in answers)
    assert not np.array_equal(answers[0], answers[1])


def test_recognizer_reads_the_rendered_lines() -> None:
    import onnxruntime

    session = onnxruntime.InferenceSession(fetch.path("ocr_rec"), providers=["CPUExecutionProvider"])
    characters = ["", *session.get_modelmeta().custom_metadata_map["character"].splitlines(), " "]
    random = np.random.default_rng(1)
    images, wanted = zip(*(text.line("test", random, 22) for _ in range(6)), strict=True)
    answer = session.run(None, {"x": np.stack([data._line(image, 320) for image in images])})[0].argmax(-1)
    read = [
        "".join(characters[now] for now, last in zip(row, [0, *row], strict=False) if now and now != last)
        for row in answer
    ]
    assert sum(one.strip() == two for one, two in zip(read, wanted, strict=True)) >= 5


def test_classifier_sees_which_lines_are_upside_down() -> None:
    turned = run("ocr_cls", data.feeds("ocr_cls", "test", 12)).argmax(1)
    assert (turned == np.arange(12) % 2).mean() > 0.9


def test_detector_finds_text_somewhere_but_not_everywhere() -> None:
    share = (run("ocr_det", data.feeds("ocr_det", "test", 4)) > 0.3).mean((1, 2, 3))
    assert share.min() > 0.005
    assert share.max() < 0.5


def test_detector_of_speech_hears_speech_and_pauses() -> None:
    feeds = data.feeds("vad_fixed_onnx", "test", 60)
    heard = [run_step(feeds["input"][row], feeds["state"][row]) for row in range(60)]
    assert 0.4 < np.mean(np.array(heard) > 0.5) < 0.95


def run_step(sound: npt.NDArray[Any], state: npt.NDArray[Any]) -> float:
    return float(run("vad_fixed_onnx", {"input": sound, "state": state}).item())


def test_file_types_are_recognised() -> None:
    names = json.loads(fetch.path("magika_config").read_text())["target_labels_space"]
    found = {names[row] for row in run("magika_onnx", data.feeds("magika_onnx", "test", 16)).argmax(1)}
    assert {"python", "c", "csv", "npy", "css", "elf"} & found >= {"python", "c", "csv"}


def test_torchscript_core_agrees_with_the_onnx_file(vad_core_jit: Path) -> None:
    torch = pytest.importorskip("torch", reason="runs TorchScript")
    feeds = data.feeds("vad_core_jit", "test", 4)
    with pytest.warns(DeprecationWarning, match=r"torch\.jit"):
        core = torch.jit.load(vad_core_jit)
    for sound, state in zip(feeds["x"], feeds["state"], strict=True):
        with torch.no_grad():
            answer = core(torch.from_numpy(sound), torch.from_numpy(state))[0].item()
        assert answer == pytest.approx(run_step(sound, state), abs=1e-5)


def test_mobilenet_tells_images_apart(mobilenet_keras: Path, zoo_data: Callable[[str], data.DataSet]) -> None:
    keras = pytest.importorskip("keras", reason="runs the network")
    with np.load(zoo_data("mobilenet_keras").test) as arrays:
        image = arrays["image"]
    logits = keras.models.load_model(mobilenet_keras).predict_on_batch({"image": image})
    assert len(set(logits.argmax(1))) > 8
    assert logits.std(0).mean() > 1


def test_efficientnet_knows_the_photographs() -> None:
    torch = pytest.importorskip("torch", reason="runs the network")
    from tests.zoo import efficientnet_lite0

    network, _ = efficientnet_lite0.build()
    network.load_state_dict(torch.load(fetch.path("efficientnet_pth"), weights_only=True))
    feeds = data.feeds("efficientnet", "calibration", 12)["image"]
    with torch.no_grad():
        found = network(torch.from_numpy(feeds))["logits"].argmax(1).reshape(-1, 4).T.numpy()
    assert 698 in found[0] or 442 in found[0]  # palace, bell tower
    assert 967 in found[1] or 968 in found[1]  # espresso, cup
    assert 665 in found[3] or 670 in found[3]  # moped, motor scooter


def test_sentences_are_tokenised_as_the_transformer_expects() -> None:
    feeds = data.feeds("minilm", "test", 8)
    ids, mask = feeds["input_ids"][:, 0], feeds["attention_mask"][:, 0]
    assert (ids[:, 0] == 101).all()  # [CLS]
    assert ((ids == 102).sum(1) == 1).all()  # [SEP]
    assert ((ids == 0) == (mask == 0)).all()
    assert (ids == 100).sum() == 0  # no unknown word
    assert len(set(mask.sum(1))) > 3


def test_faces_move_the_emotion_network() -> None:
    keras = pytest.importorskip("keras", reason="runs the network")
    network = keras.models.load_model(fetch.path("emotion_h5"), compile=False)
    emotion = network.predict_on_batch(data.feeds("emotion_h5", "test", 24)).argmax(1)
    assert len(set(emotion)) >= 4

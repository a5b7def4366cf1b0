"""Datasets laid out on disk as they were published."""

import pickle
import shutil
import zlib
from pathlib import Path

import numpy as np


def random_features(modality: str, sample_id: str, *shape: int) -> np.ndarray:
    """2 to 4 clips that only this modality and sample has, float32 (clips, *shape)."""
    generator = np.random.default_rng(zlib.crc32(f"{modality}/{sample_id}".encode()))
    return generator.normal(size=(generator.integers(2, 5), *shape)).astype(np.float32)


def write_files(folder: Path, arrays: dict[str, np.ndarray]) -> None:
    for sample_id, array in arrays.items():
        path = folder / f"{sample_id}.npy"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, array)


def first_words(path: Path) -> list[str]:
    return [line.split()[0] for line in path.read_text().splitlines()]


def write_fs1000(folder: Path, widths: dict, _: Path) -> dict:
    """12 training and 5 test programmes with TES, PCS times a factor, five components and the factor; no header."""
    generator, ids = np.random.default_rng(0), []
    for name, count in (("train_fs1000_new.txt", 12), ("val_fs1000_new.txt", 5)):
        lines = []
        for number in range(count):
            ids.append(f"2018_{name[:3]}_MF_Skater{number}")
            components, factor = generator.uniform(3, 9.5, 5).round(2), generator.choice([0.8, 1.0, 1.6, 2.0])
            scores = [round(generator.uniform(20, 120), 2), round(components.sum() * factor, 2), *components, factor]
            lines.append(" ".join([ids[-1], *map(str, scores)]))
        (folder / name).write_text("\n".join(lines) + "\n")
    shapes = {
        "video": ("output_feature_fs1000_new", 2, widths.get("video", 768)),
        "audio": ("ast_feature_fs1000_new", widths.get("audio", 768)),
        "flow": ("i3d_avg_clip8_5s_fs1000", widths.get("flow", 1024)),
    }
    written = {name: {id_: random_features(name, id_, *shape[1:]) for id_ in ids} for name, shape in shapes.items()}
    for name, arrays in written.items():
        write_files(folder / shapes[name][0], arrays)
    return written


def write_tables(folder: Path, prefix: str, ids: list[str], widths: dict) -> dict:
    """Pickled tables id -> [clips, dim]: two as numpy writes an object, one as a bare pickle."""
    folder.mkdir(exist_ok=True)
    written = {}
    for name, suffix, width in (("video", "rgb_VST", 1024), ("audio", "audio_AST", 768), ("flow", "flow_I3D", 1024)):
        written[name] = {sample_id: random_features(name, sample_id, widths.get(name, width)) for sample_id in ids}
        path = folder / f"{prefix}_{suffix}.npy"
        if name == "flow":
            path.write_bytes(pickle.dumps(written[name], protocol=3))
        else:
            np.save(path, written[name])
    return written


def write_fisv(folder: Path, widths: dict, real: Path) -> dict:
    for name in ("train.txt", "test.txt"):
        shutil.copyfile(real / "fisv" / name, folder / name)
    ids = first_words(folder / "train.txt") + first_words(folder / "test.txt")
    return write_tables(folder / "Fis-feature", "FISV", ids, widths)


def write_rhythmic_gymnastics(folder: Path, widths: dict, real: Path) -> dict:
    for name in ("train.txt", "test.txt"):
        shutil.copyfile(real / "rg" / name, folder / name)
    ids = first_words(folder / "train.txt")[1:] + first_words(folder / "test.txt")[1:]
    written = {}
    for apparatus in ("Ball", "Clubs", "Hoop", "Ribbon"):
        own = [sample_id for sample_id in ids if sample_id.startswith(apparatus)]
        for name, table in write_tables(folder / "RG-feature", apparatus, own, widths).items():
            written.setdefault(name, {}).update(table)
    return written


def write_finediving(folder: Path, widths: dict, _: Path) -> dict:
    """14 training and 6 test dives of three competitions, annotated as published: pickles of tuples and lists."""
    generator, keys = np.random.default_rng(0), [(f"FINADivingWorldCup2021_Men{n % 3}m_final", n) for n in range(20)]
    annotations = {
        key: [
            "307C",
            round(float(generator.uniform(20, 80)), 2),
            float(generator.choice([2.8, 3.4])),
            4,
            np.arange(96),
        ]
        for key in keys
    }
    (folder / "Annotations").mkdir()
    files = {"fine-grained_annotation_aqa": annotations, "train_split": keys[:14], "test_split": keys[14:]}
    for name, content in files.items():
        (folder / "Annotations" / f"{name}.pkl").write_bytes(pickle.dumps(content))
    ids = [f"{competition}/{number}" for competition, number in keys]
    sizes = {"video": 1024, "flow": 1024, **widths}
    written = {name: {id_: random_features(name, id_, size) for id_ in ids} for name, size in sizes.items()}
    for name, arrays in written.items():
        write_files(folder / name, arrays)
    return written


def write_own_folder(folder: Path, widths: dict, _: Path) -> dict:
    """16 training and 6 test samples with two scores and two modalities."""
    generator, ids = np.random.default_rng(0), [f"take{number:02}" for number in range(22)]
    lines = ["sample_id,difficulty,execution,split"]
    for number, sample_id in enumerate(ids):
        scores = ",".join(str(score) for score in generator.uniform(0, 10, 2).round(2))
        lines.append(f"{sample_id},{scores},{'train' if number < 16 else 'test'}")
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")
    sizes = {"skeleton": 34, "imu": 6, **widths}
    written = {name: {id_: random_features(name, id_, size) for id_ in ids} for name, size in sizes.items()}
    for name, arrays in written.items():
        write_files(folder / name, arrays)
    return written

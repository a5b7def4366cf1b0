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


def write_archive(path: Path, arrays: dict[str, dict[str, np.ndarray]], **more: np.ndarray) -> None:
    """Arrays by name and sample, each sample's with as many clips under every name."""
    counts = [len(array) for array in next(iter(arrays.values())).values()]
    joined = {name: np.concatenate(list(of_sample.values())) for name, of_sample in arrays.items()}
    np.savez_compressed(path, n=np.array(counts, dtype=np.int32), **joined, **more)


def write_speechocean762(folder: Path, widths: dict, _: Path) -> dict:
    """16 training and 6 test sentences of 8 and 3 speakers, four or five experts, with both archives."""
    generator = np.random.default_rng(0)
    scores = ["total", "accuracy", "fluency", "prosodic", "completeness"]
    lines = [",".join(["sample_id,split,speaker,age,gender,text,seconds", *scores, *(f"{s}_experts" for s in scores)])]
    ids = [f"{1 + number // 2:05}{number:04}" for number in range(22)]
    for number, sample_id in enumerate(ids):
        experts = generator.integers(4, 11, size=(5, 4 + number % 2))
        means = [f"{mean:.3f}" for mean in experts.mean(axis=1)]
        given = [" ".join(map(str, each)) for each in experts]
        speaker, split = f"{1 + number // 2:04}", "train" if number < 16 else "test"
        text = f"Sentence {['one', 'two', 'three'][number % 3]}"
        lines.append(
            ",".join(
                [sample_id, split, speaker, str(6 + number // 2), "mf"[number // 2 % 2], text, "2.5", *means, *given]
            )
        )
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")
    sizes = {"audio": widths.get("audio", 384), "voice": widths.get("voice", 25)}
    written = {name: {id_: random_features(name, id_, size) for id_ in ids} for name, size in sizes.items()}
    for name, archive in (("audio", "features_whisper.npz"), ("voice", "features_egemaps.npz")):
        write_archive(folder / archive, {"x": written[name]})
    return written


def write_percepiano(folder: Path, _: dict, real: Path) -> dict:
    """20 performances of 10 performers, two of each, and 5 segments; the scores have their real names."""
    header = (real / "percepiano" / "labels.csv").read_text().splitlines()[0]
    generator, lines, ids = np.random.default_rng(0), [header], []
    for number in range(20):
        performer, segment = ["Score", *range(9)][number // 2], number % 5
        ids.append(f"piece_{segment}_{performer}_{number}")
        values = [*generator.uniform(1, 7, 19).round(2), *generator.uniform(0, 2, 19).round(2)]
        folds = [number // 2 % 5, segment]
        lines.append(",".join(map(str, [ids[-1], performer, f"piece_{segment}", *folds, *values])))
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")
    sizes = {"timing": 6, "dynamics": 5, "pedal": 4, "pitch": 5}
    counts = {id_: len(random_features("timing", id_, 1)) for id_ in ids}
    written = {
        name: {id_: generator.normal(size=(counts[id_], size)).astype(np.float32) for id_ in ids}
        for name, size in sizes.items()
    }
    write_archive(folder / "features.npz", written)
    return written


def write_mast_melody(folder: Path, _: dict, __: Path) -> dict:
    """Two performances and three references of each of ten melodies; the first performance is in another key."""
    generator, contours = np.random.default_rng(0), {}
    lines = [
        "sample_id,melody,kind,melody_fold,expert_a_first,expert_a_second,expert_b,expert_c_first,expert_c_second,score"
    ]
    for melody in range(10):
        pitch = 20 + np.repeat(generator.integers(0, 12, 6), 5).astype(np.float32)  # (30,)
        for kind, count in (("performance", 2), ("reference", 3)):
            for number in range(count):
                sung = np.stack([pitch + 5 * (kind == "performance" and number == 0), np.ones(30)], axis=1)
                sung[:3] = np.nan, 0.25
                contours[f"mel{melody}_{kind}{number}"] = sung[: 30 - number].astype(np.float32)
                grades = [4] * 5 if kind == "reference" else generator.integers(1, 5, 5).tolist()
                cells = [f"mel{melody}_{kind}{number}", f"mel{melody}", kind, melody % 5, *grades, np.mean(grades)]
                lines.append(",".join(map(str, cells)))
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")
    write_archive(folder / "contours.npz", {"contour": contours})
    return contours

"""A store holds the same bytes each time, and says which file is not what it was."""

from __future__ import annotations

import pickle
import shutil
from pathlib import Path

import msgspec
import pytest
from array_record.python.array_record_module import ArrayRecordWriter

from twinstep.decoder.data import manifest as manifests, records
from twinstep.decoder.data.manifest import Manifest, SplitEntry
from twinstep.decoder.data.speech import Espeak, Tones
from twinstep.decoder.data.store import Examples, Store
from twinstep.decoder.data.tasks import TASKS
from twinstep.errors import Corrupt, UsageError

NAMES = ("retrieval", "spoken_digit", "video_direction")


def made(folder: Path, seed: int = 0, **settings: object) -> Store:
    told = settings.pop("told", None)
    assert told is None or isinstance(told, list)
    options: dict = {"amount": 0.01, "speaker": Tones(), **settings}

    def progress(task: str, split: str, count: int) -> None:
        if told is not None:
            told.append((task, split, count))

    return Store.make(folder, NAMES, seed, progress, **options)


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return made(tmp_path_factory.mktemp("first"))


@pytest.fixture
def copy(first: Store, tmp_path: Path) -> Path:
    return shutil.copytree(first.folder, tmp_path / "copy")


def test_the_same_seed_gives_the_same_bytes(first: Store, tmp_path: Path) -> None:
    again = made(tmp_path / "again")
    assert again.manifest == first.manifest
    for path in first.folder.glob("*.arrayrecord"):
        assert path.read_bytes() == (again.folder / path.name).read_bytes()
    assert manifests.read(again.folder).identity == first.manifest.identity


def test_another_seed_gives_other_examples(first: Store, tmp_path: Path) -> None:
    other = made(tmp_path / "other", seed=1)
    assert other.manifest.identity != first.manifest.identity
    for name in NAMES:
        digests = {s.manifest.tasks[name].train.digest for s in (first, other)}
        assert len(digests) == 2, name


def test_what_is_there_is_kept(copy: Path) -> None:
    told: list = []
    before = {path: path.stat().st_mtime_ns for path in copy.glob("*.arrayrecord")}
    made(copy, told=told)
    assert told == []
    assert before == {path: path.stat().st_mtime_ns for path in before}


@pytest.mark.parametrize(
    "setting", [{"seed": 1}, {"amount": 0.02}, {"speaker": Tones(14)}]
)
def test_what_was_made_from_something_else_is_made_again(
    copy: Path, setting: dict
) -> None:
    told: list = []
    made(copy, told=told, **setting)
    assert "spoken_digit" in {task for task, _, _ in told}


def test_a_damaged_file_is_named_and_made_again_alone(copy: Path) -> None:
    path = copy / "video_direction.train.arrayrecord"
    plain = bytearray(path.read_bytes())
    plain[len(plain) // 2] ^= 1
    path.write_bytes(plain)
    with pytest.raises(Corrupt, match="video_direction.train.arrayrecord has the dig"):
        Store.open(copy)
    told: list = []
    made(copy, told=told)
    assert {task for task, _, _ in told} == {"video_direction"}
    Store.open(copy)


@pytest.mark.parametrize("damage", ["gone", "short"])
def test_a_missing_or_short_file_is_named(copy: Path, damage: str) -> None:
    path = copy / "retrieval.held_out.arrayrecord"
    plain = path.read_bytes()
    path.unlink()
    if damage == "short":
        path.write_bytes(plain[:-1])
    with pytest.raises(Corrupt, match="retrieval.held_out.arrayrecord"):
        Store.open(copy)


def test_an_interrupted_make_goes_on_where_it_was(first: Store, tmp_path: Path) -> None:
    class Interrupted(Exception): ...

    def stop(task: str, split: str, count: int) -> None:
        if (task, split) == ("spoken_digit", "train"):
            raise Interrupted

    with pytest.raises(Interrupted):
        Store.make(tmp_path, NAMES, 0, stop, amount=0.01, speaker=Tones())
    assert Store.open(tmp_path).tasks() == ("retrieval",)
    told: list = []
    assert made(tmp_path, told=told).manifest == first.manifest
    assert {task for task, _, _ in told} == {"spoken_digit", "video_direction"}


def test_examples_travel_to_another_process(first: Store) -> None:
    examples = first.examples("spoken_digit", "train")
    assert examples[-1].answer
    sent = pickle.loads(pickle.dumps(examples))
    assert [e.answer for e in sent] == [e.answer for e in examples]
    assert (sent[0].prompt[0].samples == examples[0].prompt[0].samples).all()
    with pytest.raises(IndexError):
        examples[len(examples)]


def test_what_a_speaker_says_is_stored_once(tmp_path: Path) -> None:
    store = Store.make(tmp_path, ["speech_image_match"], amount=0.03, speaker=Tones(12))
    entry = store.manifest.tasks["speech_image_match"].train
    assert entry.media < entry.examples


def test_a_task_that_cannot_be_made_is_left_out_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    store = Store.make(
        tmp_path, ["spoken_digit", "retrieval"], amount=0.01, speaker=Espeak()
    )
    assert store.tasks() == ("retrieval",)
    assert "apt install espeak-ng" in store.manifest.absent["spoken_digit"]
    with pytest.raises(UsageError, match="apt install espeak-ng"):
        store.examples("spoken_digit", "train")


@pytest.mark.parametrize(
    ("tasks", "settings", "says"),
    [
        (["juggling"], {}, "no task 'juggling'; there are image_digit"),
        (None, {"amount": 0.0}, "0 < amount <= 1"),
        (None, {"amount": 1.5}, "0 < amount <= 1"),
        (None, {"seed": -1}, "seed >= 0"),
    ],
)
def test_what_is_not_allowed_is_said(
    tasks: list[str] | None, settings: dict, says: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=says):
        Store.make(tmp_path, tasks, **settings)


def test_a_folder_without_data_says_so(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="make the data first"):
        Store.open(tmp_path)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (
            lambda m: m["tasks"]["retrieval"]["train"].update(file="../../secret"),
            Corrupt,
        ),
        (lambda m: m["tasks"]["retrieval"]["train"].update(examples=-1), Corrupt),
        (lambda m: m["tasks"]["retrieval"].pop("train"), Corrupt),
        (lambda m: m.update(format=2), UsageError),
    ],
)
def test_a_manifest_is_not_trusted(copy: Path, change, error) -> None:
    path = copy / manifests.NAME
    manifest = msgspec.json.decode(path.read_bytes())
    change(manifest)
    path.write_bytes(msgspec.json.encode(manifest))
    with pytest.raises(error, match="manifest.json"):
        Store.open(copy)


def test_the_manifest_tells_where_all_came_from(small: Store) -> None:
    manifest = msgspec.json.decode(
        (small.folder / manifests.NAME).read_bytes(), type=Manifest
    )
    default = {name for name, task in TASKS.items() if task.default}
    assert set(manifest.tasks) | set(manifest.absent) == default
    for name, entry in manifest.tasks.items():
        assert entry.held_out.entities > 0, name
        assert entry.train.examples >= 8 and entry.held_out.examples >= 8, name
        for origin in entry.origins:
            assert origin.name and origin.licence and origin.edition, name


def examples_of(folder: Path, stored: list[bytes], *, examples: int) -> Examples:
    """What Examples makes of a file with these records."""
    path = folder / "planted.train.arrayrecord"
    writer = ArrayRecordWriter(str(path), "group_size:1")
    for record in stored:
        writer.write(record)
    writer.close()
    entry = SplitEntry(
        file=path.name,
        digest=manifests.digest_of(path),
        bytes=path.stat().st_size,
        examples=examples,
        media=len(stored) - examples,
        entities=1,
    )
    return Examples(path, "planted", entry)


@pytest.mark.parametrize("number", [1, 5, 1 << 30])
def test_an_example_may_not_ask_for_a_medium_that_is_not_there(
    number: int, tmp_path: Path
) -> None:
    piece = records.PooledRecord(number)
    record = msgspec.msgpack.encode(records.ExampleRecord("e", (piece,), "a", ()))
    medium = msgspec.msgpack.encode(records.SoundRecord(bytes(8)))
    examples = examples_of(tmp_path, [record, medium], examples=1)
    with pytest.raises(Corrupt, match=f"planted.train.*asks for medium {number} of 1"):
        _ = examples[0]


def test_a_record_that_is_no_example_is_named(tmp_path: Path) -> None:
    good = msgspec.msgpack.encode(records.ExampleRecord("e", (), "a", ()))
    examples = examples_of(tmp_path, [good, b"\xc1 nonsense"], examples=2)
    assert examples[0].answer == "a"
    with pytest.raises(Corrupt, match="planted.train.arrayrecord record 1"):
        _ = examples[1]


@pytest.mark.parametrize("left", [0, 100, 40_000])
def test_a_file_that_lost_its_end_while_open_is_named(
    left: int, tmp_path: Path
) -> None:
    record = msgspec.msgpack.encode(records.ExampleRecord("e", (), "a" * 9000, ()))
    examples = examples_of(tmp_path, [record] * 20, examples=20)
    path = tmp_path / "planted.train.arrayrecord"
    path.write_bytes(path.read_bytes()[:left])
    with pytest.raises(Corrupt, match="planted.train.arrayrecord"):
        _ = examples[19]

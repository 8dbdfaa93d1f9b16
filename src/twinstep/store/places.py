"""Where steps are stored: a folder of a file system, or an address that fsspec knows.

A file is there whole and for good, or not at all: on a file system it is written under
another name, flushed to the disk, and renamed; an object store shows an object once
all of it has arrived. Nothing is ever appended to, or changed.

Left out: what is in the files (contents.py), and how often one is written.
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import os
import secrets
from collections.abc import Generator
from pathlib import Path
from typing import Any, Protocol

from twinstep.errors import ConfigError
from twinstep.store.contents import UNFINISHED


class Output(Protocol):
    """A file that is being written, from its start to its end."""

    def write(self, data: memoryview | bytes, /) -> object: ...


class Place(Protocol):
    """A folder of folders of files. Names are relative: "step-00000012/.metadata".

    Every method raises OSError, naming the place, when it cannot do what it says."""

    name: str

    def create(self, name: str) -> contextlib.AbstractContextManager[Output]:
        """The file is there, whole and durable, once the context has ended well;
        otherwise nothing is."""
        ...

    def read(self, name: str, at: int, into: memoryview) -> None:
        """`into` holds the file's bytes from `at` on. Raises: EOFError when it ends
        before."""
        ...

    def read_whole(self, name: str, *, bytes_max: int) -> bytes:
        """Raises: ValueError when the file is larger than `bytes_max`."""
        ...

    def sizes(self, folder: str) -> dict[str, int]:
        """Bytes of each file in `folder`; empty when there is no such folder."""
        ...

    def folders(self) -> list[str]:
        """The folders of the place; empty when there is no such place yet."""
        ...

    def remove(self, folder: str, names: list[str]) -> None:
        """These files are gone, and the folder when nothing else is in it."""
        ...


class Disk:
    """A folder of a file system that this machine has mounted."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.name = str(path)

    @contextlib.contextmanager
    def create(self, name: str) -> Generator[Output]:
        target = self._path / name
        made = _make_folder(target.parent)
        # Another name for each attempt: two roots may both write one table.
        unfinished = target.with_name(f"{target.name}.{secrets.token_hex(4)}")
        unfinished = unfinished.with_name(unfinished.name + UNFINISHED)
        try:
            with open(unfinished, "xb", buffering=0) as file:
                yield _Whole(file.fileno(), target)
                with _naming(target):
                    os.fsync(file.fileno())
            os.replace(unfinished, target)
        except BaseException:
            with contextlib.suppress(OSError):
                unfinished.unlink(missing_ok=True)
            raise
        for folder in (target.parent, *made):
            _sync_folder(folder)

    def read(self, name: str, at: int, into: memoryview) -> None:
        path = self._path / name
        with open(path, "rb", buffering=0) as file, _naming(path):
            file.seek(at)
            _fill(file, into, name)

    def read_whole(self, name: str, *, bytes_max: int) -> bytes:
        path = self._path / name
        _check_size(name, path.stat().st_size, bytes_max)
        with _naming(path):
            return path.read_bytes()

    def sizes(self, folder: str) -> dict[str, int]:
        found: dict[str, int] = {}
        try:
            with os.scandir(self._path / folder) as entries:
                for entry in entries:
                    # Another process may have removed it since.
                    with contextlib.suppress(FileNotFoundError):
                        if entry.is_file():
                            found[entry.name] = entry.stat().st_size
        except FileNotFoundError:
            return {}
        return found

    def folders(self) -> list[str]:
        try:
            with os.scandir(self._path) as entries:
                return sorted(entry.name for entry in entries if entry.is_dir())
        except FileNotFoundError:
            return []

    def remove(self, folder: str, names: list[str]) -> None:
        for name in names:
            (self._path / folder / name).unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # somebody keeps other things there
            (self._path / folder).rmdir()


class Remote:
    """An address that fsspec knows, such as s3://BUCKET/RUN.

    Where it is no object store, a file that is being written can be seen: whoever reads
    a step compares sizes, and its table is complete before .metadata is there."""

    def __init__(self, address: str, options: dict[str, str]) -> None:
        """Raises: ConfigError when fsspec, or what it needs, is not installed, or it
        does not take these options."""
        scheme = address.partition("://")[0]
        try:
            core: Any = importlib.import_module("fsspec.core")
            system, path = core.url_to_fs(
                address,
                **_s3_options(address, options),
                use_listings_cache=False,
                skip_instance_cache=True,
            )
        except (ImportError, ValueError) as error:
            raise ConfigError(
                f"storage {address!r}: {error}; install what fsspec needs for "
                f"{scheme}:// (pip install 'twinstep[storage]', and s3fs or gcsfs), "
                "or name a folder"
            ) from error
        except Exception as error:
            # What a client says of an option may quote the option.
            names = ", ".join(sorted(options)) or "none"
            raise ConfigError(
                f"storage {address!r}: {type(error).__name__} from fsspec's client for "
                f"{scheme}://; check storage.options (given: {names})"
            ) from error
        self._fs: Any = system
        self._buffered: type[Any] = importlib.import_module(
            "fsspec.spec"
        ).AbstractBufferedFile
        """Files that appear when they are closed; others are written where they lie."""
        self._path = str(path).rstrip("/")
        self.name = address

    @contextlib.contextmanager
    def create(self, name: str) -> Generator[Output]:
        with _as_os_errors(self.name):
            file = self._fs.open(f"{self._path}/{name}", "wb")
        try:
            yield _Upload(file, self.name)
            with _as_os_errors(self.name):
                file.close()
        except BaseException:
            with contextlib.suppress(Exception):
                self._discard(file, f"{self._path}/{name}")
            raise

    def _discard(self, file: Any, path: str) -> None:
        """Nothing of the file is there afterwards."""
        if isinstance(file, self._buffered):
            try:
                file.discard()
            finally:
                file.closed = True  # or a collected file would still be uploaded
        else:
            file.close()
            self._fs.rm_file(path)

    def read(self, name: str, at: int, into: memoryview) -> None:
        if not into:
            return  # the whole file is what some clients take an empty range for
        path = f"{self._path}/{name}"
        with _as_os_errors(self.name):
            try:
                data = self._fs.cat_file(path, start=at, end=at + len(into))
            except OSError as error:
                if error.errno != errno.EINVAL:  # S3: the range is not satisfiable
                    raise
                raise EOFError(f"{name} ends before byte {at}") from error
        if len(data) != len(into):
            raise EOFError(f"{name} ends after {at + len(data)} bytes")
        into[:] = data

    def read_whole(self, name: str, *, bytes_max: int) -> bytes:
        path = f"{self._path}/{name}"
        with _as_os_errors(self.name):
            size = int(self._fs.size(path))
        _check_size(name, size, bytes_max)
        with _as_os_errors(self.name):
            return bytes(self._fs.cat_file(path))

    def sizes(self, folder: str) -> dict[str, int]:
        with _as_os_errors(self.name):
            found = self._list(f"{self._path}/{folder}")
        sizes = {
            str(one["name"]).rpartition("/")[2]: int(one["size"])
            for one in found
            if one["type"] == "file"
        }
        sizes.pop("", None)  # a store's mark that there is a folder
        return sizes

    def folders(self) -> list[str]:
        with _as_os_errors(self.name):
            found = self._list(self._path)
        names = [str(one["name"]) for one in found if one["type"] == "directory"]
        return sorted(name.rstrip("/").rpartition("/")[2] for name in names)

    def _list(self, path: str) -> list[dict[str, Any]]:
        try:
            return self._fs.ls(path, detail=True)
        except FileNotFoundError:
            return []

    def remove(self, folder: str, names: list[str]) -> None:
        with _as_os_errors(self.name):
            for name in names:
                with contextlib.suppress(FileNotFoundError):
                    self._fs.rm_file(f"{self._path}/{folder}/{name}")
        with contextlib.suppress(Exception):  # object stores have no folders
            self._fs.rmdir(f"{self._path}/{folder}")


def place_of(path: str, options: dict[str, str]) -> Place:
    """Returns the place that a setting names: an address where it has "://".

    Raises: ConfigError when nothing here knows such addresses."""
    if "://" in path and not path.startswith("file://"):
        return Remote(path, options)
    return Disk(Path(path.removeprefix("file://")).expanduser())


class _Whole:
    """Writes all of what it is given: the kernel may take less at a time."""

    def __init__(self, fd: int, path: Path) -> None:
        self._fd, self._path = fd, path

    def write(self, data: memoryview | bytes, /) -> int:
        rest = memoryview(data)
        with _naming(self._path):
            while rest:
                rest = rest[os.write(self._fd, rest) :]
        return len(data)


class _Upload:
    """A file of fsspec's whose errors are OSErrors."""

    def __init__(self, file: Any, name: str) -> None:
        self._file, self._name = file, name

    def write(self, data: memoryview | bytes, /) -> int:
        with _as_os_errors(self._name):
            self._file.write(data)
        return len(data)


def _fill(file: Any, into: memoryview, name: str) -> None:
    done = 0
    while done < len(into):
        count = file.readinto(into[done:])
        if not count:
            raise EOFError(f"{name} ends {len(into) - done} bytes too early")
        done += count


def _check_size(name: str, size: int, bytes_max: int) -> None:
    if size > bytes_max:
        raise ValueError(f"{name} has {size} bytes; at most {bytes_max} are read")


def _make_folder(path: Path) -> list[Path]:
    """The folder is there; returns those that have a new entry, deepest first, and
    always the one that `path` is in: who made it may not have flushed that yet."""
    entered = [path.parent]
    for folder in path.parents[:-1]:
        if folder.exists():
            break
        entered.append(folder.parent)
    path.mkdir(parents=True, exist_ok=True)
    return entered


def _sync_folder(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with _naming(path):
            os.fsync(fd)
    finally:
        os.close(fd)


@contextlib.contextmanager
def _naming(path: Path) -> Generator[None]:
    """An OSError says which file it is about: the kernel's own may not."""
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = str(path)
        raise


def _s3_options(address: str, options: dict[str, str]) -> dict[str, Any]:
    if not address.startswith("s3://"):
        return dict(options)
    given: dict[str, Any] = dict(options)
    endpoint = given.pop("endpoint_url", "")
    return given | ({"client_kwargs": {"endpoint_url": endpoint}} if endpoint else {})


@contextlib.contextmanager
def _as_os_errors(name: str) -> Generator[None]:
    """Whatever a client's library raises is an OSError that names the place; a missing
    file stays a FileNotFoundError."""
    try:
        yield
    except EOFError:
        raise
    except Exception as error:
        missing = isinstance(error, FileNotFoundError)
        kind = FileNotFoundError if missing else OSError
        raise kind(f"{name}: {type(error).__name__}: {error}") from error

"""The files that make a whole step a checkpoint of somebody else's, by its form."""

from __future__ import annotations

from twinstep.store import dcp, orbax
from twinstep.store.archive import archive
from twinstep.store.contents import LAST, Contents, Form


def published(contents: Contents) -> dict[str, bytes]:
    """Returns the files beside the data and twinstep's own table, in the order in which
    they are written; the last makes the folder a step (contents.LAST)."""
    if contents.form == "orbax":
        return orbax.files_of(contents)
    return {LAST["dcp"]: dcp.metadata(contents, tied=contents.tied)}


def around(form: Form, dtype: str, shape: tuple[int, ...]) -> tuple[bytes, bytes]:
    """Returns what a data file has before and after the bytes of a box: an archive of
    torch.save, or nothing.

    Raises: KeyError for a dtype that is not in ITEM_BYTES."""
    return archive(dtype, shape) if form == "dcp" else (b"", b"")

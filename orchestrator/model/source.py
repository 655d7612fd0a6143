"""Sources of models: a Hugging Face id or folder, a ``.gguf`` file, or an ONNX decoder folder."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from orchestrator.model.checkpoint_files import weight_files
from orchestrator.model.errors import BrokenModel, MissingDependency, NoSuchModel, UnsupportedModel
from orchestrator.model.extras import MODULES, missing
from orchestrator.model.gguf_header import all_parts, read_header, whole_name
from orchestrator.model.growth import watch_growth
from orchestrator.model.json_file import read_object
from orchestrator.model.onnx_files import ONNX_FOLDER, embedding_file, is_decoder, onnx_file
from orchestrator.model.progress import Progress, silent
from orchestrator.model.source_files import check_folder

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*$")
_OF_HUB = "hub:"
HUB_FILES = ["*.json", "*.safetensors", "*.jinja", "*.model", "*.txt"]
GGUF_ARCHITECTURES = ("llama", "mistral", "qwen2", "qwen3", "phi3", "gemma2", "gemma3")


@dataclass(frozen=True)
class Source:
    """A model found on this machine. ``kind`` is "hf" or "onnx" (folders) or "gguf" (a file).

    ``fingerprint`` is equal for equal content, as far as can be told without reading gigabytes; ``size_bytes`` is that
    of the files with weights; ``graph`` is the file with the decoder of an ONNX one; ``conversion_bytes`` is what a
    GGUF one takes on disk while it is converted: in float32, as a checkpoint and as a graph.
    """

    text: str
    kind: str
    path: Path
    name: str
    fingerprint: str
    size_bytes: int
    graph: Path | None = None
    conversion_bytes: int = 0

    @property
    def place(self) -> str:
        """What leads to it from any folder: its text, or the whole path."""
        if self.fingerprint.startswith(_OF_HUB):
            return self.text
        path = Path(self.text).expanduser()
        if path.name in ("", ".."):
            return str(path.resolve())
        return str(path.parent.resolve() / path.name)  # a link to a file may have another ending


def resolve_source(text: str, progress: Progress = silent, *, fetch: bool = True) -> Source:
    """Find out what ``text`` is; a Hugging Face id is downloaded (or taken from its cache).

    Honours HF_HOME and HF_HUB_OFFLINE.

    Args:
        fetch: if not, nothing is downloaded.

    Raises:
        NoSuchModel: there is no such file, folder or id.
        BrokenModel: there is, but it is damaged or incomplete.
        UnsupportedModel: it is something else.
    """
    if not text.strip():
        raise NoSuchModel("SOURCE is empty: give a Hugging Face id, a folder or a file")
    try:
        path = Path(text).expanduser()
    except RuntimeError:  # the system knows no such user
        path = Path(text)
    if path.is_file():
        return _file(text, path)
    if path.is_dir():
        return _folder(text, path)
    if HUB_ID.match(text) and not text.endswith((".gguf", ".onnx")):
        return _hub(text, progress, fetch)
    raise NoSuchModel(
        f"{text}: no such file or folder, and not a Hugging Face id of the form owner/name; check the spelling"
    )


def _file(text: str, path: Path) -> Source:
    if path.suffix.lower() == ".gguf":
        parts = all_parts(path)
        headers = [read_header(part) for part in parts]
        architecture = headers[0].architecture
        if architecture not in GGUF_ARCHITECTURES:
            raise UnsupportedModel(
                f"{path}: GGUF architecture {architecture!r} is not supported; "
                f"supported are {', '.join(GGUF_ARCHITECTURES)}"
            )
        name = re.sub(r"[.-](I?Q\d\w*|BF16|F16|F32)$", "", whole_name(path), flags=re.IGNORECASE)
        values, fingerprint = sum(header.values for header in headers), _fingerprint(list(parts))
        return Source(
            text, "gguf", parts[0].resolve(), _tidy(name), fingerprint, _size_bytes(parts), conversion_bytes=8 * values
        )
    if path.suffix.lower() == ".onnx":
        if not is_decoder(path):
            raise UnsupportedModel(f"{path} is not named like a decoder (model.onnx, decoder_model_merged_q4.onnx)")
        return _onnx(text, path.resolve())
    raise UnsupportedModel(
        f"{path}: a model file must be a .gguf or from linguabus model export; for other formats give their folder"
    )


def _folder(text: str, path: Path) -> Source:
    path = path.resolve()
    check_folder(path, path / ONNX_FOLDER)
    onnx = onnx_file(path)
    if onnx is not None:
        return _onnx(text, onnx)
    if not (path / "config.json").is_file():
        ggufs = sorted(path.glob("*.gguf"))
        if ggufs:
            raise UnsupportedModel(f"{path} is a folder; name the file to use, for example {ggufs[0]}")
        raise UnsupportedModel(f"{path} has neither config.json (Hugging Face) nor model.onnx (ONNX decoder)")
    weights = weight_files(path)
    if not read_object(path / "config.json").get("architectures"):
        raise BrokenModel(f"{path / 'config.json'} names no architectures; add them")
    fingerprint = _fingerprint([path / "config.json", *weights])
    return Source(text, "hf", path, _tidy(path.name), fingerprint, _size_bytes(weights))


def _onnx(text: str, graph: Path) -> Source:
    """A decoder and what is beside it; where it has a folder to itself, the model is the folder above."""
    folder = graph.parent.parent if graph.parent.name == ONNX_FOLDER else graph.parent
    check_folder(folder, graph.parent)
    parts = (graph.stem, embedding_file(graph).stem)
    files = sorted(f for f in graph.parent.iterdir() if f.name.startswith(tuple(f"{part}.onnx" for part in parts)))
    return Source(text, "onnx", folder, _tidy(folder.name), _fingerprint(files), _size_bytes(files), graph)


def _hub(text: str, progress: Progress, fetch: bool) -> Source:
    if missing(MODULES["convert"]):
        raise MissingDependency(f"{text} can't be downloaded and converted", "orchestrator", "convert")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # ours is the one
    import huggingface_hub
    from huggingface_hub import constants, errors
    from huggingface_hub.file_download import repo_folder_name

    progress("download", 0, 0)
    cache = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=text, repo_type="model") / "blobs"
    total = _hub_bytes(text) if fetch else 0
    try:
        with watch_growth(cache, lambda done: progress("download", min(done, total or done), total)):
            folder = Path(huggingface_hub.snapshot_download(text, allow_patterns=HUB_FILES, local_files_only=not fetch))
    except errors.LocalEntryNotFoundError as error:
        raise NoSuchModel(
            f"{text} is not in the local Hugging Face cache and cannot be fetched (offline?); connect, or give a folder"
        ) from error
    except errors.GatedRepoError as error:
        raise NoSuchModel(f"{text} is gated: accept its licence on huggingface.co and run: hf auth login") from error
    except (errors.RepositoryNotFoundError, errors.HFValidationError) as error:
        raise NoSuchModel(f"{text}: no such model on Hugging Face (or it is private); check the spelling") from error
    except (OSError, errors.HfHubHTTPError) as error:
        raise NoSuchModel(f"{text} could not be downloaded: {error}".splitlines()[0]) from error
    found = _folder(text, folder)
    name, fingerprint = _tidy(text.split("/")[1]), f"{_OF_HUB}{text}@{folder.name}"
    return Source(text, found.kind, folder, name, fingerprint, found.size_bytes, found.graph)


def _hub_bytes(text: str) -> int:
    """Size of what will be downloaded; 0 if the hub does not say."""
    import huggingface_hub

    try:
        files = huggingface_hub.HfApi().model_info(text, files_metadata=True, timeout=10).siblings or []
    except Exception:  # its HTTP libraries have many; the download will say what is wrong
        return 0
    return sum(file.size or 0 for file in files if any(fnmatch(file.rfilename, pattern) for pattern in HUB_FILES))


def _tidy(name: str) -> str:
    """A name for the store: lower case, what the shell and a URL take unquoted."""
    return re.sub(r"[^a-z0-9._-]+", "-", name.lower()).strip("-.") or "model"


def _size_bytes(files: Iterable[Path]) -> int:
    return sum(file.stat().st_size for file in files)


def _fingerprint(files: list[Path]) -> str:
    digest = hashlib.sha256()
    for file in files:
        stat = file.stat()
        digest.update(f"{file.name}\0{stat.st_size}\0".encode())
        with file.open("rb") as stream:
            digest.update(stream.read(1 << 20))
            stream.seek(max(0, stat.st_size - (1 << 20)))
            digest.update(stream.read())
    return f"sha256:{digest.hexdigest()}"

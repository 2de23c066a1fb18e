"""Checkpoint files of hubs: found in their caches, or downloaded into them, with a record of what they are.

The caches are those of the hubs' own libraries: `HF_HOME` of Hugging Face, `TORCH_HOME` of timm's and torchvision's
addresses. Nothing in a file is executed here; `foreign_files.py` reads its tensors.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import torch

from neuralign.common.errors import UserError, first_line, join_names
from neuralign.common.files import sha256
from neuralign.common.shards import INDEX, read_index
from neuralign.config.checking.hub_names import HubName, check_name, parse
from neuralign.config.problems import did_you_mean

# files of a repository that may be its checkpoint, in the order in which they are looked for
CHECKPOINTS = ("model.safetensors", f"model.safetensors{INDEX}", "pytorch_model.bin", f"pytorch_model.bin{INDEX}")
# {name of a repository, with @ and its branch or tag if one is named: the commit that this process has read of it}
REVISIONS: dict[str, str] = {}


@dataclass(frozen=True)
class HubFile:
    path: Path  # the file; of shards their index, which they lie beside
    record: dict[str, Any]  # the name, where the file is from, its revision where it has one, and digests


def fetch(name: str) -> HubFile:
    """The checkpoint of a name of a hub. Raises UserError if there is none, or if the hub cannot be reached."""
    check_name(name)
    parts = parse(name)
    if parts.hub == "hf-hub":
        return _from_repository(name, parts)
    if parts.hub == "torchvision":
        from torchvision.models import get_weight

        return _from_address(name, get_weight(parts.with_tag).url)
    config = timm_config(name)
    if config.hf_hub_id:
        repository, _, revision = config.hf_hub_id.partition("@")
        return _from_repository(name, HubName("hf-hub", repository, "", revision, config.hf_hub_filename or ""))
    if not config.url:
        raise UserError(f"{name}: timm has no weights of this model")
    return _from_address(name, config.url)


def timm_config(name: str) -> Any:
    """What timm knows of a model's weights, its `pretrained_cfg`. Raises UserError for a tag that it does not have."""
    import timm

    parts = parse(name)
    known = timm.list_pretrained(f"{parts.name}.*")
    if parts.tag and parts.with_tag not in known:
        hint, tags = did_you_mean(parts.with_tag, known), join_names([tag.partition(".")[2] for tag in known])
        raise UserError(f"{name}: timm has no weights {parts.tag!r} of {parts.name}{hint} (its tags: {tags or 'none'})")
    return timm.get_pretrained_cfg(parts.with_tag) or timm.models.PretrainedCfg()


def repository_file(name: str, parts: HubName, candidates: tuple[str, ...]) -> tuple[str, Path] | None:
    """(name, path) of the first of these files that a repository has; None if it is known to have none of them.

    Raises UserError if the repository or the revision does not exist, or if the hub would have to be asked and cannot.
    """
    from huggingface_hub import _CACHED_NO_EXIST, constants, errors, hf_hub_download, try_to_load_from_cache

    revision, unreachable = parts.revision or None, False
    for candidate in candidates:
        try:
            path = hf_hub_download(parts.name, candidate, revision=revision, local_files_only=unreachable)
            _note_revision(parts, _revision(Path(path), candidate))
            return candidate, Path(path)
        except errors.LocalEntryNotFoundError:  # not in the cache, and the hub cannot be asked
            if try_to_load_from_cache(parts.name, candidate, revision=revision) is not _CACHED_NO_EXIST:
                unreachable = True
        except errors.EntryNotFoundError:
            continue
        except errors.RevisionNotFoundError as error:
            raise UserError(f"{name}: the repository {parts.name} has no revision {parts.revision!r}") from error
        except Exception as error:  # no such repository, no access to it, a full disk, any error of the network
            raise UserError(f"{name}: the repository {parts.name} cannot be read: {first_line(str(error))}") from error
    if not unreachable:
        return None
    at = f" at {parts.revision}" if parts.revision else ""
    why = "HF_HUB_OFFLINE forbids to ask the hub" if constants.HF_HUB_OFFLINE else "the hub could not be reached"
    raise UserError(
        f"{name}: of the repository {parts.name}{at} {' or '.join(candidates)} is not in the cache "
        f"{constants.HF_HUB_CACHE}, and {why}"
    )


def _from_repository(name: str, parts: HubName) -> HubFile:
    candidates = (parts.file,) if parts.file else CHECKPOINTS
    found = repository_file(name, parts, candidates)
    if found is None:
        raise UserError(f"{name}: the repository {parts.name} has no {' or '.join(candidates)}; name a file of it")
    file, path = found
    revision = _revision(path, file)
    record: dict[str, Any] = {"name": name, "repository": parts.name, "revision": revision, "file": file}
    if not file.endswith(INDEX):
        return HubFile(path, record | {"sha256": sha256(path)})
    folder, shards = file.rpartition("/")[0], {}
    for shard in sorted(set(read_index(path).values())):
        place = repository_file(name, parts._replace(revision=revision), (f"{folder}/{shard}" if folder else shard,))
        if place is None:
            raise UserError(f"{name}: the repository {parts.name} has no {shard}, which {file} names")
        shards[shard] = sha256(place[1])
    return HubFile(path, record | {"shards": {path.name: sha256(path), **shards}})


def _revision(path: Path, file: str) -> str:
    """The commit of a file in the cache, .../snapshots/<commit>/<file>."""
    return path.parts[path.parts.index("snapshots", -3 - file.count("/")) + 1]


def _note_revision(parts: HubName, commit: str) -> None:
    """Keep in mind which commit a name without one stood for; the note of a job has it (running/notes.py)."""
    if parts.revision != commit:
        REVISIONS[f"hf-hub:{parts.name}{'@' if parts.revision else ''}{parts.revision}"] = commit


def _from_address(name: str, address: str) -> HubFile:
    """A file with the beginning of its digest in its name, `resnet18-f37072fd.pth`, in the cache of torch.hub."""
    path = Path(torch.hub.get_dir(), "checkpoints", Path(urlsplit(address).path).name)
    beginning = torch.hub.HASH_REGEX.search(path.name)
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(address, str(path), beginning and beginning[1], progress=False)
        except (OSError, RuntimeError) as error:  # RuntimeError: the digest is another
            raise UserError(
                f"{name}: {path.name} is not in the cache {path.parent}, and could not be loaded from {address}: "
                f"{first_line(str(error))}"
            ) from error
    digest = sha256(path)
    if beginning and not digest.startswith(beginning[1]):
        raise UserError(f"{path}: damaged: its sha256 begins with {digest[:8]}, and not with {beginning[1]}; remove it")
    return HubFile(path, {"name": name, "address": address, "file": path.name, "sha256": digest})

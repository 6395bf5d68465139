"""AcceleratorClasses for commands: those of a live cluster, of a file, or the samples."""

import asyncio
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from sluice.cli.errors import CommandError, ExitCode
from sluice.cli.kubeapi import call_api, find_kubeconfig

if TYPE_CHECKING:
    from sluice.api.accelerator import AcceleratorClassSpec

_SAMPLES = Path("manifests", "samples", "classes.yaml")


class ClassSource(NamedTuple):
    """Classes as they are written, by name, and where they were found."""

    classes: dict[str, Any]
    place: str

    def read(self, name: str) -> "AcceleratorClassSpec":
        """Return the spec of one class.

        Raises:
            CommandError: there is none of that name, or it is none that Sluice can read.
        """
        from pydantic import ValidationError  # noqa: PLC0415

        from sluice.api.accelerator import AcceleratorClassSpec  # noqa: PLC0415

        if name not in self.classes:
            known = ", ".join(self.classes) or "none"
            raise CommandError(
                f"There is no AcceleratorClass '{name}' in {self.place}; it has {known}.",
                ExitCode.USAGE,
            )
        try:
            return AcceleratorClassSpec.model_validate(self.classes[name])
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(["spec", *map(str, first["loc"])])
            raise CommandError(
                f"The AcceleratorClass '{name}' in {self.place} cannot be read: {where}:"
                f" {first['msg']}.",
                ExitCode.USAGE,
            ) from error


def find_classes(file: Path | None, kubeconfig: str | None, name: str) -> ClassSource:
    """Return the classes of a file if one is given, of a live cluster if there is one, or samples.

    Args:
        file: YAML with AcceleratorClasses, or None.
        kubeconfig: what the user named, or None; $KUBECONFIG counts, then the embedded cluster.
        name: of the embedded cluster.

    Raises:
        CommandError: the file or the cluster that was named does not give them.
    """
    from sluice.devcluster.errors import ClusterNotRunningError  # noqa: PLC0415
    from sluice.devcluster.images import find_models  # noqa: PLC0415

    if file is not None:
        return ClassSource(_read_file(file), str(file))
    try:
        path = find_kubeconfig(kubeconfig, name)
    except ClusterNotRunningError:
        models = find_models()
        samples = models.parents[1] / _SAMPLES if models is not None else _SAMPLES
        if not samples.is_file():
            raise CommandError(
                "No cluster is running, and there are no samples here: name a file of"
                " AcceleratorClasses with --classes, or a cluster with --kubeconfig.",
                ExitCode.USAGE,
            ) from None
        return ClassSource(_read_file(samples), f"the samples ({_shorten(samples)})")
    return ClassSource(_list_classes(path), f"the cluster of {path}")


def _read_file(file: Path) -> dict[str, Any]:
    import yaml  # noqa: PLC0415

    from sluice.model.names import CLASS_KIND  # noqa: PLC0415

    try:
        documents = list(yaml.safe_load_all(file.read_text()))
    except OSError as error:
        raise CommandError(f"Cannot read {file}: {error.strerror}.", ExitCode.USAGE) from error
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        told = " ".join(str(error).split())
        raise CommandError(f"{file} is no YAML: {told}.", ExitCode.USAGE) from error
    found = {}
    for one in documents:
        if isinstance(one, dict) and one.get("kind") == CLASS_KIND:
            about = one.get("metadata")
            found[str(about.get("name") if isinstance(about, dict) else None)] = one.get("spec")
    return found


def _list_classes(kubeconfig: str) -> dict[str, Any]:
    from sluice.kube.paths import CLASSES  # noqa: PLC0415

    answer = asyncio.run(
        call_api(
            kubeconfig,
            lambda client: client.request("GET", CLASSES.path()),
            doing="list AcceleratorClasses",
            missing=f"The cluster of {kubeconfig} knows no AcceleratorClasses: Sluice is not"
            " installed there. --classes FILE takes them from a file.",
        )
    )
    items = [one for one in answer.get("items") or () if isinstance(one, dict)]
    return {str(one["metadata"]["name"]): one.get("spec") for one in items}


def _shorten(path: Path) -> str:
    """Return a path as seen from here, if it lies below."""
    relative = os.path.relpath(path)
    return str(path) if relative.startswith("..") else relative

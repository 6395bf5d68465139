"""The one key type for namespaced things, so that nothing is looked up under two spellings."""

from typing import NamedTuple, Self


class PoolKey(NamedTuple):
    """Namespace and name of an InferencePool; its text form is ``namespace/name``."""

    namespace: str
    name: str

    def __str__(self) -> str:
        """Return ``namespace/name``."""
        return f"{self.namespace}/{self.name}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``namespace/name``.

        Raises:
            ValueError: the text has no single slash with something on both sides.
        """
        namespace, slash, name = text.partition("/")
        if not (namespace and slash and name) or "/" in name:
            raise ValueError(f"pool key {text!r} is not of the form namespace/name")
        return cls(namespace, name)

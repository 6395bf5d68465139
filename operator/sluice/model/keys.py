"""The one key type for namespaced things, so that nothing is looked up under two spellings."""

from typing import Any, NamedTuple, Self

from pydantic_core import CoreSchema, core_schema


class PoolKey(NamedTuple):
    """Namespace and name of an InferencePool; its text form is ``namespace/name``."""

    namespace: str
    name: str

    def __str__(self) -> str:
        """Return ``namespace/name``."""
        return f"{self.namespace}/{self.name}"

    @classmethod
    def __get_pydantic_core_schema__(cls, _source: Any, _handler: Any) -> CoreSchema:
        """Stand as text in JSON, also where it is a key."""
        return core_schema.no_info_plain_validator_function(
            lambda value: value if isinstance(value, cls) else cls.parse(str(value)),
            serialization=core_schema.plain_serializer_function_ser_schema(
                str, return_schema=core_schema.str_schema(), when_used="json"
            ),
        )

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

"""Rules that stand twice, in CEL for the API server and in Python for us, in the same words.

The two halves of a rule are written side by side: a type carries the CEL half in its JSON schema.
Messages are static: a computed one exceeds the API server's cost budget.
"""

import re
from dataclasses import dataclass
from typing import Any

from pydantic.config import JsonDict

RULES = "x-kubernetes-validations"
"""Where a schema carries its CEL rules."""


def rule(expression: str, message: str, field: str | None = None) -> JsonDict:
    """Return one CEL rule; `field` names the child it speaks of, as ``.min``."""
    found: JsonDict = {"rule": expression, "message": message}
    if field is not None:
        found["fieldPath"] = field
    return found


def matches(variable: str, pattern: str) -> str:
    r"""Return the CEL expression that asks whether a variable matches.

    Patterns write `[.]` for a full stop: a backslash would have to be doubled in CEL.
    """
    return f"{variable}.matches('{pattern}')"


@dataclass(frozen=True, slots=True)
class Form:
    """How a text has to look: a pattern for machines, a sentence for people.

    Attributes:
        pattern: anchored, in the syntax that RE2 and Python share.
        sentence: what is wrong with a text that does not match; follows the text itself.
        longest: most characters.
    """

    pattern: str
    sentence: str
    longest: int

    def check(self, value: object) -> str:
        """Return the text if it has this form.

        Raises:
            ValueError: it is no text, or another one.
        """
        # fullmatch: Python's $ would let a line break at the end pass.
        fits = isinstance(value, str) and len(value) <= self.longest
        if not isinstance(value, str) or not fits or not re.fullmatch(self.pattern, value):
            raise ValueError(f"{value!r} {self.sentence}")
        return value

    def describe(self, *more: JsonDict) -> dict[str, Any]:
        """Return the form's schema, with further rules if any.

        The pattern is there for tools; the rule with the same pattern says it in a sentence.
        """
        return {
            "type": "string",
            "pattern": self.pattern,
            "maxLength": self.longest,
            RULES: [rule(matches("self", self.pattern), self.sentence), *more],
        }

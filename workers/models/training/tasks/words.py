"""Words that several tasks use. They are short and few, so that most of them are single tokens."""

from typing import Final


def split_words(text: str) -> tuple[str, ...]:
    """Return the words of a text."""
    return tuple(text.split())


NOUNS: Final = split_words(
    """
    ant ape arm axe bag ball band bank barn bat bay bean bear bed bee bell bird boat bolt bone
    book bow box bread bus cake can cap car cart cat cave clay coal coat coin cord cow crab cup
    deer desk dish dog doll door dove drum duck dust ear egg elk eye fan farm fern fire fish
    flag fly food fox frog fruit gate gift glass goat gold grass hand hat hawk hen hill hook
    horn horse house ice ink jam jar jug key king kite lake lamb lamp leaf lion lock log map
    mask milk mill moon moth mud mule nail nest net nose nut oil owl ox page pan park pea pear
    pig pin pipe pond pool pot rat ring road rock roof rope rose sand seal seed ship shoe silk
    snow sock song soup star stone tent tree wolf
    """
)
COLOURS: Final = ("red", "blue", "green", "black", "white", "brown", "grey", "pink")
NAMES: Final = split_words(
    """
    Ada Ben Cleo Dan Eva Finn Gus Hana Ivo Jan Kira Leo Mia Nora Otto Pia Rosa Sam Tom Uma Vera
    Will
    """
)
VOWELS: Final = "AEIOU"
CONSONANTS: Final = "BCDFGHJKLMNPRSTVWZ"

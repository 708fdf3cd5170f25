"""Words for messages."""


def plural(count: int) -> str:
    """The ending of a noun: "s" unless the count is 1."""
    return "" if count == 1 else "s"


def counted(count: int, noun: str, verb: str = "") -> str:
    """The count with its noun and a verb in the plural: "1 image is", "2,000 images are", "0 images have"."""
    singular = {"are": "is", "have": "has", "were": "was"}
    return " ".join(
        filter(None, [f"{count:,} {noun}{plural(count)}", singular.get(verb, verb) if count == 1 else verb])
    )


def last_line(text: str) -> str:
    """The last line that is not blank, such as the message of a process that failed."""
    return next((line for line in reversed(text.splitlines()) if line.strip()), "no message")

"""Text from files, made safe to show."""


def printable(text: str) -> str:
    r"""Write out control characters and undecodable bytes, for example as `\x1b` or `\n`.

    Names of files and classes can hold escape sequences that control a terminal, line breaks that
    imitate other output, or bytes that are not UTF-8.
    """
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode() for each in text
    )

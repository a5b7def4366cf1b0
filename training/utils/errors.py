"""What is wrong with a file, in one line for the person who gave it."""

LONGEST_MESSAGE = 300


def brief(error: BaseException) -> str:
    """Return the message of an error in one line of at most `LONGEST_MESSAGE` characters, or its kind if it has none.

    Libraries put the content of a file into their messages, which may be long and of several lines.
    """
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= LONGEST_MESSAGE else f"{text[:LONGEST_MESSAGE]} ..."

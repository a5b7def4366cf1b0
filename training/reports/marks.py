"""What keeps a result from being an honest measure, said in every report in the same words."""


def result_marks(leaky: bool, selected_on_test: bool = False) -> list[str]:
    """
    Args:
        leaky: the features are known to give the label away.
        selected_on_test: the test split chose the checkpoint.
    """
    marks = ["leaky: the features give the label away"] if leaky else []
    return marks + (["checkpoint selected on the test split"] if selected_on_test else [])


def marked_title(title: str, marks: list[str]) -> str:
    return title + "".join(f" ({mark})" for mark in marks)

"""The one exception that a user can cause, and mend."""


class UserError(Exception):
    """Something that the user can mend: the command line shows it as one panel and ends with 2.

    Args:
        message: what happened, with the offending value and what was found instead.
        hint: what to type or change; may be empty.
    """

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

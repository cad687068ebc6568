"""What can go wrong with the local stack."""


class StackError(Exception):
    """The stack cannot do what was asked; the message says what happened and what to do next."""

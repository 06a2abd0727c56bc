"""Why something cannot be run here."""


class Skip(Exception):
    """This machine cannot do it; the text says why."""

"""The one error that the lab reports to people: a sentence with its mend."""


class LabError(Exception):
    """The lab cannot go on; the message says why and what to do about it."""

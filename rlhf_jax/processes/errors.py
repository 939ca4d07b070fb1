"""What ends a run of several processes although this one is well."""


class OtherProcessError(RuntimeError):
    """Another process of the run met an error; the text says which process and what it said."""


class LostProcessError(RuntimeError):
    """Another process of the run is gone: nothing that all of them do can go on."""

    exit_code = 75  # "try again later": whoever starts processes should start all of them once more

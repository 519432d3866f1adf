"""Which device to compute on."""

from tspbench.errors import UserError


def choose_device(name: str) -> str:
    """Return ``name``, or for "auto" the GPU where there is one.

    Raises:
        UserError: a device that is not there.
    """
    import torch  # noqa: PLC0415 - commands that need no device must not load torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        first = str(error).splitlines()[0]
        raise UserError(f"--device {name} cannot be used here ({first}): choose cpu, cuda or auto.") from error
    return name

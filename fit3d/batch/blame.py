"""What an exception that nobody foresaw speaks of: the photo, the process that fits it, or the whole installation."""

from __future__ import annotations

import errno

from fit3d.batch.source import source_hash
from fit3d.batch.work import BrokenWorkerError
from fit3d.errors import UsageError
from fit3d.export.files import reason_of

_FULL = (errno.ENOSPC, errno.EDQUOT)
_NO_FILES = (errno.EMFILE, errno.ENFILE)
_OUT_OF_MEMORY = ("out of memory", "allocate memory")
"""In what torch says, of any device."""
_GPU_ERRORS = ("CUDA error", "CUBLAS_STATUS_", "cuDNN error", "CUDNN_STATUS_")
"""In what torch says once a process can use its GPU no more."""


def raise_unless_of_photo(error: Exception, source: str) -> None:
    """Returns where the photo may be to blame.

    Args:
        error: that nobody foresaw.
        source: hash of the fit3d that began the run. What a worker has loaded since may not fit together, if it is of
            other files; a run that goes well is not ended for that.

    Raises:
        UsageError: no photo can be done, as a package is missing or damaged, fit3d was changed, or a disk is full.
        BrokenWorkerError: this process is out of memory or files, or its GPU refuses everything.
    """
    if isinstance(error, ImportError) or (isinstance(error, SyntaxError) and str(error.filename).endswith(".py")):
        raise UsageError(
            f"cannot load a part of fit3d, or of a package that it needs ({_said(error)}); once that is mended, the "
            "same command goes on"
        ) from error
    if source_hash() != source:
        raise UsageError(
            f"the files of fit3d are not those that began the run ({_said(error)}): they were changed meanwhile, or "
            "differ between machines; once they are as they should be, the same command goes on"
        ) from error
    raise_if_exhausted(error)


def raise_if_exhausted(error: Exception) -> None:
    """The same of a disk, of memory, files and GPUs alone."""
    system = error.errno if isinstance(error, OSError) else None
    torch_says = str(error) if isinstance(error, RuntimeError) else ""
    if isinstance(error, OSError) and system in _FULL:
        raise UsageError(f"cannot write a temporary file: {reason_of(error)}") from error
    if isinstance(error, MemoryError) or system == errno.ENOMEM or any(word in torch_says for word in _OUT_OF_MEMORY):
        raise BrokenWorkerError(f"the process that fitted it ran out of memory ({_said(error)})") from error
    if system in _NO_FILES:
        raise BrokenWorkerError("the process that fitted it had too many files open") from error
    if any(word in torch_says for word in _GPU_ERRORS):
        raise BrokenWorkerError(f"the process that fitted it could use its GPU no more ({_said(error)})") from error


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}".removesuffix(": ")

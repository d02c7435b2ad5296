"""Every error that a user can cause, one class each.

A message is one line: what is wrong, the value, what is allowed, what to do. The command line
prints it without a traceback and leaves with the class's `exit_code`: 2 where the input was wrong,
1 where the work failed.
"""

from __future__ import annotations


class GnvideoError(Exception):
    """Base of all errors that end a command with one line."""

    exit_code = 2


class ConfigError(GnvideoError, ValueError):
    """A configuration file or override has a wrong key, type or value."""


class InputFileError(GnvideoError):
    """A file or folder that the user named is missing, unreadable or of the wrong kind."""


class AnnotationError(GnvideoError, ValueError):
    """An annotation file has a wrong header, column or value."""


class ManifestError(GnvideoError, ValueError):
    """A prepared folder's manifest or class list is missing, damaged or of another version."""


class ClassListError(GnvideoError, ValueError):
    """A label is not among the known classes, or two class lists disagree."""


class ListExportError(GnvideoError, ValueError):
    """A list format of another tool cannot hold what is to be written."""


class VideoError(GnvideoError):
    """A video cannot be opened or decoded. The message names the file."""


class DecoderUnavailableError(GnvideoError):
    """A decoder was asked for by name and its package does not import here."""


class EngineUnavailableError(GnvideoError):
    """Work was to be done by an engine that is not installed, or cannot be reached, here."""


class MissingPackageError(GnvideoError):
    """A package that only some uses need was asked for and does not import here."""


class NormalizerError(GnvideoError, ValueError):
    """A normalizer is unknown or cannot be built for the given number of channels."""


class ModelError(GnvideoError, ValueError):
    """A model is unknown, or an input or setting does not fit it."""


class CheckpointError(GnvideoError):
    """A checkpoint is missing, damaged, or belongs to another model."""


class OutputError(GnvideoError):
    """An output folder cannot be written, or holds something else."""


class WorkFailedError(GnvideoError):
    """The input was right and the work failed."""

    exit_code = 1


class SaveFailedError(WorkFailedError):
    """Writing a file failed half-way, as on a full disk; nothing stands under its final name."""


class ExportError(WorkFailedError):
    """An exported network computes other logits than the one that it was made of."""


class NonFiniteLossError(WorkFailedError):
    """The training loss is NaN or infinite."""


class WorkerDiedError(WorkFailedError):
    """A process of the loader died; the message names the video that it read."""


class InterruptedRunsError(WorkFailedError):
    """A comparison was stopped, or some of its runs failed; the same command goes on."""

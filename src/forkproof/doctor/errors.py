"""Why a process could not be looked at."""

from __future__ import annotations


class DoctorError(Exception):
    """The process could not be looked at: one line that says why, and what to do about it."""


class Gone(DoctorError):
    """There is no such process, or there is none any more."""


class Forbidden(DoctorError):
    """The system does not allow this process to look at that one."""

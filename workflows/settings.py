"""Where hopflow keeps things and which database it uses: options over ``HOPFLOW_*`` variables over defaults."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from ..transport.errors import HopflowError


class Settings(BaseSettings):
    """Settings of one hopflow process.

    Without any of them, the embedded database in ``./.hopflow`` is used, also where a ``launchpad.yaml`` lies in the
    current directory: a server is used only when it is named.
    """

    model_config = SettingsConfigDict(
        env_prefix="HOPFLOW_", env_ignore_empty=True, extra="forbid", frozen=True, validate_default=True
    )

    home: Path = Field(Path(".hopflow"), description="Folder of the embedded database and of checkpoints.")
    launchpad: Path | None = Field(None, description="A FireWorks launchpad file that names a MongoDB server.")
    database: str | None = Field(None, description="A MongoDB URI, or the folder of an embedded database.")
    cache_dir: Path | None = Field(None, description="Folder for downloaded weights; the user's cache by default.")
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field("WARNING", description="Least level that is shown.")

    @property
    def target(self) -> str | Path:
        """What `hopflow.workflows.database.open_database` is to open: a URI, a launchpad file or a folder.

        Raises
        ------
        HopflowError
            Both a database and a launchpad file are named.
        """
        if self.database is not None and self.launchpad is not None:
            raise HopflowError("A database and a launchpad file are both given; give one of them.")
        if self.database is not None:
            return self.database
        return self.home if self.launchpad is None else self.launchpad


def load_settings(
    *,
    home: Path | None = None,
    launchpad: Path | None = None,
    database: str | None = None,
    cache_dir: Path | None = None,
    log_level: str | None = None,
) -> Settings:
    """Settings from a command's options and, for those that are None, from the environment.

    A database or launchpad file given here stands above both variables ``HOPFLOW_DATABASE`` and ``HOPFLOW_LAUNCHPAD``.

    Raises
    ------
    HopflowError
        A value is not one that the setting can have.
    """
    options = {"home": home, "cache_dir": cache_dir, "log_level": log_level}
    given: dict[str, object] = {name: value for name, value in options.items() if value is not None}
    if launchpad is not None or database is not None:
        given |= {"launchpad": launchpad, "database": database}
    try:
        return Settings(**given)  # type: ignore[arg-type]
    except ValidationError as error:
        problem = error.errors()[0]
        name = ".".join(str(part) for part in problem["loc"])
        raise HopflowError(f"The setting {name} (HOPFLOW_{name.upper()}) is wrong: {problem['msg']}.") from error

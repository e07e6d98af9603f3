"""The campaign file: what a person writes, checked so that every error names its line, its key and what is allowed."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from ..makers.documents import (
    BandDocument,
    BondValenceDocument,
    DftBandDocument,
    HandoffDocument,
    HopBarrierDocument,
    LandscapeDocument,
    StageDocument,
)
from ..makers.settings import (
    BandStageSettings,
    BondValenceStageSettings,
    HandoffStageSettings,
    HopBarrierStageSettings,
    ScanStageSettings,
    StageSettings,
)
from ..transport.errors import HopflowError

Model = TypeVar("Model", bound=BaseModel)

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$"
"""Names of campaigns: they become names of folders."""


class SpecificationError(HopflowError):
    """A file that a person wrote is wrong; the text lists every fault with its line."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


def check_ion(ion: str) -> str:
    """Return the element symbol of a mobile ion that the bond-valence table knows.

    Raises
    ------
    ValueError
        The table has no such ion; the text lists those that it has.
    """
    from ..transport.bvse import mobile_ions

    allowed = mobile_ions()
    if ion not in allowed:
        raise ValueError(f"{ion!r} is no mobile ion of the bond-valence table; allowed: {', '.join(allowed)}")
    return ion


class GateSpec(_Strict):
    """What lets a candidate through a stage. Without `max`, `min` and `top` everything passes."""

    quantity: str | None = Field(None, description="Quantity that is read; the stage's own barrier when absent.")
    max: float | None = Field(None, description="Largest value that passes, in the quantity's unit.")
    min: float | None = Field(None, description="Smallest value that passes, in the quantity's unit.")
    top: int | None = Field(
        None, gt=0, description="Let so many through, the best first, once every candidate has a value."
    )

    @model_validator(mode="after")
    def _bounds_in_order(self) -> GateSpec:
        if self.max is not None and self.min is not None and self.min > self.max:
            raise ValueError(f"min ({self.min}) is above max ({self.max}), so that nothing can pass")
        return self


class _StageSpec(_Strict):
    document: ClassVar[type[StageDocument]]

    gate: GateSpec = Field(default_factory=GateSpec, description="What lets a candidate through.")

    @model_validator(mode="after")
    def _known_quantity(self) -> _StageSpec:
        allowed = [str(q) for q in self.answer().quantities()]
        if self.gate.quantity is not None and self.gate.quantity not in allowed:
            raise ValueError(f"gate.quantity: {self.gate.quantity!r} is not known here; allowed: {', '.join(allowed)}")
        return self

    def gate_quantity(self) -> str:
        """Quantity that the gate reads."""
        return self.gate.quantity or str(self.answer().default_quantity)

    def answer(self) -> type[StageDocument]:
        """The document that the stage answers with."""
        return self.document


class BondValenceStage(_StageSpec):
    """The bvse stage."""

    document: ClassVar[type[StageDocument]] = BondValenceDocument
    settings: BondValenceStageSettings = Field(default_factory=BondValenceStageSettings)


class HopBarrierStage(_StageSpec):
    """The gnn stage."""

    document: ClassVar[type[StageDocument]] = HopBarrierDocument
    settings: HopBarrierStageSettings = Field(default_factory=HopBarrierStageSettings)


class LandscapeStage(_StageSpec):
    """The pes stage."""

    document: ClassVar[type[StageDocument]] = LandscapeDocument
    settings: ScanStageSettings = Field(default_factory=ScanStageSettings)


class BandStage(_StageSpec):
    """The neb stage."""

    document: ClassVar[type[StageDocument]] = BandDocument
    settings: BandStageSettings = Field(default_factory=BandStageSettings)


class HandoffStage(_StageSpec):
    """The dft stage."""

    document: ClassVar[type[StageDocument]] = HandoffDocument
    settings: HandoffStageSettings = Field(default_factory=HandoffStageSettings)

    def answer(self) -> type[StageDocument]:
        """A barrier where the engine runs here, else the inputs that were written."""
        return HandoffDocument if self.settings.engine == "vasp" else DftBandDocument


class Stages(_Strict):
    """The stages that the campaign runs; a stage that is not named is left out."""

    bvse: BondValenceStage | None = Field(None, description="Bond-valence percolation, seconds a material.")
    gnn: HopBarrierStage | None = Field(None, description="Barriers from a trained model, seconds a hop.")
    pes: LandscapeStage | None = Field(None, description="Single-ion energy landscape, minutes a material.")
    neb: BandStage | None = Field(None, description="Climbing-image NEB, minutes to hours a material.")
    dft: HandoffStage | None = Field(None, description="A DFT-NEB from the band, its inputs or itself; needs neb.")

    @model_validator(mode="before")
    @classmethod
    def _bare_names(cls, data: Any) -> Any:
        """Read ``bvse:`` with nothing behind it as the stage with its defaults."""
        if isinstance(data, dict):
            return {name: {} if value is None and name in cls.model_fields else value for name, value in data.items()}
        return data

    @model_validator(mode="after")
    def _sensible(self) -> Stages:
        if not self.chosen():
            raise ValueError(f"at least one stage is needed; allowed: {', '.join(type(self).model_fields)}")
        if self.dft is not None and self.neb is None:
            raise ValueError("dft starts from the band of the neb stage; add neb or leave dft out")
        if self.dft is not None and self.neb is not None and self.neb.settings.mechanism != "vacancy":
            raise ValueError("dft starts from bands of vacancy hops; set neb's mechanism to vacancy or leave dft out")
        return self

    def chosen(self) -> dict[str, _StageSpec]:
        """The stages that the campaign runs, the cheapest first."""
        found = {name: getattr(self, name) for name in type(self).model_fields}
        return {name: stage for name, stage in found.items() if stage is not None}


class MaterialsSpec(_Strict):
    """Where candidates come from: exactly one of `mp_ids`, `mp_query`, `snapshot`, `structures`.

    `mp_ids` may stand beside `structures` or `snapshot`; it then selects from them.
    """

    mp_ids: list[str] | str | None = Field(
        None, description="Materials Project ids, or a file with one id a line (`#` starts a comment)."
    )
    mp_query: dict[str, Any] | None = Field(
        None, description="Arguments of the Materials Project summary search, for instance `{elements: [Li, O]}`."
    )
    snapshot: str | None = Field(None, description="A snapshot file that an earlier launch froze.")
    structures: str | list[str] | None = Field(
        None, description="Folder, file or glob of CIF, POSCAR or JSON-lines structures."
    )

    @model_validator(mode="after")
    def _one_source(self) -> MaterialsSpec:
        given = [n for n in ("mp_query", "snapshot", "structures") if getattr(self, n) is not None]
        if len(given) > 1 or (not given and self.mp_ids is None):
            raise ValueError("give one of mp_ids, mp_query, snapshot, structures")
        if self.mp_ids is not None and given == ["mp_query"]:
            raise ValueError("mp_ids and mp_query exclude each other; leave one out")
        return self


class PropertyGate(_Strict):
    """A bound on a known property of the material."""

    max: float | None = Field(None, description="Largest value that passes.")
    min: float | None = Field(None, description="Smallest value that passes.")
    unknown: Literal["pass", "reject"] = Field("pass", description="What happens when the property is not known.")


class PropertyGates(_Strict):
    """Gates on properties that come with the material, judged before any stage."""

    energy_above_hull_eV_per_atom: PropertyGate | None = Field(None, description="Energy above the convex hull.")
    band_gap_eV: PropertyGate | None = Field(None, description="Band gap of the database's functional.")


class CampaignSpec(_Strict):
    """A screening campaign."""

    name: str = Field(
        pattern=NAME_PATTERN,
        description="Name of the campaign: letters, digits, `_`, `.` and `-`.",
    )
    ion: str = Field("Li", description="Element symbol of the mobile ion.")
    materials: MaterialsSpec = Field(description="Where candidates come from.")
    properties: PropertyGates = Field(default_factory=PropertyGates, description="Gates on known properties.")
    stages: Stages = Field(description="The funnel.")
    chunk_size: int = Field(100, gt=0, le=250, description="Candidates in one job of the cheap stages.")
    priority: int = Field(0, description="FireWorks priority; jobs of a higher priority run first.")

    @field_validator("ion")
    @classmethod
    def _mobile_ion(cls, ion: str) -> str:
        return check_ion(ion)

    def digest(self) -> str:
        """SHA-256 of what the campaign means, so that a changed file is noticed."""
        return hashlib.sha256(json.dumps(self.model_dump(mode="json"), sort_keys=True).encode()).hexdigest()

    def settings_of(self, stage: str) -> StageSettings:
        """Return the settings of one stage."""
        return getattr(self.stages, stage).settings


def read_spec(path: Path) -> CampaignSpec:
    """Read a campaign file.

    Relative paths of ``materials`` are taken from the folder of the file.

    Raises
    ------
    SpecificationError
        The file is missing, is not YAML, or says something that is not allowed; every fault with its line.
    """
    return _with_absolute_paths(read_model(path, CampaignSpec, "campaign file"), path.resolve().parent)


def read_model(path: Path, model: type[Model], what: str) -> Model:
    """Read a YAML file that a person wrote into a model.

    Parameters
    ----------
    path
        The file.
    model
        What it has to say.
    what
        What such a file is called.

    Raises
    ------
    SpecificationError
        The file is missing, is not YAML, or says something that is not allowed; every fault with its line.
    """
    import yaml

    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise SpecificationError(f"The {what} {path} cannot be read: {reason}.") from error
    try:
        data = yaml.safe_load(text)
        tree = yaml.compose(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" at line {mark.line + 1}" if mark is not None else ""
        problem = getattr(error, "problem", None) or "unreadable"
        raise SpecificationError(f"{path} is not valid YAML{where}: {problem}.") from error
    if not isinstance(data, dict):
        allowed = ", ".join(model.model_fields)
        raise SpecificationError(f"{path} is no {what}; it needs the keys {allowed}.")
    try:
        return model.model_validate(data)
    except ValidationError as error:
        faults = [_explain(fault, tree, model) for fault in error.errors()]
        raise SpecificationError(f"{path} cannot be used:\n" + "\n".join(f"  {fault}" for fault in faults)) from error


def _with_absolute_paths(spec: CampaignSpec, folder: Path) -> CampaignSpec:
    materials = spec.materials.model_copy()
    if isinstance(materials.mp_ids, str):
        materials.mp_ids = str(folder / materials.mp_ids)
    if materials.snapshot is not None:
        materials.snapshot = str(folder / materials.snapshot)
    if isinstance(materials.structures, str):
        materials.structures = str(folder / materials.structures)
    elif materials.structures is not None:
        materials.structures = [str(folder / entry) for entry in materials.structures]
    return spec.model_copy(update={"materials": materials})


def _explain(fault: Any, tree: Any, model: type[BaseModel]) -> str:
    """Say one pydantic fault in a person's words, with the line of the nearest key that stands in the file."""
    keys = [key for key in fault["loc"] if key not in ("str", "list[str]")]
    path = ".".join(str(key) for key in keys) or "(top level)"
    line = _line_of(tree, keys)
    where = f"line {line}: {path}" if line is not None else path
    if fault["type"] == "extra_forbidden":
        allowed = _allowed_keys(model, keys[:-1])
        return f"{where}: unknown key; allowed here: {', '.join(allowed)}"
    if fault["type"] == "missing":
        return f"{where}: this key is needed"
    message = fault["msg"].removeprefix("Value error, ")
    given = fault.get("input")
    shown = "" if fault["type"] == "value_error" or isinstance(given, dict | list) else f" (given: {given!r})"
    return f"{where}: {message[0].lower() + message[1:]}{shown}"


def _line_of(tree: Any, keys: list[Any]) -> int | None:
    """Line number of the deepest of the keys that stands in the file."""
    import yaml

    node, line = tree, None
    for key in keys:
        if isinstance(node, yaml.MappingNode):
            pairs = [(k, v) for k, v in node.value if k.value == str(key)]
            if not pairs:
                break
            line, node = pairs[0][0].start_mark.line + 1, pairs[0][1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(key, int) and key < len(node.value):
            node = node.value[key]
            line = node.start_mark.line + 1
        else:
            break
    return line


def _allowed_keys(model: type[BaseModel], keys: list[Any]) -> list[str]:
    """Keys that the model at a place of the file allows."""
    for key in keys:
        field = model.model_fields.get(str(key))
        if field is None:
            break
        options = [a for a in (field.annotation, *getattr(field.annotation, "__args__", ())) if isinstance(a, type)]
        inner = [a for a in options if issubclass(a, BaseModel)]
        if not inner:
            break
        model = inner[0]
    return list(model.model_fields)

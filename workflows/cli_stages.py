"""The stages as commands on structure files: one answer a structure, in the order given."""

from __future__ import annotations

import json
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import typer

from . import console

if TYPE_CHECKING:
    from pydantic import BaseModel
    from pymatgen.core import Structure

    from ..makers.settings import StageSettings
    from ..makers.stage import StageMaker
    from ..transport.structures import NamedStructure

Model = TypeVar("Model", bound="BaseModel")

Files = Annotated[
    list[Path], typer.Argument(help="Structure files: CIF, POSCAR, JSON or JSON lines.", show_default=False)
]
Ion = Annotated[str, typer.Option(help="Element symbol of the mobile ion.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document a structure.")]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set", help="Change a setting of the stage, for instance `--set spacing_A=0.3`.", metavar="KEY=VALUE"
    ),
]
Oxidation = Annotated[
    str | None, typer.Option(help="Oxidation states, for instance `Li=1,P=5,S=-2`.", metavar="EL=N,...")
]
Volume = Annotated[Path | None, typer.Option(help="Write the energies of one structure here: .cube, .vasp or .grd.")]
Figure = Annotated[
    Path | None, typer.Option(help="Draw the percolating path in the crystal of one structure here (.html).")
]
PathFile = Annotated[
    Path | None, typer.Option(help="Write the percolating paths of one structure here: .json or .xyz.")
]
Dimension = Annotated[int, typer.Option(min=1, max=3, help="Independent directions that the drawn path crosses.")]


def register(app: typer.Typer) -> None:
    """Add the stage commands to the command line."""
    for command in (bvse, gnn, scan):
        app.command(rich_help_panel="Stages on structure files")(command)


def bvse(
    context: typer.Context,
    files: Files,
    ion: Ion = "Li",
    as_json: AsJson = False,
    oxidation_states: Oxidation = None,
    settings: Settings = None,
    volume: Volume = None,
    figure: Figure = None,
    slice_: Annotated[
        Path | None, typer.Option("--slice", help="Draw a plane through the bottleneck of one structure here (.html).")
    ] = None,
    path: PathFile = None,
    dimension: Dimension = 1,
    interstitial_network: Annotated[
        Literal["never", "missing_parameters", "always"] | None,
        typer.Option(help="When the interstitial network predicts: in place of missing parameters unless told else."),
    ] = None,
) -> None:
    """Bond-valence barriers in one, two and three directions."""
    chosen = list(settings or [])
    if interstitial_network is not None:
        chosen.append(f"interstitial_network={interstitial_network}")
    if oxidation_states is not None:
        chosen.append(f"oxidation_states={json.dumps(_oxidation_states(oxidation_states))}")
    outputs = {"volume": volume, "figure": figure, "slice": slice_, "path": path}
    if not any(outputs.values()):
        _run(context, "bvse", files, ion, as_json, chosen)
        return
    from .cli_landscapes import bond_valence_outputs, wanted_outputs

    wanted, structure = wanted_outputs(files, dimension, outputs)
    documents = _run(context, "bvse", files, ion, as_json, chosen, leave=False)
    _leave(documents)
    if structure is not None:
        bond_valence_outputs(wanted, structure, ion, _settings("bvse", chosen), documents[0], as_json)


def gnn(
    context: typer.Context, files: Files, ion: Ion = "Li", as_json: AsJson = False, settings: Settings = None
) -> None:
    """Barriers of all unique hops from a model trained on DFT barriers, with uncertainty."""
    _run(context, "gnn", files, ion, as_json, settings)


def scan(
    context: typer.Context,
    files: Files,
    ion: Ion = "Li",
    as_json: AsJson = False,
    settings: Settings = None,
    volume: Volume = None,
    levels: Annotated[
        Path | None, typer.Option(help="Write the level map of one structure here: .cube, .vasp or .grd.")
    ] = None,
    figure: Figure = None,
    slice_: Annotated[
        Path | None,
        typer.Option("--slice", help="Draw energies and level map in a plane through the bottleneck here (.html)."),
    ] = None,
    path: PathFile = None,
    dimension: Dimension = 1,
) -> None:
    """Energy landscape of a single ion: percolation energies and free volume."""
    outputs = {"volume": volume, "levels": levels, "figure": figure, "slice": slice_, "path": path}
    if not any(outputs.values()):
        _run(context, "pes", files, ion, as_json, settings)
        return
    from .assembly import stage_maker
    from .cli_landscapes import scan_outputs, wanted_outputs

    wanted, structure = wanted_outputs(files, dimension, outputs)
    documents = _run(context, "pes", files, ion, as_json, settings, leave=False)
    _leave(documents)
    if structure is not None:
        maker = stage_maker("pes", ion, _settings("pes", settings))
        scan_outputs(wanted, structure, maker, context.obj.home / "checkpoints", as_json)  # type: ignore[arg-type]


def dft(
    context: typer.Context,
    files: Files,
    ion: Ion = "Li",
    as_json: AsJson = False,
    settings: Settings = None,
    folder: Annotated[Path, typer.Option(help="Folder that receives the files.")] = Path("handoff"),
) -> None:
    """Write the inputs of a VASP NEB, or compute it (`--set engine=espresso`); the neb stage makes its band first."""
    _run(context, "dft", files, ion, as_json, [*(settings or []), f"folder={json.dumps(str(folder.absolute()))}"])


def _oxidation_states(text: str) -> dict[str, float]:
    try:
        return {element.strip(): float(state) for element, state in (pair.split("=") for pair in text.split(","))}
    except ValueError as error:
        raise typer.BadParameter(f"{text!r} is not a list like Li=1,P=5,S=-2.") from error


def _settings(stage: str, changes: list[str] | None) -> StageSettings:
    """Read ``KEY=VALUE`` pairs into a stage's settings; a wrong key or value is wrong use."""
    from .spec import Stages

    model: Any = None
    for option in Stages.model_fields[stage].annotation.__args__:  # type: ignore[union-attr]
        if hasattr(option, "model_fields"):
            model = option.model_fields["settings"].annotation
    return read_changes(model, stage, changes)


def read_changes(model: type[Model], what: str, changes: list[str] | None) -> Model:
    """Read ``KEY=VALUE`` pairs into settings; a wrong key or value is wrong use.

    Parameters
    ----------
    model
        The settings.
    what
        Name of what has them, for the message.
    changes
        Pairs as the command line has them.
    """
    import yaml
    from pydantic import ValidationError

    data = {}
    for change in changes or []:
        key, separator, value = change.partition("=")
        if not separator:
            raise typer.BadParameter(f"{change!r} is not of the form KEY=VALUE.")
        if key not in model.model_fields:
            raise typer.BadParameter(f"{what} has no setting {key!r}; allowed: {', '.join(model.model_fields)}.")
        try:
            data[key] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise typer.BadParameter(
                f"{change!r}: {value!r} is not a value; write it as in a campaign file."
            ) from error
    try:
        return model.model_validate(data)
    except ValidationError as error:
        faults = "; ".join(
            f"{'.'.join(map(str, f['loc']))}: {f['msg']} (given: {f['input']!r})" for f in error.errors()
        )
        raise typer.BadParameter(faults) from error


def _run(
    context: typer.Context,
    stage: str,
    files: list[Path],
    ion: str,
    as_json: bool,
    changes: list[str] | None,
    leave: bool = True,
) -> list[dict[str, Any]]:
    from .assembly import stage_maker
    from .spec import check_ion

    try:
        check_ion(ion)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    maker = stage_maker(stage, ion, _settings(stage, changes))
    checkpoints = context.obj.home / "checkpoints"
    answers: list[dict[str, Any]] = []
    for file in files:
        for answer in _answers(maker, file, checkpoints, context.obj.debug):
            answers.append(answer)
            if as_json:
                console.print_json(answer, indent=None)
            else:
                console.say(answer_text(answer, _found))
    if leave:
        _leave(answers)
    return answers


def _leave(answers: list[dict[str, Any]]) -> None:
    if any(answer["status"] == "failed" for answer in answers):
        raise typer.Exit(1)


def _answers(maker: StageMaker, file: Path, checkpoints: Path, debug: bool) -> Iterator[dict[str, Any]]:
    def evaluate(structure: Structure) -> tuple[dict[str, Any], None]:
        return _evaluate(maker, structure, checkpoints).model_dump(mode="json"), None

    for answer, _ in structure_answers(file, maker.stage, debug, evaluate):
        yield answer


def structure_answers(
    file: Path, what: str, debug: bool, evaluate: Callable[[Structure], tuple[dict[str, Any], Any]]
) -> Iterator[tuple[dict[str, Any], Any]]:
    """Answer for every structure of a file; whatever happens to one is its own answer.

    Parameters
    ----------
    file
        Structure file.
    what
        Name of what is done, for the line that says what is at work.
    debug
        Print the traceback of a failure.
    evaluate
        Returns the fields of a structure's answer, and whatever else the caller wants beside it.

    Returns
    -------
    Iterator of tuple
        The answer, and what came beside it; None where the structure failed.
    """
    from ..transport.structures import read_structures

    with console.quiet_stdout():
        entries = [_folder_entry(file)] if file.is_dir() else read_structures(file)
    for entry in entries:
        answer: dict[str, Any] = {"file": str(file), "name": entry.name}
        beside = None
        try:
            if entry.structure is None:
                raise entry.error or ValueError("the entry holds no structure")
            with console.quiet_stdout(), console.at_work(f"{file} {what}"):
                fields, beside = evaluate(entry.structure)
            answer.update(status="ok", **fields)
        except Exception as error:  # noqa: BLE001  an answer of its own: the files behind it are answered, too
            if debug:
                traceback.print_exc()
            answer.update(status="failed", error_class=type(error).__name__, message=str(error) or repr(error))
            reason = getattr(error, "reason", None)
            if reason is not None:
                answer["reason"] = str(reason)
        yield answer, beside


def _folder_entry(folder: Path) -> NamedStructure:
    from ..transport.errors import StructureError
    from ..transport.structures import NamedStructure

    error = StructureError(f"{folder} is a folder; name the files in it, for instance {folder}/*.cif.")
    return NamedStructure(folder.name, None, error, str(folder))


def _evaluate(maker: StageMaker, structure: Any, checkpoints: Path) -> Any:
    from .assembly import stage_maker

    prior = {}
    for stage in maker.needs():
        prior[stage] = stage_maker(stage, maker.ion).evaluate(structure, checkpoint_folder=checkpoints)
    return maker.evaluate(structure, prior, checkpoint_folder=checkpoints)


def answer_text(answer: dict[str, Any], describe: Callable[[dict[str, Any]], str]) -> str:
    """Say one answer in a line, and its warnings in one each; ``describe`` says what was found."""
    label = answer["file"] if answer["name"] in answer["file"] else f"{answer['file']} {answer['name']}"
    if answer["status"] == "failed":
        return f"{label}: failed ({answer['error_class']}): {answer['message']}"
    text = f"{label}: {describe(answer)} [{answer['seconds']:.1f} s]"
    return "\n".join([text, *(f"  note: {warning}" for warning in answer["warnings"])])


def _found(answer: dict[str, Any]) -> str:
    """What a stage found, in half a sentence."""
    parts = []
    for direction in (1, 2, 3):
        if f"barrier_{direction}d_eV" in answer:
            value = answer[f"barrier_{direction}d_eV"]
            sigma = answer.get(f"barrier_{direction}d_sigma_eV")
            text = "none" if value is None else f"{value:.3f} eV" + (f" ± {sigma:.3f}" if sigma is not None else "")
            alike = answer.get(f"barrier_{direction}d_dft_like_eV")
            if direction == 1 and alike is not None:
                text += f" (DFT-like {alike:.2f} ± {answer['barrier_1d_dft_like_sigma_eV']:.2f})"
            interval = answer.get(f"barrier_{direction}d_interval_90_eV")
            if interval is not None:
                hop = answer["limiting_hop_ids"][direction - 1]
                text += f" (90 %: {interval[0]:.2f} to {interval[1]:.2f}, limited by {hop})"
            parts.append(f"{direction}D {text}")
    if "minimal_percolation_energy_eV" in answer:
        energy = answer["minimal_percolation_energy_eV"]
        parts.append(f"MPE {'none' if energy is None else f'{energy:.3f} eV'}")
        share = answer["connected_free_volume_fraction"]
        parts.append(f"free volume below {answer['free_volume_threshold_eV']:.2g} eV: {share:.2%} connected")
        parts.append(f"{answer['evaluations']} energies for {answer['points']} points")
    if "images_written" in answer:
        parts.append(f"{answer['images_written']} images written to {answer['folder']} (POTCAR: {answer['potcar']})")
    elif answer["stage"] == "dft":
        parts.append(
            f"{answer['functional']} barrier {answer['barrier_forward_eV']:.3f} eV forward, "
            f"{answer['barrier_reverse_eV']:.3f} eV reverse, files in {answer['folder']}"
        )
    parts += _from_the_interstitial_network(answer)
    return f"{answer['formula']}, {answer['ion']}: {', '.join(parts)}"


def _from_the_interstitial_network(answer: dict[str, Any]) -> list[str]:
    """That barriers are predictions, or what was predicted beside them."""
    from .network_outputs import predicted_text
    from .terminal import is_prediction

    if is_prediction({"source": answer.get("barrier_source")}):
        return ["predicted by the interstitial network"]
    barriers = answer.get("interstitial_network_barriers_eV")
    if not barriers:
        return []
    return [f"interstitial network: {predicted_text(barriers, answer['interstitial_network_sigmas_eV'])}"]

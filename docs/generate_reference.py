"""MkDocs hook: writes the reference from the code while the site is built.

A page asks for a table with a comment on a line of its own::

    <!-- model hopflow.workflows.spec:CampaignSpec -->   keys of a pydantic model and of the models in it
    <!-- commands hopflow.workflows.cli:app -->          help of every command of a typer application
    <!-- reasons hopflow.transport.errors:Reason -->     an enumeration whose members have a ``sentence``
    <!-- quantities hopflow.makers.quantities:Quantity -->   labels and units
    <!-- potentials hopflow.potentials.registry:list_potentials -->   the registry of potentials

A table that cannot be made stops the build. The hook also shows mkdocstrings where the package is: the repository root
is the package ``hopflow`` whatever the folder is called, which a search for a folder of that name does not find.
"""

from __future__ import annotations

import importlib
import inspect
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError
from mkdocs.plugins import event_priority

_REQUEST = re.compile(r"^<!-- (model|commands|reasons|quantities|potentials) ([\w.]+):(\w+) -->$", re.MULTILINE)
_LIMITS = {"exclusiveMinimum": ">", "minimum": "≥", "exclusiveMaximum": "<", "maximum": "≤"}
_TYPES = {"integer": "whole number", "number": "number", "string": "text", "boolean": "`true` or `false`"}


_PACKAGE = tempfile.TemporaryDirectory(prefix="hopflow-docs-")


@event_priority(100)
def on_config(config: Any) -> Any:
    """Let mkdocstrings find the package; called by MkDocs before the plugins read their settings."""
    link = Path(_PACKAGE.name) / "hopflow"
    if not link.exists():
        link.symlink_to(Path(__file__).resolve().parent.parent, target_is_directory=True)
    config.plugins["mkdocstrings"].config.handlers["python"]["paths"] = [_PACKAGE.name]
    return config


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Replace the requests of a page by what the code says; called by MkDocs for every page."""

    def answer(match: re.Match[str]) -> str:
        kind, module, name = match.groups()
        try:
            return _WRITERS[kind](getattr(importlib.import_module(module), name))
        except (ImportError, AttributeError) as error:
            raise PluginError(f"The reference of {module}:{name} cannot be written: {error}") from error

    return _REQUEST.sub(answer, markdown)


# -- pydantic models ----------------------------------------------------------------------------------------------


def model_reference(model: Any) -> str:
    """Render a pydantic model and every model in it: one section a model, one row a key.

    Parameters
    ----------
    model
        A pydantic model class.

    Returns
    -------
    str
        Markdown, the model itself first, then the models in it in the order in which they are met.
    """
    schema = model.model_json_schema()
    definitions = schema.get("$defs", {})
    places = _places(schema, definitions)
    sections = []
    for name, where in places.items():
        part = schema if name == "" else definitions[name]
        lines = [] if name == "" else [f"### `{_common_place(where)}` {{ #{name.lower()} }}", ""]
        lines += [_one_paragraph(part.get("description", "")), "", *_key_table(part, places)]
        sections.append("\n".join(lines))
    return "\n\n".join(sections)


def _places(schema: dict[str, Any], definitions: dict[str, Any]) -> dict[str, list[tuple[str, ...]]]:
    """Where each model stands, as paths of keys; the model itself has the name ``""``."""
    found: dict[str, list[tuple[str, ...]]] = {"": [()]}
    queue: list[tuple[tuple[str, ...], dict[str, Any]]] = [((), schema)]
    while queue:
        path, part = queue.pop(0)
        for key, field in part.get("properties", {}).items():
            for name in _references(field):
                found.setdefault(name, []).append((*path, key))
                queue.append(((*path, key), definitions[name]))
    return found


def _references(field: Any) -> Iterator[str]:
    """Names of the models that a field's schema points to."""
    if isinstance(field, dict):
        for key, value in field.items():
            if key == "$ref":
                yield value.rsplit("/", 1)[-1]
            else:
                yield from _references(value)
    elif isinstance(field, list):
        for value in field:
            yield from _references(value)


def _common_place(places: list[tuple[str, ...]]) -> str:
    """Several places in one dotted path, with ``*`` where they differ."""
    if len({len(place) for place in places}) > 1:
        return ".".join(places[0])
    return ".".join(keys[0] if len(set(keys)) == 1 else "*" for keys in zip(*places, strict=True))


def _key_table(part: dict[str, Any], places: dict[str, list[tuple[str, ...]]]) -> list[str]:
    required = set(part.get("required", ()))
    rows = []
    for key, field in part.get("properties", {}).items():
        if key in required:
            default = "**required**"
        elif "default" in field:
            default = _value(field["default"])
        else:
            default = "see there" if list(_references(field)) else "–"
        rows.append((f"`{key}`", _allowed(field, places), default, _one_paragraph(field.get("description", ""))))
    return _table(("key", "allowed", "default", "meaning"), rows)


def _allowed(field: dict[str, Any], places: dict[str, list[tuple[str, ...]]]) -> str:
    """Type, limits and choices of a field in words."""
    if "$ref" in field:
        name = field["$ref"].rsplit("/", 1)[-1]
        return f"[`{_common_place(places[name])}`](#{name.lower()})"
    if "allOf" in field:
        return " and ".join(_allowed(option, places) for option in field["allOf"])
    if "anyOf" in field:
        return " or ".join(_allowed(option, places) for option in field["anyOf"] if option.get("type") != "null")
    if "const" in field:
        return _value(field["const"])
    if "enum" in field:
        return ", ".join(_value(choice) for choice in field["enum"])
    kind = field.get("type")
    if kind == "array":
        return f"list of {_allowed(field.get('items', {}), places)}"
    if kind == "object":
        inner = field.get("additionalProperties")
        return f"mapping to {_allowed(inner, places)}" if isinstance(inner, dict) and inner else "mapping"
    text = _TYPES.get(str(kind), "anything")
    limits = [f"{sign} {field[key]:g}" for key, sign in _LIMITS.items() if key in field]
    if "pattern" in field:
        limits.append(f"matching `{field['pattern']}`")
    return ", ".join([text, *limits])


def _value(value: Any) -> str:
    if value is None:
        return "none"
    return f"`{str(value).lower()}`" if isinstance(value, bool) else f"`{value}`"


# -- the command line ---------------------------------------------------------------------------------------------


def command_reference(app: Any) -> str:
    """Render every command of a typer application with its arguments and options."""
    from typer.main import get_command

    return "\n\n".join(_commands(get_command(app), "hopflow", ()))


def _commands(command: Any, name: str, above: tuple[str, ...]) -> Iterator[str]:
    line = " ".join((*above, name))
    subcommands = getattr(command, "commands", {})
    arguments = [p for p in command.params if p.param_type_name == "argument" and not getattr(p, "hidden", False)]
    options = [p for p in command.params if p.param_type_name == "option" and not getattr(p, "hidden", False)]
    usage = [line, *(["[OPTIONS]"] if options else []), *map(_argument_usage, arguments)]
    if subcommands:
        usage.append("COMMAND ...")
    title = f"{'#' * (2 + min(len(above), 2))} `{line}`"
    parts = [title, _paragraphs(command.help or ""), f"```text\n{' '.join(usage)}\n```"]
    rows = [(f"`{_argument_name(p)}`", _one_paragraph(_help(p))) for p in arguments]
    rows += [(_option_names(p), _one_paragraph(_help(p))) for p in options]
    if rows:
        parts.append("\n".join(_table(("argument or option", "meaning"), rows)))
    yield "\n\n".join(part for part in parts if part)
    for sub_name, sub in subcommands.items():
        if not getattr(sub, "hidden", False):
            yield from _commands(sub, sub_name, (*above, name))


def _argument_name(parameter: Any) -> str:
    return parameter.metavar or parameter.name.upper()


def _argument_usage(parameter: Any) -> str:
    name = _argument_name(parameter) + ("..." if parameter.nargs == -1 else "")
    return name if parameter.required else f"[{name}]"


def _option_names(parameter: Any) -> str:
    names = ", ".join(f"`{name}`" for name in (*parameter.opts, *parameter.secondary_opts))
    return names if getattr(parameter, "is_flag", False) else f"{names} `{parameter.metavar or 'VALUE'}`"


def _help(parameter: Any) -> str:
    text = getattr(parameter, "help", None) or ""
    notes = []
    default = parameter.default
    shown = default is not None and not callable(default) and not getattr(parameter, "is_flag", False)
    if shown and not parameter.required:
        notes.append(f"default: `{default}`")
    if parameter.envvar:
        notes.append(f"environment: `{parameter.envvar}`")
    if parameter.multiple if hasattr(parameter, "multiple") else False:
        notes.append("may be repeated")
    return f"{text} ({'; '.join(notes)})" if notes else text


# -- enumerations and registries ----------------------------------------------------------------------------------


def reason_reference(reasons: Iterable[Any]) -> str:
    """Render reason codes with their sentences."""
    return "\n".join(_table(("code", "meaning"), [(f"`{reason}`", reason.sentence) for reason in reasons]))


def quantity_reference(quantities: Iterable[Any]) -> str:
    """Render quantities with label, unit and better direction."""
    rows = [(f"`{q}`", q.label, q.unit or "–", "lower" if q.lower_is_better else "higher") for q in quantities]
    return "\n".join(_table(("quantity", "meaning", "unit", "better"), rows))


def potential_reference(list_potentials: Callable[[], Iterable[Any]]) -> str:
    """Render the registry of potentials with sources, licences and hashes."""
    parts = []
    for entry in list_potentials():
        rows = [
            ("what it is", entry.description),
            ("energies", entry.method),
            ("licence of the weights", entry.licence),
            ("cite", entry.citation),
            ("size", f"{entry.size_bytes / 1e6:.1f} MB"),
            ("fetched from, in this order", "; ".join(entry.sources)),
            ("energy of rock-salt LiF, a = 4.08 Å", f"{entry.reference_energy_eV_per_atom:.6f} eV/atom"),
            *((f"SHA-256 of `{file.name}`", f"`{file.sha256}`") for file in entry.files),
        ]
        parts.append(f"### `{entry.name}`\n\n" + "\n".join(_table(("", ""), rows)))
    return "\n\n".join(parts)


# -- markdown -----------------------------------------------------------------------------------------------------


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> list[str]:
    lines = [head, tuple("---" for _ in head), *rows]
    return ["| " + " | ".join(cell.replace("|", r"\|") for cell in line) + " |" for line in lines]


def _one_paragraph(text: str) -> str:
    return " ".join(_paragraphs(text).split())


def _paragraphs(text: str) -> str:
    return inspect.cleandoc(text).replace("``", "`")


_WRITERS: dict[str, Callable[[Any], str]] = {
    "model": model_reference,
    "commands": command_reference,
    "reasons": reason_reference,
    "quantities": quantity_reference,
    "potentials": potential_reference,
}

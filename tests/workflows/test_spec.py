"""The campaign file: what is allowed, and how faults are named."""

from pathlib import Path

import pytest
from hopflow.workflows.spec import SpecificationError, read_spec

GOOD = """
name: small
ion: Li
materials:
  structures: crystals
stages:
  bvse:
    gate: {max: 0.9}
  neb:
    settings:
      images: 3
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "campaign.yaml"
    path.write_text(text)
    return path


def fault(folder: Path, text: str) -> str:
    with pytest.raises(SpecificationError) as caught:
        read_spec(write(folder, text))
    return str(caught.value)


def test_good_file(tmp_path: Path) -> None:
    spec = read_spec(write(tmp_path, GOOD))
    assert list(spec.stages.chosen()) == ["bvse", "neb"]
    assert spec.materials.structures == str(tmp_path / "crystals")
    assert spec.settings_of("neb").images == 3
    assert spec.stages.bvse.gate_quantity() == "barrier_1d_eV"


def test_bare_stage_has_defaults(tmp_path: Path) -> None:
    spec = read_spec(write(tmp_path, GOOD.replace("    gate: {max: 0.9}\n", "")))
    assert spec.stages.bvse is not None


def test_a_stage_that_is_left_out_stays_out_when_stored() -> None:
    from hopflow.workflows.spec import CampaignSpec

    spec = CampaignSpec(name="x", materials={"structures": "y"}, stages={"bvse": None})
    again = CampaignSpec.model_validate(spec.model_dump(mode="json", exclude_none=True))
    assert list(again.stages.chosen()) == ["bvse"]
    assert again.digest() == spec.digest()


def test_unknown_key_names_line_and_what_is_allowed(tmp_path: Path) -> None:
    text = fault(tmp_path, GOOD.replace("{max: 0.9}", "{maxi: 0.9}"))
    assert "line 8: stages.bvse.gate.maxi: unknown key" in text
    assert "quantity, max, min, top" in text


def test_unknown_top_level_key(tmp_path: Path) -> None:
    text = fault(tmp_path, GOOD + "chunks: 3\n")
    assert "line 12: chunks: unknown key" in text
    assert "chunk_size" in text


def test_wrong_value_names_line_and_value(tmp_path: Path) -> None:
    text = fault(tmp_path, GOOD.replace("images: 3", "images: 0"))
    assert "line 11: stages.neb.settings.images" in text
    assert "given: 0" in text


def test_wrong_ion_names_the_allowed_ones(tmp_path: Path) -> None:
    text = fault(tmp_path, GOOD.replace("ion: Li", "ion: Xx"))
    assert "line 3: ion" in text
    assert "Na" in text


@pytest.mark.parametrize("ion", ["Li", "Na", "K", "Mg", "Ca", "Zn", "Al", "Rb"])
def test_ions_of_the_table_are_allowed(tmp_path: Path, ion: str) -> None:
    assert read_spec(write(tmp_path, GOOD.replace("ion: Li", f"ion: {ion}"))).ion == ion


def test_wrong_quantity_names_the_allowed_ones(tmp_path: Path) -> None:
    text = fault(tmp_path, GOOD.replace("{max: 0.9}", "{quantity: mpe, max: 0.9}"))
    assert "'mpe' is not known here; allowed: barrier_1d_eV" in text


def test_every_fault_is_listed(tmp_path: Path) -> None:
    text = fault(tmp_path, GOOD.replace("ion: Li", "ion: Xx").replace("images: 3", "image: 3"))
    assert "line 3" in text
    assert "line 11" in text


def test_several_sources_exclude_each_other(tmp_path: Path) -> None:
    text = fault(tmp_path, GOOD.replace("  structures: crystals", "  structures: crystals\n  snapshot: s.json"))
    assert "give one of mp_ids, mp_query, snapshot, structures" in text


def test_no_stage(tmp_path: Path) -> None:
    text = fault(tmp_path, GOOD.split("stages:", maxsplit=1)[0] + "stages: {}\n")
    assert "at least one stage" in text


def test_dft_needs_neb(tmp_path: Path) -> None:
    text = fault(tmp_path, GOOD.split("stages:", maxsplit=1)[0] + "stages: {bvse: , dft: }\n")
    assert "add neb" in text


def test_dft_begins_from_vacancy_hops(tmp_path: Path) -> None:
    neb = "{settings: {mechanism: interstitial}}"
    text = fault(tmp_path, GOOD.split("stages:", maxsplit=1)[0] + f"stages: {{neb: {neb}, dft: }}\n")
    assert "dft starts from bands of vacancy hops" in text


def test_min_above_max(tmp_path: Path) -> None:
    assert "nothing can pass" in fault(tmp_path, GOOD.replace("{max: 0.9}", "{max: 0.2, min: 0.4}"))


def test_not_yaml(tmp_path: Path) -> None:
    assert "not valid YAML at line" in fault(tmp_path, "name: [1,\nmaterials: }")


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(SpecificationError, match="cannot be read"):
        read_spec(tmp_path / "absent.yaml")


def test_examples_are_valid() -> None:
    examples = Path(__file__).resolve().parents[2] / "examples"
    # Files for networks that learn have a reader and tests of their own.
    learned = ("train_", "evaluate_", "finetune")
    campaigns = [path for path in sorted(examples.glob("*.yaml")) if not path.stem.startswith(learned)]
    specs = [read_spec(path) for path in campaigns]
    assert "demo" in [spec.name for spec in specs]

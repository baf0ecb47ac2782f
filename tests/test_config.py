"""Configs: what is misspelt is named, what is given arrives, what is resolved can be read again."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from mlff2d import checkpoint, training
from mlff2d.models import REGISTRY
from mlff2d.training.config import (
    ConfigError,
    differences,
    load_config,
    save_config,
)
from mlff2d.training.sections import DataConfig, LossConfig
from tests.potentials import SMALL as SMALL_MODELS

SMALL = {
    "run_dir": "runs/x",
    "data": {"files": ["a.extxyz"]},
    "model": {"name": "m3gnet", "cutoff": 4.5},
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(SMALL))
    return file


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("tain.lr=1", ["tain", "'train'"]),
        ("train.learning=1", ["train.learning", "Valid", "lr"]),
        ("train.epoch=1", ["train.epoch", "'epochs'"]),
        ("data.file=[x]", ["data.file", "'files'"]),
        ("loss.force=1", ["loss.force", "'forces'"]),
        ("filters.max_forces=1", ["filters.max_forces", "'max_force'"]),
    ],
)
def test_unknown_keys_are_named_with_the_nearest(path, override, words):
    with pytest.raises(ConfigError) as error:
        load_config(path, [override])
    for word in ["config.yaml", *words]:
        assert word in str(error.value)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("train.epochs=0", ["train.epochs", "greater"]),
        ("train.lr=fast", ["train.lr", "number"]),
        ("split.val=0.6", ["val"]),
        ("seed=-1", ["seed", "-1"]),
        ("split.val=0", ["split.val", "greater than 0"]),
        ("data.files=[]", ["data.files", "empty"]),
        ("data.files=", ["data.files", "list"]),
        ("run_dir=", ["run_dir", "path"]),
        ("train.lr=[1]", ["train.lr", "[1]"]),
        ("train.dtype=float16", ["train.dtype", "'float16'", "Did you mean 'float64'"]),
        ("property={key: gap, pooling: means}", ["property.pooling", "Did you mean 'mean'"]),
        ("loss.kind=l3", ["loss.kind", "huber"]),
        ("data.files=[]", ["data.files"]),
        ("train=3", ["train", "section"]),
        ("model.name=", ["model.name"]),
        ("train.lr", ["key=value"]),
        ("run_dir.x=1", ["run_dir"]),
        ("train.lr=[1", ["YAML"]),
    ],
)
def test_bad_values_are_one_sentence(path, override, words):
    overrides = [override, "split.test=0.5"] if override.startswith("split") else [override]
    with pytest.raises(ConfigError) as error:
        load_config(path, overrides)
    assert "\n" not in str(error.value)
    for word in words:
        assert word in str(error.value)


def test_a_key_given_twice_is_an_error_and_not_the_last_of_both(path):
    path.write_text(path.read_text() + "train: {lr: 1.0e-2}\ntrain: {epochs: 3}\n")
    with pytest.raises(ConfigError, match=r"'train'.* twice, first in line \d+.* line \d+"):
        load_config(path)


@pytest.mark.parametrize("override", ["train.lr=.inf", "filters.max_force=.inf", "loss.energy=inf"])
def test_a_number_is_finite(path, override):
    with pytest.raises(ConfigError, match=r"finite|number"):
        load_config(path, [override])


@pytest.mark.parametrize("text", ["", "- a\n- b\n", "a: [1\n", "just words"])
def test_a_file_that_is_no_config(path, text):
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"config\.yaml"):
        load_config(path)


def test_a_missing_file_and_a_missing_key(path, tmp_path):
    with pytest.raises(ConfigError, match=r"none\.yaml"):
        load_config(tmp_path / "none.yaml")
    path.write_text("run_dir: x\nmodel: {name: m3gnet}\n")
    with pytest.raises(ConfigError, match="data: is missing"):
        load_config(path)


def test_overrides_and_numbers_without_a_point(path):
    config = load_config(
        path, ["train.lr=1e-3", "data.files=[b.db, c.traj]", "train.clip=null", "model.cutoff=6e0"]
    )
    assert config.train.lr == 1e-3
    assert config.data.files == (Path("b.db"), Path("c.traj"))
    assert config.train.clip is None
    assert config.model.settings() == {"cutoff": 6.0}


def test_the_resolved_file_gives_the_same_config(path, tmp_path):
    config = load_config(
        path, ["train.ema=0.5", "filters.require=[forces]", "model.elements=[1,6]"]
    )
    save_config(config, tmp_path / "resolved.yaml")
    assert load_config(tmp_path / "resolved.yaml") == config
    assert "warmup_epochs" in (tmp_path / "resolved.yaml").read_text()


def test_differences_name_what_changes_the_result_only(path):
    old = load_config(path).resolved()
    free = ["run_dir=y", "data.files=[b]", "train.threads=2", "train.max_minutes=3"]
    assert differences(old, load_config(path, free).resolved()) == []
    found = differences(old, load_config(path, ["train.lr=0.5", "model.cutoff=6"]).resolved())
    assert found == ["model.cutoff: 4.5 -> 6", "train.lr: 0.001 -> 0.5"]


@pytest.mark.parametrize("name", ["universal", "tiny", "property"])
def test_configs_that_come_with_the_package(name):
    config = load_config(Path(training.__file__).parent / "configs" / f"{name}.yaml")
    assert not any(file.is_absolute() for file in config.data.files)


def test_a_loss_without_any_weight_is_refused() -> None:
    with pytest.raises(ValueError, match="every weight is zero"):
        LossConfig(energy=0, forces=0, stress=0)


def test_a_lone_file_is_a_list_of_one() -> None:
    assert DataConfig(files="a.extxyz").files == (Path("a.extxyz"),)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("model.name=m3gnett", ["no model is called 'm3gnett'", "'m3gnet'"]),
        ("model.name=3", ["model.name"]),
        ("model.chanels=3", ["no setting 'chanels'", "'channels'"]),
        ("model.cutoff=0", ["cutoff", "positive"]),
        ("model.cutoff=far", ["cutoff", "'far'"]),
        ("model.threebody_cutoff=9", ["threebody_cutoff", "4.5"]),
        ("model.elements=MoS2", ["elements"]),
        ("model.elements=[1, 1]", ["elements", "ascending"]),
        ("model={name: nequip, hidden_irreps: 8y0e}", ["hidden_irreps"]),
    ],
)
def test_settings_that_make_no_model_are_refused_when_read(path, override, words):
    with pytest.raises(ConfigError) as error:
        load_config(path, [override])
    assert "\n" not in str(error.value)
    for word in ["config.yaml: model", *words]:
        assert word in str(error.value)


@pytest.mark.parametrize("config", ["tiny", "property"])
@pytest.mark.parametrize("name", sorted(REGISTRY))
def test_another_model_is_another_name(name, config):
    path = Path(training.__file__).parent / "configs" / f"{config}.yaml"
    assert load_config(path, [f"model.name={name}"]).model.name == name


def test_settings_of_the_model_before_are_named_together(path):
    settings = "{name: mace, cutoff: 5, threebody_cutoff: 4, n_blocks: 2, n_layers: 1}"
    with pytest.raises(ConfigError) as error:
        load_config(path, [f"model={settings}"])
    for word in ["model 'mace'", "threebody_cutoff (of m3gnet)", "n_blocks (of ", "n_layers"]:
        assert word in str(error.value)
    assert "Did you mean" not in str(error.value)


@pytest.mark.parametrize("name", sorted(SMALL_MODELS))
def test_settings_of_every_model_are_taken(path, tmp_path, name):
    model = {"name": name} | SMALL_MODELS[name]
    path.write_text(yaml.safe_dump(SMALL | {"model": model}))
    config = load_config(path)
    save_config(config, tmp_path / "resolved.yaml")
    assert load_config(tmp_path / "resolved.yaml") == config


ODD = [None, "odd", -1, 0.5, float("nan"), True, [], ["odd"], [-1], {}, {"odd": 1}, 100]


@pytest.mark.parametrize("name", sorted(REGISTRY))
def test_no_setting_of_any_model_trips_the_reading(path, name):
    """Whatever a setting is, it is taken or refused with a sentence of the config's."""
    for key in REGISTRY[name].Config.__dataclass_fields__:
        for value in ODD:
            path.write_text(yaml.safe_dump(SMALL | {"model": {"name": name, key: value}}))
            try:
                load_config(path)
            except ConfigError as error:
                assert str(error).startswith(f"{path}: model: ")  # noqa: PT017


def test_a_start_is_alone(path):
    config = load_config(path, ["model={from: universal}"])
    assert config.model.start == "universal"
    assert config.priors.zbl == checkpoint.read()["zbl"]
    with pytest.raises(ConfigError, match=r"architecture is that of universal.*model\.channels"):
        load_config(path, ["model={from: universal, channels: 3}"])
    with pytest.raises(ConfigError, match=r"leave out model\.name"):
        load_config(path, ["model={from: universal, name: m3gnet}"])
    with pytest.raises(ConfigError, match=r"config\.yaml: model: .*'univresal'.*'universal'"):
        load_config(path, ["model={from: univresal}"])
    with pytest.raises(ConfigError, match=r"model\.name is missing"):
        load_config(path, ["model={channels: 3}"])


def test_a_start_brings_its_repulsion(path, tmp_path):
    content = checkpoint.read()
    start = tmp_path / "start.pt"
    checkpoint.torch.save(content | {"zbl": False}, start)
    settings = [f"model={{from: {start}}}"]
    config = load_config(path, settings)
    assert not config.priors.zbl
    save_config(config, tmp_path / "resolved.yaml")
    assert load_config(tmp_path / "resolved.yaml") == config
    with pytest.raises(ConfigError, match=r"priors\.zbl is True.*trained without"):
        load_config(path, [*settings, "priors.zbl=true"])


STORED_PROPERTY = Path(__file__).parent / "checkpoints" / "format-2-property.pt"


def test_a_potential_does_not_start_from_a_property(path):
    with pytest.raises(ConfigError, match=r"model: .*'band_gap' in eV"):
        load_config(path, [f"model={{from: {STORED_PROPERTY}}}"])
    load_config(path, [f"model={{from: {STORED_PROPERTY}}}", "property.key=gap"])


def test_a_property_and_what_has_no_meaning_for_it(path, tmp_path):
    config = load_config(path, ["property={key: gap, pooling: attention}", "loss.kind=huber"])
    assert config.property is not None
    save_config(config, tmp_path / "resolved.yaml")
    assert load_config(tmp_path / "resolved.yaml") == config
    assert load_config(path, ["property.key=2"]).property.key == "2"
    assert load_config(path, ["property="]).property is None
    for override, words in {
        "property={key: gap, pooling: max}": "property.pooling: 'max' is no choice.*mean, sum",
        "property.keys=gap": "property.keys.*'key'",
        "property={unit: eV}": "property.key: is missing",
        "property=gap": "property is a section",
    }.items():
        with pytest.raises(ConfigError, match=words):
            load_config(path, [override])
    for override in ("loss.forces=3", "filters.max_force=3", "filters.require=[energy]"):
        key = override.partition("=")[0]
        with pytest.raises(ConfigError, match=rf"{key} has no meaning for a property"):
            load_config(path, ["property.key=gap", override])

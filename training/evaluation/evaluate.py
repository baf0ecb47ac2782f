"""From the options of `mlff2d evaluate` to its report."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from mlff2d import checkpoint
from mlff2d.compiled import use_compiled_code
from mlff2d.devices import pick_device
from mlff2d.errors import ModelFileError
from mlff2d.potential import Potential
from mlff2d.property import PropertyPredictor

from ..console import make_console
from ..data.convert import file_digest, open_sources
from ..data.dataset import Dataset
from ..data.store import ConversionSummary
from ..lineage import material_key_for, trained_on
from .direct import Candidate, Energies, Section, judge
from .journal import Journal
from .of_property import PropertyCandidate, judge_property
from .part import Judged, Part, judged_part, leave_unknown
from .population import Population
from .relaxed import Reference, Relaxer, Settings, judge_relaxed
from .report import METRICS, Report, print_report, write_report

JOURNAL = "relaxations.jsonl"


@dataclass(frozen=True)
class Options:
    """What `mlff2d evaluate` was told; see its help.

    Attributes
    ----------
    relaxer : what relaxes a structure; None to judge structures as they are only
    """

    model: str
    data: list[Path]
    output: Path | None = None
    part: Part | None = None
    against: list[str] = field(default_factory=list)
    energies: Energies = "auto"
    material_key: str | None = None
    device: str | None = None
    dtype: str = "float32"
    relaxer: Relaxer | None = None
    reference: str | None = None
    limit: int | None = None
    fmax: float = 0.02
    smax: float = 0.05
    steps: int = 1000
    reference_fmax: float = 0.1


@dataclass(frozen=True)
class Loaded:
    """A model file that takes part."""

    name: str
    sha256: str
    module: Potential | PropertyPredictor
    content: dict[str, Any]

    @property
    def training(self) -> dict[str, Any]:
        training: dict[str, Any] = self.content["training"]
        return training


def evaluate(options: Options) -> Report:
    """Judge the model, print the tables, and write the report into its folder.

    Raises ModelFileError, StructureError, ValueError and OSError (one sentence) for what the user
    can mend.
    """
    console = make_console()
    for path in options.data:
        _refuse_model(path)
    models = _load(options, [options.model, *options.against])
    folder = options.output or Path(f"evaluation-{_stem(options)}")
    _refuse_folder(folder)
    first = models[0]
    key = options.material_key or material_key_for(options.data, first.training)
    summary, datasets = _open(options, models, folder, key)
    data = datasets[first.module.cutoff]
    judged = judged_part(data, options.part, first.training, key)
    judged = leave_unknown(data, judged, {m.name: m.module.elements for m in models})
    notes = [*_refusals(summary), *judged.notes, *_seen(models, datasets, judged, key)]
    report = Report(f"{first.name} on {_names(data)}", _facts(options, first, data, judged), notes)
    if isinstance(first.module, PropertyPredictor):
        of_property = [
            PropertyCandidate(m.name, m.module, datasets[m.module.cutoff], m.training)
            for m in models
            if isinstance(m.module, PropertyPredictor)
        ]
        report.sections.append(judge_property(of_property, judged))
    else:
        candidates = [
            Candidate(m.name, m.module, datasets[m.module.cutoff], m.training, m.sha256)
            for m in models
            if isinstance(m.module, Potential)
        ]
        report.sections.append(judge(candidates, judged, options.energies))
        if options.relaxer is not None:
            write_report(report, folder)  # what is known already, should the rest be stopped
            report.sections.append(_relax(options, candidates, judged, folder))
    print_report(report, console)
    page = write_report(report, folder)
    console.print(f"\nReport: {page}")
    return report


def _refuse_model(path: Path) -> None:
    """Raise ValueError where a model stands in place of data."""
    if path.suffix in (".pt", ".pth") and path.is_file():
        raise ValueError(
            f"{path} is a model, not data; one model comes first and data follow it, other models "
            "are given with --against"
        )


def _load(options: Options, files: list[str]) -> list[Loaded]:
    """The models by names that differ, all of the same task."""
    device = pick_device(options.device)
    dtype = getattr(torch, options.dtype)
    loaded: list[Loaded] = []
    for file in files:
        content = checkpoint.read(file)
        if loaded:
            checkpoint.refuse_task(file, content, loaded[0].content["task"])
        module = checkpoint.load_any(file, device, dtype).eval().requires_grad_(False)
        if isinstance(module, Potential):
            use_compiled_code(module)
        name = _name(file, [m.name for m in loaded])
        loaded.append(Loaded(name, file_digest(checkpoint.locate(file)), module, content))
        _refuse_other(loaded[0], loaded[-1], options)
    return loaded


def _refuse_other(first: Loaded, other: Loaded, options: Options) -> None:
    """Raise ModelFileError where two models cannot be judged on the same data."""
    if other.module.model.state != first.module.model.state:
        raise ModelFileError(
            f"{other.name} takes the state {' '.join(other.module.model.state) or 'none'!r} and "
            f"{first.name} {' '.join(first.module.model.state) or 'none'!r}; judge them one by one"
        )
    if isinstance(first.module, PropertyPredictor):
        assert isinstance(other.module, PropertyPredictor)
        if other.module.name != first.module.name:
            raise ModelFileError(
                f"{other.name} predicts {other.module.name!r} and {first.name} "
                f"{first.module.name!r}; models of the same property can be compared"
            )
        if options.relaxer is not None:
            raise ModelFileError(
                f"{first.name} predicts {first.module.name!r} and has no forces to relax with; "
                "leave out --relax"
            )


def _name(file: str, taken: list[str]) -> str:
    """The file's name without folder and ending; best.pt and last.pt with their run's name."""
    path = Path(file)
    name = path.stem if path.suffix == ".pt" else path.name
    if name in ("best", "last") and path.parent.name:
        name = f"{path.parent.name}/{name}"
    same = sum(other.split(" (")[0] == name for other in taken)
    return f"{name} ({same + 1})" if same else name


def _stem(options: Options) -> str:
    model = _name(options.model, []).replace("/", "-")
    return f"{model}-{options.data[0].resolve().name.split('.')[0]}"


def _refuse_folder(folder: Path) -> None:
    """Raise ValueError for a path that holds something other than an earlier report."""
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; give a folder with -o")
    ours = any((folder / name).exists() for name in (METRICS, JOURNAL))
    if folder.is_dir() and any(folder.iterdir()) and not ours:
        raise ValueError(f"{folder} holds other files; give a new folder with -o")


def _open(
    options: Options, models: list[Loaded], folder: Path, key: str
) -> tuple[ConversionSummary, dict[float, Dataset]]:
    """The data with the edges of each cutoff."""
    first = models[0]
    target = first.module.name if isinstance(first.module, PropertyPredictor) else None
    paths, summary = open_sources(
        options.data, folder.parent, key, first.module.model.state, target
    )
    cutoffs = dict.fromkeys(m.module.cutoff for m in models)
    return summary, {cutoff: Dataset(paths, cutoff) for cutoff in cutoffs}


def _refusals(summary: ConversionSummary) -> list[str]:
    refused = sum(summary.refused.values())
    notes = list(summary.notes)
    if refused:
        notes.insert(
            0,
            f"{refused:,} of {summary.n_frames:,} frames cannot be used, such as "
            f"{summary.worst()}.",
        )
    return notes


def _seen(
    models: list[Loaded], datasets: dict[float, Dataset], judged: Judged, key: str
) -> list[str]:
    """Sentences about models that were trained on what they are judged on."""
    notes = []
    for model in models:
        seen = trained_on(datasets[model.module.cutoff], judged.ids, model.training, key)
        if seen is None:
            notes.append(
                f"{model.name} was trained on some of these data, its materials named by another "
                f"entry of info than {key!r}, so that it cannot be told which: its errors on them "
                "may be no test."
            )
        elif seen:
            notes.append(
                f"{seen:,} of these {len(judged.ids):,} structures were in the training part of "
                f"{model.name}: its errors on them are no test."
            )
    return notes


def _names(data: Dataset) -> str:
    return ", ".join(source["name"] for source in data.sources)


def _facts(options: Options, first: Loaded, data: Dataset, judged: Judged) -> dict[str, str]:
    population = Population(data, judged.ids)
    parts = {
        "all": "all structures",
        "test": "test part: materials that the model was neither trained on nor chosen by",
        "val": "validation part: materials that the model was chosen by, but not trained on",
        "train": "training part: what the model was trained on",
    }
    training = ", ".join(source["name"] for source in first.training.get("data", []))
    training = training or str(first.training.get("trained_on", ""))
    facts = {
        "model": f"{first.name} ({first.content['model']}, {_count(first.module):,} weights, "
        f"sha256 {first.sha256[:12]})",
        "trained on": training or "not in its file",
        "data": _names(data),
        "judged": parts[judged.part],
        "structures": f"{len(population):,} of {len(population.materials.names):,} materials, "
        f"{len(population.compositions.elements)} elements",
    }
    if options.against:
        facts["against"] = ", ".join(options.against)
    facts["precision"] = options.dtype
    return facts


def _count(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def _relax(options: Options, candidates: list[Candidate], judged: Judged, folder: Path) -> Section:
    assert options.relaxer is not None
    settings = Settings(
        relaxer=options.relaxer,
        fmax=options.fmax,
        smax=options.smax,
        steps=options.steps,
        limit=options.limit,
        reference_fmax=options.reference_fmax,
        dtype=options.dtype,
    )
    reference = None
    if options.reference is not None:
        file = options.reference
        potential = checkpoint.load(
            file, pick_device(options.device), getattr(torch, options.dtype)
        )
        sha256 = file_digest(checkpoint.locate(file))
        reference = Reference(_name(file, []), potential, sha256)
    folder.mkdir(parents=True, exist_ok=True)
    journal = Journal(folder / JOURNAL)
    try:
        return judge_relaxed(
            candidates, reference, judged.unselected, settings, journal, options.energies
        )
    except KeyboardInterrupt:
        make_console().print(
            f"\nStopped. The relaxations that are finished are in {journal.path}; the same command "
            "goes on from there."
        )
        raise

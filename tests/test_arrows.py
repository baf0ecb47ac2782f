"""The layering: imports run one way, and no cycle exists."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ROOMS = {"mlff2d": ROOT / "mlff2d", "mlff2d.training": ROOT / "training", "mlff2d.md": ROOT / "md"}

# Lower may not import higher; modules of one rank only import lower ones, packages as a whole.
ORDER = [
    [
        "mlff2d.units",
        "mlff2d.errors",
        "mlff2d.arguments",
        "mlff2d.devices",
        "mlff2d.files",
        "mlff2d.interrupt",
        "mlff2d.kept",
        "mlff2d.graph",
    ],
    ["mlff2d.derivatives", "mlff2d.slab"],
    ["mlff2d.neighbors", "mlff2d.symmetry"],
    ["mlff2d.atoms", "mlff2d.contacts"],
    ["mlff2d.reading"],
    ["mlff2d.cif", "mlff2d.dataset_file"],
    ["mlff2d.sources"],
    ["mlff2d.nn"],
    ["mlff2d.models"],
    ["mlff2d.domain", "mlff2d.priors"],
    ["mlff2d.potential", "mlff2d.property"],
    ["mlff2d.checkpoint", "mlff2d.compiled"],
    ["mlff2d.info"],
    ["mlff2d.calculator", "mlff2d.importers", "mlff2d.predict", "mlff2d.torchsim"],
    ["mlff2d.checking"],
    ["mlff2d.training", "mlff2d.md"],
    ["mlff2d.cli"],
]


def module_files() -> dict[str, Path]:
    """Every module of the project by its installed name."""
    found = {}
    for package, folder in ROOMS.items():
        for path in sorted(folder.rglob("*.py")):
            parts = list(path.relative_to(folder).with_suffix("").parts)
            if parts[-1] == "__init__":
                parts.pop()
            found[".".join([package, *parts])] = path
    return found


MODULES = module_files()


def imports(name: str) -> set[str]:
    """Modules of the project that a module imports, inside functions too."""
    path = MODULES[name]
    package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            candidates = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            candidates = [f"{module}.{alias.name}" for alias in node.names] + [module]
        else:
            continue
        for candidate in candidates:
            if candidate in MODULES:
                found.add(candidate)
                break
    return found - {name}


def rank(name: str) -> int | None:
    """Layer of a module; None for the top package, which only re-exports."""
    for level, layer in enumerate(ORDER):
        if any(name == room or name.startswith(room + ".") for room in layer):
            return level
    assert name == "mlff2d", f"{name} has no layer: give it one in ORDER"
    return None


def room(name: str) -> str:
    return next(r for layer in ORDER for r in layer if name == r or name.startswith(r + "."))


@pytest.mark.parametrize("name", [n for n in MODULES if n != "mlff2d"])
def test_imports_point_downwards(name: str) -> None:
    for target in imports(name):
        if target == "mlff2d":
            pytest.fail(f"{name} imports the top package")
        same_package = room(name) == room(target)
        assert same_package or rank(target) < rank(name), f"{name} imports {target}"


def test_training_and_md_meet_only_in_the_cli() -> None:
    for name in MODULES:
        rooms = {room(t) for t in imports(name)} & {"mlff2d.training", "mlff2d.md"}
        if len(rooms) == 2:
            assert name == "mlff2d.cli"
        assert "mlff2d.cli" not in imports(name)


def test_no_cycles() -> None:
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " -> ".join([*path, name])
        if name not in done:
            for target in imports(name):
                visit(target, (*path, name))
            done.add(name)

    for name in MODULES:
        visit(name, ())


def test_only_the_potential_differentiates() -> None:
    users = [n for n, path in MODULES.items() if "autograd.grad(" in path.read_text()]
    # Compiled code hands second derivatives on to torch, its tables are made of slopes, and what
    # has gradients of its own is tested against torch's. Gauss-Newton steps need those by weights.
    others = [n for n in users if not n.startswith("mlff2d.nn.kernels.")]
    assert others == ["mlff2d.potential", "mlff2d.training.alloys.gauss_newton"]


def test_nothing_imports_rooms_by_their_folder_name() -> None:
    for name, path in MODULES.items():
        for node in ast.walk(ast.parse(path.read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module or ""]
            assert not [n for n in names if n.split(".")[0] in {"training", "md"}], name

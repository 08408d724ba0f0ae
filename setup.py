"""Compiles the walk through the tree, with mypyc. All else of the package is in pyproject.toml."""

from __future__ import annotations

from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

_WALK = ("tree", "selection", "backup", "width")
"""Modules of `mcts_core.search` that every simulation passes through once a level."""


class BuildExtensions(build_ext):
    """Adds the walk to the extensions that pyproject.toml names. Like those it is optional: where
    it cannot be compiled, the very same modules are interpreted."""

    _walk: tuple[Extension, ...] = ()

    def finalize_options(self) -> None:
        asked_for_metadata = {"egg_info", "dist_info"} & set(self.distribution.commands)
        if not self._walk and not asked_for_metadata:
            self._walk = _compiled()
            self.distribution.ext_modules += self._walk
        super().finalize_options()

    def build_extensions(self) -> None:
        super().build_extensions()
        built = [Path(self.get_ext_fullpath(extension.name)) for extension in self._walk]
        if not all(path.exists() for path in built):
            for path in built:  # each holds on to the others
                path.unlink(missing_ok=True)

    def copy_extensions_to_source(self) -> None:
        for path in Path("mcts_core/search").iterdir():
            if path.suffix in (".so", ".pyd"):
                path.unlink()  # of earlier sources, and perhaps nothing comes in its place
        super().copy_extensions_to_source()


def _compiled() -> tuple[Extension, ...]:
    """The walk in C, one library and a door to it for each module; none where mypyc fails."""
    try:
        from mypyc.build import mypycify

        extensions = mypycify(
            [
                "--config-file=",  # ours wants plugins, which are not there when a package is built
                "--ignore-missing-imports",
                *(f"mcts_core/search/{name}.py" for name in _WALK),
            ],
            group_name="mcts_core.search.walk",
        )
    except (ImportError, SystemExit) as error:
        print(f"mcts_core.search is not compiled: {error!r}")
        return ()
    for extension in extensions:
        extension.optional = True
        # Products and sums are rounded one by one, as the interpreter does.
        extension.extra_compile_args = [*extension.extra_compile_args, "-ffp-contract=off"]
    return tuple(extensions)


setup(cmdclass={"build_ext": BuildExtensions})

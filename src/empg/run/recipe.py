"""The resolved recipe of a run, as its folder has it."""

from __future__ import annotations

from empg.recipe import Recipe, override_recipe
from empg.record.errors import RunFolderError
from empg.record.runfolder import RunFolder

# Every run records these.
_SECTIONS = ("environment", "policy", "agent", "rollout", "credit", "loss", "optimizer", "evaluation")


def recipe_of(folder: RunFolder) -> Recipe:
    """Return the resolved recipe of a run.

    Raises:
        RecipeError: a key or value is wrong.
        RunFolderError: the file cannot be read, or a part of it is missing, which would silently mean defaults.
    """
    values = folder.recipe_values()
    for name in _SECTIONS:
        if not isinstance(values.get(name), dict):
            raise RunFolderError(f"{folder.recipe_path} is damaged: it has no section {name!r}. Restore the file")
    return override_recipe(values, (), str(folder.recipe_path))

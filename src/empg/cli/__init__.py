"""The commands. Each command imports heavy modules only when it runs, so that `empg --help` is fast."""

from empg.cli import training, studies, evaluation, environments  # isort: skip  # the order of the help
from empg.cli.app import app

__all__ = ["app", "environments", "evaluation", "studies", "training"]

"""raymeta: hyperparameter search for meta-learning and its regularizers.

    import raymeta

    study = raymeta.search("maml+dropgrad", task="omniglot-5w1s")
    result = raymeta.final([study.export("best.yaml"), "maml"], seeds=3)
    learner = raymeta.load(study)  # or a folder
    learner.adapt(images, labels).predict(new_images)

What these names need (torch, Ray, Optuna) is imported when one of them is first used.
"""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from raymeta.api.analysing import Analyses, analyse
    from raymeta.api.catalogue import describe, doctor, methods
    from raymeta.api.data import check_data, datasets, draw_data, prepare
    from raymeta.api.finals import FinalRuns, final
    from raymeta.api.following import Followed, track
    from raymeta.api.kept.comparing import compare, rank
    from raymeta.api.kept.keeping import archive, listed, move, note, open_archive, prune, remove, tag
    from raymeta.api.kept.watching import watch
    from raymeta.api.learners import AdaptedLearner, LoadedLearner
    from raymeta.api.many.methods import MethodsStudy, study_of_methods
    from raymeta.api.many.planned import MethodsPlan, methods_plan
    from raymeta.api.presets import Presets, presets
    from raymeta.api.searching import preview, search, space
    from raymeta.api.studies import Study, open_study, studies
    from raymeta.api.using import Predictions, load, predict

__all__ = [
    "AdaptedLearner", "Analyses", "FinalRuns", "Followed", "LoadedLearner", "MethodsPlan", "MethodsStudy",
    "Predictions", "Presets", "Study", "analyse", "archive", "check_data", "compare", "datasets", "describe",
    "doctor", "draw_data", "final", "listed", "load", "methods", "methods_plan", "move", "note", "open_archive",
    "open_study", "predict", "prepare", "presets", "preview", "prune", "rank", "remove", "search", "space", "studies",
    "study_of_methods", "tag", "track", "watch",
]  # fmt: skip
__version__ = version("raymeta")

_MODULES = {
    "analysing": ("Analyses", "analyse"),
    "catalogue": ("describe", "doctor", "methods"),
    "kept.comparing": ("compare", "rank"),
    "data": ("check_data", "datasets", "draw_data", "prepare"),
    "finals": ("FinalRuns", "final"),
    "following": ("Followed", "track"),
    "kept.keeping": ("archive", "listed", "move", "note", "open_archive", "prune", "remove", "tag"),
    "kept.watching": ("watch",),
    "learners": ("AdaptedLearner", "LoadedLearner"),
    "many.methods": ("MethodsStudy", "study_of_methods"),
    "many.planned": ("MethodsPlan", "methods_plan"),
    "presets": ("Presets", "presets"),
    "searching": ("preview", "search", "space"),
    "studies": ("Study", "open_study", "studies"),
    "using": ("Predictions", "load", "predict"),
}


def __getattr__(name: str) -> Any:
    for module, names in _MODULES.items():
        if name in names:
            found = globals()[name] = getattr(import_module(f"raymeta.api.{module}"), name)
            return found
    raise AttributeError(f"module 'raymeta' has no attribute '{name}'")


def __dir__() -> list[str]:
    return [*globals(), *__all__]

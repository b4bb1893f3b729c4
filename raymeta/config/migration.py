"""What older versions of raymeta wrote, as this version reads it. The one place where it knows of them.

A trial's config is in many files: a study's plan, an exported file, a checkpoint, the folder of a final run. They are
all read by `parse_trial`, which comes here first. A change of the schema is a rule below; `tests/recorded` holds files
that released versions wrote, and all of them must stay readable, or be refused in a sentence that says what to do.
"""

from collections.abc import Callable, Iterable, Mapping
from copy import deepcopy
from importlib.metadata import version
from typing import Any

VERSION = version("raymeta")
FIRST = "0.1.0"  # what wrote a file that names no version
WHOLE = frozenset({"method", "regularizers", "model", "task", "outer", "pretraining", "budget", "engine", "seed"})

Rule = Callable[[dict[str, Any]], None]  # changes a config in place; one that needs no change stays as it is


def migrated(data: Mapping[str, Any], rules: tuple[Rule, ...] | None = None) -> dict[str, Any]:
    """A trial's config, whole or in part, with the keys of the present schema; whether their values are right is not
    looked at.

    Args:
        data: nested mapping as any version wrote it; it is not changed.
        rules: None: `RULES`.
    """
    found = deepcopy(dict(data))
    for rule in RULES if rules is None else rules:
        rule(found)
    return found


def move(data: dict[str, Any], old: str, new: str) -> None:
    """Give a dotted key another place. A value that is at the new place already gives way: the values that a study
    proposed under old names are laid over a base that has the new ones.
    """
    section, last = _section(data, old)
    if section is None or last not in section:
        return
    place, name = _section(data, new, make=True)
    if place is not None:
        place[name] = section.pop(last)


def drop(data: dict[str, Any], key: str, *values: Any) -> None:
    """Take out a dotted key that had one of these values wherever it meant nothing. Any other value stays, so that it
    is refused by name and not ignored.
    """
    section, last = _section(data, key)
    if section is not None and last in section and section[last] in values:
        del section[last]


def keep(data: dict[str, Any], section: str, then: Iterable[str], **added: Any) -> None:
    """Let a section compute what it did before it had some of its keys, where their defaults are others now.

    That goes for configs that were written down whole, as all files are that a version writes. One that a user typed
    leaves sections and keys out, and for it the defaults of now hold.

    Args:
        data: a trial's config.
        section: dotted; a config without it stays as it is.
        then: the keys that the section had.
        added: those that it got, with the values that say what it did.
    """
    place, last = _section(data, section)
    found = None if place is None else place.get(last)
    if data.keys() >= WHOLE and isinstance(found, dict) and found.keys() >= set(then):
        place[last] = {**added, **found}  # type: ignore[index]


def _section(data: Any, key: str, *, make: bool = False) -> tuple[dict[str, Any] | None, str]:
    """The section of a dotted key, and the key's name in it. None: there is none, or a value where it should be, which
    is left for the schema to refuse.
    """
    *path, last = key.split(".")
    for part in path:
        data = data.setdefault(part, {}) if make else data.get(part)
        if not isinstance(data, dict):
            return None, last
    return data, last


def _sinusoid_is_a_problem(data: dict[str, Any]) -> None:
    """0.2.0. Before, every `task` was one of images, `sinusoid` a data set, and of its keys most had one value only."""
    task = data.get("task")
    if not isinstance(task, dict) or "problem" in task or task.get("dataset") != "sinusoid":
        return
    move(data, "task.dataset", "task.problem")
    task.pop("metadataset", None)  # bounds of a sampler that curves never had
    for key, *values in (
        ("split", None, "standard"), ("source", None), ("sampler", "fixed"), ("ways", 1), ("labels", "shuffled"),
        ("train_classes", None), ("rotations", "none"), ("test_dataset", None),
    ):  # fmt: skip
        drop(data, f"task.{key}", *values)
    for key, value in (("shots", 1), ("queries", 15), ("eval_queries", None)):  # defaults, which are others now
        task.setdefault(key, value)


def _methods_became_their_authors(data: dict[str, Any]) -> None:
    """0.2.0. Before, some methods were computed in one way only, which is not that of their authors' code."""
    keep(data, "protonet", (), passes="separate")
    plain = {"fce": False, "relu": False, "eps": 0.0, "loss": "cross_entropy"}
    keep(data, "matchingnet", ("scale",), passes="separate", **plain)
    keep(data, "relationnet", ("loss", "hidden"), passes="separate", padding="full")
    keep(data, "outer", ("lr", "clip", "reduction"), clip_scope="all")
    keep(data, "modgrad", ("context_lr", "context_size"), variant="paper", factors=5)
    keep(data, "boil", ("inner_steps", "inner_lr", "adapt_norm"), adapt_shortcuts=True)
    keep(data, "regularizers.metamix", ("rate", "beta", "layers", "shuffle", "shuffle_start"), draws="independent")
    keep(data, "regularizers.taml", ("weight", "measure"), of="query")
    keep(data, "regularizers.maxup", ("copies", "pool"), draws="task", worst="tasks", box="rounded")
    mgaug = ("pruning", "networks", "keep", "weight", "resize", "sizes", "count")
    keep(data, "regularizers.mgaug", mgaug, cap=1.0, scores="adapted", head="averaged")


def _initial_values_are_said_by_tensor(data: dict[str, Any]) -> None:
    """0.2.0. Before, `model.init` was one word for all kernels, where there was a choice; heads were Xavier's, biases
    0, and what learners add to a network had no key.
    """
    model, head = data.get("model"), {"head": "xavier", "head_bias": "zeros"}
    if isinstance(model, dict):
        if model.get("name") == "mlp":
            laws = {"xavier": "xavier", "truncated_normal": "truncated_normal(0.01)"}
            said = {word: {"hidden": law, "hidden_bias": "zeros", **head, "head": law} for word, law in laws.items()}
        else:
            said = {word: {"conv": word, "conv_bias": "zeros", **head} for word in ("xavier", "fan_out")}
        if isinstance(word := model.get("init"), str) and word in said:
            model["init"] = said[word]
        elif str(model.get("name")).startswith("resnet"):
            keep(data, "model", ("channels", "norm", "norm_eps"), init=head)
    keep(data, "cavia", ("context_lr", "context_size", "block"), init={"film": "torch", "film_bias": "torch"})
    relation = {"conv": "fan_out", "conv_bias": "zeros", "linear": "torch", "linear_bias": "torch"}
    keep(data, "relationnet", ("loss", "hidden"), norm_momentum=0.1, init=relation)
    keep(data, "regularizers.metadropout", ("noise", "head", "init_std"), init_head="truncated_normal")
    keep(data, "regularizers.mr", ("noise", "blocks", "beta", "init"), sigma_floor=0.0)


def _scopes_of_dropgrad_are_the_papers(data: dict[str, Any]) -> None:
    """0.2.0. Before, `layers: first` was the stem where there is one, not the first block. Of a config that was not
    written down whole it is not known what is meant there: it is refused.
    """
    regularizers, model = _mapping(data.get("regularizers")), _mapping(data.get("model"))
    dropgrad, stem = regularizers.get("dropgrad"), model.get("name") in ("resnet10", "resnet18")
    known = data.keys() >= WHOLE or not stem
    if isinstance(dropgrad, dict) and dropgrad.get("layers") == "first" and known:
        dropgrad["layers"] = "stem" if stem else "start"


def _blocks_ran_on_torch(data: dict[str, Any]) -> None:
    """0.2.0. Before, there were no kernels but torch's."""
    keep(data, "engine", ("device",), kernels="torch")


def as_before(model: Mapping[str, Any]) -> dict[str, Any]:
    """A whole `model` section as the first version that could say as much wrote it, so that what is kept under a digest
    of it is found again.
    """
    later = {"norm_momentum": 0.1, "norm_scale": True, "stride": 1, "spatial_mean": False, "plain_blocks": 0}
    found = {key: value for key, value in model.items() if key not in later or value != later[key]}
    if str(found.get("name")).startswith("resnet"):  # it could say none of this
        variant_a, init = found.get("variant") == "a", _mapping(found.get("init"))
        conv = "xavier" if variant_a else "fan_out"
        then = {"conv": conv, "head": "xavier", "head_bias": "zeros", "bn_gamma": "ones"}
        null = then if variant_a else {"conv": conv}  # what ResNet-12 takes for null, where that was its law then
        if init | {key: law for key, law in null.items() if init.get(key) is None} == then:
            del found["init"]
        return found
    for old in ({"init": "xavier"}, {"init": "fan_out"}, {"init": "truncated_normal"}):
        data = {"model": {"name": found.get("name"), **old}}
        _initial_values_are_said_by_tensor(data)
        if found.get("init") in (data["model"]["init"], {**_mapping(data["model"]["init"]), "bn_gamma": "ones"}):
            return found | old
    return found


def _mapping(value: Any) -> dict[str, Any]:
    return dict(value) if isinstance(value, Mapping) else {}


# In the order of the versions that began to write the new form. A rule goes by the data alone: a config that a user has
# typed or edited names no version.
RULES: tuple[Rule, ...] = (
    _sinusoid_is_a_problem,
    _methods_became_their_authors,
    _initial_values_are_said_by_tensor,
    _scopes_of_dropgrad_are_the_papers,
    _blocks_ran_on_torch,
)


def of_another_version(written_by: Any) -> str:
    """How a sentence ends that refuses a file: what to do, if another version wrote it; "": this version did.

    Args:
        written_by: the version that the file names; None: it names none.
    """
    made_by = FIRST if written_by is None else str(written_by)
    if made_by == VERSION:
        return ""
    return f" (raymeta {made_by} wrote it, this is {VERSION}: go on with raymeta {made_by}, or make it again)"

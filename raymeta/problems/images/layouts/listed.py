"""Lists beside pictures that say which classes, or which pictures, are of which split."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import NamedTuple

from raymeta.errors import some, suggest
from raymeta.problem import SPLITS, Split
from raymeta.problems.images.layouts.branches import Branch, Layout, Unclear, told
from raymeta.problems.images.layouts.columns import Columns, columns_of
from raymeta.problems.images.layouts.folders import classes_in, held_out, refuse_shared
from raymeta.problems.images.layouts.index import Index
from raymeta.problems.images.layouts.lists import OTHERS, Table, is_list, stem, tables
from raymeta.problems.images.layouts.words import ALLOWED, is_of_splits, names_splits, resolved, rest, said
from raymeta.problems.images.reading.files import UNLISTED, UNUSED

FEW = 20  # lists of a folder that are all read
Read = Callable[[Iterable[str]], Iterator[tuple[str, bytes]]]
Home = tuple[Split, str]  # of a picture: its split and its class


class Understood(NamedTuple):
    """A list whose columns are known."""

    path: str
    table: Table
    columns: Columns

    @property
    def stem(self) -> str:
        """Its name without the suffix."""
        return stem(self.path)

    def at(self, number: int) -> str:
        """Where a row is, for a sentence."""
        return f"{self.path}: {self.table.unit} {number}"


class Saying(NamedTuple):
    """Lists that say splits together.

    Attributes:
        lists: in the order of the splits.
        homes: picture -> split and class.
    """

    lists: list[str]
    homes: dict[str, Home]


class Lists:
    """The lists of a tree.

    Attributes:
        says: those that say splits, by what they say together.
        labelled: one that says classes of pictures that lie in no class folder.
        doubtful: what is wrong with one that seems to say splits and can't be used; '': there is none.
        unused: paths of the others.
    """

    def __init__(self, top: Branch, others: Sequence[str], read: Read, *, strict: bool) -> None:
        """Read them.

        Args:
            top: of the pictures.
            others: paths of what is no picture.
            read: gives the contents of paths.
            strict: a list that says splits and can't be used is an error.

        Raises:
            Unclear: see `strict`.
        """
        self._all, self._index, self._strict = top.all(), Index(top), strict
        self._folder_of = _by_folder(top)
        self.unused: list[str] = []
        self.says: list[Saying] = []
        self.labelled = self.doubtful = ""
        together: dict[tuple[str, str, str], dict[str, Understood]] = {}
        alone: list[Understood] = []
        understood = self._understood(_spots(top, others), read)
        for one in understood:
            if one.columns.split is None and said(one.stem, loosely=True) is None:
                self._doubt(one.path, [one.table], "it has no column of splits")
        for one in understood:
            word = said(one.stem, loosely=True)
            if one.columns.split is not None:
                alone.append(one)
            elif word is not None:
                path = PurePosixPath(one.path)
                group = together.setdefault((str(path.parent), path.suffix.lower(), rest(one.stem)), {})
                if word in group:
                    raise Unclear(f"{group[word].path} and {one.path} both say the {word} split")
                group[word] = one
        for group in together.values():
            either = resolved(group)
            by_split: dict[Split, Understood] = {}
            for word, one in group.items():
                by_split[either if word == "either" else word] = one  # type: ignore[index]
            self._try({split: by_split[split] for split in SPLITS if split in by_split})
        for one in alone:
            self._try({None: one})

    def layout(self, share: float | None) -> Layout | None:
        """What they say; None: nothing.

        Raises:
            Unclear: they say different things, or not all splits, or one that seems to say splits can't be used.
        """
        if not self.says and self.doubtful:
            raise Unclear(self.doubtful)
        if not self.says:
            return None
        first, *others = sorted(self.says, key=lambda one: (-len({s for s, _ in one.homes.values()}), -len(one.homes)))
        for other in others:
            if any(first.homes.get(path, home)[0] != home[0] for path, home in other.homes.items()):
                raise Unclear(f"{told(first.lists)} and {told(other.lists)} say different splits: leave one there")
        by_split: dict[Split, dict[str, list[str]]] = {}
        for path, (split, label) in sorted(first.homes.items()):
            by_split.setdefault(split, {}).setdefault(label, []).append(path)
        by_split = {split: by_split[split] for split in SPLITS if split in by_split}
        advice = (
            f"so say splits of classes in {told(first.lists)}; or name the folder of the class folders itself, or take "
            "the lists away, and a split of the classes is drawn"
        )
        refuse_shared(by_split, {split: f"the {split} split" for split in SPLITS}, advice)
        left = {
            UNLISTED: [path for path in self._all if path not in first.homes],
            UNUSED: self.unused + [path for other in others for path in other.lists],
        }
        renamed = any(self._folder_of.get(path, label) != label for path, (_, label) in first.homes.items())
        words = f"split by {', '.join(first.lists)}" + (
            ", whose classes are not those of the folders" if renamed else ""
        )
        layout = Layout(by_split, words, left)
        missing = [split for split in SPLITS if split not in by_split]
        if missing == ["validation"] and share is not None:
            return held_out(layout, share)
        if missing and self.doubtful:
            raise Unclear(self.doubtful)
        if missing:
            verb = "names" if len(first.lists) == 1 else "name"
            raise Unclear(f"{told(first.lists)} {verb} no {' and no '.join(missing)} class", missing)
        return layout

    def contradict(self, layout: Layout) -> None:
        """Refuse lists that say something else than the folders.

        Raises:
            Unclear: they do.
        """
        homes = {path: split for split, names in layout.classes.items() for paths in names.values() for path in paths}
        for one in self.says:
            for path, (split, _) in one.homes.items():
                if homes.get(path, split) != split:
                    raise Unclear(
                        f"{told(one.lists)} and the folders say different splits of {path}: leave the lists or the "
                        "folders there"
                    )

    def _understood(self, spots: Sequence[str], read: Read) -> list[Understood]:
        """The lists that name pictures or classes; those of classes of pictures first, for others may name these."""
        found: list[Understood] = []
        others = [path for path in spots if not is_list(path)]
        waiting = [(path, list[Table](), "lists are read as csv, tsv, txt or json") for path in others]
        for path, content in read(path for path in spots if is_list(path)):  # at once: a tar is read from its start
            try:
                waiting.append((path, tables(path, content), ""))
            except Unclear as error:
                waiting.append((path, [], str(error)))
        waiting.sort(key=lambda one: one[0])
        for _ in range(2):
            left = []
            for path, ways, problem in waiting:
                fitting = [Understood(path, *both) for way in ways if (both := columns_of(way, self._index))]
                best = max(fitting, key=lambda one: one.columns.fits, default=None)
                if best is None or not (best.columns.fits or _says(best.stem)):
                    left.append((path, ways, problem))
                    continue
                found.append(best)
                if best.columns.split is None and said(best.stem, loosely=True) is None:
                    self._label(best)
            waiting = left
        for path, ways, problem in waiting:
            self._doubt(path, ways, problem or "names no pictures and no classes here")
        return found

    def _doubt(self, path: str, ways: Sequence[Table], problem: str) -> None:
        """Put by a list that can't be used, and what is wrong with it if it seems to say splits."""
        self.unused.append(path)
        found = [[table.header] * bool(table.header) + [row.cells for row in table.rows] for table in ways]
        heads = [rows[0] for rows in found if len(rows) > 1 and len(rows[0]) > 1]
        if _says(stem(path)):
            self.doubtful = self.doubtful or f"{path} says splits by its name, but {problem}"
        elif column := next((cell for cells in heads for cell in cells if is_of_splits(cell)), ""):
            self.doubtful = self.doubtful or (
                f"{path} has a column '{column}', which is not read: a column split says train, val or test"
            )

    def _label(self, one: Understood) -> None:
        """Classes of pictures that lie in one folder, by a list that says no splits."""
        file, label, *_ = one.columns
        if file is None or label is None:
            return
        for row in one.table.rows:
            picture = self._index.picture(row.cells[file], stem=True)
            if picture is not None and picture not in self._folder_of:
                self._index.labels.setdefault(row.cells[label], []).append(picture)
                self.labelled = one.path

    def _try(self, lists: Mapping[Split | None, Understood]) -> None:
        try:
            self._say(lists)
        except Unclear:
            if self._strict:
                raise
            self.unused += [one.path for one in lists.values()]

    def _say(self, lists: Mapping[Split | None, Understood]) -> None:
        homes: dict[str, Home] = {}
        named: dict[str, str] = {}  # picture -> class that a list gives it
        for split, one in lists.items():
            seen: set[str] = set()
            either = resolved(word for _, cells in one.table.rows if (word := said(cells[one.columns.split or 0])))
            for number, cells in one.table.rows:
                where = one.at(number)
                own = split or _split(where, cells[one.columns.split or 0], either)
                if one.columns.file is None:
                    label = cells[one.columns.label or 0]
                    if label.casefold() in seen:
                        raise Unclear(f"{where}: the class '{label}' is named a second time")
                    seen.add(label.casefold())
                    name, pictures = self._class(where, label)
                    for picture in pictures:
                        if homes.get(picture, (own, name))[0] != own:
                            raise Unclear(f"{where}: the class '{label}' is in the {homes[picture][0]} split already")
                        homes[picture] = (own, name)
                    continue
                found = self._index.picture(cells[one.columns.file], stem=True)
                if found is None:
                    raise Unclear(f"{where} names {cells[one.columns.file]}, which is not there, or more than once")
                if found in homes:
                    raise Unclear(f"{where} names {cells[one.columns.file]} a second time")
                homes[found] = (own, self._folder_of.get(found, ""))
                if one.columns.label is not None:
                    named[found] = cells[one.columns.label]
        self.says.append(Saying([one.path for one in lists.values()], self._named(list(lists.values()), homes, named)))

    def _class(self, where: str, label: str) -> tuple[str, list[str]]:
        """The pictures of a class that is named alone."""
        folder = self._index.folder(label)
        if folder is not None:
            return self._index.class_name(folder), folder.all()
        if label in self._index.labels:
            return label, self._index.labels[label]
        raise Unclear(f"{where}: there is no folder of the class '{label}', or more than one")

    def _named(self, lists: Sequence[Understood], homes: dict[str, Home], named: dict[str, str]) -> dict[str, Home]:
        """Classes by the lists where the folders don't have the same ones; else by the folders.

        Raises:
            Unclear: a list says another class than a picture's folder, or no class.
        """
        who = told([one.path for one in lists])
        pairs = {(label, self._folder_of[path]) for path, label in named.items() if path in self._folder_of}
        labels, names = {label for label, _ in pairs}, {name for _, name in pairs}
        if named and (len(pairs) > max(len(labels), len(names)) or len(labels) != len(names) or not pairs):
            for path, label in named.items():
                if label in self._folder_of.values() and self._folder_of.get(path, label) != label:
                    raise Unclear(f"{who}: {path} is of class '{label}' there, but in the folder of another")
            homes = {path: (split, named.get(path, label)) for path, (split, label) in homes.items()}
        if nameless := [path for path, (_, label) in homes.items() if not label]:
            raise Unclear(f"{who} says no class of {some(nameless)}, and no folder does")
        return homes


def _by_folder(top: Branch) -> dict[str, str]:
    """Picture -> the class that its folder says, where folders say classes."""
    try:
        classes = classes_in(top).classes
    except Unclear:
        return {}
    return {path: name for name, paths in classes.items() for path in paths} if len(classes) > 1 else {}


def _spots(top: Branch, others: Sequence[str]) -> list[str]:
    """Lists where they are looked for: around the class folders, and in folders without pictures.

    Of a folder of many lists, which are those of single pictures, only the ones that say splits by their names.
    """
    trunk = top.trunk()
    around = {"/".join(one.path) for one in trunk}
    if len(leaves := top.leaves()) == 1:
        around.add("/".join(leaves[0].path))
    holds = {"/".join(leaf.path[:depth]) for leaf in leaves for depth in range(len(leaf.path) + 1)}
    found = []
    lists = Counter(path.rpartition("/")[0] for path in others if is_list(path))
    for path in others:
        folder, _, name = path.rpartition("/")
        says, suffix = _says(stem(name)), PurePosixPath(name).suffix.lower()
        apart = folder not in holds
        if ((folder in around or (apart and lists[folder] <= FEW)) and is_list(path)) or (
            (folder in around or apart) and says and (is_list(path) or suffix in ("", *OTHERS))
        ):
            found.append(path)
    return found


def _says(stem: str) -> bool:
    """Whether a list says splits by its name."""
    return said(stem) is not None or names_splits(stem)


def _split(where: str, cell: str, either: Split) -> Split:
    word = said(cell)
    if word is None:
        raise Unclear(f"{where}: unknown split '{cell}': {suggest(cell, ALLOWED)}")
    return either if word == "either" else word  # type: ignore[return-value]

"""Lists beside pictures: in the forms in which people save them, and what is wrong with them."""

import json
from collections.abc import Callable, Iterable, Iterator

import pytest
from paths import KINDS, PARTS, by_split, found, pictures, refused

from raymeta.problem import SPLITS
from raymeta.problems.images.layouts.recognise import recognise
from raymeta.problems.images.reading.files import UNLISTED, UNUSED

PATHS = pictures(*KINDS)
FLAT = [f"images/{path.rpartition('/')[2]}" for path in PATHS]
NAMES = {"train": "train", "validation": "val", "test": "test"}
Text = Callable[[list[tuple[str, str]]], str | bytes]


def rows(split: str) -> list[tuple[str, str]]:
    """File name and class of the pictures of a split."""
    return [
        (path.rpartition("/")[2], path.partition("/")[0]) for path in PATHS if path.partition("/")[0] in PARTS[split]
    ]


def csv(header: str = "filename,label", between: str = ",", end: str = "\n", first: str = "") -> Text:
    return lambda some: (
        end.join([*([header] if header else []), *(between.join((first + a, b)) for a, b in some)]) + end
    )


def encoded(text: Text, encoding: str) -> Text:
    return lambda some: str(text(some)).encode(encoding)


def quoted(some: list[tuple[str, str]]) -> str:
    return "\n".join(['"filename","label"', *(f'"{a}","{b}"' for a, b in some)])


OF_FILES: dict[str, tuple[str, Text]] = {
    "plain": ("{}.csv", csv()),
    "bom": ("{}.csv", encoded(csv(), "utf-8-sig")),
    "utf-16": ("{}.csv", encoded(csv(), "utf-16")),
    "utf-16 without a mark": ("{}.csv", encoded(csv(), "utf-16-le")),
    "windows": ("{}.csv", csv(end="\r\n")),
    "semicolons": ("{}.csv", csv("filename;label", ";")),
    "tabs": ("{}.tsv", csv("filename\tlabel", "\t")),
    "tabs in a csv": ("{}.csv", csv("Path\tClassId", "\t")),
    "bars": ("{}.txt", csv("file|class", "|")),
    "spaces": ("{}.csv", csv("filename , label", " ,  ")),
    "capitals": ("{}.CSV", csv("Filename,Label")),
    "quoted": ("{}.csv", quoted),
    "no header": ("{}.csv", csv("")),
    "other words": ("{}.csv", csv("image_name,class_name")),
    "unknown words": ("{}.csv", csv("Bild,Art")),
    "paths": ("{}.csv", csv(first="images/")),
    "windows paths": ("{}.csv", csv(first="C:\\data\\images\\")),
    "absolute": ("{}.csv", csv(first="/home/me/mini/images/")),
    "dot": ("{}.csv", csv(first="./")),
    "split folder": ("split/{}.csv", csv()),
    "splits folder": ("splits/ravi/{}.csv", csv()),
    "prefixed": ("mini_{}.csv", csv()),
    "json pairs": ("{}.json", lambda some: json.dumps([list(row) for row in some])),
    "json records": ("{}.json", lambda some: json.dumps([{"image": a, "label": b} for a, b in some])),
    "json columns": (
        "{}.json",
        lambda some: json.dumps({"filename": [a for a, _ in some], "label": [b for _, b in some]}),
    ),
    "json by class": ("{}.json", lambda some: json.dumps({b: [a for a, c in some if c == b] for _, b in some})),
    "index": (
        "{}.csv",
        lambda some: "\n".join([",filename,label", *(f"{n},{a},{b}" for n, (a, b) in enumerate(some))]),
    ),
}


@pytest.mark.parametrize("name", OF_FILES)
@pytest.mark.parametrize("paths", [FLAT, PATHS, [f"all/{path}" for path in PATHS]], ids=["flat", "folders", "wrapped"])
def test_lists_of_files_in_every_form(name: str, paths: list[str]) -> None:
    place, text = OF_FILES[name]
    made = found(paths, {place.format(NAMES[split]): text(rows(split)) for split in SPLITS})
    assert made.classes == PARTS
    assert made.layout.words.startswith("split by ")
    assert not made.layout.left


@pytest.mark.parametrize(
    "words", [("train", "validation", "test"), ("base", "val", "novel"), ("Train", "valid", "TEST")]
)
def test_lists_may_have_other_names(words: tuple[str, str, str]) -> None:
    lists = {f"{word}.csv": csv()(rows(split)) for word, split in zip(words, SPLITS, strict=True)}
    made = found(FLAT, lists)
    assert made.classes == PARTS
    assert made.layout.words == f"split by {', '.join(lists)}"


def table(*lines: tuple[str, ...], between: str = ",") -> str:
    return "\n".join(between.join(line) for line in lines)


PAIRS = [(name, NAMES[split]) for split, names in PARTS.items() for name in names]
FILES = [(path, path.partition("/")[0], NAMES[split]) for split in SPLITS for path in PATHS if path[:6] in PARTS[split]]
BY_CLASS: dict[str, dict[str, str]] = {
    "classes by split": {"splits.csv": table(("class", "split"), *PAIRS)},
    "capital name": {"Splits.csv": table(("Class", "Split"), *((a, b.title()) for a, b in PAIRS))},
    "columns the other way": {"class_split.csv": table(("subset", "category"), *((b, a) for a, b in PAIRS))},
    "name": {"anything.csv": table(("name", "partition"), *PAIRS)},
    "no header": {"splits.txt": table(*PAIRS, between="\t")},
    "words": {"splits.csv": table(("class", "split"), *((a, {"val": "valid"}.get(b, b)) for a, b in PAIRS))},
    "files": {"meta.csv": table(("path", "class", "set"), *FILES)},
    "files without classes": {"meta.csv": table(("path", "set"), *((a, c) for a, _, c in FILES))},
    "names": {f"{NAMES[split]}.txt": "\n".join(PARTS[split]) for split in SPLITS},
    "names, a header": {f"{NAMES[split]}.csv": "\n".join(["label", *PARTS[split]]) for split in SPLITS},
    "names, folders": {f"splits/b/{NAMES[split]}.txt": "\n".join(f"{n}/" for n in PARTS[split]) for split in SPLITS},
    "json of splits": {"split.json": json.dumps({NAMES[split]: PARTS[split] for split in SPLITS})},
    "json of classes": {"classes.json": json.dumps(dict(PAIRS))},
    "json in json": {"s.json": json.dumps({"splits": {NAMES[split]: PARTS[split] for split in SPLITS}})},
    "json to files": {"s.json": json.dumps({
        NAMES[split]: {name: pictures(name) for name in PARTS[split]} for split in SPLITS
    })},
    "json lists": {f"{NAMES[split]}.json": json.dumps(PARTS[split]) for split in SPLITS},
    "CloserLookFewShot": {f"{word}.json": json.dumps({
        "label_names": KINDS, "image_names": [f"/data/x/images/{path}" for path in pictures(*PARTS[split])],
        "image_labels": [KINDS.index(name) for name in PARTS[split] for _ in range(2)],
    }) for word, split in zip(("base", "val", "novel"), SPLITS, strict=True)},
    "two that agree": {
        "splits.csv": table(("class", "split"), *PAIRS), **{f"{NAMES[s]}.txt": "\n".join(PARTS[s]) for s in SPLITS}
    },
}  # fmt: skip


@pytest.mark.parametrize("name", BY_CLASS)
@pytest.mark.parametrize("around", ["", "images/", "a/b/"])
def test_lists_of_classes_in_every_form(name: str, around: str) -> None:
    made = found([f"{around}{path}" for path in PATHS], BY_CLASS[name])
    assert made.classes == PARTS
    assert "split by " in made.layout.words


def test_classes_whose_folders_have_a_folder_within() -> None:
    inner = [f"{path.partition('/')[0]}/images/{path.partition('/')[2]}" for path in PATHS]
    assert found(inner, BY_CLASS["classes by split"]).classes == PARTS
    assert found(inner, BY_CLASS["files without classes"]).classes == PARTS


def test_a_list_decides_which_level_the_classes_are() -> None:
    people = pictures("ann/day", "ann/night", "bob/day", "bob/night", "cleo/day", "dan/day")
    lists = {"splits.csv": "class,split\nann,train\nbob,train\ncleo,val\ndan,test\n"}
    assert found(people, lists).classes == {"train": ["ann", "bob"], "validation": ["cleo"], "test": ["dan"]}
    drawings = pictures("Greek/c1", "Greek/c2", "Latin/c1", "Latin/c2")
    characters = {"splits.csv": "Class;Split\nGreek/c1;train\nGreek/c2;train\nLatin/c1;val\nLatin\\c2;test\n"}
    made = found(drawings, characters)
    assert made.classes == {"train": ["Greek/c1", "Greek/c2"], "validation": ["Latin/c1"], "test": ["Latin/c2"]}
    assert "there is no folder of the class 'c1', or more than one" in refused(
        drawings, {"splits.csv": "class,split\nc1,train\nGreek,val\nLatin,test\n"}
    )


def test_classes_of_flat_pictures_come_from_a_second_list() -> None:
    lists = {
        "labels.csv": csv()([row for split in SPLITS for row in rows(split)]),
        **{f"{NAMES[s]}.txt": "\n".join(PARTS[s]) for s in SPLITS},
    }
    assert found(FLAT, lists).classes == PARTS
    text = refused(FLAT, {"labels.csv": lists["labels.csv"]})
    assert "all its pictures lie in images/" in text
    assert "(labels.csv says classes, but no splits: give it a column split)" in text


def test_a_class_may_be_called_as_a_split() -> None:
    kinds = ["bus", "car", "test", "train", "tram"]
    lists = {"train.txt": "train\ncar\n", "val.txt": "tram\nbus\n", "test.txt": "test\n"}
    assert found(pictures(*kinds), lists).classes["train"] == ["car", "train"]
    pairs = {"splits.csv": "class,split\ntrain,train\ncar,train\ntram,val\nbus,test\ntest,test\n"}
    assert found(pictures(*kinds), pairs).classes["test"] == ["bus", "test"]


def test_numbered_classes_and_numbered_pictures_are_told_apart() -> None:
    paths = [f"{kind}/{n}.png" for kind in range(6) for n in range(6)]
    lists = {
        "splits.csv": "class,split\n"
        + "".join(f"{n},{w}\n" for n, w in enumerate(["train", "train", "train", "val", "val", "test"]))
    }
    assert found(paths, lists).classes == {"train": ["0", "1", "2"], "validation": ["3", "4"], "test": ["5"]}
    files = {f"{w}.csv": "Path,ClassId\n" + "".join(f"{k}/{n}.png,{k}\n" for k in some for n in range(6))
             for w, some in {"train": "012", "val": "34", "test": "5"}.items()}  # fmt: skip
    assert found(paths, files).classes == {"train": ["0", "1", "2"], "validation": ["3", "4"], "test": ["5"]}


def test_numbers_as_labels_stand_for_the_folders() -> None:
    lists = {f"{NAMES[s]}.txt": "\n".join(f"{a} {KINDS.index(b)}" for a, b in rows(s)) for s in SPLITS}
    assert found(PATHS, lists).classes == PARTS
    assert found(FLAT, lists).classes["validation"] == ["5", "6", "7"]


def test_what_no_list_names_is_left_out() -> None:
    some = {name: "\n".join(line for line in str(text).splitlines() if "kind a" not in line and "kind j" not in line)
            for name, text in BY_CLASS["classes by split"].items()}  # fmt: skip
    made = found(PATHS, some)
    assert made.classes == {
        split: [n for n in names if n not in ("kind a", "kind j")] for split, names in PARTS.items()
    }
    assert made.layout.left == {UNLISTED: [path for path in PATHS if path[:6] in ("kind a", "kind j")]}


def test_lists_beside_split_folders_are_looked_at() -> None:
    paths = by_split("train", "val", "test")
    agree = found(paths, BY_CLASS["classes by split"])
    assert agree.classes == PARTS
    assert agree.layout.left == {UNUSED: ["splits.csv"]}
    other = {"splits.csv": table(("class", "split"), *((name, "test") for name in KINDS))}
    assert "splits.csv and the folders say different splits of train/kind a/kind a-0.jpg" in refused(paths, other)
    assert found(paths, {"train.csv": "no,list\nof,this"}).layout.left == {UNUSED: ["train.csv"]}


CLASSES = "class,split\n" + "".join(f"{a},{b}\n" for a, b in PAIRS)


@pytest.mark.parametrize(("lists", "message"), [
    ({"splits.csv": CLASSES.replace("kind c,", "kind z,")},
     "splits.csv: line 4: there is no folder of the class 'kind z'"),
    ({"splits.csv": CLASSES.replace("kind c,train", "kind c,tarin")},
     "splits.csv: line 4: unknown split 'tarin': did you mean 'train'?"),
    ({"splits.csv": CLASSES + "kind a,test\n"}, "splits.csv: line 12: the class 'kind a' is named a second time"),
    ({"splits.csv": CLASSES + "kind a,\n"}, "splits.csv: line 12: unknown split ''"),
    ({"splits.csv": "".join(line for line in CLASSES.splitlines(True) if "test" not in line)},
     "splits.csv names no test class: say which classes are for the test"),
    ({"splits.csv": "class,split\n"}, "splits.csv says splits by its name, but names no pictures and no classes here"),
    ({"splits.csv": ""}, "splits.csv says splits by its name, but it is empty"),
    ({"splits.csv": b"\xff\xfe\x00"}, "splits.csv says splits by its name, but it is no text"),
    ({"splits.json": "{"}, "splits.json says splits by its name, but it is no JSON: "),
    ({"splits.xlsx": b"PK"}, "splits.xlsx says splits by its name, but lists are read as csv, tsv, txt or json"),
    ({"train.csv": "a,b\n1,2\n"}, "train.csv says splits by its name, but names no pictures and no classes here"),
    ({"train.txt": "kind a\nkind b\n"}, "train.txt names no validation and no test class: put"),
    ({"train.txt": "kind a\nkind b\n", "test.txt": "kind c\n"},
     "train.txt and test.txt name no validation class: say which classes are for validation, or hold some of those"),
    ({"train.txt": "kind a\n", "training.txt": "kind b\n"}, "train.txt and training.txt both say the train split"),
    ({f"{w}.txt": "\n".join(KINDS) for w in ("train", "val", "test")},
     "val.txt: line 1: the class 'kind a' is in the train split already"),
    ({"splits.csv": CLASSES, "split.txt": CLASSES.replace("kind c,train", "kind c,test")},
     "say different splits: leave one"),
    ({f"{NAMES[s]}.csv": csv()([*rows(s)[1:], ("gone.jpg", PARTS[s][0])]) for s in SPLITS},
     "names gone.jpg, which is not there"),
    ({f"{NAMES[s]}.csv": csv()(rows(s) + rows(s)[:1]) for s in SPLITS}, "line 12 names kind a-0.jpg a second time"),
    ({f"{NAMES[s]}.csv": csv()([(a, "kind a") for a, _ in rows(s)]) for s in SPLITS},
     "is of class 'kind a' there, but in the folder"),
    ({f"{NAMES[s]}.csv": csv("file,label")([(a, str(n % 5)) for n, (a, _) in enumerate(rows(s))]) for s in SPLITS},
     "class '0' is in the train split, the validation split and the test split, and 4 more are in two splits"),
])  # fmt: skip
def test_what_is_wrong_with_a_list_is_said(lists: dict[str, str | bytes], message: str) -> None:
    assert message in refused(PATHS, lists)


def test_flat_pictures_need_classes() -> None:
    lists = {f"{NAMES[s]}.txt": "\n".join(a for a, _ in rows(s)) for s in SPLITS}
    assert "says no class of images/kind a-0.jpg" in refused(FLAT, lists)
    assert found(PATHS, lists).classes == PARTS


def test_a_share_is_held_out_of_lists_too() -> None:
    lists = {"splits.csv": CLASSES.replace("val", "train")}
    made = found(PATHS, lists, share=0.25)
    assert [len(made.classes[split]) for split in SPLITS] == [6, 2, 2]
    assert made.classes["test"] == PARTS["test"]


@pytest.mark.parametrize(
    "name",
    [
        "train_test_split.txt", "train_val_test.txt", "split1.csv", "splits_v2.csv", "class_partition_final.csv",
        "train.csv.gz", "splits.csv.bak", "train.pkl", "splits.npz", "splits.md", "train",
    ],
)  # fmt: skip
def test_a_list_that_seems_to_say_splits_is_never_passed_over(name: str) -> None:
    said = refused(PATHS, {name: "1 0\n2 1\n"})
    assert name in said


def test_a_doubtful_list_does_no_harm_where_another_says_the_splits() -> None:
    good = "class,split\n" + "".join(f"{name},{split}\n" for split, names in PARTS.items() for name in names)
    made = found(PATHS, {"splits.csv": good, "trainval.txt": "1 0\n", "train.csv.bak": "x"})
    assert made.classes == PARTS


def test_a_list_is_found_in_a_folder_of_any_name() -> None:
    """Where lists are few, that is: of folders of many, each is one of a picture."""
    said = "class,split\n" + "".join(f"{name},{split}\n" for split, names in PARTS.items() for name in names)
    photos = [f"photos/{path}" for path in PATHS]
    assert found(photos, {"info/about.csv": said, "info/licence.txt": "free for all\n"}).classes == PARTS
    many = {f"info/{number}.txt": "nothing of a split\n" for number in range(30)}
    assert "info/30.csv" not in found(photos, {**many, "info/30.csv": said}).layout.words


@pytest.mark.parametrize("words", [("train", "eval", "test"), ("train", "val", "eval")])
def test_eval_is_validation_or_the_test_by_the_other_words(words: tuple[str, str, str]) -> None:
    rows = [f"{name},{word}\n" for word, names in zip(words, PARTS.values(), strict=True) for name in names]
    assert found(PATHS, {"splits.csv": "class,split\n" + "".join(rows)}).classes == PARTS


@pytest.mark.parametrize(
    "content",
    ["|", '"",""', "", "[" * 100_000, '{"image_names": null, "image_labels": []}', '{"image_names": ["a"]}'],
)
@pytest.mark.parametrize("name", ["notes.txt", "a.json"])
def test_a_list_of_something_else_is_no_fault(name: str, content: str) -> None:
    assert sum(map(len, found(PATHS, {name: content}).classes.values())) == len(KINDS)


def test_lists_are_read_in_one_pass() -> None:
    """A tar archive is read from its start each time."""
    passes = []

    def read(wanted: Iterable[str]) -> Iterator[tuple[str, bytes]]:
        passes.append(list(wanted))
        return ((path, b"nothing of a split") for path in passes[-1])

    sidecars = [f"{path}.txt" for path in PATHS]
    recognise("tree", sorted(PATHS), sidecars, read, share=None, drawn=True)
    assert len(passes) <= 1

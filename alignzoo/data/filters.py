"""Leaving out rows by length, language and duplicates, and counting what was left out and why."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import Field, field_validator

from alignzoo.config import Config
from alignzoo.data.columns import plain_text
from alignzoo.data.convert import check_kind, completions_of, find_data_kind, read_one
from alignzoo.data.duplicates import make_finder
from alignzoo.data.kinds import NO_COLUMNS, rename
from alignzoo.data.row import OnError, Row, refuse
from alignzoo.errors import ConfigError, DataError, did_you_mean

MAX_PLACES = 3
Test = Callable[[Row, "Texts"], "str | None"]  # the reason to leave a row out, or None


class FilterOptions(Config):
    """What rows a data file keeps."""

    min_prompt: int = Field(0, ge=0, description="shortest prompt, in characters")
    max_prompt: int | None = Field(None, gt=0, description="longest prompt, in characters")
    min_completion: int = Field(0, ge=0, description="shortest completion, in characters")
    max_completion: int | None = Field(None, gt=0, description="longest completion, in characters")
    languages: list[str] = Field(
        default_factory=list,
        description="keep rows in these languages alone, as ISO 639-1 codes such as en or zh; "
        "needs the extra 'data'",
    )
    duplicates: Literal["exact", "near", "none"] = Field(
        "exact",
        description="drop rows whose text was there before: the same but for case, width and "
        "white space, or also nearly the same",
    )
    similarity: float = Field(
        0.8,
        gt=0,
        le=1,
        description="least Jaccard similarity of character 5-grams that is nearly the same",
    )

    @field_validator("languages")
    @classmethod
    def _split(cls, languages: list[str]) -> list[str]:
        return [code.strip() for text in languages for code in text.split(",") if code.strip()]


@dataclass
class FilterReport:
    """How many rows were read and kept, and how many were dropped for each reason, and where."""

    rows: int = 0
    kept: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    first: dict[str, list[str]] = field(default_factory=dict)

    def drop(self, reason: str, place: str) -> None:
        """Counts a dropped row, and keeps the places of the first few of each reason."""
        self.dropped[reason] = self.dropped.get(reason, 0) + 1
        places = self.first.setdefault(reason, [])
        if len(places) < MAX_PLACES:
            places.append(place)


@dataclass(frozen=True)
class Texts:
    """A row's prompt and completions as plain text."""

    prompt: str
    completions: Sequence[str]

    @property
    def whole(self) -> str:
        """All of it, one under the other."""
        return "\n".join([self.prompt, *self.completions])


def filter_rows(
    rows: Iterable[Row],
    options: FilterOptions,
    report: FilterReport,
    *,
    kind: str | None = None,
    columns: Mapping[str, str] = NO_COLUMNS,
    on_error: OnError = refuse,
) -> Iterator[dict[str, Any]]:
    """Yields the columns of the rows that are kept, as the file has them.

    Of rows that are the same, the first that passes the other filters is kept.

    Args:
        report: is filled in while the rows are read.
        kind: what to read the rows as; told from the first where None.
        columns: the file's name of a column by ours.
        on_error: told of each row that is wrong; if it returns, the row is left out.
    Raises:
        ConfigError: an unknown kind or language, or what tells languages is not installed.
        DataError: a row is wrong.
    """
    kind = kind and check_kind(kind)
    tests = [_length_test(options), *_language_test(options), *_duplicate_test(options)]
    for row in rows:
        report.rows += 1
        try:
            renamed = rename(row, columns)
            kind = kind or find_data_kind(renamed)
            texts = [_texts(item) for item in read_one(renamed, kind)]
        except DataError as error:
            on_error(error)
            continue
        reasons = (test(row, text) for test in tests for text in texts)
        reason = next((reason for reason in reasons if reason), None)
        if reason:
            report.drop(reason, row.where)
        else:
            report.kept += 1
            yield dict(row.values)


def _texts(item: Any) -> Texts:
    return Texts(plain_text(item.prompt), [plain_text(answer) for answer in completions_of(item)])


def _length_test(options: FilterOptions) -> Test:
    def test(row: Row, texts: Texts) -> str | None:
        lengths = [len(completion) for completion in texts.completions]
        if len(texts.prompt) < options.min_prompt:
            return "prompt too short"
        if options.max_prompt is not None and len(texts.prompt) > options.max_prompt:
            return "prompt too long"
        if lengths and min(lengths) < options.min_completion:
            return "completion too short"
        if options.max_completion is not None and max(lengths, default=0) > options.max_completion:
            return "completion too long"
        return None

    return test


def _language_test(options: FilterOptions) -> list[Test]:
    if not options.languages:
        return []
    identify = language_identifier(options.languages)

    def test(row: Row, texts: Texts) -> str | None:
        found = identify(texts.whole)
        return None if found in options.languages else f"language {found}"

    return [test]


def language_identifier(wanted: Sequence[str] = ()) -> Callable[[str], str]:
    """Returns a function that gives a text's language, as py3langid tells it: an ISO 639-1 code.

    It can be wrong on texts of a few words.

    Args:
        wanted: codes that must be among those it knows.
    Raises:
        ConfigError: py3langid is not installed, or does not know a code.
    """
    try:
        from py3langid.langid import MODEL_FILE, LanguageIdentifier
    except ImportError:
        raise ConfigError(
            "telling languages needs the package py3langid; run: pip install 'alignzoo[data]'"
        ) from None
    identifier = LanguageIdentifier.from_model_file(MODEL_FILE)
    for code in wanted:
        if code not in identifier.labels:
            raise ConfigError(
                f"'{code}' is no language that can be told; expected ISO 639-1 codes, such as en, "
                f"zh or de.{did_you_mean(code, identifier.labels)}"
            )
    return lambda text: str(identifier.classify(text)[0])


def _duplicate_test(options: FilterOptions) -> list[Test]:
    """Exact first: what is the same to the letter should be called so."""
    kinds = {"none": (), "exact": ("exact",), "near": ("exact", "near")}[options.duplicates]
    tests: list[Test] = []
    for kind in kinds:
        finder = make_finder(kind, options.similarity)
        assert finder is not None

        def test(row: Row, texts: Texts, kind: str = kind, finder: Any = finder) -> str | None:
            first = finder.find(texts.whole, row.where)  # a tree may repeat itself
            return None if first in (None, row.where) else f"{kind} duplicate"

        tests.append(test)
    return tests

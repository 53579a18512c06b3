"""A task and its examples, as data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

HEADS = ("classification", "regression")
"""Kinds of tasks with a head of their own, which gives a number per class, or one number, for a whole text."""


@dataclass(frozen=True, kw_only=True)
class TaskData:
    """Where examples come from, how they are split, and how texts become examples."""

    labels: Mapping[str, str] = field(default_factory=dict)
    """Maps what ``target`` renders to the answer's word; empty if the target is the answer itself."""
    several_references: bool = False
    """Whether examples with the same prompt become one example with all their answers, in every split except train."""
    dataset: str | None = None
    """Hugging Face dataset: a hub id, or a local folder that the ``datasets`` library can read; None for files."""
    config: str | None = None
    """Configuration of the dataset; None if it has only one."""
    revision: str | None = None
    """Branch, tag or commit of the dataset."""
    splits: Mapping[str, str] = field(default_factory=dict)
    """Split name (``train``, ``validation``, ``test``) to the dataset's own name. A file for a split has precedence."""
    test_fraction: float = 0.0
    """Share of the training examples that becomes the test split (a seeded draw) if no test split is given."""
    split_seed: int = 0
    """Seed of that draw; 0 is the draw of older results."""
    separator: str | None = None
    """For ``language_modelling``: the text between two documents; None splits at blank lines and joins short pieces."""
    chunk_characters: int | None = None
    """For ``language_modelling``: longest chunk, in characters; None for other kinds."""
    chat: bool = False
    """Whether prompt and answer are formatted with the chat template of the base model's tokenizer."""
    system: str | None = None
    """System message of the chat template; None for none."""
    encoding: str | None = None
    """Character encoding of the text files; None for UTF-8 or what a byte order mark says."""
    delimiter: str | None = None
    """The character between the fields of CSV and TSV files; None if it is found out from the file."""
    quoting: str | None = None
    """``minimal`` if quotes may enclose fields of CSV and TSV files, ``none`` if they are text; None to find out."""
    prompt_pair: str = ""
    """Jinja template of the second text of a pair, for the kinds in ``HEADS``; empty if there is only one text."""
    messages: str | None = None
    """The field with a conversation, whose last answer is the target; None if records are no conversations."""
    train_on: str = "last_answer"
    """Which answers of a conversation enter the training loss: ``last_answer``, or ``every_answer``, for chat templates
    that write an answer in the same way when messages follow. Scored is the last."""


@dataclass(frozen=True)
class Task(TaskData):
    """A task to train on, to evaluate, or both: where its examples come from and how they are scored."""

    name: str
    """The name in the suite, in column names and in reports."""
    kind: str
    """``choice`` (rank the choices by likelihood), ``exact_match`` or ``generation`` (greedy decoding),
    ``language_modelling`` (likelihood of plain text), ``classification`` or ``regression`` (a head on the model), or
    ``lm_eval`` (as the lm-eval task defines)."""
    builtin: str | None = None
    """Key of ``peftbench.tasks.TASKS`` if peftbench generates the examples; else None."""
    files: Mapping[str, str] = field(default_factory=dict)
    """Split name (``train``, ``validation``, ``test``) to a CSV, TSV, JSON, JSONL, Parquet or text file."""
    columns: tuple[str, ...] = ()
    """Column names for files without a header line; empty if the files have one."""
    prompt: str = ""
    """Jinja template of the prompt over an example's fields."""
    target: str = ""
    """Jinja template of the right answer; for ``choice`` it must render to one of ``choices``. A template that is one
    expression may give a list of right answers, of which the first is trained on."""
    choices: tuple[str, ...] = ()
    """The answers that are ranked, the same for every example; empty if each example has its own. For
    ``classification`` the classes in the order of the head's outputs; empty until they are read from the data."""
    validation_fraction: float = 0.0
    """Share of the training file that becomes the validation split (a seeded draw) if no validation file is given."""
    max_new_tokens: int = 32
    """Most tokens of a generated answer; unused by ``choice``."""
    num_beams: int = 1
    """Beams of the search for an answer; 1 decodes greedily. Unused by ``choice``, as the two below."""
    length_penalty: float = 1.0
    """Power of an answer's number of tokens that divides the log-probability by which beams are compared."""
    no_repeat_ngram_size: int = 0
    """No sequence of this many tokens occurs twice in an answer; 0 for no such rule."""
    limit: int | None = None
    """Number of examples of a scored split that are evaluated, a seeded draw; None for all."""
    test_seed: int | None = None
    """Which of a built-in task's disjoint test sets; None for a task of files."""
    answer_pattern: str | None = None
    """How ``exact_match`` extracts the answer: a name in ``answers.NAMED`` or a regular expression; None: the whole."""
    stop: tuple[str, ...] | None = ("\n",)
    """Strings that end a decoded answer, besides end-of-text; unused by ``choice``. None if the suite gives none:
    before a trial gets its key, they are chosen so that no target contains them (``reach.default_stops``)."""
    num_fewshot: int | None = None
    """Solved training examples before each prompt; None for none, or for the default of an lm-eval task."""
    lm_eval: str | None = None
    """Name of an lm-eval task, or a YAML file with one; None for a task that the suite defines."""
    metric: str | None = None
    """The headline metric; None for the first metric of the kind."""
    more_metrics: tuple[str, ...] = ()
    """Further metrics of whole splits for a ``generation`` task, of ``tasks.more_metrics.MORE_METRICS``."""


@dataclass(frozen=True)
class Example:
    """One prompt and its right answer, after templates."""

    prompt: str
    """The input of the model."""
    target: str
    """The right answer, without the joining space and without end-of-text."""
    choices: tuple[str, ...] = ()
    """All answers to rank, including the target; empty unless the task's kind is ``choice``."""
    references: tuple[str, ...] = ()
    """All acceptable texts of a decoded answer, including the target; empty if there is only the target."""
    slots: tuple[str, ...] = ()
    """Strings that a correct generation must contain; empty if the task has none."""
    second: str = ""
    """The second text of a pair; empty if there is only one."""
    join: str = " "
    """The text between prompt and answer."""
    end: str = ""
    """The text after the answer and before the end-of-text token, from a chat template; else empty."""
    turns: tuple[tuple[str, str], ...] = ()
    """The messages of a conversation before the answer, as pairs of role and text; empty if there is only a prompt."""
    taught: tuple[int, ...] = ()
    """Places in ``turns`` of earlier answers that enter the training loss, too."""
    learned: tuple[tuple[int, int], ...] = ()
    """The same in a prompt that a chat template wrote: first character and end of each, with the end of its turn."""
    content: str = ""
    """The prompt without the words of its template, for comparing test with training data; empty if there is no content
    or it is not known."""

"""A storage in every form that a user may give it in."""

from __future__ import annotations

from collections.abc import Mapping

from mlpass.errors import ConfigError, brief, close_matches
from mlpass.options import Option, options_of
from mlpass.registries import MODES, STORAGES, taken_names
from mlpass.storage.storage import Storage
from mlpass.storage.words import words_of

StorageLike = Storage | Mapping[str, object] | str | None


def as_storage(given: object) -> Storage | None:
    """Returns any form of storage as a `Storage`; None as it is.

    Args:
        given: a storage; a mapping such as `{"palettize": 4, "group_size": 8}`; or a text: a
            storage's name, or a value of its leading option, such as "int8".

    Raises:
        ConfigError: it does not stand for a storage.
    """
    if given is None or isinstance(given, Storage):
        return given
    if isinstance(given, Mapping):
        return _from_mapping(given)
    if isinstance(given, str):
        return _from_text(given)
    raise ConfigError(
        f"storage: must be a storage such as Palette(bits=4), a mapping or a text such as 'int8'. "
        f"Got {brief(given)}."
    )


def storage_words() -> dict[str, dict[str, Option]]:
    """Returns, for each word about storages but their names, whose option it is, by storage."""
    words: dict[str, dict[str, Option]] = {}
    taken = taken_names() | {*MODES.options()}
    for name in STORAGES:
        lead, options = STORAGES[name].words["lead"], options_of(STORAGES[name].kind)
        found = words_of(name, lead, options, taken)
        found |= words_of(name, lead, options, {option.name for option in options})
        for word, option in found.items():
            if word != name:
                words.setdefault(word, {})[name] = option
    return words


def every_storage_word() -> list[str]:
    """Returns every key that plain options may say something about storages with."""
    return ["storage", *_leading(), *storage_words()]


def take_storage(options: dict[str, object]) -> Storage | None:
    """Takes what plain options say of a storage out of them; returns it, None where it is nothing.

    Args:
        options: by word; strings are read as what they stand for.

    Raises:
        ConfigError: they contradict each other, or an option is out of its range.
    """
    words = storage_words()
    whole = as_storage(options.pop("storage", None))
    named = {name: options.pop(name, None) for name in _leading()}
    named = {name: value for name, value in named.items() if value is not None}
    others = {word: options.pop(word) for word in [*options] if word in words}
    others = {word: value for word, value in others.items() if value is not None}
    if whole is not None and (named or others):
        word, name = next(iter({**named, **others})), STORAGES.name_of(whole)
        if name is not None and not options_of(STORAGES[name].kind):
            raise ConfigError(f"{word}: does not go with {name}; choose one")
        raise ConfigError(f"{word}: set it in storage itself")
    if len(named) > 1:
        first, second, *_ = named
        raise ConfigError(f"{first}: does not go with {second}; choose one")
    for word in others:
        if not any(name in words[word] for name in named):
            wanted = " or ".join(words[word])
            what = f"does not go with {next(iter(named))}" if named else f"needs {wanted}"
            raise ConfigError(f"{word}: {what}")
    for name, value in named.items():
        if isinstance(value, Mapping | Storage) and others:
            raise ConfigError(f"{next(iter(others))}: set it in {name} itself")
        return _built(name, value, {words[word][name].name: each for word, each in others.items()})
    return whole


def _leading() -> list[str]:
    """Returns the names of the storages that have a leading option."""
    return [name for name in STORAGES if STORAGES[name].words["lead"]]


def _built(name: str, value: object, others: Mapping[str, object]) -> Storage:
    """Returns a storage by its leading option, or by a value that says all of it."""
    if isinstance(value, Storage) and STORAGES.name_of(value) == name:
        return value
    lead = STORAGES[name].words["lead"]
    given = dict(value) if isinstance(value, Mapping) else {lead: value, **others}
    known = {option.name: option for option in options_of(STORAGES[name].kind)}
    values = {key: known[key].parse(each) if key in known else each for key, each in given.items()}
    built: Storage = STORAGES.build(name, values)
    return built


def _from_mapping(given: Mapping[str, object]) -> Storage:
    """Returns the storage of a mapping that holds nothing else: options go by their own names."""
    names = [name for name in _leading() if given.get(name) is not None]
    options = dict(given)
    if len(names) == 1:
        own = {option.name for option in options_of(STORAGES[names[0]].kind)}
        own.discard(STORAGES[names[0]].words["lead"])
        options = {f"{names[0]}_{key}" if key in own else key: each for key, each in given.items()}
    found = take_storage(options)
    if options:
        key = next(iter(options))
        raise ConfigError(
            f"storage: unknown option {brief(key)}{close_matches(key, _known(names))}"
        )
    if found is None:
        raise ConfigError(
            f"storage: give one of {', '.join(_leading())}. Got {brief(dict(given))}."
        )
    return found


def _known(names: list[str]) -> list[str]:
    options = {option.name for name in names for option in options_of(STORAGES[name].kind)}
    return [*_leading(), *sorted(options)]


def _from_text(text: str) -> Storage:
    word, values = text.lower(), []
    for name in STORAGES:
        lead = STORAGES[name].words["lead"]
        for option in options_of(STORAGES[name].kind):
            choices = option.parts[0].rule.choices or ()
            if option.name == lead and word in choices:
                return _built(name, word, {})
            values += [each for each in choices if option.name == lead and isinstance(each, str)]
    if word in [*STORAGES]:
        return _built(word, {}, {})
    known = [*values, *STORAGES]
    raise ConfigError(
        f"storage: must be one of {', '.join(known)}. "
        f"Got {brief(text)}{close_matches(text, known) or '.'}"
    )

"""Reads the configuration file: every key and value is looked at, whichever command is run, and refused by its line."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import yaml

from broker.config_file import ConfigFile, options_of, words_of
from broker.errors import ConfigUnusable


def read_config(context: click.Context, path: Path, *, others: Collection[str] = ()) -> ConfigFile:
    """Read the file for a program.

    Args:
        context: the program's.
        path: the file.
        others: sections that another program reads.

    Raises:
        ConfigUnusable: it can't be read, or has what this program does not know.
    """
    reader = _Reader(path)
    return reader.config(reader.section(context, reader.document, skipped=others))


def read_section(context: click.Context, path: Path, section: str, shared: Mapping[str, str | None]) -> ConfigFile:
    """Read one section of the file for a program of its own.

    Args:
        context: the program's.
        path: the file.
        section: the key of what is this program's alone.
        shared: options of the file's top that go for this program too, where its section has none; with the folder in
            it that is this program's, if it is one.

    Raises:
        ConfigUnusable: as in `read_config`. Keys beside the section are another program's, unless they are of this one.
    """
    reader = _Reader(path)
    known = options_of(context.command)
    values: dict[str, Any] = {}
    own = None
    for key, line, node in reader.entries(reader.document, ()):
        if key == section:
            own = node
        elif key in shared:
            found, folder = str(reader.option(context, known[key], line, node, (key,))), shared[key]
            values[str(known[key].name)] = str(Path(found) / folder) if folder else found
        elif key in known:
            raise ConfigUnusable(f"{path}, line {line}", f"{key} belongs under {section}:")
    return reader.config(values | reader.section(context, own, where=(section,)))


class _Reader:
    """One file that is read."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lines: dict[tuple[str, ...], int] = {}
        try:
            self.document: yaml.Node | None = yaml.compose(self.path.read_text("utf-8"), Loader=yaml.SafeLoader)
        except OSError as error:
            raise ConfigUnusable(str(self.path), f"it can't be read: {error.strerror}") from None
        except UnicodeDecodeError:
            raise ConfigUnusable(str(self.path), "it is not text in UTF-8") from None
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            place = f"{self.path}, line {mark.line + 1}" if mark else str(self.path)
            raise ConfigUnusable(place, f"this is not YAML: {error.problem or error.context}") from None
        except yaml.YAMLError as error:
            raise ConfigUnusable(str(self.path), f"this is not YAML: {error}") from None

    def config(self, values: Mapping[str, Any]) -> ConfigFile:
        return ConfigFile(self.path, values, self._lines)

    def _refuse(self, line: int, where: Sequence[str], reason: str) -> ConfigUnusable:
        return ConfigUnusable(f"{self.path}, line {line}", f"{'.'.join(where)}: {reason}" if where else reason)

    def entries(self, node: yaml.Node | None, where: Sequence[str]) -> Iterator[tuple[str, int, yaml.Node]]:
        """Key, line and value of each entry."""
        if node is None or _is_nothing(node):
            return
        if not isinstance(node, yaml.MappingNode):
            raise self._refuse(node.start_mark.line + 1, where, "write options as 'name: value', one on a line")
        seen: set[str] = set()
        for key, value in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode):
                raise self._refuse(line, where, "a key is one word")
            if key.value in seen:
                raise self._refuse(line, (*where, key.value), "it is there already, further up")
            seen.add(key.value)
            yield key.value, line, value

    def section(
        self,
        context: click.Context,
        node: yaml.Node | None,
        *,
        where: tuple[str, ...] = (),
        skipped: Collection[str] = (),
    ) -> dict[str, Any]:
        """The ``default_map`` of a command."""
        command = context.command
        known = options_of(command)
        commands = command.list_commands(context) if isinstance(command, click.Group) else []
        values: dict[str, Any] = {}
        for key, line, value in self.entries(node, where):
            inner = (*where, key)
            if key in skipped:
                continue
            if key in known:
                values[str(known[key].name)] = self.option(context, known[key], line, value, inner)
            elif key in commands and isinstance(command, click.Group) and (found := command.get_command(context, key)):
                child = click.Context(found, info_name=key, parent=context)
                values[key] = self.section(child, value, where=inner)
            else:
                raise self._refuse(
                    line, inner, f"there is no such option{_nearest(key, [*known, *commands, *skipped])}"
                )
        return values

    def option(
        self, context: click.Context, option: click.Option, line: int, node: yaml.Node, where: tuple[str, ...]
    ) -> str | list[str]:
        """An option's value, as words of a command line."""
        self._lines[(*words_of(context), str(option.name))] = line
        is_list = isinstance(node, yaml.SequenceNode) and option.multiple
        nodes = node.value if is_list else [node]
        if not all(isinstance(one, yaml.ScalarNode) and not _is_nothing(one) for one in nodes):
            raise self._refuse(line, where, "write one value" + (", or a list of them" if option.multiple else ""))
        words = [self._word(option, one.value) for one in nodes]
        value = words if option.multiple else words[0]
        try:
            option.type_cast_value(context, value)
        except click.BadParameter as error:
            raise self._refuse(line, where, error.message) from None
        return value

    def _word(self, option: click.Option, text: str) -> str:
        """A file's paths are seen from its folder, and may begin with ``~``."""
        if not isinstance(option.type, click.Path):
            return text
        return str(self.path.absolute().parent / Path(text).expanduser())


def _is_nothing(node: yaml.Node) -> bool:
    return isinstance(node, yaml.ScalarNode) and node.tag == "tag:yaml.org,2002:null"


def _nearest(key: str, known: Iterable[str]) -> str:
    found = difflib.get_close_matches(key.replace("_", "-"), list(known), n=1)
    return f": is it {found[0]}?" if found else ""

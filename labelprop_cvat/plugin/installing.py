"""Puts the plugin into the folder in which FiftyOne looks for plugins, and takes it out again.

The plugin is a folder of this package. What is installed is a link to it, so that an update of the package is an update
of the plugin. Where links cannot be made it is a copy, which has to be installed again after an update.
"""

from __future__ import annotations

import filecmp
import json
import os
import shlex
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from labelprop_cvat.errors import ConfigurationError

PLUGIN = "@labelprop/label_propagation"
"""The plugin's name in FiftyOne."""

FOLDER = "labelprop-cvat"
"""What its folder is called in FiftyOne's plugins directory."""

SOURCE = Path(__file__).absolute().parent
"""The plugin's folder in this installation of the package."""

INSTALL = "labelprop plugin install"

_METADATA = ("fiftyone.yml", "fiftyone.yaml")
# A copy says that it is one: what lacks this file is somebody's own, and stays.
_COPY_MARK = "INSTALLED_BY_LABELPROP"
_SHOWN = "Reload the App's page to see it."


class State(str, Enum):
    """What is in FiftyOne's plugins directory."""

    LINKED = "linked"
    """A link to this installation's plugin."""
    COPIED = "copied"
    """A copy of this installation's plugin."""
    OUTDATED = "outdated"
    """The plugin of another installation or version of this package, or of one that is gone."""
    FOREIGN = "foreign"
    """Something that this package did not put there."""
    MISSING = "missing"


_INSTALLED = (State.LINKED, State.COPIED)


@dataclass(frozen=True)
class Installation:
    """The plugin as FiftyOne sees it.

    Args:
        state: what is there
        path: where it is, or where it would be installed
        target: the folder that a link leads to; None of anything else
        enabled: False where FiftyOne's settings switch it off
        changed: whether the call that returns this changed anything on disk
        message: the same in a sentence, for people
        remedy: the command that makes it work; None where it works
    """

    state: State
    path: Path
    target: Path | None
    enabled: bool
    changed: bool
    message: str
    remedy: str | None = None

    @property
    def works(self) -> bool:
        """Whether the App of this installation's FiftyOne shows this installation's plugin."""
        return self.state in _INSTALLED and self.enabled


@dataclass(frozen=True)
class _Place:
    """Something in the plugins directory that is, or was, a plugin of our name, or that is in its place."""

    path: Path
    state: State
    target: Path | None = None


def status(plugins_dir: str | Path | None = None) -> Installation:
    """What is installed. Changes nothing.

    Args:
        plugins_dir: where plugins are; by default FiftyOne's ``plugins_dir``
    """
    return _describe(_plugins_dir(plugins_dir), changed=False)


def install(plugins_dir: str | Path | None = None) -> Installation:
    """Installs the plugin. Does nothing where it is installed, under whatever name.

    A link or copy that another installation of this package left is replaced.

    Args:
        plugins_dir: where plugins are; by default FiftyOne's ``plugins_dir``. It is made where it is missing.

    Raises:
        ConfigurationError: something else has the plugin's name or its place, or the directory cannot be written to;
            nothing was changed
    """
    folder = _plugins_dir(plugins_dir)
    if not (SOURCE / _METADATA[0]).is_file():
        raise ConfigurationError(
            f"This installation of labelprop-cvat has no plugin: {SOURCE / _METADATA[0]} is missing. Install it again "
            f"with: pip install --force-reinstall --no-deps labelprop-cvat"
        )
    places = list(_places(folder))
    if places and places[0].state in _INSTALLED:
        return _describe(folder, changed=False)
    foreign = [place.path for place in places if place.state is State.FOREIGN]
    if foreign:
        raise ConfigurationError(
            f"{foreign[0]} is in the way of the plugin {PLUGIN}, and labelprop did not put it there. It was left as it "
            f"is; move it out of {folder}, then run: {INSTALL}"
        )
    outdated = [place for place in places if place.state is State.OUTDATED]
    if len(places) > len(outdated):
        # It is installed, but hidden by another version: of two plugins with one name FiftyOne shows the first.
        for place in outdated:
            _remove(place.path)
        return _describe(folder, changed=True, before=outdated)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for place in outdated[1:]:
            _remove(place.path)
        _put(outdated[0].path if outdated else folder / FOLDER)
    except OSError as error:
        raise ConfigurationError(
            f"The plugin cannot be installed in {folder}: {error}. Make that directory writable, or name another one "
            f"in FIFTYONE_PLUGINS_DIR."
        ) from error
    return _describe(folder, changed=True, before=outdated)


def uninstall(plugins_dir: str | Path | None = None) -> Installation:
    """Takes the plugin out, under whatever name and of whatever version of this package it is.

    Args:
        plugins_dir: where plugins are; by default FiftyOne's ``plugins_dir``

    Raises:
        ConfigurationError: it cannot be deleted
    """
    folder = _plugins_dir(plugins_dir)
    removed = [place for place in _places(folder) if place.state is not State.FOREIGN]
    for place in removed:
        if not place.path.is_symlink() and place.path.resolve() == SOURCE.resolve():
            raise ConfigurationError(
                f"{place.path} is the installed package itself, which is in {folder} as a whole or by way of a link to "
                f"a folder around it. Nothing was deleted; take that folder or link out of {folder}."
            )
    for place in removed:
        _remove(place.path)
    now = _describe(folder, changed=bool(removed))
    if not removed or now.state is not State.MISSING:
        return now
    shown = ", ".join(str(place.path) for place in removed)
    return Installation(now.state, now.path, None, now.enabled, True, f"Took the App's plugin out: {shown}.")


def _plugins_dir(given: str | Path | None) -> Path:
    if given is None:
        import fiftyone as fo

        given = fo.config.plugins_dir
    # Not resolved: what the user calls the directory is what the user is told.
    return Path(given).expanduser().absolute()


def _places(folder: Path) -> Iterator[_Place]:
    """Everything of our name in the plugins directory, in the order in which FiftyOne finds it, and what has our place.

    FiftyOne shows the first plugin of a name only.
    """
    ours = folder / FOLDER
    seen = False
    for path in _plugin_folders(folder):
        if path == ours or _is_ours(path):
            seen = seen or path == ours
            yield _place(path)
    if not seen and os.path.lexists(ours):
        yield _place(ours)


def _plugin_folders(folder: Path) -> Iterator[Path]:
    """The folders that FiftyOne takes for plugins: it follows links, skips hidden folders, and looks into no plugin."""
    visited = set()
    for root, folders, files in os.walk(folder, followlinks=True):
        real = Path(root).resolve()
        if real in visited:
            # A link that leads back, or a second way to the same folder; a plugin is one each time all the same.
            folders.clear()
        visited.add(real)
        folders[:] = [name for name in folders if not name.startswith(".")]
        if any(name in files for name in _METADATA):
            folders.clear()
            yield Path(root)


def _is_ours(path: Path) -> bool:
    """Whether a plugin's folder has our plugin's name."""
    import fiftyone.plugins as fop

    try:
        return bool(fop.get_plugin(plugin_dir=str(path)).name == PLUGIN)
    except Exception:
        # FiftyOne passes over a plugin that it cannot read, too.
        return False


def _place(path: Path) -> _Place:
    return _Place(path, _state_of(path), _target(path) if path.is_symlink() else None)


def _state_of(path: Path) -> State:
    if path.is_symlink():
        target = _target(path)
        if target.resolve() == SOURCE.resolve():
            return State.LINKED
        # Of an environment that is gone only the name is left.
        of_the_package = target.parts[-2:] == SOURCE.parts[-2:]
        return State.OUTDATED if of_the_package or _is_ours(path) else State.FOREIGN
    if not (path / _COPY_MARK).is_file():
        # A folder that leads to ours from above was linked as a whole, such as a checkout.
        return State.LINKED if path.resolve() == SOURCE.resolve() else State.FOREIGN
    return State.COPIED if _same(SOURCE, path) else State.OUTDATED


def _target(link: Path) -> Path:
    target = link.readlink()
    return target if target.is_absolute() else link.parent / target


def _same(source: Path, copy: Path) -> bool:
    names = {str(file.relative_to(source)) for file in source.rglob("*") if _is_copied(file)}
    there = {str(file.relative_to(copy)) for file in copy.rglob("*") if _is_copied(file)} - {_COPY_MARK}
    if names != there:
        return False
    _, different, unread = filecmp.cmpfiles(source, copy, names, shallow=False)
    return not different and not unread


def _is_copied(file: Path) -> bool:
    return file.is_file() and "__pycache__" not in file.parts


def _put(path: Path) -> None:
    """Puts the plugin at a path in one step, over a link or a copy of ours."""
    made = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{FOLDER}-"))
    try:
        new = made / FOLDER
        try:
            new.symlink_to(SOURCE, target_is_directory=True)
        except OSError:
            # A file system, or a user of Windows, without links.
            shutil.copytree(SOURCE, new, ignore=shutil.ignore_patterns("__pycache__"))
            (new / _COPY_MARK).write_text(
                f"A copy of {SOURCE}. After an update of it, run: {INSTALL}\n", encoding="utf-8"
            )
        if os.path.lexists(path) and not (path.is_symlink() and new.is_symlink()):
            path.rename(made / "before")
        new.replace(path)
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _remove(path: Path) -> None:
    try:
        if path.is_symlink():
            path.unlink()
        else:
            shutil.rmtree(path)
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be deleted: {error}. Delete it yourself, then try again.") from error


def _is_enabled() -> bool:
    """Whether FiftyOne's settings leave the plugin on. Plugins are on unless somebody switched them off."""
    from fiftyone.core.config import locate_app_config

    try:
        settings = json.loads(Path(locate_app_config()).read_text(encoding="utf-8"))
        return bool(settings.get("plugins", {}).get(PLUGIN, {}).get("enabled", True))
    except (OSError, ValueError, AttributeError):
        return True


def _describe(folder: Path, *, changed: bool, before: list[_Place] | None = None) -> Installation:
    """What there is now, in words."""
    place = next(_places(folder), _Place(folder / FOLDER, State.MISSING))
    enabled = _is_enabled()
    remedy: str | None = None
    if place.state is State.MISSING:
        message, remedy = f"The App's plugin is not installed in {folder}.", INSTALL
    elif place.state is State.FOREIGN:
        message = f"{place.path} has the place or the name of the App's plugin, but labelprop did not put it there."
        remedy = f"mv {shlex.quote(str(place.path))} {shlex.quote(str(folder.parent))} && {INSTALL}"
    elif place.state is State.OUTDATED:
        what = f"a link to {place.target}" if place.target else "an older copy"
        message, remedy = f"The App's plugin at {place.path} is {what}, not that of this installation.", INSTALL
    else:
        how = "a link to" if place.state is State.LINKED else "a copy of"
        message = f"The App's plugin is installed: {place.path} is {how} {SOURCE}."
        if before:
            was = before[0].target
            message += f" It replaces that of another installation{f', {was}' if was else ''}."
        if place.state is State.COPIED:
            message += f" After an update of this package, run again: {INSTALL}"
        if not enabled:
            remedy = f"fiftyone plugins enable {PLUGIN}"
            message += " FiftyOne's settings switch it off."
        elif changed:
            message += f" {_SHOWN}"
    return Installation(place.state, place.path, place.target, enabled, changed, message, remedy)


__all__ = ["PLUGIN", "Installation", "State", "install", "status", "uninstall"]

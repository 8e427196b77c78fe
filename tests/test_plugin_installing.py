"""The App's plugin in FiftyOne's plugins directory: installed, found, replaced, taken out; what is not ours stays."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import fiftyone as fo
import fiftyone.plugins as fop
import pytest

from labelprop_cvat import doctor
from labelprop_cvat.errors import ConfigurationError
from labelprop_cvat.plugin import installing
from labelprop_cvat.plugin.installing import FOLDER, PLUGIN, SOURCE, State, install, status, uninstall


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """FiftyOne's plugins directory; not there yet."""
    path = tmp_path / "somewhere" / "plugins"
    monkeypatch.setattr(fo.config, "plugins_dir", str(path))
    monkeypatch.setenv("FIFTYONE_APP_CONFIG_PATH", str(tmp_path / "app_config.json"))
    return path


@pytest.fixture
def no_links(monkeypatch):
    def refuse(self, target, target_is_directory=False):
        raise OSError("links are not supported here")

    monkeypatch.setattr(Path, "symlink_to", refuse)


def shown() -> list[str]:
    """Where the plugins of our name are that FiftyOne shows."""
    return [plugin.directory for plugin in fop.list_plugins() if plugin.name == PLUGIN]


def another(folder: Path, name: str = PLUGIN) -> Path:
    """A plugin's folder, as another installation of this package has one."""
    plugin = folder / "labelprop_cvat" / "plugin"
    plugin.mkdir(parents=True)
    (plugin / "fiftyone.yml").write_text(f"name: '{name}'\n")
    return plugin


def listing(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_installed_it_is_a_link_that_fiftyone_finds(folder):
    before = status()
    assert (before.state, before.changed, before.works) == (State.MISSING, False, False)
    assert before.remedy == "labelprop plugin install"
    assert not folder.exists()

    done = install()
    assert (done.state, done.changed, done.works, done.remedy) == (State.LINKED, True, True, None)
    assert done.path == folder / FOLDER
    assert done.path.readlink() == SOURCE
    assert done.path.readlink().is_absolute()
    assert shown() == [str(done.path)]
    assert listing(folder) == [FOLDER]

    again = install()
    assert (again.state, again.changed) == (State.LINKED, False)
    assert status() == again


def test_taken_out_it_is_gone_and_the_package_is_not(folder):
    install()
    done = uninstall()
    assert (done.state, done.changed) == (State.MISSING, True)
    assert str(folder / FOLDER) in done.message
    assert listing(folder) == []
    assert (SOURCE / "fiftyone.yml").is_file()
    again = uninstall()
    assert (again.state, again.changed) == (State.MISSING, False)


def test_a_directory_can_be_named(folder, tmp_path):
    other = tmp_path / "other"
    assert install(other).path == other / FOLDER
    assert status(str(other)).works
    assert status().state is State.MISSING


def test_where_links_cannot_be_made_it_is_a_copy(folder, no_links):
    done = install()
    assert (done.state, done.works) == (State.COPIED, True)
    assert "labelprop plugin install" in done.message
    assert shown() == [str(done.path)]
    assert not list(done.path.rglob("__pycache__"))
    assert install().changed is False

    (done.path / "fiftyone.yml").write_text("name: '@labelprop/label_propagation'\nversion: before\n")
    assert status().state is State.OUTDATED
    assert status().remedy == "labelprop plugin install"
    renewed = install()
    assert (renewed.state, renewed.changed) == (State.COPIED, True)
    assert (renewed.path / "fiftyone.yml").read_text() == (SOURCE / "fiftyone.yml").read_text()
    (done.path / "left_over.py").touch()
    assert status().state is State.OUTDATED

    assert uninstall().state is State.MISSING
    assert listing(folder) == []


def test_a_copy_becomes_a_link_where_links_can_be_made(folder, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(Path, "symlink_to", lambda *_, **__: (_ for _ in ()).throw(OSError("no links")))
        install()
    (folder / FOLDER / "fiftyone.yml").write_text("name: '@labelprop/label_propagation'\nversion: before\n")
    assert install().state is State.LINKED
    assert listing(folder) == [FOLDER]


@pytest.mark.parametrize("what", ["there", "renamed", "gone"])
def test_the_link_of_another_installation_is_replaced(folder, tmp_path, what):
    old = another(tmp_path / "venv")
    if what == "renamed":
        old = old.rename(tmp_path / "our-plugin")
    folder.mkdir(parents=True)
    (folder / FOLDER).symlink_to(old)
    if what == "gone":
        shutil.rmtree(tmp_path / "venv")
    found = status()
    assert found.state is State.OUTDATED
    assert str(old) in found.message
    assert doctor.check_plugin().status is doctor.Status.FAILED

    done = install()
    assert (done.state, done.changed) == (State.LINKED, True)
    assert str(old) in done.message
    assert done.path.readlink() == SOURCE
    assert listing(folder) == [FOLDER]
    assert what == "gone" or (old / "fiftyone.yml").is_file()


def test_another_installation_s_is_taken_out_too(folder, tmp_path):
    old = another(tmp_path / "venv")
    folder.mkdir(parents=True)
    (folder / FOLDER).symlink_to(old)
    assert uninstall().state is State.MISSING
    assert (old / "fiftyone.yml").is_file()


def test_it_is_found_under_another_name(folder):
    deep = folder / "mine" / "propagation"
    deep.parent.mkdir(parents=True)
    deep.symlink_to(SOURCE)
    assert (status().state, status().path) == (State.LINKED, deep)
    assert install().changed is False
    assert not (folder / FOLDER).exists()
    assert uninstall().state is State.MISSING
    assert not deep.is_symlink()


def test_of_several_of_another_installation_one_is_replaced_and_the_others_go(folder, tmp_path):
    old = another(tmp_path / "venv")
    folder.mkdir(parents=True)
    for name in ("a", "b"):
        (folder / name).symlink_to(old)
    install()
    assert len(listing(folder)) == 1
    assert status().works
    assert len(shown()) == 1


def test_one_that_another_installation_hides_is_uncovered(folder, tmp_path):
    old = another(tmp_path / "venv")
    install()
    for number in range(100):
        hiding = folder / str(number)
        hiding.symlink_to(old)
        # Which of two plugins FiftyOne finds first, the file system says.
        if status().state is State.OUTDATED:
            break
        hiding.unlink()
    else:
        pytest.skip("this file system names new entries last")
    assert not any(place.startswith(str(folder / FOLDER)) for place in shown())
    assert install().changed
    assert shown() == [str(folder / FOLDER)]


@pytest.mark.parametrize("kind", ["file", "folder", "link", "plugin"])
def test_what_is_not_ours_stays(folder, tmp_path, kind):
    """A file or folder of our name, a link to somewhere else, and somebody's own plugin of the same name."""
    place = folder / (FOLDER if kind != "plugin" else "my-own")
    folder.mkdir(parents=True)
    if kind == "file":
        place.write_text("notes")
    elif kind == "link":
        (tmp_path / "elsewhere").mkdir()
        place.symlink_to(tmp_path / "elsewhere")
    else:
        place.mkdir()
        (place / "fiftyone.yml").write_text(f"name: '{PLUGIN if kind == 'plugin' else '@me/mine'}'\n")
    assert status().state is State.FOREIGN
    assert str(place) in status().remedy
    with pytest.raises(ConfigurationError, match=r"labelprop did not put it there.*move it out"):
        install()
    assert uninstall().changed is False
    assert listing(folder) == [place.name]
    assert place.is_symlink() or kind == "file" or (place / "fiftyone.yml").is_file()
    if kind == "file":
        assert place.read_text() == "notes"


def test_other_plugins_are_none_of_its_business(folder):
    # FiftyOne looks into no hidden folder.
    for name, plugin in (("theirs", "@they/theirs"), (".hidden", PLUGIN)):
        (folder / name).mkdir(parents=True)
        (folder / name / "fiftyone.yml").write_text(f"name: '{plugin}'\n")
    (folder / "broken").mkdir()
    (folder / "broken" / "fiftyone.yml").write_text("name: [\n")
    (folder / "round").symlink_to(folder)
    assert install().works
    assert uninstall().changed
    assert listing(folder) == [".hidden", "broken", "round", "theirs"]


def test_the_package_itself_is_never_deleted(tmp_path):
    """Where the plugins directory holds a folder around the package, taking the plugin out would delete it."""
    around = tmp_path / "around"
    package = tmp_path / "package"
    package.mkdir()
    plugin = another(package)
    around.mkdir()
    (around / "checkout").symlink_to(package)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(installing, "SOURCE", plugin)
        assert status(around).state is State.LINKED
        with pytest.raises(ConfigurationError, match="Nothing was deleted"):
            uninstall(around)
    assert (plugin / "fiftyone.yml").is_file()


def test_a_directory_that_cannot_be_made(folder, tmp_path):
    (tmp_path / "somewhere").write_text("a file where a folder should be")
    with pytest.raises(ConfigurationError, match="FIFTYONE_PLUGINS_DIR"):
        install()


def test_an_installation_without_the_plugin_says_so(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(installing, "SOURCE", tmp_path)
    with pytest.raises(ConfigurationError, match="pip install --force-reinstall"):
        install()
    assert not folder.exists()


def test_switched_off_is_said(folder, tmp_path):
    install()
    fop.disable_plugin(PLUGIN)
    assert json.loads((tmp_path / "app_config.json").read_text())
    found = status()
    assert (found.state, found.enabled, found.works) == (State.LINKED, False, False)
    assert found.remedy == f"fiftyone plugins enable {PLUGIN}"
    finding = doctor.check_plugin()
    assert (finding.status, finding.remedy) == (doctor.Status.OPTIONAL, found.remedy)
    fop.enable_plugin(PLUGIN)
    assert status().works


def test_the_doctor_knows(folder):
    missing = doctor.check_plugin()
    assert (missing.status, missing.remedy) == (doctor.Status.OPTIONAL, "labelprop plugin install")
    install()
    assert doctor.check_plugin().status is doctor.Status.OK


def test_the_name_is_that_of_the_plugin_s_own_file():
    assert fop.get_plugin(plugin_dir=str(SOURCE)).name == PLUGIN

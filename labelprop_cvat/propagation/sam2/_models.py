"""The official models of SAM 2: what they are called, and which file holds their weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from labelprop_cvat.errors import ConfigurationError

RELEASES = "https://dl.fbaipublicfiles.com/segment_anything_2"


@dataclass(frozen=True)
class ModelInfo:
    """One official model and its checkpoint.

    Args:
        name: the official name, such as ``"sam2.1_hiera_tiny"``
        version: of SAM 2, ``"2.0"`` or ``"2.1"``
        size: ``"tiny"``, ``"small"``, ``"base_plus"`` or ``"large"``
        config: path of the model's settings inside the package ``sam2``
        file_name: of the checkpoint, as it is published
        url: where it is published
        size_bytes: its exact length
        sha256: its digest, 64 lower-case hexadecimal digits
    """

    name: str
    version: str
    size: str
    config: str
    file_name: str
    url: str
    size_bytes: int
    sha256: str

    @property
    def hub_name(self) -> str:
        """Its name on model hubs, without the publisher: ``"sam2.1-hiera-tiny"``."""
        return self.name.replace("_", "-")

    @property
    def zoo_names(self) -> tuple[str, str]:
        """Its names in FiftyOne's model zoo: for videos and for images. The weights are the same."""
        stem = self.hub_name.replace("sam", "segment-anything-", 1)
        return f"{stem}-video-torch", f"{stem}-image-torch"


# size, short form of its settings, bytes and digest of the checkpoints of 2.0 and of 2.1. The tiny 2.1 has 156,008,466
# bytes; FiftyOne's zoo lists the length of the tiny 2.0 for both.
_PUBLISHED = (
    (
        "tiny",
        "t",
        (155906050, "65b50056e05bcb13694174f51bb6da89c894b57b75ccdf0ba6352c597c5d1125"),
        (156008466, "7402e0d864fa82708a20fbd15bc84245c2f26dff0eb43a4b5b93452deb34be69"),
    ),
    (
        "small",
        "s",
        (184309650, "95949964d4e548409021d47b22712d5f1abf2564cc0c3c765ba599a24ac7dce3"),
        (184416285, "6d1aa6f30de5c92224f8172114de081d104bbd23dd9dc5c58996f0cad5dc4d38"),
    ),
    (
        "base_plus",
        "b+",
        (323493298, "d0bb7f236400a49669ffdd1be617959a8b1d1065081789d7bbff88eded3a8071"),
        (323606802, "a2345aede8715ab1d5d31b4a509fb160c5a4af1970f199d9054ccfb746c004c5"),
    ),
    (
        "large",
        "l",
        (897952466, "7442e4e9b732a508f80e141e7c2913437a3610ee0c77381a66658c3a445df87b"),
        (898083611, "2647878d5dfa5098f2f8649825738a9345572bae2d4350a2468587ece47dd318"),
    ),
)


def _catalogue() -> Mapping[str, ModelInfo]:
    models = {}
    for version, stem, folder in (("2.1", "sam2.1", "092824"), ("2.0", "sam2", "072824")):
        for size, letter, old, new in _PUBLISHED:
            name = f"{stem}_hiera_{size}"
            size_bytes, sha256 = new if version == "2.1" else old
            models[name] = ModelInfo(
                name=name,
                version=version,
                size=size,
                config=f"configs/{stem}/{stem}_hiera_{letter}.yaml",
                file_name=f"{name}.pt",
                url=f"{RELEASES}/{folder}/{name}.pt",
                size_bytes=size_bytes,
                sha256=sha256,
            )
    return MappingProxyType(models)


MODELS: Mapping[str, ModelInfo] = _catalogue()
"""The official models by their official names, 2.1 before 2.0, small before large."""


def _plain(name: str) -> str:
    return name.strip().lower().replace("-", "_").replace("+", "_plus").removeprefix("facebook/")


def _names() -> Mapping[str, ModelInfo]:
    names = {}
    for info in MODELS.values():
        for name in (info.name, info.file_name, info.config.rpartition("/")[2].removesuffix(".yaml"), *info.zoo_names):
            names[_plain(name)] = info
        if info.version == "2.1":
            for name in (info.size, {"base_plus": "b+"}.get(info.size, info.size[0])):
                names[_plain(name)] = info
    return MappingProxyType({**names, "base": names["base_plus"]})


_BY_NAME = _names()


def model_info(name: str) -> ModelInfo:
    """The model of that name.

    Args:
        name: the official name (``"sam2.1_hiera_tiny"``), a size alone for 2.1 (``"tiny"``, ``"b+"``), the name of a
            model hub (``"facebook/sam2.1-hiera-tiny"``) or of FiftyOne's zoo
            (``"segment-anything-2.1-hiera-tiny-video-torch"``), in upper or lower case

    Raises:
        ConfigurationError: there is no such model
    """
    info = _BY_NAME.get(_plain(name)) if isinstance(name, str) else None
    if info is None:
        raise ConfigurationError(
            f"There is no SAM 2 model named {name!r}. The models are {', '.join(MODELS)}; 'tiny', 'small', 'base_plus' "
            f"and 'large' alone mean those of 2.1. For weights of your own, pass checkpoint=FILE with model='auto'."
        )
    return info


__all__ = ["MODELS", "ModelInfo", "model_info"]
